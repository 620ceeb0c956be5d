"""policy_gradient: named methods are combinations of settings, exact in any parts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from checks import close, same

from rlhf_jax import training
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import (
    collect,
    groups,
    objective,
    update,
    variants,
)
from rlhf_jax.runtime import parallel

GRPO = tiny.config("grpo", epochs=1, minibatches=1)
ROWS = 2 * tiny.ROWS  # two candidates of every prompt

# What each method is, in flags: (method, loss, scale, ratio, KL, ε, ε upwards).
COMBINATIONS = [
    ("grpo", "grpo", "group", "token", "loss", 0.2, 0.2),
    ("dr_grpo", "dr_grpo", "none", "token", "none", 0.2, 0.2),
    ("dapo", "dapo", "group", "token", "none", 0.2, 0.28),
    ("gspo", "grpo", "group", "sequence", "none", 3e-4, 4e-4),
    ("reinforce_plus_plus_baseline", "bnpo", "none", "token", "loss", 0.2, 0.2),
]


@functools.cache
def example():
    """A rollout of weights that have moved on since, cut off here and there."""
    state, *_, data = tiny.recorded(GRPO)
    assert 0 < np.asarray(data.ended).sum() < ROWS
    return data, tiny.shake(state.learner.params, 7)


def sampled(config, **hyper):
    targets = policy_gradient.targets(
        example()[0], 0.3, tiny.traced(**hyper), config=config
    )
    sample = objective.Sample(example()[0], targets)
    return groups.without_truncated(sample, config)


def gradients(config, axis_name=None, **hyper):
    """(gradient, metrics) of a minibatch of all rows; of a device, its shares."""
    part, count = update.share(
        sampled(config), np.arange(ROWS), config=config, axis_name=axis_name
    )
    scale = objective.Scale(tiny.traced(**hyper), jnp.float32(0.3))
    loss = update.make_loss(networks=tiny.networks(config), config=config, scale=scale)
    micro = {"micro_batches": config.micro_batches, "axis_name": axis_name}
    return training.gradients(loss, example()[1], part, count=count, **micro)


def spelled(name, loss, scale, level, kl_in, low, high):
    """(config, hyper) of a method by its name, and of GRPO with its settings."""
    named = dataclasses.replace(GRPO, algorithm=name)
    other = dataclasses.replace(
        GRPO,
        loss_type=loss,
        scale_rewards=scale,
        importance_sampling_level=level,
        kl_in=kl_in,
        whiten_advantages=named.whitening,
    )
    return (named, {}), (other, {"clip": low, "clip_high": high})


@functools.cache
def combinations():
    """{method: what its name and its settings give}, in one program."""

    def compute():
        return {
            row[0]: [gradients(config, **hyper) for config, hyper in spelled(*row)]
            for row in COMBINATIONS
        }

    example()  # not drawn while tracing
    return jax.jit(compute)()


@pytest.mark.parametrize("row", COMBINATIONS, ids=lambda row: row[0])
def test_a_method_is_grpo_with_other_settings(row):
    """The same gradient and metrics, whichever way it is asked for; and its own."""
    named, other = combinations()[row[0]]
    jax.tree.map(lambda x, y: close(x, y, 1e-6, 1e-7), named, other)
    for name, (rest, _) in combinations().items():
        table = rest[0]["policy"]["table"]
        equal = np.abs(table - named[0]["policy"]["table"]).max() < 1e-4
        assert equal == (name == row[0])
    config = dataclasses.replace(GRPO, algorithm=row[0])
    assert variants.clips(config.variant, tiny.HYPER) == row[-2:]


# One of each kind of average, and ratios of responses.
AVERAGES = [(name, "token") for name in ("grpo", "dapo", "dr_grpo")]
AVERAGES.append(("grpo", "sequence"))


@functools.cache
def parts():
    """{kind: gradients of a whole minibatch, in micro-batches, on two devices}."""

    def compute(devices):
        made = {}
        for loss_type, level in AVERAGES:
            config = dataclasses.replace(
                GRPO, loss_type=loss_type, importance_sampling_level=level
            )
            cut = dataclasses.replace(config, micro_batches=2)

            def shared(device, config=config):
                gradient, metrics = gradients(config, "rows")
                return gradient, training.whole(metrics, "rows")

            split = jax.vmap(shared, axis_name="rows")(devices)
            one = jax.tree.map(lambda x: x[1], split)
            made[loss_type, level] = gradients(config), gradients(cut), one
        return made

    example()  # not drawn while tracing
    return jax.jit(compute)(jnp.arange(2))


@pytest.mark.parametrize("kind", AVERAGES, ids="-".join)
def test_micro_batches_and_devices_add_up_to_the_whole(kind):
    """Averages are taken over a minibatch before anything is cut out of it."""
    whole, micro, device = parts()[kind]
    jax.tree.map(lambda x, y: close(x, y, 1e-5, 1e-6), micro, whole)
    jax.tree.map(lambda x, y: close(x, y, 1e-5, 1e-6), device, whole)
    assert np.abs(whole[0]["policy"]["table"]).max() > 1e-3


def test_truncated_responses_carry_no_loss_but_their_scores_count():
    config = dataclasses.replace(GRPO, mask_truncated_completions=True)
    data, _ = example()
    ended = np.asarray(data.ended)
    same(sampled(config).targets, sampled(GRPO).targets)
    part, count = update.share(
        sampled(config), np.arange(ROWS), config=config, axis_name=None
    )
    kept = np.asarray(data.response_mask) * ended[:, None]
    assert count == kept.sum() < np.asarray(data.response_mask).sum()
    close(part.weights, kept / (ROWS * np.maximum(kept.sum(-1, keepdims=True), 1)))


def test_responses_pay_for_the_last_tokens_before_the_limit():
    _, drawn, scores, _ = tiny.recorded(GRPO)
    paid = collect.paid(scores, drawn, tiny.HYPER._replace(soft_punish_cache=2), GRPO)
    lengths = np.asarray(drawn.response_mask).sum(-1)
    expected = np.clip((tiny.NEW - 2 - lengths) / 2, -1, 0)
    close(paid, scores + expected)
    assert -1 in expected and 0 in expected
    same(collect.paid(scores, drawn, tiny.HYPER, GRPO), jnp.asarray(scores))


def test_reinforce_plus_plus_whitens_returns_over_the_batch():
    config = tiny.config("reinforce_plus_plus")
    data = example()[0]
    hyper = tiny.traced(gamma=0.9)
    result = policy_gradient.targets(data, 0.3, hyper, config=config)
    valid = np.asarray(data.response_mask)
    gap = np.asarray(data.logps, np.float64) - np.asarray(data.reference_logps)
    paid = -0.3 * gap * valid
    paid[np.arange(ROWS), valid.sum(-1) - 1] += np.asarray(data.scores)
    returns = np.zeros_like(paid)
    for t in range(tiny.NEW):
        returns[:, t] = (paid[:, t:] * 0.9 ** np.arange(tiny.NEW - t)).sum(-1)
    expected = tiny.whitened(returns * valid, valid)
    close(result.advantages, expected, rtol=1e-5, atol=1e-5)
    assert not config.learns_value and config.penalty_in == "reward"


# Dynamic sampling.

TWICE = dataclasses.replace(
    GRPO, algorithm="dr_grpo", dynamic_sampling=2, micro_batches=2
)


@functools.partial(jax.jit, static_argnames=("config", "axis_name"))
def select(rollout, scores, *, config=TWICE, axis_name=None):
    given = {"config": config, "axis_name": axis_name}
    return groups.select(rollout, scores, tiny.HYPER, **given)


def drawn():
    """A rollout of 8 groups of 2, of which those with an odd number have a signal."""
    _, rollout, *_ = tiny.recorded(GRPO)
    pairs = np.arange(ROWS) // 2
    scores = pairs + 0.5 * (pairs % 2) * (np.arange(ROWS) % 2)
    return rollout, jnp.asarray(scores, jnp.float32)


def test_groups_with_a_signal_go_first_in_the_order_drawn():
    rollout, scores = drawn()
    kept, paid, named = select(rollout, scores)
    rows = [2, 3, 6, 7, 10, 11, 14, 15]
    same(paid, scores[jnp.array(rows)])
    same(kept, jax.tree.map(lambda x: x[jnp.array(rows)], rollout))
    assert named == {"reward/zero_std_drawn": 0.5}
    few = jnp.where(jnp.arange(ROWS) < 12, 1.0, scores)  # one group has a signal
    _, paid, named = select(rollout, few)
    close(paid, [7, 7.5, 1, 1, 1, 1, 1, 1])
    assert named == {"reward/zero_std_drawn": 0.875}


def test_devices_keep_the_groups_that_one_would():
    rollout, scores = drawn()
    whole = select(rollout, scores)
    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), (rollout, scores))
    shared = jax.vmap(
        lambda given: select(*given, axis_name="rows"),
        axis_name="rows",
    )(halves)
    joined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), shared[:2])
    same(joined, whole[:2])
    close(shared[2]["reward/zero_std_drawn"], [0.5, 0.5])


def test_an_iteration_learns_from_half_of_what_it_draws():
    state, (_, scores), named = tiny.iteration(TWICE)(
        tiny.start(TWICE), tiny.FROZEN, tiny.batch(), tiny.traced()
    )
    groups_of = np.asarray(scores).reshape(-1, 2)
    flat = groups_of[:, 0] == groups_of[:, 1]
    assert len(flat) == tiny.ROWS and 0 < flat.sum()
    close(named["reward/zero_std_drawn"], flat.mean())
    first = np.argsort(flat, kind="stable")[: tiny.ROWS // 2]
    close(named["objective/scores"], groups_of[first].mean())
    close(named["reward/zero_std"], flat[first].mean())
    assert named["reward/zero_std"] < named["reward/zero_std_drawn"]
    assert int(state.learner.updates) == 1 and named["objective/kl_coef"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout", [parallel.data(2), parallel.layout("fsdp")], ids=["data", "fsdp"]
)
def test_an_iteration_does_not_know_its_layout(layout):
    config = tiny.config("dapo", epochs=1, minibatches=2, dynamic_sampling=2)
    step = functools.partial(
        policy_gradient.iteration, score=tiny.score, **tiny.fixed(config)
    )
    program = layout.compile(step, rows_in=(2,), rows_out=(1,), outputs=3)
    batch = layout.shard_rows(tiny.batch())
    state, _, named = program(
        layout.put(tiny.start(config)), tiny.FROZEN, batch, tiny.traced()
    )
    (_, alone), (expected,) = tiny.run(config, 1)
    for x, y in zip(
        *(jax.tree.leaves(s.learner.params) for s in (state, alone)), strict=True
    ):
        close(jax.device_get(x), y, rtol=1e-5, atol=1e-6)
    for name in ("reward/zero_std", "reward/zero_std_drawn"):
        close(named[name], expected[name])


def test_methods_without_groups_draw_what_they_learn_from():
    config = tiny.config("ppo", dynamic_sampling=3)
    assert config.oversampling == 1
    rollout, scores = drawn()
    same(select(rollout, scores, config=config)[:2], (rollout, scores))
    assert groups.describe(example()[0], config) == {}


# Clips.


@pytest.mark.parametrize(
    ("algorithm", "loss_type", "given", "expected"),
    [
        ("ppo", None, {}, (0.2, 0.2)),
        ("ppo", None, {"clip": 0.1}, (0.1, 0.1)),
        ("dapo", None, {"clip": 0.1}, (0.1, 0.1)),
        ("dapo", None, {"clip_high": 0.3}, (0.2, 0.3)),
        ("gspo", None, {"clip": 0.1, "clip_high": 0.3}, (0.1, 0.3)),
        ("dapo", "cispo", {}, (0.2, 5.0)),
        ("grpo", "cispo", {"clip": 0.1}, (0.1, 5.0)),
        ("grpo", "cispo", {"clip_high": 4.0}, (0.2, 4.0)),
    ],
)
def test_a_clip_holds_upwards_too_unless_that_is_set(
    algorithm, loss_type, given, expected
):
    row = tiny.config(algorithm, loss_type=loss_type).variant
    assert variants.clips(row, policy_gradient.Hyper(**given)) == expected


# What cannot be.


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_type": "dr_grpo"},
        {"loss_type": "dapo", "importance_sampling_level": "sequence"},
        {"loss_type": "vespo"},
        {},
    ],
)
def test_losses_of_whole_responses_want_whole_responses(changes):
    with pytest.raises(ValueError, match="minibatch_of='tokens': the loss is of whole"):
        tiny.config("grpo", minibatch_of="tokens", **changes)
    tiny.config("grpo", minibatch_of="tokens", loss_type="dapo")


def test_responses_that_can_never_end_are_not_left_out():
    with pytest.raises(ValueError, match="without end tokens every response"):
        tiny.config("grpo", (("eos_ids", ()),), mask_truncated_completions=True)
