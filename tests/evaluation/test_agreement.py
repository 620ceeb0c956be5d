"""Agreement with given labels, and its interval."""

import numpy as np
import pytest
from scipy import stats

from rlhf_jax.evaluation.agreement import agreement

NAN = float("nan")


def test_agreement_by_hand():
    found = agreement([0.9, 0.2, 0.7, 0.4, 0.5, NAN], [1, 0, 0, 0, 1, 1])
    # Right, right, wrong, right, a tie; the last was not judged.
    assert found.share == pytest.approx(3.5 / 5)
    assert (found.pairs, found.ties, found.missing) == (5, 1, 1)
    assert agreement([0.9], [True]).share == 1 and agreement([0.9], [False]).share == 0


@pytest.mark.parametrize(("right", "count"), [(0, 4), (7, 10), (120, 160), (9, 9)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_is_scipys(right, count, level):
    preferences = np.repeat([0.8, 0.3], [right, count - right])
    found = agreement(preferences, np.ones(count), level=level)
    interval = stats.binomtest(right, count).proportion_ci(level, method="wilson")
    np.testing.assert_allclose((found.low, found.high), interval, rtol=1e-9, atol=1e-12)
    assert found.share == right / count


def test_agreement_is_symmetric_and_knows_no_first(rng):
    p, q = rng.random((2, 60))
    assert agreement(p, q) == agreement(q, p) == agreement(1 - p, 1 - q)
    turned = agreement(1 - p, q)
    assert turned.share == pytest.approx(1 - agreement(p, q).share)


def test_a_judge_that_never_decides_agrees_by_half():
    found = agreement(np.full(50, 0.5), np.ones(50))
    assert found.share == 0.5 and found.ties == 50
    assert found.low < 0.5 < found.high


def test_the_interval_covers_the_truth(rng):
    inside = 0
    for _ in range(400):
        found = agreement(np.where(rng.random(60) < 0.7, 0.9, 0.1), np.ones(60))
        inside += found.low <= 0.7 <= found.high
    # 95% but for 4 standard errors.
    assert abs(inside / 400 - 0.95) < 4 * (0.95 * 0.05 / 400) ** 0.5


@pytest.mark.parametrize(
    ("preferences", "given"), [([NAN], [1]), ([], []), ([1.2], [1]), ([0.5], [2])]
)
def test_what_is_no_probability_is_refused(preferences, given):
    with pytest.raises(ValueError, match="probabilities of pairs"):
        agreement(preferences, given)


def test_other_pairs_are_refused():
    with pytest.raises(ValueError, match=r"preferences \(2,\) and labels \(1,\)"):
        agreement([0.5, 0.5], [1])
