"""Several policy-gradient runs as one program: each is what it is alone.

The policy looks its logits up in a table, so samples must be equal bit for bit.
"""

import types

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rlhf_jax import elastic_reset, optim
from rlhf_jax.runtime import parallel, population
from rlhf_jax.studies import policy_gradient, policy_population, programs
from rlhf_jax.studies.task import Reward
from rlhf_jax.types import Prompts

LAYOUT = parallel.data(1)
CONFIG = tiny.config(epochs=1)
STEPS = 5
# Rates, strengths of KL, decays, what a reset does: everything is traced.
HYPERS = (
    tiny.HYPER,
    tiny.HYPER._replace(learning_rate=1e-2, kl_coef=0.0),
    tiny.HYPER._replace(decay=0.9, reference_average=True),
    tiny.HYPER._replace(reset_target=elastic_reset.INITIAL, lam=0.5),
)


@pytest.fixture(autouse=True, scope="module")
def of_tables():
    """Programs whose networks are tables."""

    def parts(model, config):
        return tiny.networks(config, model), optim.transformation(config.optimizer)

    def initial_params(model, learned, config, key):
        return tiny.params(config, model) | {"policy": learned.params}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "_parts", parts)
        patch.setattr(programs, "initial_params", initial_params)
        yield


def task(world=0):
    prompts = tiny.batch(seed=world, rows=32)
    return types.SimpleNamespace(
        model=tiny.BIGRAM,
        params=tiny.policy_params(seed=world),
        prompts=Prompts(prompts.tokens, prompts.mask),
        columns={},
        decode=lambda tokens, mask: ["".join(map(chr, row + 65)) for row in tokens],
    )


def near(one, other, **tolerance):
    jax.tree.map(lambda a, b: checks.close(a, b, **tolerance), one, other)


TASKS = {world: task(world) for world in (0, 1)}


def score(frozen, tokens, mask):
    return tiny.score(frozen, tokens, mask)


def members(hypers=HYPERS, worlds=(0, 0, 1, 1), frozen=(1.0, 1.0, 2.0, 1.0), **fields):
    reward = {"score": score, **fields}
    return [
        policy_gradient.Member(
            TASKS[world],
            CONFIG,
            hyper,
            Reward(frozen=jnp.float32(weight), **reward),
            seed=seed,
            rows=tiny.ROWS,
        )
        for seed, (hyper, world, weight) in enumerate(
            zip(hypers, worlds, frozen, strict=True)
        )
    ]


def alone(member, resets=()):
    """(states, metrics, rows) of a run by itself."""
    trainer = policy_gradient.trainer(member, LAYOUT)
    state, found = trainer.start(), []
    for i in range(STEPS):
        state, metrics, rows = trainer.advance(state, i)
        state = trainer.reset(state) if i in resets else state
        found.append(jax.device_get((trainer.policy(state), metrics, rows)))
    return found


def together(members, resets=(), devices=2, vmapped=True):
    """The same of each member of a population."""
    layout = population.of(jax.devices()[:devices], len(members), vmapped=vmapped)
    trained = policy_population.side_by_side(members, layout, host=LAYOUT)
    tx = optim.transformation(CONFIG.optimizer)
    states = [member.start(tx) for member in members]
    state = layout.put(population.stack(states, trained.axes), trained.axes)
    found = [[] for _ in members]
    for i in range(STEPS):
        state, metrics, rows = trained.advance(state, i)
        if any(i in calendar for calendar in resets):
            state = trained.reset(state, [i in calendar for calendar in resets])
        policy = state.learner.params["policy"]
        fetched = jax.device_get((policy, metrics, rows))
        for number, own in enumerate(found):
            own.append(population.member(fetched, number))
    return found


RESETS = ((1, 3), (), (2,), (1, 3))


@pytest.fixture(scope="module")
def by_themselves():
    return [alone(m, r) for m, r in zip(members(), RESETS, strict=True)]


@pytest.mark.parametrize(
    ("vmapped", "devices"), [(True, 1), (True, 2), (False, 4), (False, 3)]
)
def test_a_member_is_the_run_that_it_is_alone(vmapped, devices, by_themselves):
    found = together(members(), RESETS, devices, vmapped)
    for own, other in zip(by_themselves, found, strict=True):
        for (policy, metrics, rows), (theirs, measured, drawn) in zip(
            own, other, strict=True
        ):
            (rollout, scores), (sampled, paid) = rows, drawn
            rollout = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rollout)
            checks.same(rollout.tokens, sampled.tokens)
            checks.same(rollout.response_mask, sampled.response_mask)
            checks.same(scores.reshape(-1), paid)
            near(policy, theirs, rtol=1e-5, atol=1e-6)
            near(metrics, measured, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vmapped", [True, False])
def test_a_member_that_is_not_finite_stays_and_leaves_the_others_untouched(vmapped):
    whole = together(members(), devices=1, vmapped=vmapped)
    broken = members(frozen=(1.0, float("nan"), 2.0, 1.0))
    found = together(broken, devices=1, vmapped=vmapped)
    for number in (0, 2, 3):
        checks.same(whole[number], found[number])
    policies, metrics, _ = zip(*found[1], strict=True)
    checks.same(policies[-1], TASKS[0].params)
    assert [m["optim/skipped"] for m in metrics][-1] >= 3


def test_rewards_of_python_pay_every_member_its_own():
    def host(prompts, completions, **columns):
        return [float(text.count("F")) for text in completions]

    paid = members(score=None, host=host)
    by_hand, found = [alone(member) for member in paid], together(paid)
    for own, other in zip(by_hand, found, strict=True):
        for (policy, metrics, rows), (theirs, measured, drawn) in zip(
            own, other, strict=True
        ):
            checks.same(rows[1], drawn[1])
            near(policy, theirs, rtol=1e-5, atol=1e-6)
            assert metrics.keys() == measured.keys()


def test_members_whose_rewards_differ_in_kind_are_refused():
    mixed = members()
    mixed[1] = mixed[1]._replace(reward=Reward(score=lambda *_: 0.0))
    layout = population.of(jax.devices()[:1], 4)
    with pytest.raises(ValueError, match="--population: .* leave the flag out"):
        policy_population.side_by_side(mixed, layout, host=LAYOUT)


def test_devices_share_members_out_evenly():
    devices = jax.devices()
    assert len(population.of(devices[:4], 6).devices) == 2
    assert len(population.of(devices[:4], 8).devices) == 4
    assert len(population.of(devices[:3], 4).devices) == 1


def test_hosts_share_members_out_evenly_or_not_at_all():
    two = [
        types.SimpleNamespace(process_index=i // 3, platform="cpu") for i in range(6)
    ]
    assert population.of(two, 4).devices == (two[0], two[3])
    assert population.of(two, 6).devices == tuple(two)
    with pytest.raises(ValueError, match="3 members cannot be shared by 2 hosts"):
        population.of(two, 3)


def test_what_members_share_is_held_once_and_what_is_stacked_comes_back():
    axes = {"a": 0, "b": None}
    trees = [{"a": np.full(3, i), "b": np.ones(2)} for i in range(4)]
    stacked = population.stack(trees, axes)
    assert stacked["a"].shape == (4, 3) and stacked["b"].shape == (2,)
    for i, tree in enumerate(trees):
        near(population.member(stacked, i, axes), tree, rtol=0, atol=0)


@pytest.mark.parametrize("vmapped", [True, False])
def test_rows_are_read_by_every_member_in_chunks_of_one_size(vmapped):
    layout = population.of(jax.devices()[:2], 4, vmapped=vmapped)
    program = layout.over_rows(
        lambda w, s, x: (w * x + s, x.sum(-1)), replicated=2, chunk=3
    )
    weights = np.arange(4, dtype=np.float32)
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    found, total = program(population.Members(weights), jnp.float32(1.0), rows).each
    np.testing.assert_array_equal(found, weights[:, None, None] * rows + 1)
    np.testing.assert_array_equal(total, np.tile(rows.sum(-1), (4, 1)))
    own = population.Members(np.stack([rows] * 4))
    again = program(population.Members(weights), jnp.float32(1.0), own).each
    checks.same((found, total), again)


@pytest.mark.parametrize("vmapped", [True, False])
def test_what_all_members_hold_is_put_on_devices_once(vmapped):
    layout = population.of(jax.devices()[:2], 4, vmapped=vmapped)
    base = jnp.arange(6.0).reshape(3, 2)
    trees = [{"base": base, "own": {"x": jnp.full(2, float(i))}} for i in range(4)]
    axes = population.axes_of(trees)
    assert axes == {"base": None, "own": {"x": 0}}
    assert population.axes_of(trees[:1] * 4) == 0  # or nothing would count members
    held = layout.put(population.stack(trees, axes), axes)
    assert held["base"].shape == base.shape and held["own"]["x"].shape == (4, 2)

    def product(tree, rows):
        return rows @ tree["base"] + tree["own"]["x"][None]

    program = layout.over_rows(product, replicated=1)
    rows = np.ones((5, 3), np.float32)
    found = program(population.Members(held, axes), rows)
    for i in range(4):
        expected = np.full((5, 2), [6.0 + i, 9.0 + i])
        np.testing.assert_array_equal(population.of_member(found, i), expected)
