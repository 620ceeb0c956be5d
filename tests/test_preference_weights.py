"""preference_losses: what enters a loss as data, BCO's shift and WPO's weights."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
from checks import close
from preference_cases import MASK, B, four

from rlhf_jax import preference_losses


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
