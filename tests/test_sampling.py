"""Generation: what is drawn, when it stops, and which log-probabilities it reports."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from rlhf_jax import logprobs, sampling
from rlhf_jax.models import config, decoder
from rlhf_jax.types import Prompts

V, EOS, PAD = 7, 2, 0
B, P, T = 8, 3, 6


@dataclasses.dataclass(frozen=True)
class Table:
    """A generator whose logits are a row of a table [V, V], looked up by last token."""

    on_step: object = None  # called at every step of the loop
    on_prompt: object = None  # called with the shape of what is read first

    def apply(self, variables, *inputs, method):
        return getattr(self, method)(variables["params"], *inputs)

    def prefill(self, table, tokens, mask, length):
        del mask, length
        if self.on_prompt is not None:
            self.on_prompt(tokens.shape)
        return table[tokens[:, -1]], ()

    def repeat(self, table, copies, memory):
        del table, copies
        return memory

    def step(self, table, token, position, memory):
        if self.on_step is not None:
            jax.debug.callback(self.on_step, position)
        return table[token], memory


def drawn(**changes):
    settings = {"max_new_tokens": T, "eos_ids": (EOS,), "pad_id": PAD} | changes
    return sampling.Config(**settings)


@functools.partial(jax.jit, static_argnames=("config", "model"))
def generate(params, prompts, keys, config, model=Table()):  # noqa: B008
    return sampling.generate(model, params, prompts, keys, config=config)


def keys(rows=B, seed=0):
    return sampling.row_keys(jax.random.key(seed), jnp.arange(rows))


@pytest.fixture
def table(rng):
    return jnp.array(rng.normal(size=(V, V)), jnp.float32)


@pytest.fixture
def prompts(rng):
    tokens = jnp.array(rng.integers(3, V, (B, P)), jnp.int32)
    return Prompts(tokens, jnp.ones((B, P), jnp.int32).at[1, :2].set(0))


@pytest.mark.parametrize("sampler", ["gumbel", "inverse"])
def test_a_row_draws_the_same_tokens_however_rows_are_dealt(table, prompts, sampler):
    settings = drawn(sampler=sampler)
    together = generate(table, prompts, keys(), settings)
    order = jnp.array([5, 2, 7, 0])
    some = generate(
        table, Prompts(*(x[order] for x in prompts)), keys()[order], settings
    )
    for whole, part in zip(together, some, strict=True):
        np.testing.assert_array_equal(whole[order], part)


def test_rows_and_seeds_draw_differently_and_time_moves_the_key():
    uniform = jnp.zeros((V, V))
    same = Prompts(jnp.full((B, P), 3), jnp.ones((B, P), jnp.int32))
    settings = drawn(eos_ids=(), max_new_tokens=32)
    first = generate(uniform, same, keys(seed=0), settings).tokens[:, P:]
    other = generate(uniform, same, keys(seed=1), settings).tokens[:, P:]
    again = generate(uniform, same, keys(seed=0), settings).tokens[:, P:]
    np.testing.assert_array_equal(first, again)
    assert len({tuple(row) for row in np.concatenate([first, other]).tolist()}) == 2 * B
    assert all(len(set(row)) > 3 for row in first.tolist())


def test_rows_are_cut_at_different_lengths_and_draw_the_same_tokens(table):
    """Uniform in 2..6, from the row's key alone; what is drawn is that of no cut."""
    rows = 200
    same = Prompts(jnp.full((rows, P), 4), jnp.ones((rows, P), jnp.int32))
    free = generate(table, same, keys(rows), drawn(eos_ids=()))
    cut = generate(table, same, keys(rows), drawn(eos_ids=(), uniform_from=2))
    lengths = np.asarray(cut.response_mask).sum(-1)
    counted = np.bincount(lengths, minlength=T + 1)
    share = 1 / (T - 1)
    error = np.sqrt(rows * share * (1 - share))
    assert counted[:2].sum() == 0 and not cut.ended.any()
    assert (np.abs(counted[2:] - rows * share) < 4 * error).all()
    kept = np.arange(T) < lengths[:, None]
    np.testing.assert_array_equal(cut.response_mask, kept.astype(np.int32))
    np.testing.assert_array_equal(
        np.asarray(cut.tokens)[:, P:], np.where(kept, free.tokens[:, P:], PAD)
    )
    np.testing.assert_array_equal(cut.logps, np.where(kept, free.logps, 0))
    some = generate(table, Prompts(*(x[:8] for x in same)), keys(8), drawn(
        eos_ids=(), uniform_from=2
    ))  # fmt: skip
    np.testing.assert_array_equal(some.tokens, cut.tokens[:8])


def test_a_length_to_draw_from_must_fit():
    with pytest.raises(ValueError, match="uniform_from=9.*max_new_tokens=6"):
        drawn(uniform_from=9)


@pytest.mark.parametrize("sampler", ["gumbel", "inverse"])
def test_tokens_are_drawn_as_often_as_the_tempered_softmax_says(rng, sampler):
    rows = 4000
    table = jnp.array(rng.normal(size=(V, V)), jnp.float32)
    same = Prompts(jnp.full((rows, P), 4), jnp.ones((rows, P), jnp.int32))
    settings = drawn(max_new_tokens=1, temperature=0.7, sampler=sampler)
    tokens = generate(table, same, keys(rows), settings).tokens[:, -1]
    weights = np.exp(np.array(table[4], np.float64) / 0.7)
    expected = weights / weights.sum()
    counted = np.bincount(np.array(tokens), minlength=V) / rows
    error = np.sqrt(expected * (1 - expected) / rows)
    assert (np.abs(counted - expected) < 4 * error).all()


def nucleus(logits, top_p):
    """Ids of the smallest set of largest probabilities that reaches top_p."""
    weights = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    probabilities = weights / weights.sum()
    kept, mass = set(), 0.0
    for token in np.argsort(-probabilities):
        if mass >= top_p:
            break
        kept.add(int(token))
        mass += probabilities[token]
    return kept


def test_top_k_then_top_p_of_what_is_left(rng):
    logits = jnp.array(3 * rng.normal(size=(16, 50)), jnp.float32)
    allowed = sampling.filtered(logits, config=drawn(top_k=5, top_p=0.7))
    for row, result in zip(np.array(logits), np.array(allowed), strict=True):
        best = np.argsort(-row)[:5]
        expected = {int(best[i]) for i in nucleus(row[best], 0.7)}
        assert set(np.flatnonzero(np.isfinite(result))) == expected


def test_filters_that_are_off_leave_logits_over_temperature(rng):
    logits = jnp.array(rng.normal(size=(2, V)), jnp.float32)
    plain = sampling.filtered(logits, config=drawn(temperature=2.0, top_k=V))
    np.testing.assert_array_equal(plain, logits / 2.0)


def test_greedy_is_top_k_of_one_and_certain(table, prompts):
    greedy = generate(table, prompts, keys(), drawn(temperature=0.0))
    single = generate(table, prompts, keys(seed=5), drawn(top_k=1))
    np.testing.assert_array_equal(greedy.tokens, single.tokens)
    chex.assert_trees_all_close(greedy.logps, single.logps, atol=1e-6)
    for rollout in (greedy, single):
        np.testing.assert_array_equal(rollout.sampler_logps, np.zeros((B, T)))
    np.testing.assert_array_equal(
        greedy.tokens[:, P], table[prompts.tokens[:, -1]].argmax(-1)
    )


def test_no_id_beyond_the_limit_and_no_early_end_is_drawn(prompts):
    tempting = jnp.zeros((V, V)).at[:, 5:].set(20.0).at[:, EOS].set(10.0)
    settings = drawn(vocab_limit=5, min_new_tokens=4)
    rollout = generate(tempting, prompts, keys(), settings)
    response = np.array(rollout.tokens[:, P:])
    assert (response < 5).all() and (response[:, :4] != EOS).all()
    assert (response[:, 4] == EOS).mean() > 0.5
    # Against the policy's whole distribution those tokens are as unlikely as they are.
    assert (rollout.logps[:, 0] < -15).all()
    np.testing.assert_allclose(rollout.sampler_logps[:, 0], -np.log(4), rtol=1e-5)


def test_a_row_ends_with_its_end_token_and_is_silent_after(table, prompts):
    likely = table.at[:, EOS].add(1.5)
    rollout = generate(likely, prompts, keys(), drawn())
    response = np.array(rollout.tokens[:, P:])
    np.testing.assert_array_equal(rollout.tokens[:, :P], prompts.tokens)
    np.testing.assert_array_equal(
        rollout.mask, np.concatenate([prompts.mask, rollout.response_mask], 1)
    )
    lengths = np.array(rollout.response_mask).sum(1)
    assert 1 <= lengths.min() < lengths.max() == T  # ragged
    for row in range(B):
        n = lengths[row]
        np.testing.assert_array_equal(rollout.response_mask[row], np.arange(T) < n)
        assert (response[row, : n - 1] != EOS).all()
        assert rollout.ended[row] == (response[row, n - 1] == EOS)
        assert rollout.ended[row] or n == T
        assert (response[row, n:] == PAD).all()
        for logps in (rollout.logps, rollout.sampler_logps):
            assert (logps[row, :n] < 0).all() and (logps[row, n:] == 0).all()


def test_any_of_several_end_tokens_ends(prompts):
    table = jnp.zeros((V, V)).at[:, jnp.array([EOS, 6])].set(30.0)
    rollout = generate(table, prompts, keys(), drawn(eos_ids=(EOS, 6)))
    assert rollout.ended.all() and (rollout.response_mask.sum(1) == 1).all()
    assert set(np.array(rollout.tokens[:, P]).tolist()) == {EOS, 6}


def test_the_loop_stops_when_every_row_has_ended(prompts):
    steps = []
    model = Table(on_step=steps.append)
    # 3 → 4 → 5 → 6 → end: the slowest row, which starts at 3, needs four tokens.
    chain = (
        jnp.full((V, V), -50.0).at[jnp.arange(3, 7), jnp.array([4, 5, 6, EOS])].set(0)
    )
    prompts = prompts._replace(tokens=prompts.tokens.at[0, -1].set(3))
    settings = drawn(max_new_tokens=40)
    rollout = generate(chain, prompts, keys(), settings, model)
    jax.effects_barrier()
    assert rollout.ended.all() and len(steps) == 3
    np.testing.assert_array_equal(rollout.tokens[0, P : P + 5], [4, 5, 6, EOS, PAD])


def test_positions_count_valid_tokens_only(table, prompts):
    seen = []
    model = Table(on_step=lambda position: seen.append(np.array(position)))
    generate(table, prompts, keys(), drawn(eos_ids=()), model)
    jax.effects_barrier()
    first = np.array(prompts.mask.sum(1))
    np.testing.assert_array_equal(seen, first[None] + np.arange(T - 1)[:, None])


def test_vmapped_members_stop_together_and_draw_as_if_alone(table, prompts):
    tables = jnp.stack([table, table.at[:, EOS].add(5.0), table - 1.0])
    member_keys = jnp.stack([keys(seed=s) for s in range(3)])
    together = drawn(stop_axis="seeds")

    def run(table, keys, settings):
        return sampling.generate(Table(), table, prompts, keys, config=settings)

    mapped = jax.vmap(
        functools.partial(run, settings=together), axis_name="seeds", axis_size=3
    )
    rollouts = jax.jit(mapped)(tables, member_keys)
    for i in range(3):
        alone = generate(tables[i], prompts, member_keys[i], drawn())
        chex.assert_trees_all_equal(jax.tree.map(lambda x, i=i: x[i], rollouts), alone)
    # One predicate for all: the loop runs on every member and selects nothing.
    unshared = jax.vmap(functools.partial(run, settings=drawn()))
    assert loop_predicate(mapped, tables, member_keys).shape == ()
    assert loop_predicate(unshared, tables, member_keys).shape == (3,)


def loop_predicate(function, *inputs):
    """What the loop of a function decides on whether to go on."""
    equations = jax.make_jaxpr(function)(*inputs).jaxpr.eqns
    (loop,) = [e for e in equations if e.primitive.name == "while"]
    return loop.params["cond_jaxpr"].out_avals[0]


# With a network

CONFIG = config.llama(
    vocab_size=19, width=16, layers=2, heads=2, max_length=P + T, tied=True
)


@pytest.fixture(scope="module")
def network():
    module = decoder.Decoder(CONFIG)
    return module, tiny_models.draw(module)


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 0.7, "top_k": 5, "pad_id": 99}]
)
def test_logps_are_those_of_a_full_forward_pass(network, prompts, changes):
    module, params = network
    settings = drawn(**changes)
    rollout = generate(params, prompts, keys(), settings, module)
    logits = tiny_models.compiled(module)(params, rollout.tokens, rollout.mask)
    response = logits[:, P - 1 : -1]
    mask = np.array(rollout.response_mask, bool)
    assert mask.any() and not mask.all()
    tokens = jnp.where(mask, rollout.tokens[:, P:], 0)
    full = logprobs.of_tokens(response, tokens, temperature=settings.temperature)
    np.testing.assert_allclose(rollout.logps[mask], full[mask], atol=1e-5, rtol=0)
    allowed = jax.vmap(
        functools.partial(sampling.filtered, config=settings), in_axes=1, out_axes=1
    )(response)
    filtered = logprobs.of_tokens(allowed, tokens)
    np.testing.assert_allclose(
        rollout.sampler_logps[mask], filtered[mask], atol=1e-5, rtol=0
    )
    assert not jnp.any(jnp.isnan(rollout.logps))


def test_copies_of_a_prompt_draw_what_repeated_prompts_draw(network, prompts):
    module, params = network
    settings = drawn()
    every = type(prompts)(*(jnp.repeat(x, 3, axis=0) for x in prompts))
    run = functools.partial(sampling.generate, module, config=settings)
    result = jax.jit(functools.partial(run, copies=3))(params, prompts, keys(3 * B))
    expected = jax.jit(run)(params, every, keys(3 * B))
    chex.assert_trees_all_close(result, expected, atol=1e-5, rtol=1e-5)
    assert len(np.unique(result.tokens[:3], axis=0)) == 3  # keys of their own


def test_a_prompt_is_read_once_for_all_its_copies(table, prompts):
    shapes = []
    model = Table(on_prompt=shapes.append)
    run = functools.partial(sampling.generate, model, config=drawn(), copies=4)
    rollout = run(table, prompts, keys(4 * B))
    assert shapes == [(B, P)] and rollout.tokens.shape == (4 * B, P + T)


def test_left_padding_changes_no_greedy_token(network, prompts):
    module, params = network
    settings = drawn(temperature=0.0)
    padded = generate(params, prompts, keys(), settings, module)
    alone = Prompts(prompts.tokens[1:2, 2:], prompts.mask[1:2, 2:])
    unpadded = generate(params, alone, keys(1), settings, module)
    np.testing.assert_array_equal(padded.tokens[1, P:], unpadded.tokens[0, 1:])
    chex.assert_trees_all_close(padded.logps[1], unpadded.logps[0], atol=1e-5)


def test_a_context_that_is_too_short_is_refused_with_its_numbers(network, prompts):
    module, params = network
    message = f"{P} prompt tokens . {T + 1} new ones exceed the context of {P + T}"
    with pytest.raises(ValueError, match=message):
        generate(params, prompts, keys(), drawn(max_new_tokens=T + 1), module)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"min_p": 1.1}, "min_p=1.1"),
        ({"min_p": float("nan")}, "min_p=nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"pad_id": EOS}, r"pad_id=2 and eos_ids=\(2,\): the end of a response"),
        ({"sampler": "beam"}, "sampler='beam'"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        drawn(**changes)


def test_the_largest_score_is_the_first_of_its_equals_and_always_an_id(rng):
    scores = rng.integers(0, 4, (50, 9)).astype(np.float32)
    scores[3] = -np.inf
    np.testing.assert_array_equal(sampling._argmax(scores), scores.argmax(-1))
    assert sampling._argmax(jnp.full((1, 9), jnp.nan)) == 8
