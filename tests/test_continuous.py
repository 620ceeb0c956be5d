"""Continuous batching: the rows of `sampling.generate`, from fewer slots than rows.

A lookup model whose logits depend on all that a row has read shows, bit for bit, that
no slot keeps anything of the row before. Decoders agree up to rounding.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from rlhf_jax import continuous, sampling, stopping
from rlhf_jax.algorithms.policy_gradient import token_mask
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder, seq2seq
from rlhf_jax.runtime import parallel
from rlhf_jax.types import Prompts

V, STATES = 7, 97
EOS, PAD = 2, 0
B, P, T = 12, 3, 10


@dataclasses.dataclass(frozen=True)
class Chain:
    """A generator whose logits are a row of a table [97, V]: of a hash of all tokens.

    Its memory is the hash, [B]. With factor 0 they depend on the last token alone.
    """

    factor: int = 5
    on_step: object = None  # called with the positions of every step

    def apply(self, variables, *inputs, method):
        return getattr(self, method)(variables["params"], *inputs)

    def prefill(self, table, tokens, mask, length):
        del length
        hashed = jnp.zeros(len(tokens), jnp.int32)
        for t in range(tokens.shape[1]):
            hashed = jnp.where(
                mask[:, t] != 0, self._hash(hashed, tokens[:, t]), hashed
            )
        return table[hashed], hashed

    def step(self, table, token, position, memory):
        if self.on_step is not None:
            jax.debug.callback(self.on_step, position)
        hashed = self._hash(memory, token)
        return table[hashed], hashed

    def repeat(self, table, copies, memory):
        return jnp.repeat(memory, copies)

    def replace(self, table, rows, new, memory):
        return memory.at[rows].set(new)

    def take(self, table, rows, memory):
        return memory[rows]

    def _hash(self, hashed, token):
        return (self.factor * hashed + token) % STATES


def drawn(**changes):
    settings = {"max_new_tokens": T, "eos_ids": (EOS,), "pad_id": PAD} | changes
    return sampling.Config(**settings)


@functools.partial(jax.jit, static_argnames=("config", "slots", "copies", "model"))
def rolled(params, prompts, keys, config, slots=0, copies=1, model=Chain()):  # noqa: B008
    how = {"config": config, "copies": copies}
    if not slots:
        return sampling.generate(model, params, prompts, keys, **how)
    return continuous.generate(model, params, prompts, keys, slots=slots, **how)


def keys(rows=B, seed=0):
    return sampling.row_keys(jax.random.key(seed), jnp.arange(rows))


def given(rng, rows=B, vocabulary=V):
    """Prompts of 1 to P tokens."""
    tokens = jnp.array(rng.integers(3, vocabulary, (rows, P)), jnp.int32)
    lengths = rng.integers(1, P + 1, (rows, 1))
    return Prompts(tokens, jnp.array(np.arange(P) >= P - lengths, jnp.int32))


@pytest.fixture
def prompts(rng):
    return given(rng)


@pytest.fixture
def table():
    """Logits under which a response ends after four tokens on average."""
    logits = np.random.default_rng(1).normal(size=(STATES, V))
    return jnp.array(logits, jnp.float32).at[:, EOS].add(0.5)


LETTERS = stopping.matcher([b"ef", b"gg"], [bytes([97 + i]) for i in range(V)])
SETTINGS = {
    "gumbel": {},
    "lengths": {"eos_ids": (), "uniform_from": 2, "sampler": "inverse"},
    "everything": {
        **{"temperature": 0.8, "top_k": 5, "top_p": 0.95, "min_p": 0.01},
        **{"repetition_penalty": 1.3, "min_new_tokens": 2, "vocab_limit": 6},
        **{"stops": LETTERS, "pad_id": 99},
    },
    "greedy": {"temperature": 0.0, "min_new_tokens": 1},
}


@pytest.mark.parametrize(
    ("settings", "slots", "copies"),
    [("gumbel", 5, 1), ("lengths", 8, 1), ("everything", 6, 3), ("greedy", 1, 1)],
)
def test_rows_are_those_of_generate_bit_for_bit(
    table, prompts, settings, slots, copies
):
    config = drawn(**SETTINGS[settings])
    rows = table, prompts, keys(B * copies)
    expected = rolled(*rows, config, copies=copies)
    lengths = np.asarray(expected.response_mask).sum(1)
    assert lengths.min() < lengths.max()  # ragged
    found = rolled(*rows, config, slots, copies)
    chex.assert_trees_all_equal(found, expected)
    assert [x.dtype for x in found] == [x.dtype for x in expected]


LAST = Chain(factor=0)


def forced(following):
    """A table for `LAST` under which each token has one successor."""
    now, after = np.array(list(following.items())).T
    return jnp.full((STATES, V), -50.0).at[now, after].set(50.0)


ENDINGS = {
    "all at once": forced({token: EOS for token in range(V)}),
    "none": forced({token: 3 for token in range(V)}),
    "all but one": forced({3: 3, 4: 5, 5: EOS}),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_may_end_together_or_never(prompts, ending):
    prompts = prompts._replace(tokens=prompts.tokens.at[:, -1].set(4).at[3, -1].set(3))
    rows = ENDINGS[ending], prompts, keys(), drawn()
    expected = rolled(*rows, model=LAST)
    lengths = np.asarray(expected.response_mask).sum(1).tolist()
    others = {"all at once": 1, "none": T, "all but one": 2}[ending]
    endless = {"all at once": 1}.get(ending, T)
    assert lengths == [others] * 3 + [endless] + [others] * 8
    chex.assert_trees_all_equal(rolled(*rows, 5, model=LAST), expected)


def test_no_row_waits_for_the_longest(prompts):
    """Beside one row of ten tokens seven of two find room, three at a time: as many
    turns as the one row needs, of one slot once it is alone."""
    prompts = Prompts(*(x[:8] for x in prompts))
    prompts = prompts._replace(tokens=prompts.tokens.at[:, -1].set(4).at[0, -1].set(3))
    turns = []
    model = dataclasses.replace(LAST, on_step=lambda position: turns.append(position))
    rows = ENDINGS["all but one"], prompts, keys(8), drawn()
    found = rolled(*rows, 4, model=model)
    jax.effects_barrier()
    assert found.response_mask.sum() == T + 7 * 2
    assert [len(position) for position in turns] == [4, 4, 4] + [1] * (T - 4)
    last = [int(position[0]) for position in turns[3:]]
    first = int(prompts.mask[0].sum())
    assert last == list(range(first + 3, first + T - 1))  # a row's own time


def test_devices_take_turns_with_rows_of_their_own(table, prompts):
    """Bit for bit, whatever the number of devices and of turns."""
    layout = parallel.data(4)

    def sample(params, rows):
        tokens, mask, data = rows
        return continuous.take_turns(
            Chain(), params, Prompts(tokens, mask), jax.random.wrap_key_data(data),
            config=drawn(), rows_per_slot=2,
        )  # fmt: skip

    program = layout.over_rows(sample, replicated=1)
    found = program(table, (*prompts, jax.random.key_data(keys())))
    chex.assert_trees_all_equal(found, jax.device_get(rolled(
        table, prompts, keys(), drawn()
    )))  # fmt: skip


def test_one_program_serves_all_weights_prompts_and_keys(table, prompts):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def program(table, prompts, keys):
        rows = Chain(), table, prompts, keys
        return continuous.generate(*rows, config=drawn(), slots=5)

    first = program(table, prompts, keys())
    other = program(table[::-1], Prompts(*(x[::-1] for x in prompts)), keys(seed=1))
    assert (first.response_mask.sum(1) != other.response_mask.sum(1)).any()


# With networks

SIZE = {"vocab_size": 19, "width": 16, "layers": 2, "heads": 2, "max_length": P + T}
LLAMA = model_config.llama(**SIZE, tied=True)
DECODERS = {
    "gpt2": model_config.gpt2(**SIZE),
    "llama": LLAMA,
    "deep": dataclasses.replace(LLAMA, layers=7, kv_heads=1),
    "neox": dataclasses.replace(LLAMA, parallel=True, rotary_dim=4, gated=False),
    "qwen3": dataclasses.replace(LLAMA, head_norm=True),
    "window": dataclasses.replace(LLAMA, window=4),
    "windows of some layers": dataclasses.replace(
        LLAMA, window=3, windowed=(True, False), window_theta=500.0, post_norm=True,
        score_cap=20.0, logit_cap=15.0,
    ),
}  # fmt: skip


def agree(model, params, prompts, *, vocabulary=19, slots=4, copies=1, atol=1e-5):
    """Whether a model's rows are those of `generate`, up to rounding."""
    rows = params, prompts, keys(len(prompts.tokens) * copies), drawn()
    expected = rolled(*rows, copies=copies, model=model)
    found = rolled(*rows, slots, copies, model)
    lengths = np.asarray(expected.response_mask).sum(1)
    assert lengths.min() < lengths.max()
    for name in ("tokens", "mask", "response_mask", "ended"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("logps", "sampler_logps"):
        values = getattr(found, name), getattr(expected, name)
        chex.assert_trees_all_close(*values, atol=atol, rtol=0)


@pytest.mark.parametrize(
    "family",
    [
        family if family.startswith("windows") else
        pytest.param(family, marks=pytest.mark.slow) for family in DECODERS
    ],
)  # fmt: skip
def test_decoders_write_the_same_rows(rng, family):
    """Five rows a slot: prompts lie anywhere in the cache, around its end too."""
    module = decoder.Decoder(DECODERS[family])
    agree(module, tiny_models.draw(module), given(rng, 20, 19))


@pytest.mark.slow
def test_decoders_in_bf16_write_the_same_rows(rng):
    """Other orders of a sum round otherwise: by 2e-2 at the most."""
    module = decoder.Decoder(dataclasses.replace(LLAMA, dtype="bfloat16"))
    params = tiny_models.draw(module)
    rows = params, given(rng, 20, 19), keys(20), drawn(temperature=0.2)
    expected, found = (rolled(*rows, slots, model=module) for slots in (0, 4))
    same = (np.asarray(found.tokens) == np.asarray(expected.tokens)).all(1)
    assert same.mean() >= 0.9
    chex.assert_trees_all_close(
        found.logps[same], expected.logps[same], atol=5 * 2e-2, rtol=0
    )


@pytest.mark.slow
def test_copies_of_a_prompt_take_turns_together(rng):
    module = decoder.Decoder(DECODERS["llama"])
    agree(module, tiny_models.draw(module), given(rng, 8, 19), slots=6, copies=3)


def test_translators_write_the_same_rows(rng):
    module = seq2seq.Seq2Seq(model_config.Seq2Seq(
        source_vocab=19, target_vocab=19, embedding=8, hidden=8, bos_id=3, eos_id=EOS
    ))  # fmt: skip
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    params = tiny_models.draw(module, tokens, tokens, tokens)
    agree(module, params, given(rng, 20, 19))


def test_a_token_mask_takes_turns_with_both_policies(table, prompts):
    """NLPO: the masking policy's memory moves with the policy's."""
    from rlhf_jax.algorithms import policy_gradient

    config = policy_gradient.Config(drawn(), masked=True, mask_top_p=0.6, mask_least=1)
    model = token_mask.Masked(Chain(), config)
    rows = token_mask.Pair(table, table[::-1] * 2.0), prompts, keys(3 * B), drawn()
    expected = rolled(*rows, copies=3, model=model)
    assert jnp.isinf(expected.sampler_logps).sum() == 0
    assert (expected.tokens != rolled(table, *rows[1:], copies=3).tokens).any()
    chex.assert_trees_all_equal(rolled(*rows, 6, 3, model), expected)


# What does not fit


@pytest.mark.parametrize(
    ("slots", "copies", "message"),
    [
        (0, 1, "slots=0: 12 rows take turns in them; choose at least 1 and fewer"),
        (-2, 1, "slots=-2"),
        (12, 1, "slots=12: 12 rows"),
        (13, 1, "slots=13"),
        (4, 3, "slots=4: 36 rows.* a multiple of the 3 responses to a prompt"),
    ],
)
def test_slots_that_do_not_fit_are_refused(table, prompts, slots, copies, message):
    rows = Chain(), table, prompts, keys(B * copies)
    with pytest.raises(ValueError, match=message):
        continuous.generate(*rows, config=drawn(), slots=slots, copies=copies)


@pytest.mark.parametrize(
    ("turns", "copies", "message"),
    [
        (13, 1, "rows_per_slot=13: of 12 rows .* one response; choose at most 12"),
        (13, 3, "rows_per_slot=13: of 36 .* the 3|3 responses .* at most 12"),
    ],
)
def test_turns_that_leave_no_slot_are_refused(table, prompts, turns, copies, message):
    rows = Chain(), table, prompts, keys(B * copies)
    with pytest.raises(ValueError, match=message):
        continuous.take_turns(*rows, config=drawn(), rows_per_slot=turns, copies=copies)


def test_vmapped_members_do_not_take_turns(table, prompts):
    config = drawn(stop_axis="seeds")
    rows = Chain(), table, prompts, keys()
    with pytest.raises(ValueError, match="rows_per_slot=2 and stop_axis='seeds'"):
        continuous.take_turns(*rows, config=config, rows_per_slot=2)
    with pytest.raises(ValueError, match="slots=4 and stop_axis='seeds'"):
        continuous.generate(*rows, config=config, slots=4)


@pytest.mark.parametrize("name", ["fsdp", "data:4", "fsdp:2,tensor:2"])
def test_rows_of_a_mesh_do_not_take_turns(table, prompts, name):
    def sample(params, rows):
        tokens, mask, data = rows
        return continuous.take_turns(
            Chain(), params, Prompts(tokens, mask), jax.random.wrap_key_data(data),
            config=drawn(), rows_per_slot=2,
        )  # fmt: skip

    program = parallel.layout(name).over_rows(sample, replicated=1)
    rows = (*prompts, jax.random.key_data(keys()))
    with pytest.raises(ValueError, match="rows_per_slot=2: the rows of a mesh .*data"):
        program(table, rows)
