"""advantages: generalised advantage estimation, returns and group baselines."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import advantages

SHAPE = (4, 6)
tokens = checks.floats(SHAPE)
groups = checks.floats((3, 4))
masks = checks.masks(SHAPE)
rates = st.floats(0, 1)
gae = jax.jit(advantages.gae)
returns = jax.jit(advantages.returns)
GROUPED = {
    "leave_one_out": advantages.leave_one_out,
    "group_normalized": advantages.group_normalized,
    "baseline": advantages.baseline,
}


@pytest.fixture
def rewards(rng):
    return rng.normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def values(rng):
    return rng.normal(size=SHAPE).astype(np.float32)[::-1].copy()


def gae_loop(rewards, values, mask, gamma, lam, bootstrap=None):
    """Schulman et al. 2016, eq. 16, as the double sum over the valid tokens."""
    out = np.zeros(mask.shape)
    for b, row in enumerate(mask):
        at = [t for t in range(len(row)) if row[t]]
        v = [float(values[b, t]) for t in at]
        v.append(0.0 if bootstrap is None else float(bootstrap[b]))
        delta = [
            float(rewards[b, t]) + gamma * v[i + 1] - v[i] for i, t in enumerate(at)
        ]
        for i, t in enumerate(at):
            terms = delta[i:]
            out[b, t] = sum((gamma * lam) ** k * d for k, d in enumerate(terms))
    return out, out + np.where(mask, values, 0)


def returns_loop(rewards, mask, gamma, bootstrap=None):
    out = np.zeros(mask.shape)
    for b, row in enumerate(mask):
        rest = 0.0 if bootstrap is None else float(bootstrap[b])
        for t in reversed(range(len(row))):
            if row[t]:
                out[b, t] = rest = float(rewards[b, t]) + gamma * rest
    return out


def test_gae_in_exact_binary_fractions():
    """γ = ½, λ = ¼, by hand: δ₂ = 4 − 2 = 2, δ₁ = 0 + 1 − 4 = −3, δ₀ = 8 + 2 − 2 = 8;
    A₂ = 2, A₁ = −3 + ⅛·2 = −2.75, A₀ = 8 − ⅛·2.75 = 7.65625."""
    rewards, values = np.array([[8.0, 0.0, 4.0]]), np.array([[2.0, 4.0, 2.0]])
    mask = np.ones((1, 3))
    out, target = advantages.gae(rewards, values, mask, gamma=0.5, lam=0.25)
    np.testing.assert_array_equal(out, [[7.65625, -2.75, 2.0]])
    np.testing.assert_array_equal(target, [[9.65625, 1.25, 4.0]])


def test_gae_bootstraps_only_when_asked():
    rewards, values, mask = np.array([[1.0, 9.0]]), np.array([[0.5, 9.0]]), [[1, 0]]
    args = (rewards, values, np.array(mask))
    out, _ = advantages.gae(*args, gamma=0.5, lam=1.0)
    np.testing.assert_array_equal(out, [[0.5, 0.0]])
    out, _ = advantages.gae(*args, gamma=0.5, lam=1.0, bootstrap=np.array([4.0]))
    np.testing.assert_array_equal(out, [[2.5, 0.0]])


@examples
@given(tokens, tokens, masks, rates, rates)
def test_gae_is_the_double_sum(rewards, values, mask, gamma, lam):
    expected = gae_loop(rewards, values, mask, gamma, lam)
    actual = gae(rewards, values, mask, gamma=gamma, lam=lam)
    close(actual[0], expected[0], 1e-5, 1e-5)
    close(actual[1], expected[1], 1e-5, 1e-5)


def test_gae_with_a_bootstrap_is_the_double_sum(rewards, values):
    mask, bootstrap = checks.ragged(), np.array([1.0, -2.0, 5.0, 0.5])
    expected = gae_loop(rewards, values, mask, 0.9, 0.8, bootstrap)
    options = {"gamma": 0.9, "lam": 0.8, "bootstrap": bootstrap}
    actual = advantages.gae(rewards, values, mask, **options)
    close(actual[0], expected[0], 1e-5, 1e-6)
    close(actual[1], expected[1], 1e-5, 1e-6)


@examples
@given(tokens, tokens, masks, st.floats(-3, 3, width=32, allow_subnormal=False))
def test_gae_scales_with_rewards_and_values(rewards, values, mask, scale):
    scale = np.float32(scale)
    once = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    more = gae(scale * rewards, scale * values, mask, gamma=0.9, lam=0.8)
    close(more[0], scale * np.asarray(once[0]), 1e-4, 1e-4)


@examples
@given(tokens, tokens, masks)
def test_gae_at_lambda_and_gamma_1_is_the_monte_carlo_return(rewards, values, mask):
    out, target = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    expected = returns_loop(rewards, mask, 1.0)
    close(target, expected, 1e-5, 1e-4)
    close(out, expected - np.where(mask, values, 0), 1e-5, 1e-4)


@examples
@given(tokens, tokens, masks)
def test_gae_at_lambda_0_is_the_one_step_error(rewards, values, mask):
    out, _ = gae(rewards, values, mask, gamma=0.5, lam=0.0)
    close(out, gae_loop(rewards, values, mask, 0.5, 0.0)[0], 1e-5, 1e-5)


def test_padding_on_either_side_changes_nothing(rewards, values):
    mask = checks.ragged()
    short = advantages.gae(rewards, values, mask, gamma=0.9, lam=0.8)
    for pad in ((0, 2), (2, 0)):
        wide = [np.pad(x, ((0, 0), pad)) for x in (rewards, values, mask)]
        long = advantages.gae(*wide, gamma=0.9, lam=0.8)
        for x, y in zip(short, long, strict=True):
            np.testing.assert_array_equal(y[:, pad[0] : pad[0] + 6], x)


@pytest.mark.parametrize("mask", [checks.ragged(), np.zeros(SHAPE, np.int32)])
def test_junk_reaches_neither_value_nor_gradient(mask, rewards, values):
    checks.assert_ignores(
        lambda r, v: advantages.gae(r, v, mask, gamma=0.9, lam=0.8),
        [rewards, values],
        mask,
    )
    checks.assert_ignores(
        lambda r: advantages.returns(r, mask, gamma=0.9), [rewards], mask
    )


def test_gradients_are_the_numerical_ones(rewards, values):
    mask = checks.ragged()
    checks.assert_gradients(
        lambda r, v: advantages.gae(r, v, mask, gamma=0.9, lam=0.8), rewards, values
    )
    checks.assert_gradients(lambda r: advantages.returns(r, mask, gamma=0.9), rewards)


def test_gae_is_traced_once_over_gamma_and_lambda(rewards, values):
    traces = []

    @jax.jit
    def compiled(gamma, lam):
        traces.append(1)
        return advantages.gae(rewards, values, checks.ragged(), gamma=gamma, lam=lam)

    for gamma, lam in ((1.0, 0.95), (0.5, 0.0), (0.99, 1.0)):
        options = {"gamma": gamma, "lam": lam}
        eager = advantages.gae(rewards, values, checks.ragged(), **options)
        close(compiled(gamma, lam)[0], eager[0], 1e-6, 1e-6)
    assert len(traces) == 1


def test_gae_refuses_shapes_that_differ(rewards, values):
    with pytest.raises(AssertionError):
        advantages.gae(rewards, values[:, :-1], checks.ragged(), gamma=1.0, lam=1.0)


def test_returns_by_hand():
    out = advantages.returns(np.array([[1.0, 2.0, 4.0]]), np.ones((1, 3)), gamma=0.5)
    np.testing.assert_array_equal(out, [[3.0, 4.0, 4.0]])
    rewards, mask = np.array([[1.0, 2.0, 4.0]]), np.array([[1, 1, 0]])
    out = advantages.returns(rewards, mask, gamma=0.5, bootstrap=np.array([8.0]))
    np.testing.assert_array_equal(out, [[4.0, 6.0, 0.0]])


@examples
@given(tokens, masks, rates)
def test_returns_are_the_backward_loop(rewards, mask, gamma):
    actual = returns(rewards, mask, gamma=gamma)
    close(actual, returns_loop(rewards, mask, gamma), 1e-5, 1e-5)


@examples
@given(tokens, masks)
def test_the_first_undiscounted_return_is_the_sum(rewards, mask):
    out = np.asarray(returns(rewards, mask, gamma=1.0))
    total = np.where(mask, rewards, 0).sum(1)
    first = [
        row[m.argmax()] if m.any() else 0.0 for row, m in zip(out, mask, strict=True)
    ]
    close(first, total, 1e-5, 1e-4)


def test_group_advantages_by_hand():
    scores = np.array([[1.0, 3.0], [5.0, 5.0]])
    close(advantages.leave_one_out(scores), [[-2, 2], [0, 0]])
    close(advantages.baseline(scores), [[-1, 1], [0, 0]])
    unit = 1 / (1 + 1e-6)
    close(advantages.group_normalized(scores), [[-unit, unit], [0, 0]])


def group_loop(scores):
    """The three definitions in float64."""
    scores = np.asarray(scores, np.float64)
    out = {name: np.zeros(scores.shape) for name in GROUPED}
    for n, row in enumerate(scores):
        for i, s in enumerate(row):
            others = [x for j, x in enumerate(row) if j != i]
            out["leave_one_out"][n, i] = s - sum(others) / len(others)
            out["baseline"][n, i] = s - row.mean()
            out["group_normalized"][n, i] = (s - row.mean()) / (row.std() + 1e-6)
    return out


@pytest.mark.parametrize("name", GROUPED)
def test_group_advantages_are_the_loops(name, rng):
    scores = rng.normal(size=(3, 4)).astype(np.float32)
    close(GROUPED[name](scores), group_loop(scores)[name], 1e-5, 1e-6)


@examples
@given(
    groups, st.floats(-5, 5, width=32, allow_subnormal=False), st.permutations(range(4))
)
def test_group_advantages_sum_to_0_and_ignore_a_shift(scores, shift, order):
    varied = scores.std(1) > 0.1  # below that, rounding is a large part of the spread
    for name, fn in GROUPED.items():
        out = np.asarray(fn(scores))
        turned = np.asarray(fn(scores[:, list(order)]))
        moved = np.asarray(fn(scores + np.float32(shift)))
        keep = varied if name == "group_normalized" else slice(None)
        close(out.sum(1)[keep], np.zeros(3)[keep], atol=1e-4)
        close(turned[keep], out[:, list(order)][keep], 1e-4, 1e-4)
        close(moved[keep], out[keep], 1e-4, 1e-4)


@pytest.mark.parametrize("name", GROUPED)
def test_a_group_of_one_is_refused(name):
    with pytest.raises(ValueError, match=r"\(3, 1\).*2 responses or more"):
        GROUPED[name](jnp.zeros((3, 1)))


@pytest.mark.parametrize("name", GROUPED)
def test_group_gradients_are_the_numerical_ones(name, rng):
    checks.assert_gradients(GROUPED[name], rng.normal(size=(2, 3)))


@pytest.mark.parametrize("name", GROUPED)
def test_jit_is_eager_on_groups(name, rng):
    scores = rng.normal(size=(3, 4)).astype(np.float32)
    close(jax.jit(GROUPED[name])(scores), GROUPED[name](scores))


def test_best_by_hand():
    scores = np.array([[1.0, 3.0, 2.0], [5.0, 4.0, 5.0]])
    out = advantages.best(scores)
    np.testing.assert_array_equal(out, [[0, 3, 0], [3, 0, 0]])
    with pytest.raises(ValueError, match="2 responses or more"):
        advantages.best(scores[:, :1])


def test_wins_by_hand():
    scores = np.array([[1.0, 3.0, 2.0], [5.0, 4.0, 5.0]])
    np.testing.assert_allclose(
        advantages.wins(scores), [[0, 1, 0.5], [0.75, 0, 0.75]], atol=1e-7
    )
    with pytest.raises(ValueError, match="2 responses or more"):
        advantages.wins(scores[:, :1])


@examples
@given(groups)
def test_wins_are_counted_pair_by_pair_and_ignore_a_rising_change(scores):
    out = np.asarray(advantages.wins(scores))
    for row, shares in zip(scores, out, strict=True):
        for i, share in enumerate(shares):
            others = np.delete(row, i)
            won = (row[i] > others).sum() + 0.5 * (row[i] == others).sum()
            assert abs(share - won / 3) < 1e-6
    checks.same(advantages.wins(2 * scores), advantages.wins(scores))


@examples
@given(groups)
def test_best_is_one_response_a_prompt_and_ignores_a_rising_change(scores):
    out = np.asarray(advantages.best(scores))
    for row, weights in zip(scores, out, strict=True):
        (index,) = np.flatnonzero(weights)
        assert weights[index] == 4 and row[index] == row.max()
        assert not (row[:index] == row.max()).any()
    checks.same(advantages.best(2 * scores), advantages.best(scores))
