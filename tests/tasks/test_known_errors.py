"""known_errors: the same response has the same error, of a known distribution."""

import numpy as np
import pytest
from scipy import stats

from rlhf_jax.tasks import known_errors

N, T = 20_000, 5


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.integers(0, 400, (N, T)), np.ones((N, T), int)


def test_numbers_are_uniform(rows):
    numbers = known_errors.uniform(*rows)
    assert ((numbers > 0) & (numbers < 1)).all()
    assert stats.kstest(numbers, "uniform").pvalue > 0.01
    # Neighbours in one token have nothing to do with each other.
    tokens = rows[0].copy()
    tokens[:, -1] += 1
    other = known_errors.uniform(tokens, rows[1])
    assert abs(np.corrcoef(numbers, other)[0, 1]) < 4 / np.sqrt(N)


@pytest.mark.parametrize(
    "tails, law",
    [("heavy_tailed", stats.t(3, scale=3**-0.5)), ("light_tailed", stats.norm())],
)
def test_errors_have_their_distribution_and_variance_1(rows, tails, law):
    assert law.std() == pytest.approx(1.0)
    assert stats.kstest(known_errors.draw(tails, *rows), law.cdf).pvalue > 0.01


def test_the_twins_are_ordered_alike(rows):
    heavy, light = (
        known_errors.draw(tails, *rows) for tails in ("heavy_tailed", "light_tailed")
    )
    np.testing.assert_array_equal(np.argsort(heavy), np.argsort(light))
    assert np.abs(heavy).max() > 2 * np.abs(light).max()


def test_only_the_valid_tokens_count(rows):
    tokens, mask = rows[0][:50], np.tile([1, 1, 1, 0, 0], (50, 1))
    junk = np.where(mask == 0, 399 - tokens, tokens)
    found = known_errors.uniform(tokens, mask)
    np.testing.assert_array_equal(found, known_errors.uniform(junk, mask))
    short = known_errors.uniform(tokens[:, :3], mask[:, :3])
    np.testing.assert_array_equal(found, short)
    assert (found != known_errors.uniform(tokens, np.ones_like(mask))).all()


def test_another_salt_has_other_errors(rows):
    here, there = (known_errors.uniform(*rows, salt=salt) for salt in (0, 1))
    assert abs(np.corrcoef(here, there)[0, 1]) < 4 / np.sqrt(N)
    np.testing.assert_array_equal(here, known_errors.uniform(*rows, salt=0))
