"""policy_gradient: minibatches, metrics, keys and programs of whole iterations."""

import dataclasses
import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from checks import close

from rlhf_jax import optim
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import objective, update
from rlhf_jax.studies import methods
from rlhf_jax.studies import policy_gradient as rows

PPO = tiny.config()
RLOO = tiny.config("rloo")


@functools.cache
def sampled():
    """A state off its reference and the Sample of a rollout; nothing is whitened."""
    state, *_, data = tiny.recorded(PPO)
    config = dataclasses.replace(PPO, whiten_advantages="none")
    result = policy_gradient.targets(data, 0.3, tiny.traced(), config=config)
    return state, objective.Sample(data, result)


# Minibatches.


def test_every_epoch_is_a_permutation_of_all_rows():
    state, _ = sampled()
    orders = np.asarray(update.orders(state, tiny.ROWS, config=PPO))
    assert orders.shape == (2, 2, tiny.ROWS // 2)
    for epoch in orders:
        assert sorted(epoch.ravel()) == list(range(tiny.ROWS))
    assert (orders[0] != orders[1]).any()
    later = state._replace(iteration=state.iteration + 1)
    assert (np.asarray(update.orders(later, tiny.ROWS, config=PPO)) != orders).any()


@pytest.mark.parametrize("mode", ["rollout", "minibatch"])
def test_a_minibatch_is_its_rows_whitened_whole_if_at_all(mode):
    config = dataclasses.replace(PPO, whiten_advantages=mode)
    state, sample = sampled()
    valid = np.asarray(sample.data.response_mask)
    plain = np.asarray(sample.targets.advantages, np.float64)
    total = 0
    for order in np.asarray(update.orders(state, tiny.ROWS, config=config))[0]:
        part, count = update.share(sample, order, config=config, axis_name=None)
        expected = plain[order]
        if mode == "minibatch":
            expected = tiny.whitened(expected, valid[order])
        close(part.targets.advantages, expected, rtol=1e-5, atol=1e-5)
        checks.same(part.data.tokens, sample.data.tokens[order])
        assert count == valid[order].sum()
        total += int(count)
    assert total == valid.sum()


def test_devices_take_shares_of_a_minibatch_whitened_whole():
    config = dataclasses.replace(PPO, whiten_advantages="minibatch")
    state, sample = sampled()
    order = update.orders(state, tiny.ROWS, config=config)[0, 0]
    whole, count = update.share(sample, order, config=config, axis_name=None)
    share = functools.partial(update.share, config=config, axis_name="data")
    device = jnp.arange(2)
    parts, counts = jax.vmap(lambda _: share(sample, order), axis_name="data")(device)
    checks.same(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts), whole)
    assert (counts == count).all()


def updated(config, state, sample):
    step = functools.partial(update.updates, **tiny.fixed(config))
    return jax.jit(step)(state, sample, tiny.traced())


def test_micro_batches_change_nothing():
    """Whitened over minibatches: what a loss that whitens its own part gets wrong."""
    config = dataclasses.replace(PPO, whiten_advantages="minibatch")
    whole, metrics = updated(config, *sampled())
    config = dataclasses.replace(config, micro_batches=4)
    parts, same = updated(config, *sampled())
    for x, y in zip(
        jax.tree.leaves(parts.learner.params),
        jax.tree.leaves(whole.learner.params),
        strict=True,
    ):
        close(x, y, rtol=1e-5, atol=1e-6)
    for name in metrics:
        close(same[name], metrics[name], rtol=1e-4, atol=1e-5)


def test_rows_that_do_not_divide_are_named():
    config = dataclasses.replace(PPO, minibatches=3)
    state, sample = sampled()
    with pytest.raises(ValueError, match=r"8 rows.*3 minibatches on 1 devices.*batch"):
        update.updates(state, sample, tiny.traced(), **tiny.fixed(config))


# The iteration.


def test_metrics_are_what_their_names_say():
    states, _ = tiny.run(PPO, 3)
    state = states[-1]
    after, (rollout, scores), metrics = tiny.iteration(PPO)(
        state, tiny.FROZEN, tiny.batch(3), tiny.traced(tiny.HYPER)
    )
    valid = np.asarray(rollout.response_mask)
    logps = tiny.logps_by_hand(state.learner.params["policy"]["table"], rollout)
    gap = logps - tiny.logps_by_hand(state.elastic.initial["table"], rollout)
    divergence, mean_score = gap.sum(-1).mean(), np.asarray(scores).mean()
    coef = tiny.HYPER.kl_coef
    expected = {
        "objective/kl": divergence,
        "objective/kl_token_max": np.abs(gap).max(),
        "objective/kl_coef": coef,
        "objective/scores": mean_score,
        "objective/non_score_reward": -coef * divergence,
        "objective/rlhf_reward": mean_score - coef * divergence,
        "objective/entropy": -logps.sum(-1).mean(),
        "response/length": valid.sum(-1).mean(),
        "response/ended": np.asarray(rollout.ended).mean(),
        "optim/learning_rate": tiny.HYPER.learning_rate,
        "optim/finite": 1.0,
        "optim/skipped": 0.0,
        "reset/reset": 0.0,
        "objective/advantage_std": 1.0,
    }
    for name, value in expected.items():
        close(metrics[name], value, rtol=1e-4, atol=1e-5)
    close(metrics["val/ratio"], 1.0, rtol=0.05)
    assert abs(divergence) > 1e-4 and metrics["val/ratio_first_error"] <= 1e-5
    assert after.iteration == 4 and after.learner.updates == 16


def test_the_state_keeps_its_form():
    (before, after), _ = tiny.run(PPO, 1)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
    assert after.iteration.dtype == after.elastic.ticks.dtype == jnp.int32


def test_init_shares_no_buffer_with_what_it_was_given():
    params = tiny.params(PPO)
    key = jax.random.key(0)
    tx = optim.transformation(PPO.optimizer)
    state = policy_gradient.init(params, tx, tiny.HYPER, key, config=PPO)
    state = state._replace(key=jax.random.key_data(state.key))
    spots = checks.buffers((params, jax.random.key_data(key), state))
    assert len(set(spots)) == len(spots)


def test_the_same_state_twice_gives_the_same_iteration_bit_for_bit():
    state = tiny.start(PPO)
    args = (state, tiny.FROZEN, tiny.batch(), tiny.traced())
    first, second = tiny.iteration(PPO)(*args), tiny.iteration(PPO)(*args)
    as_data = functools.partial(jax.tree.map, _plain)
    checks.same(as_data(first), as_data(second))


def _plain(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def test_the_next_iteration_draws_other_samples_of_the_same_prompts():
    state = tiny.start(PPO)
    draw = tiny.rollout(PPO)
    first = draw(state, tiny.batch())
    second = draw(state._replace(iteration=state.iteration + 1), tiny.batch())
    assert (np.asarray(first.tokens) != np.asarray(second.tokens)).any()


def test_a_sample_depends_on_its_row_id_not_on_where_it_lies():
    """Any rows of the batch, alone or in another order, are drawn as in the whole."""
    for config in (PPO, RLOO):
        state, batch, count = tiny.start(config), tiny.batch(), config.candidates
        whole = tiny.rollout(config)(state, batch)
        turned = tiny.rollout(config)(state, jax.tree.map(lambda x: x[::-1], batch))
        grouped = jax.tree.map(
            lambda x, k=count: x.reshape(tiny.ROWS, k, *x.shape[1:])[::-1], turned
        )
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), grouped)
        checks.same(flat, whole)


def test_candidates_of_a_prompt_lie_side_by_side_and_differ():
    rollout = tiny.recorded(RLOO)[1]
    tokens = np.asarray(rollout.tokens).reshape(tiny.ROWS, 2, -1)
    prompts, responses = tokens[..., : tiny.PROMPT], tokens[..., tiny.PROMPT :]
    np.testing.assert_array_equal(prompts[:, 0], prompts[:, 1])
    np.testing.assert_array_equal(prompts[:, 0], tiny.batch().tokens)
    assert (responses[:, 0] != responses[:, 1]).any(-1).mean() > 0.5


def test_the_kl_coefficient_follows_its_controller():
    hyper = tiny.HYPER._replace(kl_target=0.5, kl_horizon=100.0)
    states, metrics = tiny.run(PPO, 2, hyper)
    error = np.clip(metrics[1]["objective/kl"] / 0.5 - 1, -0.2, 0.2)
    expected = float(states[1].controller.coef) * (1 + error * tiny.ROWS / 100)
    close(states[2].controller.coef, expected, rtol=1e-5)
    close(states[1].controller.coef, 0.1 * (1 - 0.2 * tiny.ROWS / 100), rtol=1e-5)
    fixed, _ = tiny.run(PPO, 1)
    assert fixed[1].controller.coef == fixed[0].controller.coef


def test_every_method_that_shares_a_config_shares_a_program():
    """Methods, calendars and sweeps are values: PPO to the last ablation, one trace."""
    state, step = tiny.start(PPO), tiny.iteration(PPO)
    base = policy_gradient.Hyper()
    for method in methods.METHODS.values():
        row = method.train
        if not isinstance(row, rows.PolicyGradient) or row.static:
            continue
        options = {"resets": method.is_reset, "ticks_once": row.ticks_once}
        hyper = rows.overlay(base, row.hyper, decay=0.9, every=3, **options)
        for rate in (1e-3, 1e-4):
            args = tiny.traced(hyper._replace(learning_rate=rate))
            step(state, tiny.FROZEN, tiny.batch(), args)
    assert step._cache_size() == 1


def test_configs_that_cannot_work_are_named():
    with pytest.raises(ValueError, match="rloo.*candidates=1: it compares.*2 or more"):
        tiny.config("rloo", candidates=1)
    for name in ("candidates", "epochs", "minibatches", "micro_batches"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            tiny.config(**{name: 0})
