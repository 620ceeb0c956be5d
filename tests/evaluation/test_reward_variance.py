"""reward_variance: by hand, by the loop, and what must not matter."""

import checks
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.evaluation import reward_variance

within = reward_variance.within_prompts


def test_variances_by_hand():
    """Prompts of 0, 2 and of 4, 6: variance 2 within both, 5 over all four."""
    assert within([[0.0, 2.0], [4.0, 6.0]]) == pytest.approx(2 / 5)
    assert within([[0.0, 2.0], [4.0, 6.0]], scale=2.0) == pytest.approx(2 / 4)
    assert within([[1.0, 1.0], [5.0, 5.0]]) == 0.0
    assert within([[3.3, 3.3], [3.3, 3.3]]) == 0.0
    assert within([[0.0, 1.0]]) == pytest.approx(2.0)  # K/(K − 1) of a single prompt


def test_the_variance_is_the_loops(rng):
    rewards = rng.normal(size=(7, 5)) + rng.normal(size=(7, 1))
    whitened = (rewards - rewards.mean()) / rewards.std()
    total = 0.0
    for row in whitened:
        total += sum((x - row.mean()) ** 2 for x in row) / 4
    assert within(rewards) == pytest.approx(total / 7, rel=1e-12)


def test_prompts_that_do_not_differ_have_about_one_whatever_k(rng):
    for k in (2, 10):
        found = [within(rng.normal(size=(50, k))) for _ in range(200)]
        assert abs(np.mean(found) - 1) < 1 / 49 + 4 * np.std(found) / 200**0.5


@checks.examples
@given(checks.floats((3, 4)), st.floats(0.125, 8), st.floats(-5, 5))
def test_neither_the_unit_nor_the_zero_of_a_reward_matters(rewards, unit, zero):
    rewards = np.round(rewards.astype(np.float64), 3)  # nothing that a zero swallows
    found = within(rewards)
    if np.ptp(rewards) > 0:
        moved = within(unit * rewards + zero)
        assert moved == pytest.approx(found, rel=1e-6, abs=1e-9)
    assert within(rewards[::-1, ::-1]) == pytest.approx(found, rel=1e-9)


def test_what_is_no_table_of_rewards_is_refused():
    with pytest.raises(ValueError, match=r"2 answers or more; got shape \(3, 1\)"):
        within(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="prompt 1, answer 0 is nan"):
        within([[0.0, 1.0], [np.nan, 1.0]])
    with pytest.raises(ValueError, match="scale=0"):
        within([[0.0, 1.0]], scale=0.0)
