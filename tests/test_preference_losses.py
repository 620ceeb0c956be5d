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


@pytest.mark.slow  # the goldens of TRL hold the first derivatives
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


def device(sides, mask, index, cases=tuple(CASES)):
    """{name: (loss, metrics)} of one row on a device of its own."""
    rows = [side[None] for side in sides]
    over = {"axis_name": checks.AXIS, "index": index[None]}
    return _indexed(rows, mask[None], cases, **over)


def _indexed(sides, mask, cases=tuple(CASES), *, index, **over):
    """`every`, with which rows these are where a case has lengths or labels."""
    found = {}
    for name in cases:
        more = {"index": index} if name in ("cpo", "orpo", "kto") else {}
        found[name] = CASES[name](*sides, mask=mask, **over, **more)
    return found


@functools.cache
def on_devices():
    """{name: (loss, metrics)}, each [B], of rows on devices of their own."""
    mapped = jax.jit(jax.vmap(device, (1, 0, 0), axis_name=checks.AXIS))
    return mapped(four(), MASK, np.arange(B))


@functools.cache
def in_halves():
    """{name: (loss, metrics)}, each [2], of two micro-batches of a known count."""

    def half(sides, mask, index):
        return _indexed(sides, mask, index=index, count=MASK.sum())

    halves = [x.reshape(*x.shape[:-1], 2, 2) for x in (four(), MASK, np.arange(B))]
    return jax.jit(jax.vmap(half, (1, 0, 0)))(*halves)


@pytest.mark.slow
@each
def test_rows_over_devices_are_rows_on_one(name):
    """Ragged rows: a mean of the devices' means would be another number."""
    whole = evaluate(*four(), mask=MASK)[name]
    expected = jax.tree.map(lambda x: np.full(B, x), whole)
    jax.tree.map(lambda s, w: close(s, w, 1e-5, 1e-6), on_devices()[name], expected)


def test_the_devices_mean_gradient_is_that_of_all_rows():
    """Of one loss as they all are, and of those that gather rows to sort them."""
    names = ("apo_zero", *SORTED)

    def total(found):
        return sum((1 + i) * found[name][0] for i, name in enumerate(names))

    def alone(scale, *row):
        return total(device(scale * row[0], *row[1:], cases=names))

    def mapped(scale, *row):
        return jax.lax.pmean(jax.grad(alone)(scale, *row), checks.AXIS)

    axes = (None, 1, 0, 0)
    found = jax.jit(jax.vmap(mapped, axes, axis_name=checks.AXIS))(
        1.5, four(), MASK, np.arange(B)
    )
    one = jax.grad(lambda s: total(every(*(s * four()), mask=MASK, cases=names)))
    whole = jax.jit(one)(1.5)
    close(found, np.full(B, whole), 1e-5, 1e-6)


@pytest.mark.parametrize("name", [n for n in CASES if n not in SORTED])
def test_micro_batches_of_a_known_count_add_up(name):
    added = jax.tree.map(lambda x: x.sum(0), in_halves()[name])
    whole = evaluate(*four(), mask=MASK)[name]
    jax.tree.map(lambda s, w: close(s, w, 1e-5, 1e-6), added, whole)


def test_rows_may_be_permuted():
    order = np.array([2, 0, 3, 1])
    found = evaluate(*four()[:, order], mask=MASK[order])
    whole = evaluate(*four(), mask=MASK)
    for name in set(CASES) - {"cpo", "orpo", "kto"}:  # their lengths and labels stay
        jax.tree.map(lambda x, y: close(x, y, 1e-5, 1e-6), found[name], whole[name])


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
