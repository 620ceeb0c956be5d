"""trees: arithmetic on pytrees."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import trees

leaves = checks.floats((2, 3))


def tree(x):
    return {"layers": {"kernel": jnp.asarray(x), "bias": jnp.asarray(x[0])}}


@pytest.fixture
def a(rng):
    return tree(rng.normal(size=(2, 3)).astype(np.float32))


@pytest.fixture
def b(rng):
    return tree(rng.normal(size=(2, 3)).astype(np.float32) + 1)


def test_lerp_by_hand():
    out = trees.lerp(tree(np.zeros((1, 2))), tree(np.full((1, 2), 8.0)), 0.25)
    checks.same(out, tree(np.full((1, 2), 2.0, np.float32)))


@pytest.mark.parametrize("jit", [False, True])
def test_lerp_ends_are_exact_even_next_to_infinities(a, jit):
    lerp = jax.jit(trees.lerp) if jit else trees.lerp
    junk = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), a)
    checks.same(lerp(a, junk, 0.0), a)
    checks.same(lerp(junk, a, 1.0), a)


@examples
@given(leaves, leaves, st.floats(0, 1))
def test_lerp_is_the_float64_mixture_and_stays_between(x, y, weight):
    out = np.asarray(trees.lerp(tree(x), tree(y), weight)["layers"]["kernel"])
    close(out, (1 - weight) * x.astype(np.float64) + weight * y, 1e-5, 1e-6)
    assert (out <= np.maximum(x, y) + 1e-5).all()
    assert (out >= np.minimum(x, y) - 1e-5).all()


def test_lerp_takes_a_weight_a_leaf(a, b):
    out = trees.lerp(a, b, {"layers": {"kernel": 1.0, "bias": 0.0}})
    checks.same(out["layers"]["kernel"], b["layers"]["kernel"])
    checks.same(out["layers"]["bias"], a["layers"]["bias"])


def test_lerp_mixes_bf16_in_float32():
    a, b = jnp.full((), 1.0, jnp.bfloat16), jnp.full((), 3.0, jnp.bfloat16)
    out = trees.lerp(a, b, 0.3)
    assert out.dtype == jnp.bfloat16
    assert out == jnp.asarray(1.6, jnp.bfloat16)


def test_lerp_gradient_is_the_weights(a, b):
    def total(a, b):
        return sum(x.sum() for x in jax.tree.leaves(trees.lerp(a, b, 0.25)))

    grad_a, grad_b = jax.grad(total, argnums=(0, 1))(a, b)
    checks.same(grad_a, jax.tree.map(lambda x: jnp.full_like(x, 0.75), a))
    checks.same(grad_b, jax.tree.map(lambda x: jnp.full_like(x, 0.25), b))


@pytest.mark.parametrize("condition", [True, False])
def test_where_picks_a_tree(a, b, condition):
    picked = jax.jit(trees.where)(condition, a, b)
    checks.same(picked, a if condition else b)


def test_where_lets_no_gradient_into_the_other_tree(a, b):
    def total(a, b):
        return trees.norm(trees.where(True, a, b))

    grad = jax.grad(total, argnums=1)(a, b)
    assert not any(x.any() for x in jax.tree.leaves(grad))


def test_subtract_undoes_itself_and_matches_numpy(a, b):
    checks.same(trees.subtract(a, a), jax.tree.map(jnp.zeros_like, a))
    out = trees.subtract(a, b)["layers"]["kernel"]
    kernel_a, kernel_b = a["layers"]["kernel"], b["layers"]["kernel"]
    np.testing.assert_array_equal(out, np.asarray(kernel_a) - np.asarray(kernel_b))


def flat(tree):
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


def test_dot_and_norm_by_hand():
    x = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    assert trees.dot(x, x) == 25.0
    assert trees.norm(x) == 5.0


@examples
@given(leaves, leaves)
def test_dot_and_norm_are_those_of_the_flat_vector(x, y):
    a, b = tree(x), tree(y)
    close(trees.dot(a, b), flat(a) @ flat(b), 1e-5, 1e-5)
    close(trees.norm(a), np.linalg.norm(flat(a)), 1e-5, 1e-6)


@examples
@given(leaves, leaves)
def test_dot_is_symmetric_and_the_norm_obeys_the_triangle(x, y):
    a, b = tree(x), tree(y)
    close(trees.dot(a, b), trees.dot(b, a), 1e-6, 1e-6)
    joint = trees.norm(jax.tree.map(jnp.add, a, b))
    assert joint <= trees.norm(a) + trees.norm(b) + 1e-4


def test_dot_accumulates_bf16_in_float32():
    ones = {"x": jnp.ones((1000,), jnp.bfloat16)}
    assert trees.dot(ones, ones) == 1000.0
    assert trees.dot(ones, ones).dtype == jnp.float32


def test_norm_gradient_is_the_direction_and_zero_at_zero(a):
    grad = jax.grad(trees.norm)(a)
    close(flat(grad), flat(a) / np.linalg.norm(flat(a)), 1e-5)
    still = jax.grad(trees.norm)(jax.tree.map(jnp.zeros_like, a))
    assert not any(x.any() for x in jax.tree.leaves(still))


def test_gradients_are_the_numerical_ones(rng):
    x, y = rng.normal(size=(2, 4))
    checks.assert_gradients(lambda x, y: trees.dot({"a": x}, {"a": y}), x, y)
    checks.assert_gradients(lambda x: trees.norm({"a": x}), x)
    checks.assert_gradients(lambda x, y: trees.lerp(x, y, 0.3), x, y)
    checks.assert_gradients(lambda x, y: trees.subtract(x, y), x, y)
    checks.assert_gradients(lambda x, y: trees.where(True, x, y), x, y)


@pytest.mark.parametrize("jit", [False, True])
def test_copy_is_equal_and_shares_no_buffer(a, jit):
    shared = {"one": a, "two": a}
    out = (jax.jit(trees.copy) if jit else trees.copy)(shared)
    checks.same(out, shared)
    spots = checks.buffers(out)
    assert len(set(spots)) == len(spots)
    assert not set(spots) & set(checks.buffers(a))


def test_size_counts_elements(a):
    assert trees.size(a) == 9
    assert trees.size({}) == 0


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_finite_sees_one_bad_element(a, junk):
    assert trees.finite(a)
    bad = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(junk), a)
    assert not trees.finite({"good": a, "bad": bad})


def test_finite_ignores_integers_and_nothing():
    assert trees.finite({"count": jnp.arange(3)})
    assert trees.finite({})


def test_trees_with_the_same_leaves_are_alike(a, b):
    trees.check_alike([a])
    trees.check_alike([a, b, jax.tree.map(lambda x: x.astype(jnp.bfloat16), b)])


def test_trees_that_differ_are_refused_by_the_leaf(a, b):
    longer = {"layers": b["layers"] | {"bias": jnp.zeros(4)}}
    with pytest.raises(ValueError, match=r"layers/bias: \(3,\) in .* \(4,\) in tree 2"):
        trees.check_alike([a, b, longer])
    more = b | {"head": jnp.zeros(2)}
    with pytest.raises(ValueError, match="head: no such leaf in the first tree and"):
        trees.check_alike([a, more])


def test_paths_join_the_keys(a):
    assert trees.paths(a) == ["layers/bias", "layers/kernel"]
    path, _ = jax.tree_util.tree_leaves_with_path(a)[0]
    assert trees.path_name(path) == "layers/bias"
