"""Layers against float64 numpy, and the configuration's refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from rlhf_jax import trees
from rlhf_jax.models import config, layers

TINY = config.preset("micro", vocab_size=11, max_length=32)


def attention(q, k, v, mask):
    """Softmax attention by loops over rows, heads and queries."""
    out = np.zeros(q.shape)
    group = q.shape[2] // k.shape[1]
    for b, t, h in np.ndindex(q.shape[:3]):
        shown = np.flatnonzero(mask[b, t])
        keys, values = k[b, h // group, shown], v[b, h // group, shown]
        scores = np.exp(keys @ q[b, t, h] / np.sqrt(q.shape[-1]))
        out[b, t, h] = scores @ values / scores.sum()
    return out


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_is_softmax_attention_by_loops(rng, kv_heads):
    q = rng.normal(size=(2, 5, 4, 6))
    k, v = rng.normal(size=(2, 2, kv_heads, 7, 6))
    mask = rng.random((2, 5, 7)) < 0.6
    mask[..., 0] = True
    args = [jnp.array(x, jnp.float32) for x in (q, k, v)]
    out = layers.attend(*args, jnp.array(mask))
    np.testing.assert_allclose(out, attention(q, k, v, mask), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_by_their_formulas(rng, kind):
    c = dataclasses.replace(TINY, norm=kind, norm_eps=1e-3)
    x, scale, bias = (rng.normal(size=s) for s in ((2, 3, c.width), c.width, c.width))
    params = {"scale": jnp.array(scale, jnp.float32)}
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * scale
    if kind == "layer":
        params["bias"] = jnp.array(bias, jnp.float32)
        centered = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-3)
        expected = centered / deviation * scale + bias
    out = layers.Norm(c).apply({"params": params}, jnp.array(x, jnp.float32))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_rotations_keep_length_and_see_distances_only(rng):
    q, k = (jnp.array(rng.normal(size=(1, 1, 1, 16)), jnp.float32) for _ in "qk")

    def turned(x, position):
        return layers.rotate(x, layers.rotation(TINY, jnp.array([[position]])))

    scores = [jnp.vdot(turned(q, m), turned(k, n)) for m, n in ((3, 1), (9, 7), (2, 0))]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-5)
    np.testing.assert_allclose(
        jnp.linalg.norm(turned(q, 5)), jnp.linalg.norm(q), rtol=1e-6
    )
    np.testing.assert_array_equal(turned(q, 0), q)


def test_tabulated_rotations_equal_computed_ones(monkeypatch):
    positions = jnp.arange(TINY.max_length)[None]
    table = layers.rotation(TINY, positions)
    beyond = layers.rotation(TINY, jnp.array([[TINY.max_length]]))
    assert jnp.isnan(beyond[0]).all()  # no neighbour's
    monkeypatch.setattr(layers, "_LARGEST_TABLE", 0)
    computed = layers.rotation(TINY, positions)
    for left, right in zip(table, computed, strict=True):
        assert left.shape == right.shape
        np.testing.assert_allclose(left, right, atol=1e-6)


def test_scaled_rotations_stretch_slow_turns_and_leave_fast_ones():
    scaling = config.RopeScaling(8.0, 1.0, 4.0, 64)
    c = dataclasses.replace(TINY, head_dim=32, rope_scaling=scaling, rope_theta=1e4)
    plain = dataclasses.replace(c, rope_scaling=None)
    one = jnp.array([[1]])
    ratio = layers.rotation(c, one)[1] / layers.rotation(plain, one)[1]
    cycles = 64 * 1e4 ** -(np.arange(0, 32, 2) / 32) / (2 * np.pi)
    ratio = np.array(ratio).ravel()
    np.testing.assert_allclose(ratio[cycles > 4], 1.0, rtol=1e-5)
    np.testing.assert_allclose(ratio[cycles < 1], 1 / 8, rtol=1e-2)
    assert (np.diff(ratio) <= 1e-6).all()


def test_linear_scaling_is_a_position_divided():
    c = dataclasses.replace(TINY, rope_scaling=config.RopeScaling(4.0))
    stretched = layers.rotation(c, jnp.array([[8, 20]]))
    plain = layers.rotation(TINY, jnp.array([[2, 5]]))
    for left, right in zip(stretched, plain, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-6)


def test_a_part_of_a_head_is_turned_as_a_smaller_head_is(rng):
    part = dataclasses.replace(TINY, rotary_dim=6)
    small = dataclasses.replace(TINY, head_dim=6)
    x = jnp.array(rng.normal(size=(2, 3, 4, TINY.head_dim)), jnp.float32)
    positions = jnp.array([[0, 1, 2], [0, 0, 7]])
    turned = layers.rotate(x, layers.rotation(part, positions))
    expected = layers.rotate(x[..., :6], layers.rotation(small, positions))
    np.testing.assert_array_equal(turned[..., :6], expected)
    np.testing.assert_array_equal(turned[..., 6:], x[..., 6:])


def block(c, rng):
    """(apply, parameters, x) of a block of a configuration."""
    module = layers.Block(c)
    x = jnp.array(rng.normal(size=(2, 3, c.width)), jnp.float32)
    inputs = layers.rotation(c, jnp.arange(6).reshape(2, 3)), jnp.ones((2, 3, 3), bool)
    params = tiny_models.draw(module, x, *inputs)
    run = tiny_models.compiled(module)
    return lambda params, x: run(params, x, *inputs)[0], params, x


def test_a_parallel_block_is_the_sum_of_what_its_halves_add(rng):
    apply, params, x = block(dataclasses.replace(TINY, parallel=True), rng)

    def without(*path):
        return jax.tree_util.tree_map_with_path(
            lambda at, leaf: (
                0 * leaf if trees.path_name(at) == "/".join(path) else leaf
            ),
            params,
        )

    attended = apply(without("mlp", "down", "kernel"), x)
    fed = apply(without("attention", "output", "kernel"), x)
    assert not np.allclose(attended, x) and not np.allclose(fed, x)
    both = apply(params, x)
    np.testing.assert_allclose(both, attended + fed - x, rtol=1e-5, atol=1e-5)


def test_normalised_heads_do_not_know_how_large_their_kernels_are(rng):
    c = dataclasses.replace(TINY, head_norm=True, norm_eps=1e-12)
    apply, params, x = block(c, rng)
    before = apply(params, x)
    kernels = {
        name: {"kernel": scale * params["attention"][name]["kernel"]}
        for name, scale in (("query", 30.0), ("key", 0.1))
    }
    same = apply(params | {"attention": params["attention"] | kernels}, x)
    np.testing.assert_allclose(same, before, rtol=1e-4, atol=1e-5)
    norms = {"query_norm": {"scale": 3 * params["attention"]["query_norm"]["scale"]}}
    other = apply(params | {"attention": params["attention"] | norms}, x)
    assert not np.allclose(other, before, atol=1e-3)


def test_queries_may_have_a_bias_that_outputs_lack(rng):
    c = dataclasses.replace(TINY, attention_bias=True, output_bias=False)
    _, params, _ = block(c, rng)
    biased = {name for name, leaf in params["attention"].items() if "bias" in leaf}
    assert biased == {"query", "key", "value"}


def test_a_dense_layer_is_the_same_on_flat_and_on_nested_rows(rng):
    x = jnp.array(rng.normal(size=(2, 3, 4)), jnp.float32)
    dense = layers.Dense(5, bias=True, dtype="float32")
    params = dense.init(jax.random.key(0), x)
    expected = jnp.einsum("btd,df->btf", x, params["params"]["kernel"])
    np.testing.assert_allclose(dense.apply(params, x), expected, rtol=1e-5, atol=1e-6)
    assert not params["params"]["bias"].any()


def test_kernels_start_with_the_variance_of_one_over_their_inputs():
    dense = layers.Dense(400, bias=False, dtype="float32", gain=0.5)
    kernel = dense.init(jax.random.key(0), jnp.zeros((1, 100)))["params"]["kernel"]
    expected = 0.25 / 100
    error = expected * np.sqrt(2 / kernel.size)
    assert abs(float(jnp.square(kernel).mean()) - expected) < 4 * error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "alibi"}, "positions='alibi'.*learned"),
        ({"dtype": "float64"}, "dtype='float64'"),
        ({"remat": "some"}, "remat='some'"),
        ({"kv_heads": 3}, "heads=4 and kv_heads=3: every key-value head"),
        ({"kv_heads": 0}, "kv_heads=0: must be a whole number of at least 1"),
        ({"layers": 0}, "layers=0"),
        ({"head_dim": 5}, "head_dim=5: positions rotate pairs"),
        ({"attention": "cudnn"}, "half precision"),
        (
            {"attention": "cudnn", "score_cap": 9.0},
            "score_cap=9.0: cuDNN cannot cap scores",
        ),
        ({"logit_cap": 0.0}, "logit_cap=0.0: must be a number above 0"),
        ({"window_theta": -1.0}, "window_theta=-1.0"),
        ({"rotary_dim": 5}, "rotary_dim=5 and head_dim=16: .*pairs of a head's dim"),
        ({"rotary_dim": 18}, "rotary_dim=18"),
        ({"window": 0}, "window=0: must be a whole number of at least 1"),
        ({"windowed": (True, False)}, "windowed=.* needs a window"),
        (
            {"window": 3, "windowed": (True,)},
            "layers=2: it needs .* one entry for each layer",
        ),
    ],
)
def test_a_configuration_that_cannot_be_built_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "mean"}, "pooling='mean': must be one of tanh, relu"),
        ({"heads": 3}, "width=8 is no multiple of heads=3"),
        ({"segments": -1}, "segments=-1: must be a whole number of at least 0"),
        ({"hidden": 0}, "hidden=0: must be a whole number of at least 1"),
        ({"activation": "mish"}, "activation='mish'"),
        ({"attention": "cudnn"}, "half precision"),
    ],
)
def test_an_encoder_that_cannot_be_built_says_why(change, message):
    fine = config.Encoder(
        vocab_size=9, width=8, layers=1, heads=2, hidden=8, max_length=4
    )
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(fine, **change)


def test_presets_are_named_when_one_is_asked_for_that_does_not_exist():
    with pytest.raises(ValueError, match="no preset 'nano'.*micro"):
        config.preset("nano", vocab_size=10, max_length=10)
    with pytest.raises(ValueError, match="width=65 is no multiple of heads=4"):
        config.preset("micro", vocab_size=10, max_length=10, width=65)


def test_presets_are_static():
    again = config.preset("micro", vocab_size=11, max_length=32)
    assert again == TINY and hash(again) == hash(TINY)
    assert (TINY.layers, TINY.width, TINY.tied) == (2, 64, True)
