"""unpaired_losses: KTO and its baseline; closed forms, loops and invariants."""

import checks
import jax
import numpy as np
import pytest
from checks import close
from preference_cases import BETA, DESIRABLE, MASK, B, evaluate, four

from rlhf_jax import preference_losses, unpaired_losses


def sigma(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def test_kto_at_the_reference_is_a_half_of_each_weight():
    loss, metrics = unpaired_losses.kto(
        DESIRABLE, DESIRABLE, DESIRABLE, beta=BETA, desirable_weight=3.0
    )
    close(loss, (1.5 + 0.5) / 2)
    assert metrics["accuracies"] == 0.5 and metrics["margins"] == 0.0


def test_kto_is_the_loop_over_answers():
    a, b, c, d = four().astype(np.float64)
    shifted = b + 1.0, d  # a mean above 0
    kl = unpaired_losses.kl_baseline(*shifted, mask=MASK)
    close(kl, np.mean((b + 1.0 - d)[MASK == 1]), 1e-5)
    kl = 0.25  # that of the case
    terms, chosen, rejected = [], [], []
    for i in np.flatnonzero(MASK):
        gap = BETA * (a[i] - c[i] - kl)
        if DESIRABLE[i]:
            terms.append(1.5 * (1 - sigma(gap)))
            chosen.append(BETA * (a[i] - c[i]))
        else:
            terms.append(0.5 * (1 - sigma(-gap)))
            rejected.append(BETA * (a[i] - c[i]))
    loss, metrics = evaluate(*four(), mask=MASK)["kto"]
    close(loss, np.mean(terms), 1e-5, 1e-6)
    close(metrics["chosen"], np.mean(chosen), 1e-5)
    close(metrics["rejected"], np.mean(rejected), 1e-5)
    close(metrics["margins"], np.mean(chosen) - np.mean(rejected), 1e-5)
    close(metrics["kl"], kl, 1e-5)


def test_kto_without_a_baseline_is_half_of_apo_zero_on_pairs():
    a, b, c, d = four()
    labels = np.repeat(np.float32([1, 0]), B)
    rows = np.concatenate([a, b]), np.concatenate([c, d])
    kto, _ = unpaired_losses.kto(*rows, labels, beta=BETA)
    close(kto, preference_losses.apo_zero(a, b, c, d, beta=BETA)[0] / 2, 1e-6)


def test_the_baseline_by_hand_and_never_below_zero():
    policy = np.float32([1.0, 2.0, 99.0, 6.0])
    found = unpaired_losses.kl_baseline(policy, np.zeros(B), mask=MASK)
    assert found == 3.0
    assert unpaired_losses.kl_baseline(-policy, np.zeros(B), mask=MASK) == 0.0
    assert unpaired_losses.kl_baseline(policy, np.zeros(B), mask=0 * MASK) == 0.0


def test_the_baseline_is_that_of_all_devices():
    policy, reference = four()[:2] + 3.0, four()[2:]

    def device(policy, reference, mask):
        rows = policy[None], reference[None]
        over = {"mask": mask[None], "axis_name": checks.AXIS}
        return unpaired_losses.kl_baseline(*rows, **over)

    found = jax.vmap(device, axis_name=checks.AXIS)(policy[0], reference[0], MASK)
    whole = unpaired_losses.kl_baseline(policy[0], reference[0], mask=MASK)
    assert whole > 0
    close(found, np.full(B, whole), 1e-5)


def test_junk_moves_no_baseline_and_it_is_data():
    policy, reference = four()[:2] + np.float32([[3.0], [0.0]])
    checks.assert_ignores(
        lambda *x: unpaired_losses.kl_baseline(*x, mask=MASK), (policy, reference), MASK
    )
    slope = jax.grad(lambda x: unpaired_losses.kl_baseline(x, reference))(policy)
    assert not np.any(slope)


@pytest.mark.parametrize(("label", "sign"), [(1.0, -1), (0.0, 1)])
def test_desirable_answers_become_likelier_and_others_less_likely(label, sign):
    labels = np.full(B, label, np.float32)
    slope = jax.grad(
        lambda x: unpaired_losses.kto(x, four()[2], labels, 0.1, beta=BETA)[0]
    )(four()[0])
    assert (sign * np.asarray(slope) > 0).all()
