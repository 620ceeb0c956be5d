"""heterogeneous: a ratio for each block of layers, on the aligned model."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import averaging, heterogeneous, ratios, trees
from rlhf_jax.models import config, decoder, lora, stacks

LAYERS = 4
SHAPES = {
    "embedding": {"token": (5, 3)},
    "layers": {
        "attention": {"query": {"kernel": (LAYERS, 3, 3), "bias": (LAYERS, 3)}},
        "attention_norm": {"scale": (LAYERS, 3)},
    },
    "final_norm": {"scale": (3,)},
    "unembedding": {"kernel": (3, 5)},
}
OTHERS = ("interpolate", "sft", "rlhf")


def models(seed=0, dtype=np.float32):
    """Two trees, before and after alignment."""
    rng = np.random.default_rng(seed)
    make = functools.partial(
        jax.tree.map,
        lambda shape: jnp.asarray(rng.normal(size=shape), dtype),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    return make(), make()


def llama(layers, **changes):
    """Shapes of a Llama with so many layers."""
    fields = {"vocab_size": 11, "width": 8, "heads": 2, "max_length": 8, **changes}
    module = decoder.Decoder(config.llama(layers=layers, **fields))
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return jax.eval_shape(module.init, jax.random.key(0), tokens)["params"]


def by_path(tree):
    leaves = jax.tree.leaves(tree)
    return dict(zip(trees.paths(tree), leaves, strict=True))


# Blocks


def test_blocks_of_26_and_32_layers_are_those_of_the_paper():
    def ends(L, K):
        index = heterogeneous.split(L, K)
        assert (np.diff(index) >= 0).all() and len(index) == L
        found = [np.flatnonzero(index == k) for k in range(K)]
        return [(int(x[0]), int(x[-1])) for x in found]

    assert ends(26, 3) == [(0, 7), (8, 15), (16, 25)]
    assert ends(32, 3) == [(0, 10), (11, 20), (21, 31)]
    six = [(0, 3), (4, 7), (8, 11), (12, 15), (16, 19), (20, 25)]
    assert ends(26, 6) == six
    assert ends(4, 4) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert ends(3, 1) == [(0, 2)]


@examples
@given(st.integers(1, 40), st.integers(1, 40))
def test_blocks_are_contiguous_and_none_is_empty(L, K):
    if K > L:
        with pytest.raises(ValueError, match=f"{K} blocks of {L} layers"):
            heterogeneous.split(L, K)
        return
    index = heterogeneous.split(L, K)
    assert sorted(set(index.tolist())) == list(range(K))
    assert (np.diff(index) >= 0).all()
    sizes = np.bincount(index)
    if not (K == 3 and L > 30):
        assert (sizes[:-1] == L // K).all() and sizes[-1] == L - (K - 1) * (L // K)


def test_linear_layers_of_a_llama_have_the_block_of_their_layer_and_nothing_else():
    params = llama(26, tied=False)
    blocks = by_path(heterogeneous.layer_blocks(params, 3))
    linear = {path for path in blocks if "layers/" in path and path.endswith("kernel")}
    assert len(linear) == 7  # query, key, value, output; gate, up, down
    for path, block in blocks.items():
        if path in linear:
            np.testing.assert_array_equal(block, heterogeneous.split(26, 3))
        else:
            assert block == heterogeneous.MEAN, path
    assert "unembedding/kernel" in blocks and "embedding/token" in blocks
    assert heterogeneous.depth(params) == 26


@pytest.mark.parametrize(
    "others, code",
    [
        ("interpolate", heterogeneous.MEAN),
        ("sft", heterogeneous.FIRST),
        ("rlhf", heterogeneous.SECOND),
    ],
)
def test_others_are_norms_embeddings_and_heads(others, code):
    """And a bias goes with its kernel, not with the norms."""
    blocks = by_path(heterogeneous.layer_blocks(models()[0], 2, others=others))
    rest = {path: block for path, block in blocks.items() if np.ndim(block) == 0}
    assert set(rest) == {
        "embedding/token",
        "layers/attention_norm/scale",
        "final_norm/scale",
        "unembedding/kernel",
    }
    assert set(rest.values()) == {code}


def test_embeddings_and_heads_may_go_their_own_way():
    blocks = heterogeneous.layer_blocks(
        models()[0], 3, others="sft", embeddings=0, head="interpolate"
    )
    assert blocks["embedding"]["token"] == 0
    assert blocks["unembedding"]["kernel"] == heterogeneous.MEAN
    assert blocks["final_norm"]["scale"] == heterogeneous.FIRST
    assert blocks["layers"]["attention_norm"]["scale"] == heterogeneous.FIRST


def test_norms_may_go_with_their_layers():
    blocks = heterogeneous.layer_blocks(models()[0], 2, others="rlhf", norms="layer")
    np.testing.assert_array_equal(
        blocks["layers"]["attention_norm"]["scale"], [0, 0, 1, 1]
    )
    assert blocks["final_norm"]["scale"] == heterogeneous.SECOND
    blocks = heterogeneous.layer_blocks(models()[0], 2, norms="sft")
    assert blocks["layers"]["attention_norm"]["scale"] == heterogeneous.FIRST
    assert blocks["final_norm"]["scale"] == heterogeneous.MEAN


def test_adapters_have_the_blocks_of_the_layers_that_they_change():
    adapters = jax.eval_shape(
        lambda: lora.init(models()[0], jax.random.key(0), rank=2, targets="query")
    )
    blocks = heterogeneous.layer_blocks(adapters, 2)
    assert len(jax.tree.leaves(blocks)) == 2
    for block in jax.tree.leaves(blocks):
        np.testing.assert_array_equal(block, [0, 0, 1, 1])


@pytest.mark.parametrize(
    "given, said",
    [
        (lambda: heterogeneous.layer_blocks(models()[0], 5), "5 blocks of 4 layers"),
        (lambda: heterogeneous.layer_blocks(models()[0], 0), "0 blocks of 4 layers"),
        (lambda: heterogeneous.layer_blocks(models()[0], 2, others="all"), "'all'"),
        (lambda: heterogeneous.layer_blocks({"table": jnp.zeros(3)}, 1), "no stack"),
        (
            lambda: heterogeneous.layer_blocks(
                {x: {"layers": {"scale": np.zeros((len(x), 2))}} for x in ("a", "bc")},
                1,
            ),
            r"stacks of \[1, 2\] layers",
        ),
    ],
)
def test_blocks_that_cannot_be_are_one_clear_error(given, said):
    with pytest.raises(ValueError, match=said):
        given()


def test_sizes_count_the_parameters_of_blocks():
    blocks = heterogeneous.layer_blocks(models()[0], 3)
    sizes = heterogeneous.block_sizes(models()[0], 3, blocks=blocks)
    np.testing.assert_array_equal(
        sizes, [12, 12, 24]
    )  # 3·3 + 3 a layer; 1, 1, 2 layers
    blocks = heterogeneous.layer_blocks(models()[0], 3, embeddings=0, head=2)
    sizes = heterogeneous.block_sizes(models()[0], 3, blocks=blocks)
    np.testing.assert_array_equal(sizes, [27, 12, 39])


# Averages


def test_a_ratio_is_the_weight_on_the_aligned_model():
    """20% of the starting weights, 80% of the aligned ones."""
    sft, rlhf = {"x": jnp.zeros(2)}, {"x": jnp.ones(2)}
    out = heterogeneous.average(sft, rlhf, [0.8], blocks=0)
    close(out["x"], [0.8, 0.8])
    keep = heterogeneous.average(sft, rlhf, [0.8], blocks=heterogeneous.FIRST)
    checks.same(keep, sft)
    take = heterogeneous.average(sft, rlhf, [0.8], blocks=heterogeneous.SECOND)
    checks.same(take, rlhf)


@examples
@given(checks.floats((3,), 0, 1), st.sampled_from(OTHERS), st.integers(0, 3))
def test_every_leaf_is_the_float64_mixture_of_its_block(alphas, others, seed):
    sft, rlhf = models(seed)
    blocks = heterogeneous.layer_blocks(sft, 3, others=others)
    out = heterogeneous.average(sft, rlhf, alphas, blocks=blocks)
    per_layer = alphas[[0, 1, 2, 2]].astype(np.float64)
    rest = {"interpolate": alphas.mean(dtype=np.float64), "sft": 0, "rlhf": 1}[others]
    for path, a, b, c in zip(
        trees.paths(sft), *map(jax.tree.leaves, (sft, rlhf, out)), strict=True
    ):
        linear = path in (
            "layers/attention/query/kernel",
            "layers/attention/query/bias",
        )
        w = per_layer.reshape(-1, *(1,) * (a.ndim - 1)) if linear else rest
        mixed = (1 - w) * np.asarray(a, np.float64) + w * np.asarray(b, np.float64)
        close(c, mixed, 1e-5, 1e-6)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_ends_are_exact(jit, dtype):
    """Also beside infinities, and with ratios of 0 and 1 in one tree."""
    sft, rlhf = models(dtype=dtype)
    rlhf["final_norm"]["scale"] = jnp.full(3, jnp.inf, dtype)
    average = functools.partial(
        heterogeneous.average, blocks=heterogeneous.layer_blocks(sft, 3)
    )
    average = jax.jit(average) if jit else average
    checks.same(average(sft, rlhf, jnp.zeros(3)), sft)
    checks.same(average(sft, rlhf, jnp.ones(3)), rlhf)
    kernels = [x["layers"]["attention"]["query"]["kernel"] for x in
               (average(sft, rlhf, jnp.array([1.0, 0.0, 1.0])), sft, rlhf)]  # fmt: skip
    checks.same(kernels[0], jnp.stack([kernels[2][0], kernels[1][1], *kernels[2][2:]]))


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8, 1.0])
def test_one_block_is_interpolate(weight):
    sft, rlhf = models()
    plain = averaging.interpolate(sft, rlhf, weight)
    blocks = heterogeneous.layer_blocks(sft, 1)
    for chosen in (0, blocks):
        out = heterogeneous.average(sft, rlhf, [weight], blocks=chosen)
        checks.same(out, plain)
    # And a trained one is: its only ratio is the mean.
    alpha = ratios.of_scores(jnp.array([2.5]), mean=weight)
    out = heterogeneous.average(sft, rlhf, alpha, blocks=blocks)
    jax.tree.map(lambda x, y: close(x, y, 1e-6, 1e-6), out, plain)


@pytest.mark.parametrize("others", OTHERS)
@pytest.mark.parametrize("K", [2, 3, 4])
def test_equal_ratios_are_model_averaging_under_the_same_others(others, K):
    sft, rlhf = models()
    weight = 0.7
    out, plain = (
        heterogeneous.average(
            sft,
            rlhf,
            [weight] * n,
            blocks=heterogeneous.layer_blocks(sft, n, others=others),
        )
        for n in (K, 1)
    )
    checks.same(out, plain)
    if others == "interpolate":
        checks.same(out, averaging.interpolate(sft, rlhf, weight))


@pytest.mark.parametrize("K", [3, 7, 26])
def test_the_mean_of_equal_ratios_is_that_ratio_bit_for_bit(K):
    for weight in np.linspace(0, 1, 41, dtype=np.float32):
        out = heterogeneous.average(
            jnp.zeros(()), jnp.ones(()), np.full(K, weight), blocks=heterogeneous.MEAN
        )
        assert out == weight


def test_stacked_and_unrolled_trees_agree():
    def unroll(params):
        return {**params, "layers": tuple(stacks.unstack(params["layers"]))}

    def unroll_squeezed(params):
        layers = [
            jax.tree.map(lambda x: x[0], x) for x in stacks.unstack(params["layers"])
        ]
        return {**params, "layers": {str(i): x for i, x in enumerate(layers)}}

    sft, rlhf = models()
    alphas = jnp.array([0.2, 0.9, 0.6])
    for change in (unroll, unroll_squeezed):
        outs = []
        for first, second in ((sft, rlhf), (change(sft), change(rlhf))):
            blocks = heterogeneous.layer_blocks(first, 3)
            outs.append(heterogeneous.average(first, second, alphas, blocks=blocks))
        checks.same(outs[1], change(outs[0]))


def test_adapters_are_averaged_as_the_weights_that_they_make():
    """Between no change and A B, a ratio multiplies B of its layers."""
    base, _ = models()
    adapters = lora.init(base, jax.random.key(0), rank=2, targets="query")
    adapters = jax.tree.map(lambda x: x + 0.5, adapters)
    none = lora.weigh(adapters, 0.0)
    alphas = jnp.array([0.2, 0.9, 0.6])
    blocks = heterogeneous.layer_blocks(adapters, 3)
    between = heterogeneous.average(none, adapters, alphas, blocks=blocks)
    merge = functools.partial(lora.merge, base, scale=2.0)
    whole = heterogeneous.average(
        base,
        merge(adapters),
        alphas,
        blocks=heterogeneous.layer_blocks(base, 3, others="sft"),
    )
    jax.tree.map(lambda x, y: close(x, y, 1e-5, 1e-5), merge(between), whole)


def test_ratios_are_traced_once():
    sft, rlhf = models()
    traces, blocks = [], heterogeneous.layer_blocks(sft, 3)

    @jax.jit
    def average(alphas):
        traces.append(1)
        return heterogeneous.average(sft, rlhf, alphas, blocks=blocks)

    for alphas in ([0.1, 0.2, 0.3], [0.0, 1.0, 0.5]):
        alphas = jnp.array(alphas)
        eager = heterogeneous.average(sft, rlhf, alphas, blocks=blocks)
        jax.tree.map(lambda x, y: close(x, y, 1e-6, 1e-6), average(alphas), eager)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"rlhf": {"x": jnp.zeros(2)}}, "different structures: y is in one of them"),
        (
            {"rlhf": {"x": jnp.zeros(2), "y": jnp.zeros((3, 3))}},
            r"y is \(3, 2\) in one",
        ),
        ({"blocks": {"x": 0}}, "blocks do not fit the parameters"),
        ({"blocks": {"x": 0, "y": 2}}, "y: block 2 of 2 ratios"),
        ({"blocks": -4}, "x: block -4 of 2 ratios"),
        (
            {"blocks": {"x": 0, "y": np.arange(2)}},
            r"y is \(3, 2\), its blocks are \(2,",
        ),
        ({"blocks": 0.5}, "blocks are ints, not float64"),
        ({"ratios": 0.5}, r"ratios of shape \(\)"),
    ],
)
def test_trees_and_blocks_that_do_not_fit_are_one_clear_error(changes, said):
    tree = {"x": jnp.zeros(2), "y": jnp.zeros((3, 2))}
    given = {"sft": tree, "rlhf": tree, "ratios": [0.5, 0.5], "blocks": 0, **changes}
    with pytest.raises(ValueError, match=said):
        heterogeneous.average(**given)


# Learning ratios


def quadratic(params, batch, count):
    """A loss of all weights that is no function of their mean."""
    parts = [jnp.sin(x * (1 + i)).sum() for i, x in enumerate(jax.tree.leaves(params))]
    return batch * sum(parts) / count, {"whole": sum(parts)}


def of_scores(sft, rlhf, K, **more):
    return heterogeneous.make_loss(
        quadratic,
        sft,
        rlhf,
        blocks=heterogeneous.layer_blocks(sft, K),
        to_ratios=functools.partial(ratios.of_scores, mean=0.7),
        **more,
    )


def test_the_loss_of_scores_is_that_of_the_average():
    sft, rlhf = models()
    scores = jnp.array([0.3, -0.2, 1.0])
    value, metrics = of_scores(sft, rlhf, 3)(scores, 3.0, 2.0)
    alphas = ratios.of_scores(scores, mean=0.7)
    blocks = heterogeneous.layer_blocks(sft, 3)
    between = heterogeneous.average(sft, rlhf, alphas, blocks=blocks)
    expected, named = quadratic(between, 3.0, 2.0)
    close(value, expected)
    close(metrics["whole"], named["whole"])


def test_what_is_penalised_is_added():
    sft, rlhf = models()
    scores = jnp.array([0.3, -0.2, 1.0])

    def penalize(alphas, batch, count):
        return alphas.sum() * batch / count

    plain, _ = of_scores(sft, rlhf, 3)(scores, 3.0, 2.0)
    value, metrics = of_scores(sft, rlhf, 3, penalize=penalize)(scores, 3.0, 2.0)
    close(metrics["penalty"], 3 * 0.7 * 1.5, 1e-5)
    close(value - plain, metrics["penalty"], 1e-5, 1e-6)


def test_gradients_are_the_numerical_ones():
    with jax.enable_x64(True):
        sft, rlhf = models(dtype=np.float64)
        blocks = heterogeneous.layer_blocks(sft, 3)
    scores = np.array([0.3, -0.2, 1.0])
    checks.assert_gradients(lambda s: of_scores(sft, rlhf, 3)(s, 1.0, 1.0)[0], scores)
    checks.assert_gradients(
        lambda r: heterogeneous.average(sft, rlhf, r, blocks=blocks),
        np.array([0.2, 0.5, 0.6]),
    )


def big(layers=16, width=32):
    leaf = jax.ShapeDtypeStruct((layers, width, width), jnp.float32)
    return {"layers": {"up": {"kernel": leaf}, "down": {"kernel": leaf}}}


def forward(params, batch, count):
    def layer(x, w):
        return jnp.tanh(x @ w["up"]["kernel"]) @ w["down"]["kernel"], None

    x, _ = jax.lax.scan(layer, batch, params["layers"])
    return jnp.square(x).sum() / count, {}


def slope(sft, rlhf, scores):
    loss = heterogeneous.make_loss(
        forward,
        sft,
        rlhf,
        blocks=heterogeneous.layer_blocks(sft, len(scores)),
        to_ratios=functools.partial(ratios.of_scores, mean=0.7),
    )
    return jax.grad(lambda s: loss(s, jnp.ones((2, 32)), 1.0)[0])(scores)


def test_the_gradient_holds_no_tree_for_each_block():
    """As much memory for 16 ratios as for 1: one average, and its gradient."""
    tree, used = big(), {}
    for K in (1, 4, 16):
        scores = jax.ShapeDtypeStruct((K,), jnp.float32)
        memory = jax.jit(slope).lower(tree, tree, scores).compile().memory_analysis()
        used[K] = memory.temp_size_in_bytes
    tree_bytes = 4 * trees.size(tree)
    assert max(used.values()) - min(used.values()) < 0.01 * tree_bytes
    assert max(used.values()) < 2.5 * tree_bytes
