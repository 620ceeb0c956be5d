"""LoRA as pure functions: adapters of any tree, joined, merged, taken apart."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from rlhf_jax import elastic_reset, ema, trees
from rlhf_jax.models import config, decoder, heads, lora

SHAPE = {"vocab_size": 11, "width": 8, "layers": 2, "heads": 2, "max_length": 12}
GPT2 = decoder.Decoder(config.gpt2(**SHAPE))
LLAMA = decoder.Decoder(config.llama(**SHAPE, kv_heads=1))
CLASSIFIER = heads.Classifier(LLAMA.config, 3)
VALUE = heads.Value(GPT2.config)
MODELS = {"gpt2": GPT2, "llama": LLAMA, "classifier": CLASSIFIER, "value": VALUE}
APPLIED = ("gpt2", "classifier", "value")  # the classifier is a Llama
TOKENS = np.random.default_rng(1).integers(0, 11, (2, 6)).astype(np.int32)
MASK = np.array([[0, 0, 1, 1, 1, 1], [1] * 6], np.int32)
KEY = jax.random.key(3)
EVERYTHING = "attention|mlp"
SCALE = 1.5


@functools.cache
def base(name):
    return tiny_models.draw(MODELS[name])


@functools.cache
def adapters(name, targets=EVERYTHING, rank=2):
    """Adapters as if trained: B is not 0."""
    made = lora.init(base(name), KEY, rank=rank, targets=targets)
    rng = np.random.default_rng(5)
    return jax.tree.map(
        lambda x: x + jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), made
    )


@functools.cache
def apply(name):
    return tiny_models.compiled(MODELS[name])


def leaves(tree):
    return dict(zip(trees.paths(tree), jax.tree.leaves(tree), strict=True))


# Init


def test_fresh_adapters_are_those_of_peft_and_change_nothing():
    """Kaiming-uniform with a = √5: a bound of √(6/((1 + 5)·inputs)) = 1/√inputs."""
    made = leaves(lora.init(base("llama"), KEY, rank=4, targets=["query", "mlp/down"]))
    assert set(made) == {
        f"layers/{module}/{part}"
        for module in ("attention/query", "mlp/down")
        for part in ("lora_a", "lora_b")
    }
    hidden = LLAMA.config.hidden
    assert made["layers/attention/query/lora_a"].shape == (2, 8, 4)
    assert made["layers/mlp/down/lora_a"].shape == (2, hidden, 4)
    assert made["layers/mlp/down/lora_b"].shape == (2, 4, 8)
    for path, leaf in made.items():
        assert leaf.dtype == jnp.float32
        if path.endswith("lora_b"):
            assert not leaf.any()
        else:
            bound = leaf.shape[1] ** -0.5
            assert bound * 0.8 < abs(leaf).max() <= bound
            assert abs(leaf.mean()) < 4 * bound / (3 * leaf.size) ** 0.5


@pytest.mark.parametrize("name", APPLIED)
def test_fresh_adapters_leave_the_answer_as_it_was_bit_for_bit(name):
    fresh = lora.init(base(name), KEY, rank=2, targets=EVERYTHING)
    joined = lora.join(base(name), fresh, scale=SCALE)
    same = apply(name)(base(name), TOKENS, MASK)
    np.testing.assert_array_equal(apply(name)(joined, TOKENS, MASK), same)


def test_an_adapter_depends_on_its_module_and_key_alone():
    few = leaves(lora.init(base("llama"), KEY, rank=2, targets="query"))
    many = leaves(lora.init(base("llama"), KEY, rank=2, targets=EVERYTHING))
    other = leaves(lora.init(base("llama"), jax.random.key(4), rank=2, targets="query"))
    name = "layers/attention/query/lora_a"
    np.testing.assert_array_equal(few[name], many[name])
    assert (few[name] != other[name]).all()
    assert (few[name][0] != few[name][1]).all()
    draws = [leaf for path, leaf in many.items() if path.endswith("lora_a")]
    assert len({np.asarray(leaf).tobytes() for leaf in draws}) == len(draws)


def test_fresh_adapters_share_no_buffer():
    made = lora.init(base("llama"), KEY, rank=2, targets=EVERYTHING)
    parts = [*jax.tree.leaves(made), *jax.tree.leaves(base("llama"))]
    assert len({leaf.unsafe_buffer_pointer() for leaf in parts}) == len(parts)


def test_shapes_are_enough_to_count():
    shapes = jax.eval_shape(lambda: base("gpt2"))
    asked = lora.Config(rank=2, alpha=4.0, targets=("query", "value"))
    assert lora.count(shapes, asked) == 2 * 2 * (2 * 8 + 2 * 8)


def test_scale_is_alpha_over_rank_or_its_root():
    assert lora.Config(rank=16, alpha=32.0).scale == 2.0
    assert lora.Config(rank=16, alpha=32.0, rslora=True).scale == 8.0


# Join, merge, split


@pytest.mark.parametrize("name", APPLIED)
def test_merged_weights_answer_as_the_adapted_model(name):
    joined = lora.join(base(name), adapters(name), scale=SCALE)
    merged = lora.merge(base(name), adapters(name), scale=SCALE)
    chex.assert_trees_all_equal_shapes_and_dtypes(merged, base(name))
    adapted = apply(name)(joined, TOKENS, MASK)
    np.testing.assert_allclose(
        apply(name)(merged, TOKENS, MASK), adapted, rtol=0, atol=1e-5
    )
    assert abs(adapted - apply(name)(base(name), TOKENS, MASK)).max() > 0.1


def test_merging_is_the_float64_sum_layer_by_layer():
    merged = leaves(lora.merge(base("gpt2"), adapters("gpt2"), scale=SCALE))
    before, parts = leaves(base("gpt2")), leaves(adapters("gpt2"))
    for path, kernel in before.items():
        expected = np.asarray(kernel, np.float64)
        module = path.rpartition("/")[0]
        if f"{module}/lora_a" in parts and path.endswith("kernel"):
            down, up = (
                np.asarray(parts[f"{module}/{p}"], np.float64)
                for p in ("lora_a", "lora_b")
            )
            expected = expected + SCALE * np.stack(
                [down[layer] @ up[layer] for layer in range(2)]
            )
        np.testing.assert_allclose(merged[path], expected, rtol=1e-6, atol=1e-6)


def test_a_half_precision_base_is_merged_in_float32():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base("llama"))
    merged = lora.merge(half, adapters("llama"), scale=SCALE)
    chex.assert_trees_all_equal_shapes_and_dtypes(merged, half)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    wide = lora.merge(wide, adapters("llama"), scale=SCALE)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), wide)
    chex.assert_trees_all_equal(merged, rounded)


def test_split_undoes_join_and_the_base_travels_as_it_is():
    joined = lora.join(base("value"), adapters("value"), scale=1.0)
    whole, parts = lora.split(joined)
    chex.assert_trees_all_equal(parts, adapters("value"))
    for path, leaf in leaves(base("value")).items():
        assert leaves(whole)[path] is leaf
    assert leaves(lora.split(base("value"))[0]).keys() == leaves(base("value")).keys()
    assert lora.split(base("value"))[1] == {}


def test_whole_parameters_among_adapters_replace_the_base():
    head = {"kernel": jnp.ones((8, 1)), "bias": jnp.zeros((1,))}
    trunk = {"trunk": base("value")["trunk"]}
    parts = {**adapters("value"), "head": head}
    for made in (lora.join, lora.merge):
        assert made(trunk, parts, scale=SCALE)["head"]["kernel"] is head["kernel"]


def test_a_bound_model_is_the_model_on_joined_weights():
    """In a prefill, which is a pass, and writes a cache."""
    joined = lora.join(base("gpt2"), adapters("gpt2"), scale=SCALE)

    @jax.jit
    def bound(whole, parts):
        model = lora.Bound(GPT2, whole, SCALE)
        assert model.config is GPT2.config
        return model.apply({"params": parts}, TOKENS, MASK, 8, method="prefill")

    got = bound(base("gpt2"), adapters("gpt2"))
    expected = tiny_models.compiled(GPT2, "prefill")(joined, TOKENS, MASK, 8)
    for ours, theirs in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert abs(got[0] - apply("gpt2")(base("gpt2"), TOKENS, MASK)[:, -1]).max() > 0.1


def test_gradients_reach_adapters_only_and_are_the_numerical_ones():
    """One adapter's gradient along a direction, against a difference of the loss."""
    bound = lora.Bound(LLAMA, base("llama"), SCALE)

    def loss(parts):
        logits = bound.apply({"params": parts}, TOKENS, MASK)
        return jnp.square(logits[:, -1]).mean()

    parts = adapters("llama", "attention/value")
    grads = jax.jit(jax.grad(loss))(parts)
    assert jax.tree.structure(grads) == jax.tree.structure(parts)
    rng = np.random.default_rng(0)
    way = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), parts)
    far = jax.tree.map(jnp.add, parts, way)
    ahead, behind = (jax.jit(loss)(trees.lerp(parts, far, w)) for w in (1e-2, -1e-2))
    slope = float(trees.dot(grads, way))
    np.testing.assert_allclose((ahead - behind) / 2e-2, slope, rtol=2e-2)


# Averages: A B is bilinear


def test_weighing_adapters_is_interpolating_weights():
    whole = lora.merge(base("llama"), adapters("llama"), scale=SCALE)
    for weight in (0.0, 0.25, 1.0):
        part = lora.weigh(adapters("llama"), weight)
        merged = lora.merge(base("llama"), part, scale=SCALE)
        between = trees.lerp(base("llama"), whole, weight)
        chex.assert_trees_all_close(merged, between, rtol=0, atol=1e-6)
    chex.assert_trees_all_equal(lora.weigh(adapters("llama"), 1.0), adapters("llama"))


def test_weighing_refuses_what_is_no_adapter():
    with pytest.raises(ValueError, match="head/kernel is not an adapter: average it"):
        lora.weigh({"head": {"kernel": jnp.ones((2, 1))}}, 0.5)


def product(parts):
    return np.einsum("lir,lro->lio", parts["lora_a"], parts["lora_b"])


def trajectory(moving):
    """Adapters of one module, as five updates might leave them; A moves or stays."""
    rng = np.random.default_rng(2)
    first = lora.init(base("llama"), KEY, rank=2, targets="attention/query")
    way = [first]
    for _ in range(5):
        step = {"lora_a": moving * 0.3, "lora_b": 0.3}
        way.append(
            jax.tree_util.tree_map_with_path(
                lambda path, x, step=step: (
                    x
                    + step[path[-1].key]
                    * jnp.asarray(rng.normal(size=x.shape), x.dtype)
                ),
                way[-1],
            )
        )
    return way


def averages(way, decay=0.5):
    """(EMA(A)·EMA(B), EMA(A·B)) by hand, in float64."""
    parts = [jax.tree.map(lambda x: np.asarray(x, np.float64), p) for p in way]
    parts = [p["layers"]["attention"]["query"] for p in parts]
    mean, dense = dict(parts[0]), product(parts[0])
    for part in parts[1:]:
        mean = {k: decay * mean[k] + (1 - decay) * part[k] for k in mean}
        dense = decay * dense + (1 - decay) * product(part)
    return product(mean), dense


@pytest.mark.parametrize("moving", [True, False])
def test_elastic_reset_averages_a_and_b_separately_as_published(moving):
    """EMA(A)·EMA(B), which is EMA(A·B) only where A does not move."""
    way = trajectory(moving)
    state = elastic_reset.init(way[0])
    for parts in way[1:]:
        state = elastic_reset.tick(parts, state, decay=0.5)
    policy, state = elastic_reset.reset(way[-1], state)
    separate, together = averages(way)
    got = product(policy["layers"]["attention"]["query"])
    np.testing.assert_allclose(got, separate, rtol=1e-5, atol=1e-6)
    gap = abs(separate - together).max() / abs(together).max()
    assert gap > 0.05 if moving else gap < 1e-12


def test_a_second_reset_restores_the_same_random_a_and_the_base():
    way = trajectory(True)
    state = elastic_reset.init(way[0])
    state = elastic_reset.tick(way[-1], state, decay=0.5)
    policy, state = elastic_reset.reset(way[-1], state)
    chex.assert_trees_all_equal(policy, ema.update(way[0], way[-1], decay=0.5))
    policy, state = elastic_reset.reset(policy, state)
    chex.assert_trees_all_equal(policy, way[0])
    assert leaves(policy)["layers/attention/query/lora_a"].any()
    chex.assert_trees_all_equal(
        lora.merge(base("llama"), policy, scale=SCALE), base("llama")
    )


# Misuse


@pytest.mark.parametrize(
    ("rank", "targets", "words"),
    [
        (0, "query", r"rank 0 does not fit layers/attention/query: choose from 1 to 8"),
        (9, "query", r"rank 9 does not fit .*choose from 1 to 8, the smaller side"),
        (2, "q_proj", r"'q_proj' matches no layer .*choose from .*attention/query"),
        (2, ["query", "head"], r"'head' matches no layer that can be adapted"),
        (2, "(query", r"'\(query' is not a regular expression .*choose from"),
        (2, (), r"no targets given; choose from .*layers/mlp/up"),
    ],
)
def test_a_wrong_rank_or_target_is_one_clear_error(rank, targets, words):
    with pytest.raises(ValueError, match=words):
        lora.init(base("llama"), KEY, rank=rank, targets=targets)
