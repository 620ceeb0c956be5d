"""averaging: points between and beyond trained weights."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import averaging

leaves = checks.floats((2, 3))


def tree(x):
    x = jnp.asarray(x, jnp.float32)
    return {"layers": {"kernel": x}, "bias": x[0] + 1}


@pytest.fixture
def a(rng):
    return tree(rng.normal(size=(2, 3)))


@pytest.fixture
def b(rng):
    return tree(rng.normal(size=(2, 3)) + 2)


MIXERS = {"interpolate": averaging.interpolate, "slerp": averaging.slerp}
mixers = pytest.mark.parametrize("mix", MIXERS.values(), ids=MIXERS)


@mixers
@pytest.mark.parametrize("jit", [False, True])
def test_the_ends_are_exact(mix, a, b, jit):
    mix = jax.jit(mix) if jit else mix
    checks.same(mix(a, b, 0.0), a)
    checks.same(mix(a, b, 1.0), b)


@mixers
def test_weights_are_traced_once(mix, a, b):
    traces = []

    @jax.jit
    def compiled(weight):
        traces.append(1)
        return mix(a, b, weight)

    for weight in (0.0, 0.3, 1.0):
        eager = mix(a, b, weight)
        jax.tree.map(lambda x, y: close(x, y, 2e-6, 5e-7), compiled(weight), eager)
    assert len(traces) == 1


def test_interpolate_by_hand():
    out = averaging.interpolate({"x": jnp.zeros(2)}, {"x": jnp.full(2, 8.0)}, 0.25)
    checks.same(out, {"x": jnp.full(2, 2.0)})


@examples
@given(leaves, leaves, st.floats(0, 1))
def test_interpolate_is_the_float64_mixture_seen_from_either_end(x, y, weight):
    out = averaging.interpolate(tree(x), tree(y), weight)["layers"]["kernel"]
    close(out, (1 - weight) * x.astype(np.float64) + weight * y, 1e-5, 1e-6)
    back = averaging.interpolate(tree(y), tree(x), 1 - weight)["layers"]["kernel"]
    close(out, back, 1e-5, 1e-5)


def slerp_oracle(x, y, weight):
    x, y = (np.asarray(v, np.float64) for v in (x, y))
    cosine = (x * y).sum() / (np.linalg.norm(x) * np.linalg.norm(y))
    angle = np.arccos(np.clip(cosine, -1, 1))
    parts = np.sin((1 - weight) * angle) * x + np.sin(weight * angle) * y
    return parts / np.sin(angle)


def test_slerp_by_hand():
    """Half way on the quarter circle."""
    x, y = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    close(averaging.slerp(x, y, 0.5), np.full(2, np.sqrt(0.5)))
    out = averaging.slerp(x, y, 1 / 3)
    close(out, [np.cos(np.pi / 6), np.sin(np.pi / 6)])


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_slerp_is_the_float64_formula_a_leaf(a, b, weight):
    out = averaging.slerp(a, b, weight)
    jax.tree.map(
        lambda o, x, y: close(o, slerp_oracle(x, y, weight), 1e-5, 1e-6), out, a, b
    )


@examples
@given(checks.floats((6,)), checks.floats((6,)), st.floats(0, 1))
def test_slerp_keeps_the_norm_of_unit_vectors(x, y, weight):
    if min(np.linalg.norm(x), np.linalg.norm(y)) < 1e-2:
        return
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    if np.linalg.norm(x + y) < 1e-2:
        return  # opposite: there is no shortest way round
    close(np.linalg.norm(averaging.slerp(x, y, weight)), 1.0, 1e-4)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_slerp_on_a_straight_line_interpolates(a, factor):
    b = jax.tree.map(lambda x: factor * x, a)
    checks.same(averaging.slerp(a, b, 0.25), averaging.interpolate(a, b, 0.25))


def test_slerp_and_interpolate_meet_where_the_arc_is_short():
    x = jnp.array([1.0, 0.0])
    for angle in (2e-3, 5e-4):
        y = jnp.array([np.cos(angle), np.sin(angle)])
        straight = averaging.interpolate(x, y, 0.5)
        close(averaging.slerp(x, y, 0.5), straight, 1e-5, 1e-6)


def test_slerp_takes_stacked_layers_one_by_one(rng):
    x, y = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    out = averaging.slerp({"x": x}, {"x": y}, 0.3, stacked=1)["x"]
    for layer in range(3):
        close(out[layer], slerp_oracle(x[layer], y[layer], 0.3), 1e-5, 1e-6)
    chosen = averaging.slerp({"x": x}, {"x": y}, 0.3, stacked={"x": 1})["x"]
    np.testing.assert_array_equal(chosen, out)


def test_slerp_keeps_the_type_of_the_first(a, b):
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), a)
    out = averaging.slerp(low, b, 0.5)
    assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype(jnp.bfloat16)}


def test_gradients_are_the_numerical_ones(rng):
    x, y, z = rng.normal(size=(3, 4))
    checks.assert_gradients(lambda x, y: averaging.interpolate(x, y, 0.3), x, y)
    checks.assert_gradients(lambda x, y: averaging.slerp(x, y, 0.3), x, y)
    checks.assert_gradients(averaging.task_vector, x, y)
    checks.assert_gradients(
        lambda x, y, z: averaging.add_vectors(x, [y, z], [0.5, -1.0]), x, y, z
    )
    checks.assert_gradients(lambda x, y: averaging.soup([x, y], [1.0, 3.0]), x, y)


def test_task_vectors_by_hand():
    start, tuned = {"x": jnp.array([1.0, 2.0])}, {"x": jnp.array([4.0, 0.0])}
    vector = averaging.task_vector(start, tuned)
    checks.same(vector, {"x": jnp.array([3.0, -2.0])})
    out = averaging.add_vectors(start, [vector, vector], [1.0, -0.5])
    checks.same(out, {"x": jnp.array([2.5, 1.0])})


@examples
@given(leaves, leaves, leaves)
def test_task_vectors_are_float64_sums_and_lead_to_the_tuned_model(x, y, z):
    one = averaging.task_vector(tree(x), tree(y))
    two = averaging.task_vector(tree(x), tree(z))
    back = averaging.add_vectors(tree(x), [one], [1.0])["layers"]["kernel"]
    close(back, y, 1e-6, 2e-6)
    both = averaging.add_vectors(tree(x), [one, two], [0.5, 0.25])
    exact = x + 0.5 * (y.astype(np.float64) - x) + 0.25 * (z.astype(np.float64) - x)
    close(both["layers"]["kernel"], exact, 1e-5, 1e-5)


def test_add_vectors_wants_a_weight_each(a):
    with pytest.raises(ValueError, match="1 vectors and 2 weights"):
        averaging.add_vectors(a, [a], [1.0, 2.0])


def test_add_vectors_wants_vectors_like_the_model(a):
    with pytest.raises(ValueError, match=r"bias: \(3,\) in the first tree"):
        averaging.add_vectors(a, [a | {"bias": jnp.zeros(4)}], [1.0])


def test_sums_of_bf16_are_rounded_once():
    """In bf16 each of these steps, 1/512 of the weight, would be lost."""
    start, step = (jnp.full((1,), x, jnp.bfloat16) for x in (1.0, 2.0**-9))
    out = averaging.add_vectors(start, [step] * 8, [1.0] * 8)
    checks.same(out, jnp.full((1,), 1.0 + 2.0**-6, jnp.bfloat16))
    soup = averaging.soup([start] + [step] * 8, [1.0] * 9)
    checks.same(soup, jnp.full((1,), (1.0 + 2.0**-6) / 9, jnp.bfloat16))


def test_soup_by_hand():
    models = [{"x": jnp.array([0.0])}, {"x": jnp.array([8.0])}]
    checks.same(averaging.soup(models), {"x": jnp.array([4.0])})
    checks.same(averaging.soup(models, [3, 1]), {"x": jnp.array([2.0])})


@examples
@given(leaves, leaves, leaves, st.permutations(range(3)))
def test_soup_is_the_float64_mean_in_any_order(x, y, z, order):
    models = [tree(v) for v in (x, y, z)]
    out = averaging.soup(models)["layers"]["kernel"]
    close(out, np.mean([x, y, z], axis=0, dtype=np.float64), 1e-5, 2e-6)
    turned = averaging.soup([models[i] for i in order])["layers"]["kernel"]
    close(turned, out, 1e-5, 5e-6)


def test_soup_of_two_is_interpolation(a, b):
    soup = averaging.soup([a, b], [0.75, 0.25])
    mixed = averaging.interpolate(a, b, 0.25)
    jax.tree.map(lambda x, y: close(x, y, 1e-6, 1e-6), soup, mixed)


def test_graft_by_hand():
    """Two of the four weights moved furthest, wherever they stand."""
    a = {"x": jnp.array([1.0, 2.0]), "y": jnp.array([[3.0], [4.0]])}
    b = {"x": jnp.array([1.5, -2.0]), "y": jnp.array([[3.1], [5.0]])}
    out = averaging.graft(a, b, 0.5)
    checks.same(out, {"x": jnp.array([1.0, -2.0]), "y": jnp.array([[3.0], [5.0]])})


@examples
@given(leaves, leaves, st.floats(0, 1))
def test_graft_takes_what_a_sort_would_take(x, y, density):
    a, b = tree(x), tree(y)
    out = averaging.graft(a, b, density)
    flat = [np.concatenate([np.ravel(v) for v in jax.tree.leaves(t)]) for t in (a, b)]
    moved = np.abs(flat[1] - flat[0])
    k = int(density * moved.size)
    least = np.sort(moved)[::-1][k - 1] if k else np.inf
    expected = np.where(moved >= least, flat[1], flat[0])
    grafted = np.concatenate([np.ravel(v) for v in jax.tree.leaves(out)])
    np.testing.assert_array_equal(grafted, expected)


@pytest.mark.parametrize("jit", [False, True])
def test_the_ends_of_a_graft_are_exact(a, b, jit):
    for density, whole in ((0.0, a), (1.0, b)):
        graft = lambda x, y, d=density: averaging.graft(x, y, d)  # noqa: E731
        checks.same((jax.jit(graft) if jit else graft)(a, b), whole)


def test_a_graft_hands_its_gradient_to_what_it_took():
    a, b = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.1, 5.0, 3.2])
    slopes = jax.grad(lambda a, b: averaging.graft(a, b, 0.4).sum(), (0, 1))(a, b)
    checks.same(slopes, (jnp.array([1.0, 0.0, 1.0]), jnp.array([0.0, 1.0, 0.0])))


@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_a_graft_of_another_share_is_refused(a, b, density):
    with pytest.raises(ValueError, match="a share of .*: choose it from 0 to 1"):
        averaging.graft(a, b, density)
