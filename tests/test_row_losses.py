"""losses over rows: classes and preferences; closed forms, loops and invariants."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import LABELS, ROWS, B, C, example

from rlhf_jax import losses


def test_classification_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
    loss, metrics = losses.classification(logits, np.array([0, 0]))
    close(loss, 1.5 * np.log(2))
    assert metrics["accuracy"] == 0.5


def test_classification_is_torch_cross_entropy():
    torch = pytest.importorskip("torch")
    _, (logits, _), _, _ = example("classification")
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(LABELS)
    )
    close(losses.classification(logits, LABELS)[0], expected.numpy(), 1e-6, 1e-7)


def test_classification_is_the_loop_over_rows():
    _, (logits, _), mask, _ = example("classification")
    terms = [
        np.log(np.exp(row.astype(float)).sum()) - float(row[label])
        for row, label, m in zip(logits, LABELS, mask, strict=True)
        if m
    ]
    loss, _ = losses.classification(logits, LABELS, mask=mask)
    close(loss, np.mean(terms), 1e-5, 1e-6)


@pytest.mark.parametrize("label", [-1, 99])
def test_an_ignored_label_may_be_anything(label):
    _, (logits, _), mask, _ = example("classification")
    junk = np.where(mask, LABELS, label)
    clean = losses.classification(logits, LABELS, mask=mask)
    checks.same(losses.classification(logits, junk, mask=mask), clean)


@examples
@given(checks.floats((B, C)), st.floats(-5, 5, width=32, allow_subnormal=False))
def test_classification_ignores_a_shift_of_the_logits(logits, shift):
    moved = losses.classification(logits + np.float32(shift), LABELS)[0]
    close(moved, losses.classification(logits, LABELS)[0], 1e-4, 1e-5)


def sigma(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def test_bradley_terry_by_hand():
    equal = np.zeros(2)
    loss, metrics = losses.bradley_terry(equal, equal)
    close(loss, np.log(2))
    assert metrics == {"accuracy": 0.5, "margin": 0.0}
    chosen, rejected = np.array([np.log(3), 0.0]), np.array([0.0, np.log(3)])
    loss, metrics = losses.bradley_terry(chosen, rejected)
    close(loss, -(np.log(0.75) + np.log(0.25)) / 2)
    assert metrics["accuracy"] == 0.5 and metrics["margin"] == 0.0
    # A margin of log 3 takes the whole lead away.
    close(
        losses.bradley_terry(chosen[:1], rejected[:1], margin=np.log(3))[0], np.log(2)
    )


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_bradley_terry_is_the_loop_over_soft_labels(rng, margin):
    chosen, rejected = rng.normal(size=(2, 5)).astype(np.float32)
    preference = np.array([1.0, 0.0, 0.5, 0.25, 0.9])
    terms = []
    for c, r, p in zip(chosen, rejected, preference, strict=True):
        d = float(c) - float(r) - margin
        terms.append(-p * np.log(sigma(d)) - (1 - p) * np.log(sigma(-d)))
    options = {"preference": preference, "margin": margin}
    close(losses.bradley_terry(chosen, rejected, **options)[0], np.mean(terms), 1e-5)


def test_bradley_terry_gradient_is_sigma_minus_p(rng):
    chosen, rejected = rng.normal(size=(2, 5))
    preference = np.array([1.0, 0.0, 0.5, 0.25, 0.9])

    def loss(c, r):
        return losses.bradley_terry(c, r, preference=preference)[0]

    to_chosen, to_rejected = jax.grad(loss, argnums=(0, 1))(chosen, rejected)
    expected = (sigma(chosen - rejected) - preference) / 5
    close(to_chosen, expected, 1e-5, 1e-6)
    close(to_rejected, -expected, 1e-5, 1e-6)


@examples
@given(checks.floats(ROWS), checks.floats(ROWS), st.floats(0, 1))
def test_a_pair_turned_round_has_the_other_label(chosen, rejected, preference):
    one, a = losses.bradley_terry(chosen, rejected, preference=preference)
    two, b = losses.bradley_terry(rejected, chosen, preference=1 - preference)
    close(one, two, 1e-5, 1e-6)
    close(a["margin"], -b["margin"], 1e-5, 1e-5)
    if abs(preference - 0.5) > 1e-6:
        close(a["accuracy"], b["accuracy"])


def test_accuracy_follows_the_likelier_side_and_halves_ties():
    chosen, rejected = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.0, 0.0])
    preference = np.array([0.9, 0.1, 0.5, 1.0])
    _, metrics = losses.bradley_terry(chosen, rejected, preference=preference)
    assert metrics["accuracy"] == (1 + 0 + 0.5 + 0.5) / 4


def test_extreme_scores_stay_finite():
    def loss(c):
        return losses.bradley_terry(c, jnp.zeros(2), preference=0.5)[0]

    extreme = jnp.array([1e4, -1e4])
    assert np.isfinite(loss(extreme)) and np.isfinite(jax.grad(loss)(extreme)).all()


def test_dpo_at_the_reference_is_log_2():
    _, (chosen, rejected, *_), _, _ = example("dpo")
    loss, metrics = losses.dpo(chosen, rejected, chosen, rejected, beta=0.1)
    close(loss, np.log(2))
    assert metrics["margins"] == 0.0 and metrics["accuracies"] == 0.5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_is_the_loop_over_pairs(smoothing):
    _, (pc, pr, rc, rr), mask, _ = example("dpo")
    terms = []
    for a, b, c, d, m in zip(pc, pr, rc, rr, mask, strict=True):
        margin = 0.3 * ((float(a) - float(c)) - (float(b) - float(d)))
        smooth = smoothing * np.log(sigma(-margin))
        terms += [-(1 - smoothing) * np.log(sigma(margin)) - smooth] if m else []
    loss, metrics = losses.dpo(
        pc, pr, rc, rr, beta=0.3, label_smoothing=smoothing, mask=mask
    )
    close(loss, np.mean(terms), 1e-5, 1e-6)
    valid = mask == 1
    close(metrics["chosen"], 0.3 * (pc - rc)[valid].mean(), 1e-5, 1e-6)
    close(metrics["rejected"], 0.3 * (pr - rr)[valid].mean(), 1e-5, 1e-6)
    close(metrics["margins"], metrics["chosen"] - metrics["rejected"], 1e-5, 1e-6)
    right = (pc - rc)[valid] > (pr - rr)[valid]
    close(metrics["accuracies"], right.mean())


def test_dpo_is_bradley_terry_on_implicit_rewards():
    _, (pc, pr, rc, rr), _, _ = example("dpo")
    soft = np.array([1.0, 0.0, 0.25, 0.5])
    loss, _ = losses.dpo(pc, pr, rc, rr, beta=0.3, preference=soft)
    options = {"preference": soft}
    close(loss, losses.bradley_terry(0.3 * (pc - rc), 0.3 * (pr - rr), **options)[0])


@examples
@given(*[checks.floats(ROWS)] * 4, st.floats(-5, 5, width=32, allow_subnormal=False))
def test_dpo_and_ipo_ignore_a_constant_on_both_policy_log_probs(a, b, c, d, shift):
    for loss in (losses.dpo, losses.ipo):
        moved = loss(a + np.float32(shift), b + np.float32(shift), c, d, beta=0.1)[0]
        close(moved, loss(a, b, c, d, beta=0.1)[0], 1e-4, 1e-5)


def test_dpo_raises_the_chosen_and_lowers_the_rejected():
    _, arrays, _, _ = example("dpo")
    grads = jax.grad(lambda a, b: losses.dpo(a, b, *arrays[2:], beta=0.1)[0], (0, 1))
    to_chosen, to_rejected = grads(*arrays[:2])
    assert (np.asarray(to_chosen) < 0).all()
    np.testing.assert_array_equal(to_chosen, -to_rejected)


def test_ipo_by_hand():
    """β = ½ asks for a gap of 1: at the reference the loss is 1, at the goal 0."""
    zero = np.zeros(2)
    loss, metrics = losses.ipo(zero, zero, zero, zero, beta=0.5)
    assert loss == 1.0 and metrics["accuracies"] == 0.5
    loss, metrics = losses.ipo(zero + 1, zero, zero, zero, beta=0.5)
    assert loss == 0.0 and metrics["margins"] == 0.5


@pytest.mark.parametrize("preference", [1.0, 0.75, 0.0])
def test_ipo_is_the_loop_over_pairs(preference):
    _, (pc, pr, rc, rr), mask, _ = example("ipo")
    terms = []
    for a, b, c, d, m in zip(pc, pr, rc, rr, mask, strict=True):
        gap = (float(a) - float(c)) - (float(b) - float(d))
        plain, turned = (gap - 1 / 0.6) ** 2, (gap + 1 / 0.6) ** 2
        terms += [preference * plain + (1 - preference) * turned] if m else []
    loss, _ = losses.ipo(pc, pr, rc, rr, beta=0.3, preference=preference, mask=mask)
    close(loss, np.mean(terms), 1e-5, 1e-6)
