"""refresh: the reward model learns on at its times, and is part of the state."""

import dataclasses
import types

import checks
import jax
import numpy as np
import pytest

from rlhf_jax.runtime import parallel
from rlhf_jax.studies import policy_gradient, refresh
from rlhf_jax.studies.interfaces import Run, Trainer, Unit
from rlhf_jax.studies.task import Refresh, Reward
from rlhf_jax.studies.values import Values
from rlhf_jax.types import Preferences

LAYOUT, PROMPT, NEW, PAIRS = parallel.data(1), 3, 4, 2
STEPS = 6


@dataclasses.dataclass(frozen=True)
class Climb:
    """A policy that is one number, and gains what its reward holds."""

    def __call__(self, study, run):
        del study

        def advance(state, iteration, frozen=None):
            return state + frozen, {"gained": frozen}, None

        return Trainer(
            start=lambda: run.layout.put(np.float32(0)),
            advance=advance,
            policy=lambda state: state,
            reset=lambda state: 0 * state,
            average=lambda state: 2 * state,
        )


def sample(params, count, number):
    """Pairs that tell the policy that wrote them, and when."""
    tokens = np.full((count, PROMPT + NEW), int(params), np.int32)
    label = np.full(count, number, np.float32)
    return Preferences(tokens, tokens + 1, tokens + 2, tokens + 3, label)


def learn(frozen, gathered, count, number):
    """The reward is worth 10 more, and what was gathered so far."""
    assert not gathered.chosen[count:].any()
    return LAYOUT.put(frozen + 10 + np.float32(gathered.chosen[:count].sum()))


@pytest.fixture
def study():
    reward = Reward(
        score=len, frozen=np.float32(1), refresh=Refresh(sample=sample, learn=learn)
    )
    task = types.SimpleNamespace(
        rewards={"proxy": lambda seed: reward, "gold": lambda seed: Reward(host=len)},
        prompts=types.SimpleNamespace(tokens=np.zeros((5, PROMPT))),
        sampling=types.SimpleNamespace(max_new_tokens=NEW),
    )
    return types.SimpleNamespace(
        methods={"m": types.SimpleNamespace(reward="proxy")},
        task_of=lambda run: task,
        schedule=types.SimpleNamespace(steps=STEPS),
    )


def trainer(study, at=(2, 4)):
    method = refresh.Refreshing(Climb(), at=at, pairs=PAIRS)
    return method(study, Run("m", Unit(0, 0), LAYOUT))


def go(made, state, first, last):
    seen = []
    for iteration in range(first, last):
        state, metrics, _ = made.advance(state, iteration)
        seen.append((float(metrics["gained"]), float(metrics["refresh/pairs"])))
    return state, seen


def test_the_reward_learns_on_at_its_times(study):
    """Two iterations at 1 make 2, which 2 · 7 tokens are: 1 + 10 + 28. Two more make
    80, and then 28 + 2 · 7 · 80 are gathered."""
    made = trainer(study)
    state, seen = go(made, made.start(), 0, STEPS)
    later = 39 + 10 + 28 + 2 * 7 * 80
    assert seen == [(1, 0), (1, 0), (39, 2), (39, 2), (later, 4), (later, 4)]
    assert made.policy(state) == 80 + 2 * later
    np.testing.assert_array_equal(state.gathered.preference, [0, 0, 1, 1])
    np.testing.assert_array_equal(state.gathered.rejected[:, 0], [4, 4, 82, 82])


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_a_state_is_all_that_a_run_needs_to_go_on(study, stop):
    whole, _ = go(trainer(study), trainer(study).start(), 0, STEPS)
    half, _ = go(trainer(study), trainer(study).start(), 0, stop)
    shapes = jax.eval_shape(trainer(study).start)
    saved = jax.device_get(half)
    jax.tree.map(lambda x, y: checks.close(np.shape(x), y.shape), saved, shapes)
    other, _ = go(trainer(study), LAYOUT.put(saved), stop, STEPS)
    checks.same(other, whole)


def test_the_policy_is_reset_and_averaged_and_the_reward_is_not(study):
    made = trainer(study)
    state, _ = go(made, made.start(), 0, 3)
    assert made.average(state) == 2 * made.policy(state)
    after = made.reset(state)
    assert made.policy(after) == 0
    checks.same((after.frozen, after.gathered), (state.frozen, state.gathered))


@pytest.mark.parametrize(
    "at, expected",
    [((4, 2, 2), (2, 4)), ((2, 99), (2,)), (2, (2, 4)), (5, (5,)), (0, ()), ((), ())],
)
def test_times(at, expected):
    assert refresh.Refreshing(Climb(), at=at).times(STEPS) == expected


def test_a_reward_that_cannot_learn_is_named(study):
    study.methods["m"].reward = "gold"
    with pytest.raises(ValueError, match="'gold' cannot learn on"):
        trainer(study)


def test_a_search_reaches_the_policy():
    inner = policy_gradient.PolicyGradient({"kl_coef": 0.0})
    method = refresh.Refreshing(inner, at=3)
    assert method.rate == inner.rate and method.penalty == inner.penalty
    assert method.tunes(resets=False) == inner.tunes(resets=False)
    values = Values(learning_rate=1.0)
    assert method.tuned(values).train == inner.tuned(values)
    over = {"clip": 0.1}
    assert method.overridden(over).train == inner.overridden(over)
