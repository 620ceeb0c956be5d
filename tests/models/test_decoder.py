"""The decoder: one forward pass, the cache, padding, precision, for both families."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from rlhf_jax import sharding, trees
from rlhf_jax.models import config, decoder, stacks

B, T, V = 3, 10, 23
SHAPE = dict(vocab_size=V, width=16, layers=2, heads=4, max_length=16)
CONFIGS = {
    "gpt2": config.gpt2(**SHAPE),
    "llama": config.llama(**SHAPE, kv_heads=2, attention_bias=True),
}


@dataclasses.dataclass(frozen=True)
class Model:
    module: decoder.Decoder
    params: dict
    forward: object  # compiled: (params, tokens, mask) → logits


def make(name):
    module = decoder.Decoder(CONFIGS[name])
    return Model(module, tiny_models.draw(module), tiny_models.compiled(module))


@pytest.fixture(scope="module")
def gpt2():
    return make("gpt2")


@pytest.fixture(scope="module")
def llama():
    return make("llama")


@pytest.fixture(params=CONFIGS)
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def batch(rng):
    """Tokens and a mask with left padding of 0, 2 and 5."""
    tokens = jnp.array(rng.integers(0, V, (B, T)), jnp.int32)
    mask = jnp.array(np.arange(T)[None] >= np.array([0, 2, 5])[:, None], jnp.int32)
    return tokens, mask


def shifted(x, by):
    return jnp.stack([jnp.roll(row, -n) for row, n in zip(x, by, strict=True)])


def test_cached_decoding_equals_the_full_forward_at_every_position(model, batch):
    tokens, mask = batch
    full = model.forward(model.params, tokens, mask)
    prompt = 6
    start = tiny_models.compiled(model.module, "prefill")
    logits, cache = start(model.params, tokens[:, :prompt], mask[:, :prompt], T)
    chex.assert_trees_all_close(logits, full[:, prompt - 1], atol=1e-5, rtol=0)
    step = tiny_models.compiled(model.module, "step")
    for t in range(prompt, T):
        logits, cache = step(model.params, tokens[:, t], mask[:, :t].sum(1), cache)
        chex.assert_trees_all_close(logits, full[:, t], atol=1e-5, rtol=0)
    assert int(cache.index) == T
    np.testing.assert_array_equal(cache.mask, mask != 0)


def test_hidden_then_unembed_of_a_slice_is_the_slice_of_the_logits(model, batch):
    hidden = tiny_models.compiled(model.module, "hidden")(model.params, *batch)
    some = tiny_models.compiled(model.module, "unembed")(model.params, hidden[:, 4:7])
    full = model.forward(model.params, *batch)
    assert hidden.shape == (B, T, 16) and some.dtype == jnp.float32
    chex.assert_trees_all_close(some, full[:, 4:7], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("depth", ["shallow", "deep"])
def test_states_asked_for_at_some_positions_are_the_ones_of_all(
    model, batch, depth, monkeypatch
):
    if depth == "deep":
        monkeypatch.setattr(stacks, "_SHALLOW", 0)
    apply = functools.partial(model.module.apply, method="hidden")
    last = jnp.array([9, 4, 7])

    def asked(params):
        variables = {"params": params}
        return apply(variables, *batch, slice(3, 7)), apply(variables, *batch, last)

    def chosen(params):
        states = apply({"params": params}, *batch)
        return states[:, 3:7], states[jnp.arange(B), last][:, None]

    def gradient(states):
        return jax.jit(jax.grad(lambda p: sum(jnp.sin(x).sum() for x in states(p))))

    result, expected = (jax.jit(states)(model.params) for states in (asked, chosen))
    chex.assert_trees_all_close(result, expected, atol=1e-6, rtol=1e-5)
    result, expected = (gradient(states)(model.params) for states in (asked, chosen))
    chex.assert_trees_all_close(result, expected, atol=1e-5, rtol=1e-4)


def test_what_nobody_asks_for_is_not_computed_in_the_last_layer(llama, batch):
    def operations(at):
        def states(params):
            variables = {"params": params}
            return llama.module.apply(variables, *batch, at, method="hidden")

        return jax.jit(states).lower(llama.params).cost_analysis()["flops"]

    half = operations(None) / 2  # of two layers the first is needed, and keys, values
    assert half < operations(jnp.zeros(B, int)) < 1.35 * half


SHARED = 4
GEMMA = config.llama(
    **{**SHAPE, "layers": 3}, kv_heads=1, window=3, windowed=(True, False, True)
)
CONTINUED = {
    **CONFIGS,
    "window": config.llama(**SHAPE, window=5),
    "some windows": dataclasses.replace(GEMMA, window_theta=100.0, head_norm=True),
}


def reading(module):
    """(params, before, its mask, tokens, mask) → states that continue a prefix."""
    apply = module.apply

    def states(params, before, earlier, tokens, mask, **options):
        variables = {"params": params}
        prefix = apply(variables, before, earlier, method="prefix")
        return apply(variables, tokens, mask, after=prefix, method="hidden", **options)

    return states


@pytest.fixture(params=CONTINUED)
def continued(request):
    module = decoder.Decoder(CONTINUED[request.param])
    return module, tiny_models.draw(module)


def joined(tokens, mask):
    """Rows with the first `SHARED` tokens of the first row before them."""
    before = jnp.broadcast_to(tokens[:1, :SHARED], (B, SHARED))
    ones = jnp.ones((B, SHARED), jnp.int32)
    return jnp.concatenate([before, tokens], 1), jnp.concatenate([ones, mask], 1)


@pytest.mark.parametrize("depth", ["shallow", "deep"])
def test_rows_that_continue_one_prefix_have_the_states_of_the_whole_text(
    continued, batch, depth, monkeypatch
):
    if depth == "deep":
        monkeypatch.setattr(stacks, "_SHALLOW", 0)
    (module, params), (tokens, mask) = continued, batch
    full = tiny_models.compiled(module, "hidden")(params, *joined(tokens, mask))
    shown = np.array(mask, bool)
    for padding in (0, 2):  # on the right of the prefix
        earlier = jnp.arange(SHARED + padding)[None] < SHARED
        before = jnp.pad(tokens[:1, :SHARED], ((0, 0), (0, padding)), mode="edge")
        states = jax.jit(reading(module))(params, before, earlier, tokens, mask)
        np.testing.assert_allclose(
            states[shown], full[:, SHARED:][shown], atol=1e-5, rtol=0
        )


def test_each_row_may_continue_a_prefix_of_its_own(continued, batch):
    (module, params), (tokens, mask) = continued, batch
    full = tiny_models.compiled(module, "hidden")(params, tokens, mask)
    start = 6
    states = jax.jit(reading(module))(
        params, tokens[:, :start], mask[:, :start], tokens[:, start:], mask[:, start:]
    )
    np.testing.assert_allclose(states, full[:, start:], atol=1e-5, rtol=0)


def test_segments_that_continue_a_prefix_follow_their_common_part(llama, batch):
    tokens, mask = batch
    segments = np.array([0] * 6 + [1, 1, 2, 2])
    before, earlier = tokens[:1, :SHARED], jnp.ones((1, SHARED), int)
    states = jax.jit(functools.partial(reading(llama.module), segments=segments))(
        llama.params, before, earlier, tokens, mask
    )
    run = tiny_models.compiled(llama.module, "hidden")
    for kept in (slice(6, 8), slice(8, 10)):
        row = jnp.concatenate([tokens[:, :6], tokens[:, kept]], 1)
        full = run(llama.params, *joined(row, mask[:, :8]))
        np.testing.assert_allclose(states[:, kept], full[:, -2:], atol=1e-5, rtol=0)


def test_branches_of_several_texts_in_a_row_have_the_states_of_each_alone(continued):
    """A row may even hold more than the context: its texts do not."""
    module, params = continued
    room = module.config.max_length
    rng = np.random.default_rng(0)
    common, ends = rng.integers(0, V, 5), rng.integers(0, V, (2, 3))
    other = rng.integers(0, V, room - 6)
    row = np.concatenate([common, *ends, other])
    assert len(row) > room
    texts = np.array([1] * 11 + [2] * len(other))
    branches = np.array([0] * 5 + [1] * 3 + [2] * 3 + [0] * len(other))
    run = jax.jit(functools.partial(module.apply, method="hidden"))
    states = run(
        {"params": params},
        row[None],
        jnp.ones((1, len(row)), int),
        segments=(texts[None], branches[None]),
    )
    for end, kept in zip(ends, (slice(5, 8), slice(8, 11)), strict=True):
        alone = run({"params": params}, np.concatenate([common, end])[None])
        np.testing.assert_allclose(states[:, kept], alone[:, 5:], atol=1e-5, rtol=0)
    alone = run({"params": params}, other[None])
    np.testing.assert_allclose(states[:, 11:], alone, atol=1e-5, rtol=0)


def test_gradients_flow_through_a_prefix_as_through_the_whole_text(llama, batch):
    tokens, mask = batch
    last = jnp.full(B, T - 1)

    def shared(params):
        before = tokens[:1, :SHARED], jnp.ones((1, SHARED), int)
        states = reading(llama.module)(params, *before, tokens, mask, at=last)
        return jnp.sin(states).sum()

    def whole(params):
        states = llama.module.apply(
            {"params": params}, *joined(tokens, mask), last + SHARED, method="hidden"
        )
        return jnp.sin(states).sum()

    result, expected = (jax.jit(jax.grad(f))(llama.params) for f in (shared, whole))
    chex.assert_trees_all_close(result, expected, atol=1e-5, rtol=1e-4)


def test_ids_under_the_masks_of_prefix_and_rows_reach_nothing(llama, batch):
    tokens, mask = batch
    earlier = jnp.array([[0, 1, 1, 0]])
    run = jax.jit(reading(llama.module))
    clean = run(llama.params, tokens[:1, :4], earlier, tokens, mask)
    junk = jnp.where(mask == 0, V + 1000, tokens)
    before = jnp.where(earlier == 0, V + 1000, tokens[:1, :4])
    dirty = run(llama.params, before, earlier, junk, mask)
    shown = np.array(mask, bool)
    np.testing.assert_array_equal(clean[shown], dirty[shown])


def test_a_prefix_and_its_rows_share_the_context(llama, batch):
    before, ones = jnp.zeros((1, 7), int), jnp.ones((1, 7), int)
    with pytest.raises(ValueError, match="17 tokens exceed the context of 16"):
        jax.eval_shape(reading(llama.module), llama.params, before, ones, *batch)


def test_padding_on_either_side_changes_nothing_where_tokens_are_valid(model, batch):
    tokens, mask = batch
    left = model.forward(model.params, tokens, mask)
    by = [0, 2, 5]
    right = model.forward(model.params, shifted(tokens, by), shifted(mask, by))
    for row, n in enumerate(by):
        np.testing.assert_allclose(
            left[row, n:], right[row, : T - n], atol=1e-6, rtol=1e-6
        )
    # Without a mask, all is valid.
    alone = tiny_models.compiled(model.module)(model.params, tokens[2:, 5:])
    np.testing.assert_allclose(left[2, 5:], alone[0], atol=1e-6, rtol=1e-6)


def test_ids_under_the_mask_reach_neither_logits_nor_gradients(model, batch):
    tokens, mask = batch
    junk = jnp.where(mask == 0, V + 1000, tokens)

    def loss(params, tokens):
        logits = model.forward(params, tokens, mask)
        return (jnp.square(logits) * mask[..., None]).sum(), logits

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, clean), clean_gradient = run(model.params, tokens)
    (_, dirty), dirty_gradient = run(model.params, junk)
    shown = np.array(mask, bool)
    np.testing.assert_array_equal(clean[shown], dirty[shown])
    chex.assert_trees_all_equal(clean_gradient, dirty_gradient)
    chex.assert_tree_all_finite(dirty_gradient)


def test_a_row_without_valid_tokens_stays_finite(model, batch):
    tokens, mask = batch
    mask = mask.at[1].set(0)
    assert jnp.isfinite(model.forward(model.params, tokens, mask)).all()


def test_a_token_affects_only_its_and_later_logits(model, batch):
    tokens, _ = batch
    mask = jnp.ones_like(tokens)
    before = model.forward(model.params, tokens, mask)
    at = 4
    changed = tokens.at[:, at].set((tokens[:, at] + 1) % V)
    after = model.forward(model.params, changed, mask)
    np.testing.assert_array_equal(before[:, :at], after[:, :at])
    moved = jnp.abs(before - after).max(-1)[:, at:]
    assert (moved > 1e-6).all()


def test_a_deep_stack_on_cpu_keeps_products_alone_for_the_same_gradient(batch):
    """Residuals, by platform: what lies between products is not among those of CPU."""
    module = decoder.Decoder(dataclasses.replace(CONFIGS["llama"], layers=8))
    params = tiny_models.draw(module)

    def kept(params, platform):
        with sharding.tracing_for(platform):
            apply = functools.partial(module.apply, method="hidden")
            states, pull = jax.vjp(lambda p: apply({"params": p}, *batch), params)
        size = sum(x.nbytes for x in jax.tree.leaves(pull))
        return size, pull(jnp.sin(states))[0]

    cpu, found = kept(params, "cpu")
    gpu, expected = kept(params, "gpu")
    assert cpu < 0.6 * gpu
    chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-4)


def test_remat_changes_no_gradient(llama, batch):
    def gradient(remat):
        changed = dataclasses.replace(llama.module.config, remat=remat)
        forward = tiny_models.compiled(decoder.Decoder(changed))
        return jax.jit(jax.grad(lambda p: jnp.square(forward(p, *batch)).mean()))

    plain, full, dots = (gradient(r)(llama.params) for r in ("none", "full", "dots"))
    chex.assert_trees_all_close(plain, full, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(plain, dots, rtol=1e-5, atol=1e-7)


def test_bfloat16_stays_near_its_float32_twin(llama, batch):
    tokens, mask = batch
    half = decoder.Decoder(dataclasses.replace(llama.module.config, dtype="bfloat16"))
    logits = tiny_models.compiled(half)(llama.params, tokens, mask)
    full = llama.forward(llama.params, tokens, mask)
    assert logits.dtype == jnp.float32
    assert jnp.linalg.norm(logits - full) < 2e-2 * jnp.linalg.norm(full)
    before, held = tokens[:, :-1], mask[:, :-1]
    _, cache = tiny_models.compiled(half, "prefill")(llama.params, before, held, T)
    assert {x.dtype for x in cache.keys + cache.values} == {jnp.dtype("bfloat16")}
    step = tiny_models.compiled(half, "step")
    stepped, _ = step(llama.params, tokens[:, -1], held.sum(1), cache)
    error = jnp.linalg.norm(stepped - logits[:, -1])
    assert error < 2e-2 * jnp.linalg.norm(logits[:, -1])


def test_attention_on_accelerators_agrees_with_the_one_on_cpu(
    llama, batch, monkeypatch
):
    full = llama.forward(llama.params, *batch)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    other = tiny_models.compiled(llama.module)(llama.params, *batch)
    assert jnp.isfinite(other).all()
    shown = np.array(batch[1], bool)
    np.testing.assert_allclose(other[shown], full[shown], atol=1e-5, rtol=1e-5)


def test_deep_stacks_are_scanned_and_agree_with_shallow_ones_unrolled(
    llama, batch, monkeypatch
):
    full = llama.forward(llama.params, *batch)
    monkeypatch.setattr(stacks, "_SHALLOW", 0)
    scanned = tiny_models.compiled(llama.module)(llama.params, *batch)
    chex.assert_trees_all_close(scanned, full, atol=1e-6, rtol=1e-5)


def test_layers_are_stacked_and_initialised_differently(llama):
    params = jax.jit(llama.module.init)(jax.random.key(0), jnp.zeros((1, 1), int))
    layers = params["params"]["layers"]
    assert {x.shape[0] for x in jax.tree.leaves(layers)} == {2}
    first, second = layers["mlp"]["up"]["kernel"]
    assert not np.allclose(first, second)


def test_too_long_a_context_is_refused_with_its_numbers(llama):
    tokens = jnp.zeros((1, 17), jnp.int32)
    with pytest.raises(ValueError, match="17 tokens exceed the context of 16"):
        llama.module.apply({"params": llama.params}, tokens)
    message = "10 prompt tokens . 7 new ones exceed the context of 16"
    with pytest.raises(ValueError, match=message):
        llama.module.apply(
            {"params": llama.params}, tokens[:, :10], None, 17, method="prefill"
        )


def test_an_id_beyond_the_vocabulary_is_loud(llama, batch):
    tokens, mask = batch
    logits = llama.forward(llama.params, tokens.at[0, 3].set(V), mask)
    assert jnp.isnan(logits[0]).all() and jnp.isfinite(logits[1:]).all()


@pytest.mark.parametrize(
    ("described", "millions"),
    [
        (config.gpt2(), 124.4),
        (config.llama(), 6738.4),
        (config.preset("micro", vocab_size=300, max_length=64), 0.118),
    ],
)
def test_big_models_have_as_many_parameters_as_their_papers_say(described, millions):
    module = decoder.Decoder(described)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens)
    assert trees.size(shapes) / 1e6 == pytest.approx(millions, rel=5e-3)
