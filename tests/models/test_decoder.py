"""The decoder: one forward pass, the cache, padding, precision, for both families."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from rlhf_jax import trees
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
