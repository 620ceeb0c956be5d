"""reference_free: SimPO, CPO, ORPO and likelihood; closed forms, loops, invariants."""

import numpy as np
import pytest
from checks import close
from preference_cases import ALPHA, BETA, GAMMA, LENGTHS, MASK, SMOOTH, evaluate, four

from rlhf_jax import losses, reference_free

LOG2 = np.log(2)
ONES = np.ones(2, np.float32)


def sigma(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def test_equal_answers_have_known_losses():
    """Log-probs of −1, two tokens an answer: NLL ½ of sums, 1 of means."""
    loss, metrics = reference_free.simpo(-ONES, -ONES, beta=2.0, gamma=np.log(3))
    close(loss, np.log(4))
    assert metrics["accuracies"] == 0.5
    loss, metrics = reference_free.cpo(-ONES, -ONES, 2 * ONES, beta=0.1, alpha=3.0)
    close(loss, LOG2 + 1.5)
    assert metrics["nll"] == 0.5
    loss, metrics = reference_free.orpo(-ONES, -ONES, 2 * ONES, beta=0.5)
    close(loss, 1.0 + 0.5 * LOG2)
    assert metrics["log_odds"] == 0.0 and metrics["nll"] == 1.0


def test_odds_by_hand():
    """Probabilities of ¾ and ¼: the odds are 3 and ⅓, their ratio 9."""
    sides = np.log([[0.75], [0.25]])
    loss, metrics = reference_free.orpo(*sides, np.ones(1), beta=1.0)
    close(metrics["log_odds"], np.log(9))
    close(loss, -np.log(0.75) - np.log(0.9))


def below_zero():
    """Log-probs [2, rows] as the cases see them, of valid rows."""
    return -0.1 - np.abs(four().astype(np.float64)[:2, MASK == 1])


def _simpo(c, r):
    gap = BETA * (c - r) - GAMMA
    return -(1 - SMOOTH) * np.log(sigma(gap)) - SMOOTH * np.log(sigma(-gap))


def _cpo(c, r):
    gap = BETA * (c - r)
    return -(1 - SMOOTH) * np.log(sigma(gap)) - SMOOTH * np.log(sigma(-gap))


def _orpo(c, r):
    odds = np.log(np.exp(c) / (1 - np.exp(c))) - np.log(np.exp(r) / (1 - np.exp(r)))
    return -BETA * np.log(sigma(odds))


def _nll(name):
    """Of summed log-probs, which for ORPO are means times lengths."""
    lengths, chosen = LENGTHS[MASK == 1], below_zero()[0]
    return -(chosen * lengths if name == "orpo" else chosen).sum() / lengths.sum()


@pytest.mark.parametrize(
    ("name", "term", "weight"),
    [("simpo", _simpo, 0.0), ("cpo", _cpo, ALPHA), ("orpo", _orpo, 1.0)],
)
def test_a_loss_is_the_loop_over_pairs(name, term, weight):
    terms = [term(c, r) for c, r in below_zero().T]
    loss, metrics = evaluate(*four(), mask=MASK)[name]
    close(loss, np.mean(terms) + weight * _nll(name), 1e-5, 1e-6)
    close(metrics["chosen"], BETA * below_zero()[0].mean(), 1e-5)
    if weight:
        close(metrics["nll"], _nll(name), 1e-5)


def test_simpo_is_bradley_terry_with_a_margin_and_ignores_a_common_constant():
    chosen, rejected = four()[:2]
    labels = np.array([1.0, 0.25, 0.5, 0.0], np.float32)
    loss, _ = reference_free.simpo(
        chosen, rejected, beta=2.0, gamma=0.3, preference=labels
    )
    plain = losses.bradley_terry(
        2 * chosen, 2 * rejected, margin=0.3, preference=labels
    )[0]
    close(loss, plain)
    moved, _ = reference_free.simpo(
        chosen + 1, rejected + 1, beta=2.0, gamma=0.3, preference=labels
    )
    close(moved, loss, 1e-5, 1e-6)


def test_cpo_without_likelihood_is_dpo_against_a_uniform_reference():
    chosen, rejected = four()[:2]
    uniform = np.full_like(chosen, -3.0)
    cpo, _ = reference_free.cpo(chosen, rejected, LENGTHS, beta=BETA, alpha=0.0)
    close(cpo, losses.dpo(chosen, rejected, uniform, uniform, beta=BETA)[0], 1e-5)


def test_orpo_of_an_answer_turned_round_has_the_inverse_odds():
    a, b = -0.1 - np.abs(four()[:2])
    one, two = (reference_free.orpo(*x, LENGTHS, beta=1.0) for x in ((a, b), (b, a)))
    close(one[1]["log_odds"], -two[1]["log_odds"], 1e-5)


def test_likelihood_is_per_token_not_per_answer():
    logps, lengths = np.float32([-1.0, -6.0]), np.float32([1.0, 3.0])
    loss, metrics = reference_free.sft(logps, lengths)
    close(loss, 7 / 4)
    assert metrics["nll"] == loss
    close(reference_free.sft(logps, lengths, mask=np.array([1, 0]))[0], 1.0)
    close(reference_free.sft(logps, lengths, count=14.0)[0], 0.5)


def test_likely_and_unlikely_answers_keep_odds_finite():
    sides = np.float32([[-1e-6, -1e3], [-1e3, -1e-6]])
    loss, _ = reference_free.orpo(*sides, np.ones(2, np.float32), beta=1.0)
    assert np.isfinite(loss)
