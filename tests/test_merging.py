"""merging: several task vectors in, one out; mergekit agrees."""

import functools
import itertools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from golden import make_merging as golden
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import averaging, merging, sparsify

KEY = jax.random.key(0)
OPERATORS = {
    "combine": merging.combine,
    "ties": functools.partial(merging.ties, density=0.4),
    "dare": functools.partial(merging.dare, key=KEY, density=0.4),
    "dare_l1": functools.partial(merging.dare, key=KEY, density=0.4, rescale="l1"),
    "dare_ties": functools.partial(merging.dare, key=KEY, density=0.4, elect=True),
    "della": functools.partial(merging.della, key=KEY, density=0.4),
    "breadcrumbs": functools.partial(merging.breadcrumbs, density=0.4, gamma=0.2),
    "slerp": merging.slerp,
}
operators = pytest.mark.parametrize("merge", OPERATORS.values(), ids=OPERATORS)
DENSE = {
    "ties": functools.partial(merging.ties, normalize=False),
    "dare": functools.partial(merging.dare, key=KEY),
    "dare_ties": functools.partial(merging.dare, key=KEY, elect=True),
    "della": functools.partial(merging.della, key=KEY, normalize=False),
    "della_linear": functools.partial(merging.della, key=KEY, elect=False),
    "breadcrumbs": merging.breadcrumbs,
}
table = checks.floats((3, 2, 5))
three = st.tuples(*[st.floats(-2, 2)] * 3)


def tree(x):
    return {"layers": {"kernel": jnp.asarray(x, jnp.float32)}, "bias": jnp.array(x[0])}


@pytest.fixture
def initial(rng):
    return tree(rng.normal(size=(4, 5)).astype(np.float32))


@pytest.fixture
def vectors(rng):
    return [tree(x) for x in rng.normal(size=(3, 4, 5)).astype(np.float32)]


def add(initial, vector, scale=1.0):
    return averaging.add_vectors(initial, [vector], [scale])


def alike(ours, theirs, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: close(x, y, rtol, atol), ours, theirs)


# By hand


def test_signs_are_elected_by_hand():
    """+ wins in the first column, a tie is +, and zeros have no sign."""
    vectors = [jnp.array([3.0, 1.0, 0.0]), jnp.array([-1.0, -1.0, -2.0])]
    close(merging.combine(vectors, [1, 1], elect=True), [3, 1, -2])
    close(merging.combine(vectors, [1, 4], elect=True), [-4, -4, -8])
    close(merging.combine(vectors, [1, 1], elect=True, normalize=True), [3, 1, -2])
    close(merging.combine(vectors, [3, 4], elect=True, normalize=True), [3, -1, -2])
    close(merging.combine(vectors, [1, 1]), [2, 0, -2])
    close(merging.combine(vectors, [1, 3], normalize=True), [0, -0.5, -1.5])


def test_a_negative_weight_votes_for_the_other_sign():
    vectors = [jnp.array([1.0, 1.0]), jnp.array([3.0, -3.0])]
    close(merging.combine(vectors, [1, -1], elect=True), [-3, 4])


def test_weights_that_cancel_divide_by_nothing():
    vectors = [jnp.array([1.0]), jnp.array([3.0])]
    close(merging.combine(vectors, [1, -1], normalize=True), [-2])


def test_ties_by_hand():
    """Half is trimmed; of the rest, the signs of 4 and −6 win their columns."""
    vectors = [jnp.array([4.0, 1.0, 2.0, 0.5]), jnp.array([-1.0, 3.0, -6.0, 0.5])]
    close(merging.ties(vectors, [1, 1], density=0.5), [4, 3, -6, 0])
    both = merging.ties(vectors, [1, 1], density=1.0)
    close(both, [4, 2, -6, 0.5])


def test_breadcrumbs_cut_both_tails():
    vector = jnp.array([0.1, -9.0, 1.0, 2.0, -3.0])
    out = merging.breadcrumbs([vector], [1.0], density=0.4, gamma=0.2)
    close(out, [0, 0, 0, 2, -3])


def test_dare_by_hand():
    """What is kept is divided by the density, or restores the L1 norm."""
    vector = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0])
    mask = np.asarray(sparsify.draw(jax.random.split(KEY, 1)[0], vector, 0.5))
    assert 0 < mask.sum() < 5
    dare = functools.partial(merging.dare, [vector], [1.0], key=KEY, density=0.5)
    close(dare(), 2 * mask * vector)
    close(dare(rescale=None), mask * vector)
    close(dare(rescale="l1"), mask * vector * 31 / (mask * vector).sum(), 1e-6)


def test_della_is_dare_with_probabilities_by_rank(vectors):
    """And the one operator's masks are those of the other where ranks do not count."""
    keys = jax.random.split(KEY, 3)
    sparse = []
    for key, vector in zip(keys, vectors, strict=True):
        p = sparsify.by_rank(vector, 0.4, epsilon=0.3)
        sparse.append(sparsify.apply(vector, sparsify.draw(key, vector, p), p))
    merge = functools.partial(
        merging.della, vectors, [1.0, 0.5, 2.0], key=KEY, density=0.4
    )
    exact = merging.combine(sparse, [1.0, 0.5, 2.0], elect=True, normalize=True)
    alike(merge(epsilon=0.3), exact)
    flat = OPERATORS["dare"](vectors, [1.0, 0.5, 2.0])
    alike(merge(epsilon=0.0, elect=False), flat)


def test_model_stock_by_hand():
    """Orthogonal vectors give nothing, equal ones the vector, 60° two thirds."""
    x, y = jnp.array([2.0, 0.0]), jnp.array([0.0, 5.0])
    close(merging.model_stock([x, y]), [0, 0])
    close(merging.model_stock([x, x, x]), x)
    close(merging.model_stock([x, -x]), [0, 0])
    z = jnp.array([1.0, np.sqrt(3.0)])  # cosine ½ with x, t = 2·½ / 1½
    close(merging.model_stock([x, z]), 2 / 3 * (x + z) / 2)


def test_model_stock_goes_against_vectors_that_point_apart():
    turns = 2 * np.pi / 3 * np.arange(3) * 0.9
    vectors = [jnp.array([np.cos(t), np.sin(t)]) for t in turns]
    cosine = (2 * np.cos(turns[1]) + np.cos(turns[2])) / 3
    ratio = 3 * cosine / (1 + 2 * cosine)
    assert ratio < 0
    close(merging.model_stock(vectors), ratio * sum(vectors) / 3, 1e-5, 1e-6)


def test_slerp_by_hand():
    """On the quarter circle; a third vector is folded in by a third of the way."""
    unit = list(jnp.eye(3))
    close(merging.slerp(unit[:2]), [np.sqrt(0.5), np.sqrt(0.5), 0])
    close(merging.slerp(unit[:2], [1.0, 2.0]), [0.5, np.cos(np.pi / 6), 0])
    middle = np.cos(np.pi / 6) * np.array([np.sqrt(0.5), np.sqrt(0.5), 0])
    close(merging.slerp(unit), middle + [0, 0, 0.5], 1e-6)
    close(merging.slerp(unit[:2], [0.0, 0.0]), merging.slerp(unit[:2]))


def test_online_merging_by_hand():
    """Nothing is normalised, so two steps add α·τ twice."""
    params, update = jnp.array([1.0, 1.0, 1.0]), jnp.array([0.5, -0.25, 1.0])
    vector = jnp.array([2.0, 2.0, -3.0])
    step = functools.partial(merging.online_dare, update=update, vector=vector, key=KEY)
    close(step(params, density=1.0, alpha=0.25), [1.875, 1.3125, 1.0])
    close(step(params, density=1.0, alpha=0.0), [1.5, 0.75, 2.0])
    twice = step(step(params, density=1.0, alpha=0.25), density=1.0, alpha=0.25)
    close(twice, [2.75, 1.625, 1.0])
    ties = functools.partial(merging.online_ties, params, update, vector, alpha=0.25)
    close(ties(density=1.0), [1.875, 1.5, 0.25])  # the signs of τ win
    close(ties(density=0.4), [1.5, 1.5, 0.25])  # δ keeps its last, which loses


def test_what_online_merging_drops_is_the_update_only(rng):
    params, update, vector = (tree(x) for x in rng.normal(size=(3, 40, 5)))
    out = merging.online_dare(params, update, vector, key=KEY, density=0.25, alpha=0.5)
    for start, delta, tau, end in zip(
        *map(jax.tree.leaves, (params, update, vector, out)), strict=True
    ):
        kept = np.asarray((end - start - 0.5 * tau) / (0.5 * delta))
        assert ((np.abs(kept) < 1e-3) | (np.abs(kept - 4) < 1e-2)).all()
        assert 0 < (kept > 2).mean() < 1


# Oracles


combine = jax.jit(merging.combine, static_argnames=("elect", "normalize"))


def combine_oracle(vectors, weights, elect, normalize):
    """Element by element, in float64."""
    vectors = np.asarray(vectors, np.float64)
    out = np.zeros(vectors.shape[1:])
    for index in np.ndindex(out.shape):
        parts = [w * v[index] for w, v in zip(weights, vectors, strict=True)]
        sign = 1 if sum(parts) >= 0 else -1
        members = [i for i, p in enumerate(parts) if not elect or p * sign > 0]
        total = sum(weights[i] for i in members)
        if normalize and abs(total) >= 1e-8:
            out[index] = sum(parts[i] for i in members) / total
        else:
            out[index] = sum(parts[i] for i in members)
    return out


@examples
@given(table, three, st.booleans(), st.booleans())
def test_combine_is_the_loop_over_elements(x, weights, elect, normalize):
    weights = np.round(weights, 1).tolist()  # no sum of them is almost 0
    x = np.round(x, 2)
    parts = np.einsum("i,i...", weights, x.astype(np.float64))
    x[:, np.abs(parts) < 1e-4] = 0  # nor is an election won by a rounding
    out = combine(list(x), jnp.array(weights), elect=elect, normalize=normalize)
    close(out, combine_oracle(x, weights, elect, normalize), 1e-4, 1e-4)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_model_stock_is_the_float64_formula(rng, count):
    x = rng.normal(size=(count, 3, 4)) + 0.5
    pairs = itertools.combinations(x.reshape(count, -1), 2)
    cosine = np.mean([u @ v / np.linalg.norm(u) / np.linalg.norm(v) for u, v in pairs])
    ratio = count * cosine / (1 + (count - 1) * cosine)
    out = merging.model_stock(list(x.astype(np.float32)))
    close(out, ratio * x.mean(0), 1e-5, 1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_model_stock_does_not_care_how_long_vectors_are(vectors, scale):
    """Task vectors are small: no absolute threshold may decide about their angle."""
    scaled = [jax.tree.map(lambda x: scale * x, v) for v in vectors]
    out = jax.tree.map(lambda x: x / scale, merging.model_stock(scaled))
    alike(out, merging.model_stock(vectors), 1e-4, 1e-6)


def test_the_expectation_of_dare_is_task_arithmetic(vectors):
    """Within four standard errors over 4000 draws."""
    keys = jax.random.split(KEY, 4000)
    merge = functools.partial(merging.dare, vectors, [1.0, 0.5, -1.0], density=0.3)
    drawn = jax.jit(jax.vmap(lambda key: merge(key=key)))(keys)
    exact = merging.combine(vectors, [1.0, 0.5, -1.0])
    for x, y in zip(jax.tree.leaves(drawn), jax.tree.leaves(exact), strict=True):
        error = np.asarray(x).std(0) / np.sqrt(len(keys))
        assert (np.abs(np.asarray(x).mean(0) - y) < 4 * error).all()


# Invariants


@pytest.mark.parametrize("merge", DENSE.values(), ids=DENSE)
def test_density_1_is_task_arithmetic(merge, initial, vectors):
    """With election, of vectors whose signs agree."""
    agreeing = [vectors[0], jax.tree.map(lambda x: 0.3 * x, vectors[0])]
    merged = merge(agreeing, [1.0, 0.5], density=1.0)
    exact = averaging.add_vectors(initial, agreeing, [1.0, 0.5])
    alike(add(initial, merged), exact, 1e-6, 1e-6)


def test_without_election_density_1_is_task_arithmetic_whatever_the_signs(vectors):
    for merge in (DENSE["dare"], DENSE["della_linear"], DENSE["breadcrumbs"]):
        merged = merge(vectors, [1.0, -0.5, 2.0], density=1.0)
        alike(merged, merging.combine(vectors, [1.0, -0.5, 2.0]), 1e-6, 1e-6)


@operators
def test_weight_0_leaves_the_initial_weights_bit_for_bit(merge, initial, vectors):
    """Be it λ, or the weights of the vectors, where those are not relative."""
    checks.same(add(initial, merge(vectors, [1.0, 0.5, 2.0]), 0.0), initial)
    if merge is not merging.slerp:
        checks.same(add(initial, merge(vectors, [0.0] * 3)), initial)


def test_one_model_comes_back(initial, vectors):
    tuned = add(initial, vectors[0])
    vector = averaging.task_vector(initial, tuned)
    for name, merge in {**DENSE, "slerp": merging.slerp}.items():
        options = {} if name == "slerp" else {"density": 1.0}
        alike(add(initial, merge([vector], [1.0], **options)), tuned, 1e-6, 1e-6)


SYMMETRIC = {
    name: jax.jit(OPERATORS[name]) for name in ("combine", "ties", "breadcrumbs")
}


@examples
@given(table, st.permutations(range(3)))
def test_the_order_of_models_of_equal_weight_changes_nothing(x, order):
    x = np.round(x, 2)
    weights = np.full(3, 0.5, np.float32)
    for merge in SYMMETRIC.values():
        close(merge(list(x[list(order)]), weights), merge(list(x), weights), 1e-5, 1e-5)


def test_model_stock_does_not_care_for_the_order(vectors):
    alike(merging.model_stock(vectors[::-1]), merging.model_stock(vectors))


@operators
def test_weights_are_traced_and_jit_changes_nothing(merge, vectors):
    traces = []

    @jax.jit
    def compiled(weights):
        traces.append(1)
        return merge(vectors, weights)

    for weights in ([1.0, 0.5, -0.7], [2.0, 1.0, 0.25]):
        alike(compiled(jnp.array(weights)), merge(vectors, weights), 1e-5, 1e-6)
    assert len(traces) == 1


STACKABLE = {
    **{name: OPERATORS[name] for name in ("ties", "breadcrumbs", "slerp")},
    "model_stock": lambda vectors, weights, **kwargs: merging.model_stock(
        vectors, **kwargs
    ),
}


@pytest.mark.parametrize("merge", STACKABLE.values(), ids=STACKABLE)
def test_stacked_layers_are_merged_one_by_one(merge, rng):
    scales = np.array([1.0, 5.0, 0.2])[:, None, None]
    layers = (rng.normal(size=(2, 3, 4, 5)) * scales + 0.3).astype(np.float32)
    vectors = [{"layers": {"kernel": x}, "head": x[0]} for x in layers]
    out = merge(vectors, [1.0, 0.5], stacked={"layers": 1, "head": 0})
    for layer in range(3):
        alone = merge([x[layer] for x in layers], [1.0, 0.5])
        close(out["layers"]["kernel"][layer], alone, 1e-5, 1e-6)
    close(out["head"], merge([x[0] for x in layers], [1.0, 0.5]), 1e-5, 1e-6)


def test_l1_is_matched_layer_by_layer(rng):
    x = (rng.normal(size=(3, 4, 5)) * np.array([1, 5, 0.2])[:, None, None]).astype("f4")
    out = merging.dare([x], [1.0], key=KEY, density=0.5, rescale="l1", stacked=1)
    close(np.abs(out).sum((1, 2)), np.abs(x).sum((1, 2)), 1e-5)


def test_models_in_bf16_are_merged_in_float32_and_keep_their_type(initial, vectors):
    low = [jax.tree.map(lambda x: x.astype(jnp.bfloat16), v) for v in vectors]
    for merge in OPERATORS.values():
        merged = merge(low, [1.0, 0.5, 0.75])
        assert {x.dtype for x in jax.tree.leaves(merged)} == {jnp.dtype("float32")}
    start = jax.tree.map(lambda x: x.astype(jnp.bfloat16), initial)
    kinds = {x.dtype for x in jax.tree.leaves(add(start, merged))}
    assert kinds == {jnp.dtype("bfloat16")}


def test_warp_is_slerp_then_a_step_from_the_initial_weights(initial, vectors):
    """The step towards the merge is λ = η: one front needs one merge."""
    policies = [add(initial, vector) for vector in vectors[:2]]
    taus = [averaging.task_vector(initial, policy) for policy in policies]
    merged = add(initial, merging.slerp(taus))
    start = averaging.interpolate(initial, merged, 0.3)
    alike(start, add(initial, merging.slerp(taus), 0.3), 1e-5, 1e-6)
    halves = jax.tree.map(lambda x, y: averaging.slerp(x, y, 0.5), *taus)
    alike(merging.slerp(taus), halves, 1e-6, 1e-6)
    for x, y, z in zip(*map(jax.tree.leaves, (*taus, halves)), strict=True):
        lengths = [np.linalg.norm(v) for v in (x, y, z)]
        assert np.linalg.norm((x + y) / 2) < lengths[2] <= max(lengths[:2]) + 1e-5


def test_gradients_are_the_numerical_ones(rng):
    """Of vectors and of weights; what is dropped and who agrees stays as it is."""
    x, y = rng.normal(size=(2, 6)) + 0.3
    weights = np.array([0.7, 0.4])
    for name in ("combine", "ties", "dare", "della", "breadcrumbs", "slerp"):
        merge = OPERATORS[name]
        checks.assert_gradients(lambda x, y, w, m=merge: m([x, y], w), x, y, weights)
    checks.assert_gradients(lambda x, y: merging.model_stock([x, y]), x, y)
    online = functools.partial(merging.online_ties, density=0.5)
    checks.assert_gradients(lambda a: online(x, 0.1 * y, y, alpha=a), np.array(0.3))


# Bad input


def test_vectors_of_another_shape_are_refused(vectors):
    short = [vectors[0], jax.tree.map(lambda x: x[..., :3], vectors[1])]
    for merge in (*OPERATORS.values(), lambda v, _: merging.model_stock(v)):
        with pytest.raises(ValueError, match=r"\(5,\) in the first tree and \(3,\) in"):
            merge(short, [1.0, 1.0])
    with pytest.raises(ValueError, match="bias"):
        merging.online_dare(*vectors[:2], short[1], key=KEY, density=1.0, alpha=0.1)


def test_vectors_of_another_structure_are_refused(vectors):
    with pytest.raises(ValueError, match="bias: .* no such leaf in tree 1"):
        merging.combine([vectors[0], {"layers": vectors[1]["layers"]}], [1.0, 1.0])


def test_numbers_that_differ_are_refused(vectors):
    for merge in OPERATORS.values():
        with pytest.raises(ValueError, match="3 vectors and 2 weights"):
            merge(vectors, [1.0, 2.0])
    with pytest.raises(ValueError, match="3 vectors and 2 densities"):
        merging.ties(vectors, [1.0] * 3, density=[0.5, 0.5])
    with pytest.raises(ValueError, match="0 vectors"):
        merging.combine([], [])
    with pytest.raises(ValueError, match="1 vectors: model stock"):
        merging.model_stock(vectors[:1])


@pytest.mark.parametrize("density", [0.0, 1.5])
def test_densities_outside_their_range_are_refused(vectors, density):
    for name in ("ties", "dare", "della", "breadcrumbs"):
        with pytest.raises(ValueError, match=f"density {density}"):
            OPERATORS[name](vectors, [1.0] * 3, density=density)


def test_an_unknown_rescale_is_refused(vectors):
    with pytest.raises(ValueError, match="rescale 'l2': choose \"probability\""):
        merging.dare(vectors, [1.0] * 3, key=KEY, density=0.5, rescale="l2")


# mergekit


@pytest.fixture(scope="module")
def recorded():
    with np.load(golden.FILE) as file:
        return dict(file)


def ours(case, name, recorded):
    """Our merge of a tensor in a case of the goldens."""
    method, count, settings = golden.CASES[case]
    base, *tuned = (recorded[f"model/{name}/{i}"] for i in range(count + 1))
    vectors = [averaging.task_vector(base, x) for x in tuned]
    weights = list(settings.get("weight", ()))[:count]
    if method == "linear":
        total = 1.0 if settings.get("normalize", True) else sum(weights)
        return total * averaging.soup(tuned, weights)
    if case == "slerp_of_vectors":
        return averaging.slerp(*vectors, settings["t"])
    if method == "nuslerp":
        return add(base, merging.slerp(vectors, weights))
    if method == "model_stock":
        return add(base, merging.model_stock(vectors))
    options = {"elect": method in ("ties", "dare_ties", "della", "breadcrumbs_ties")}
    options["normalize"] = settings.get("normalize", method in ("ties", "della"))
    sparse = [
        thin(case, name, i, vector, recorded) for i, vector in enumerate(vectors, 1)
    ]
    merged = merging.combine(sparse, weights, **options)
    return add(base, merged, settings.get("lambda", 1.0))


def thin(case, name, i, vector, recorded):
    """One vector as mergekit sparsifies it, with the mask it drew."""
    method, _, settings = golden.CASES[case]
    family = method.partition("_")[0]
    density = golden.DENSITIES[i - 1]
    if family == "ties":
        return sparsify.apply(vector, sparsify.largest(vector, density))
    if family == "breadcrumbs":
        mask = sparsify.band(vector, density, gamma=settings["gamma"])
        return sparsify.apply(vector, mask)
    if family in ("dare", "della"):
        sparse = sparsify.apply(vector, recorded[f"{family}/{name}/{i}"])
        plain = settings.get("rescale") is False
        return sparse if plain else sparsify.match(vector, sparse)
    return vector


@pytest.mark.parametrize("case", golden.CASES)
def test_merges_are_those_of_mergekit(case, recorded):
    for name in golden.SHAPES:
        theirs = recorded[f"{case}/{name}"]
        close(ours(case, name, recorded), theirs, 2e-6, 1e-6)
        base = recorded[f"model/{name}/0"]
        assert np.abs(theirs - base).max() > 0.1  # enough to tell apart


def test_ties_and_breadcrumbs_with_their_defaults_are_mergekits(recorded):
    """The operators themselves, where no mask is drawn: density and weight a model."""
    trees = [
        {name: recorded[f"model/{name}/{i}"] for name in golden.SHAPES}
        for i in range(4)
    ]
    vectors = [averaging.task_vector(trees[0], tuned) for tuned in trees[1:]]
    chosen = {"weights": golden.WEIGHTS, "density": golden.DENSITIES}
    crumbs = functools.partial(merging.breadcrumbs, gamma=golden.GAMMA)
    for case, merge in (
        ("ties", merging.ties),
        ("breadcrumbs", crumbs),
        ("breadcrumbs_ties", functools.partial(crumbs, elect=True)),
    ):
        merged = add(trees[0], merge(vectors, **chosen))
        for name in golden.SHAPES:
            close(merged[name], recorded[f"{case}/{name}"], 2e-6, 1e-6)


@pytest.mark.parametrize("elect", [False, True])
def test_the_papers_rescale_is_mergekits_without_it_at_weights_over_p(elect, recorded):
    """(w·p)·(τ/p) is w·τ: 1/p, which mergekit does not have, cancels."""
    case = "dare_ties_plain" if elect else "dare_linear_plain"
    weights = np.multiply(golden.WEIGHTS, golden.DENSITIES)
    for name in golden.SHAPES:
        base, *tuned = (recorded[f"model/{name}/{i}"] for i in range(4))
        vectors = [averaging.task_vector(base, x) for x in tuned]
        masks = [recorded[f"dare/{name}/{i}"] for i in (1, 2, 3)]
        sparse = list(map(sparsify.apply, vectors, masks, golden.DENSITIES))
        merged = merging.combine(sparse, weights, elect=elect)
        close(add(base, merged), recorded[f"{case}/{name}"], 2e-6, 1e-6)


def test_masks_of_della_are_drawn_with_mergekits_probabilities(recorded):
    for name in golden.SHAPES:
        for i, density in enumerate(golden.DENSITIES, 1):
            vector = recorded[f"model/{name}/{i}"] - recorded[f"model/{name}/0"]
            p = sparsify.by_rank(vector, density, epsilon=golden.EPSILON)
            close(p, recorded[f"probability/{name}/{i}"], 2e-6, 1e-6)


def test_the_goldens_are_what_mergekit_says_now(recorded):
    pytest.importorskip("mergekit")
    trees = golden.models()
    for key, value in (golden.merges(trees) | golden.masks(trees)).items():
        close(value, recorded[key], 1e-6, 1e-6)
