"""preference_losses and its neighbours: what the whole family promises, one program for
all of its members; closed forms, loops and invariants of those with a reference."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close
from preference_cases import (
    BETA,
    CASES,
    MASK,
    PAIRS,
    SMOOTH,
    SOFT,
    SORTED,
    TAU,
    B,
    evaluate,
    every,
    four,
    slopes,
)  # fmt: skip

from rlhf_jax import losses, preference_losses

each = pytest.mark.parametrize("name", CASES)
LOG2 = np.log(2)


def test_junk_reaches_neither_value_nor_gradient():
    def family(*sides):
        return every(*sides, mask=MASK)

    checks.assert_ignores(family, four(), MASK)


def test_nothing_valid_is_a_loss_of_zero():
    for name, (loss, metrics) in evaluate(*four(), mask=np.zeros(B)).items():
        assert loss == 0.0, name
        assert all(np.isfinite(x) for x in metrics.values()), name


def test_gradients_are_the_numerical_ones():
    """Away from the kinks of hinge and of sorting."""
    data = four()[2:].astype(np.float64)

    def family(chosen, rejected):
        found = every(chosen, rejected, *data, mask=MASK)
        return jnp.stack([loss for loss, _ in found.values()])

    checks.assert_gradients(family, *four()[:2])


@each
def test_data_carries_no_gradient(name):
    found = dict(zip(CASES, slopes(four(), MASK)[0], strict=True))[name]
    learned = 1 if name == "kto" else 2
    assert all(np.any(g) for g in found[:learned])
    assert not np.any(found[learned:])
    assert not np.any(found[:, MASK == 0])


@functools.cache
def parts():
    """((loss, metrics), slope) of all rows, of rows on four devices, of two halves."""
    grad = jax.value_and_grad(_total, has_aux=True)
    whole = jax.jit(grad)(0.1, four(), MASK)

    def device(sides, mask, index):
        rows = [side[None] for side in sides]
        over = {"axis_name": checks.AXIS, "index": index[None]}
        out, slope = grad(0.1, rows, mask[None], **over)
        return out, jax.lax.pmean(slope, checks.AXIS)

    mapped = jax.vmap(device, (1, 0, 0), axis_name=checks.AXIS)
    split = jax.jit(mapped)(four(), MASK, np.arange(B))
    halves = [x.reshape(*x.shape[:-1], 2, 2) for x in (four(), MASK, np.arange(B))]

    def half(sides, mask, index):
        return grad(0.1, sides, mask, count=MASK.sum(), index=index)

    return whole, split, jax.jit(jax.vmap(half, (1, 0, 0)))(*halves)


def _total(shift, sides, mask, **over):
    """Weighted differently, so that no two losses could be mistaken."""
    sides = [(1 + shift) * x + shift for x in sides[:2]] + [*sides[2:]]
    found = {}
    for name in CASES:
        more = dict(over)
        if name not in ("cpo", "orpo", "kto"):
            more.pop("index", None)
        found[name] = CASES[name](*sides, mask=mask, **more)
    weights = {name: 1.0 + i for i, name in enumerate(CASES) if name not in SORTED}
    return sum(w * found[name][0] for name, w in weights.items()), found


@each
def test_rows_over_devices_are_rows_on_one(name):
    """Ragged rows: a mean of the devices' means would be another number."""
    ((_, whole), slope), ((_, split), slopes), _ = parts()
    expected = jax.tree.map(lambda x: np.full(B, x), whole[name])
    jax.tree.map(lambda s, w: close(s, w, 1e-5, 1e-6), split[name], expected)
    close(slopes, np.full(B, slope), 1e-5, 1e-6)


@pytest.mark.parametrize("name", [n for n in CASES if n not in SORTED])
def test_micro_batches_of_a_known_count_add_up(name):
    ((_, whole), slope), _, ((_, halves), slopes) = parts()
    added = jax.tree.map(lambda x: x.sum(0), halves[name])
    jax.tree.map(lambda s, w: close(s, w, 1e-5, 1e-6), added, whole[name])
    close(slopes.sum(), slope, 1e-5, 1e-6)


def test_rows_may_be_permuted():
    order = np.array([2, 0, 3, 1])
    names = tuple(n for n in CASES if n not in ("cpo", "orpo", "kto"))
    run = jax.jit(functools.partial(every, cases=names))
    found = run(*four()[:, order], mask=MASK[order])
    jax.tree.map(lambda x, y: close(x, y, 1e-5, 1e-6), found, run(*four(), mask=MASK))


AT_REFERENCE = {
    "hinge": 1.0,
    "robust": LOG2,
    "exo_pair": -LOG2 - 0.5 * np.log(SMOOTH * (1 - SMOOTH)),
    "nca_pair": 2 * LOG2,
    "bco_pair": 2 * LOG2,
    "sppo_hard": 2 * (0.5 / BETA) ** 2,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "discopop": 0.5 * LOG2 + 0.5,
    "aot": LOG2,
    "aot_unpaired": LOG2,
}


def hard(name):
    """A loss with hard labels, and no shift."""
    given = {k: x for k, x in PAIRS[name].items() if k in ("label_smoothing", "tau")}
    loss = getattr(preference_losses, name)
    return functools.partial(loss, beta=BETA, **given)


@pytest.mark.parametrize("name", AT_REFERENCE)
def test_at_the_reference_the_loss_is_known(name):
    chosen, rejected, *_ = four()
    loss, metrics = hard(name)(chosen, rejected, chosen, rejected)
    close(loss, AT_REFERENCE[name], 1e-6)
    assert metrics["margins"] == 0.0 and metrics["accuracies"] == 0.5


def sigma(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def _exo(c, r):
    q, p = sigma(BETA * (c - r)), SOFT * (1 - SMOOTH) + (1 - SOFT) * SMOOTH
    return q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))


def _robust(c, r):
    right, wrong = np.log(sigma(BETA * (c - r))), np.log(sigma(BETA * (r - c)))
    return (SMOOTH * wrong - (1 - SMOOTH) * right) / (1 - 2 * SMOOTH)


def _discopop(c, r):
    gap = BETA * (c - r)
    share = sigma(gap / TAU)
    return (share - 1) * np.log(sigma(gap)) + share * np.exp(-gap)


def _soft(term):
    return lambda c, r: SOFT * term(c, r) + (1 - SOFT) * term(r, c)


# one pair's loss by its two log-ratios
BY_HAND = {
    "hinge": _soft(lambda c, r: max(0.0, 1 - BETA * (c - r))),
    "robust": _soft(_robust),
    "exo_pair": _exo,
    "nca_pair": lambda c, r: (
        -np.log(sigma(BETA * c))
        - 0.5 * np.log(sigma(-BETA * c))
        - 0.5 * np.log(sigma(-BETA * r))
    ),
    "bco_pair": _soft(
        lambda c, r: -np.log(sigma(BETA * c - 0.25)) - np.log(sigma(0.25 - BETA * r))
    ),
    "sppo_hard": lambda c, r: (
        (c - (SOFT - 0.5) / BETA) ** 2 + (r + (SOFT - 0.5) / BETA) ** 2
    ),
    "apo_zero": lambda c, r: 1 - sigma(BETA * c) + sigma(BETA * r),
    "apo_down": lambda c, r: sigma(BETA * c) + 1 - sigma(BETA * (c - r)),
    "discopop": _discopop,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_loss_is_the_loop_over_pairs(name):
    rows = four().astype(np.float64).T[MASK == 1]
    terms = [BY_HAND[name](a - c, b - d) for a, b, c, d in rows]
    loss, metrics = evaluate(*four(), mask=MASK)[name]
    close(loss, np.mean(terms), 1e-5, 1e-6)
    _, plain = losses.dpo(*four(), beta=BETA, mask=MASK)
    close(metrics["margins"], plain["margins"])


@pytest.mark.parametrize("name", SORTED)
def test_sorted_losses_are_the_loop_over_ranks(name):
    a, b, c, d = four().astype(np.float64)[:, MASK == 1]
    high, low = (a - b, c - d) if name == "aot" else (a - c, b - d)
    terms = []
    for x, y in zip(sorted(high), sorted(low), strict=True):
        gap = BETA * (x - y)
        smooth = SMOOTH * np.log(sigma(-gap))
        terms.append(-(1 - SMOOTH) * np.log(sigma(gap)) - smooth)
    close(evaluate(*four(), mask=MASK)[name][0], np.mean(terms), 1e-5, 1e-6)


@pytest.mark.parametrize(("name", "sides"), [("aot", (2, 3)), ("aot_unpaired", (1, 3))])
def test_sorted_losses_do_not_know_which_rows_belong_together(name, sides):
    turned = four()
    turned[list(sides)] = turned[list(sides)][:, [2, 0, 3, 1]]
    close(hard(name)(*turned)[0], hard(name)(*four())[0], 1e-6)


DIFFERENCES = ("hinge", "robust", "exo_pair", "discopop", *SORTED)


def test_losses_of_differences_ignore_a_constant_on_both_policy_log_probs():
    moved = four()
    moved[:2] += 2.5
    for name in DIFFERENCES:
        found, plain = hard(name)(*moved)[0], hard(name)(*four())[0]
        close(found, plain, 1e-5, 1e-6)
    for name in set(AT_REFERENCE) - {*DIFFERENCES}:
        found, plain = hard(name)(*moved)[0], hard(name)(*four())[0]
        assert abs(found - plain) > 1e-3, name


@pytest.mark.parametrize("name", [n for n in PAIRS if "preference" in PAIRS[n]])
def test_a_pair_turned_round_has_the_other_label(name):
    a, b, c, d = four()
    labels = np.array([0.25, 1.0, 0.5, 0.0], np.float32)
    one, _ = hard(name)(a, b, c, d, preference=labels)
    two, _ = hard(name)(b, a, d, c, preference=1.0 - labels)
    close(one, two, 1e-5, 1e-6)


def test_robust_on_labels_that_are_wrong_as_often_as_said_is_dpo_on_right_ones():
    noisy, _ = hard("robust")(*four(), preference=1.0 - SMOOTH)
    close(noisy, losses.dpo(*four(), beta=BETA)[0], 1e-5)


def test_exo_is_zero_where_the_policy_has_the_smoothed_label_and_above_elsewhere():
    zero = np.zeros(1, np.float32)
    gap = np.float32([np.log((1 - SMOOTH) / SMOOTH) / BETA])
    close(hard("exo_pair")(gap, zero, zero, zero)[0], 0.0, atol=1e-6)
    assert hard("exo_pair")(gap + 1, zero, zero, zero)[0] > 1e-3


def test_the_gradient_raises_the_chosen_or_lowers_the_rejected():
    """apo_down alone lowers what was chosen; it lowers the rejected one more."""
    for name in AT_REFERENCE:
        slope = dict(zip(CASES, slopes(four(), MASK)[0], strict=True))[name]
        chosen, rejected = slope[:2].sum(-1)
        assert chosen < rejected, name


def test_extreme_log_probs_stay_finite():
    far = np.float32([1.0, -1.0, 0.0, 1.0])
    sides = np.stack([far, -far, 0 * far, 0 * far])
    for name, (value, _) in evaluate(*(1e4 * sides), mask=MASK).items():
        if name not in ("discopop", "orpo"):  # exp(−βh) and odds have no bound
            assert np.isfinite(value), name
    found, values = slopes(80 * sides, MASK)
    assert np.isfinite(values).all() and np.isfinite(found).all()


def test_the_shift_is_the_mean_of_all_rewards_so_far(rng):
    state = preference_losses.init_shift()
    assert state == (0.0, 0.0)
    batches = rng.normal(size=(3, 2, B)).astype(np.float32)
    for chosen, rejected in batches:
        state = preference_losses.update_shift(state, chosen, rejected, mask=MASK)
    close(state.mean, batches[:, :, MASK == 1].mean(), 1e-5)
    assert state.count == 3 * 2 * 3
    again = preference_losses.update_shift(state, chosen, rejected, mask=np.zeros(B))
    checks.same(again, state)


def test_the_shift_is_that_of_all_devices(rng):
    chosen, rejected = rng.normal(size=(2, B)).astype(np.float32)
    start = preference_losses.init_shift()

    def device(chosen, rejected, mask):
        rows = chosen[None], rejected[None]
        over = {"mask": mask[None], "axis_name": checks.AXIS}
        return preference_losses.update_shift(start, *rows, **over)

    found = jax.vmap(device, axis_name=checks.AXIS)(chosen, rejected, MASK)
    whole = preference_losses.update_shift(start, chosen, rejected, mask=MASK)
    jax.tree.map(lambda s, w: close(s, np.full(B, w), 1e-5), found, whole)


def test_junk_in_ignored_rewards_moves_no_shift():
    start = preference_losses.init_shift()
    chosen, rejected = four()[:2]
    checks.assert_ignores(
        lambda *x: preference_losses.update_shift(start, *x, mask=MASK),
        (chosen, rejected),
        MASK,
    )


def test_answers_as_likely_as_samples_weigh_one():
    """A uniform policy: every token has the log-prob of log Σ p² = −log V."""
    logps = np.full((B, 6), -np.log(11.0), np.float32)
    found = preference_losses.wpo_weights(logps, logps, checks.ragged(B, 6))
    close(found, np.ones(B))


def test_weights_are_the_loop_over_tokens(rng):
    logps, collisions = rng.normal(size=(2, B, 6)).astype(np.float32)
    mask = checks.ragged(B, 6)
    expected = [
        np.exp(np.mean((x - y)[m == 1])) if m.any() else 1.0
        for x, y, m in zip(logps, collisions, mask, strict=True)
    ]
    close(preference_losses.wpo_weights(logps, collisions, mask), expected, 1e-5)


def test_junk_in_padding_moves_no_weight_and_weights_are_data():
    logps, collisions = np.random.default_rng(0).normal(size=(2, B, 6))
    mask = checks.ragged(B, 6)
    weights = functools.partial(preference_losses.wpo_weights, mask=mask)
    checks.assert_ignores(weights, (logps, collisions), mask)
    slope = jax.grad(lambda x: weights(x, jnp.asarray(collisions)).sum())(logps)
    assert not np.any(slope)
