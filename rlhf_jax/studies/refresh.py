"""A reward model that learns on while the policy climbs it: people label new samples.

Iterated RLHF in one run: at given iterations the policy writes pairs, people say which
is better, and the reward model is trained further on the pairs it knows and the new
ones. Stiennon et al. 2020, arXiv:2009.01325, section 3.2; Gao et al. 2022,
arXiv:2210.10760, section 4.4.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.studies.interfaces import Trainer
from rlhf_jax.studies.policy_gradient import PolicyGradient
from rlhf_jax.types import Preferences


class State(NamedTuple):
    """All that a run needs to go on: the reward model is part of it."""

    policy: Any  # of the policy's trainer
    frozen: Any  # what the reward's score takes
    gathered: Preferences  # [all that the run will gather]; zeros until then


@dataclasses.dataclass(frozen=True)
class Refreshing:
    """Trains a method whose reward model is refreshed.

    train: of the policy; at: 0-based iterations before which the model learns on, or a
    number of iterations between them; pairs: that people label each time.
    """

    train: PolicyGradient
    at: tuple[int, ...] | int
    pairs: int = 250

    @property
    def rate(self):
        """The flag of its learning rate, of `rl`."""
        return self.train.rate

    @property
    def penalty(self):
        """The flag of its penalty's strength."""
        return self.train.penalty

    def __call__(self, study, run):
        """The `Trainer` of a run. Raises ValueError for a reward that cannot learn."""
        name = study.methods[run.method].reward
        task = study.task_of(run)
        reward = task.rewards[name](run.unit.seed)
        if reward.refresh is None:
            raise ValueError(
                f"{run.method}: the reward {name!r} cannot learn on; name a learned "
                "one of the microworld, such as rm:size=medium"
            )
        times = self.times(study.schedule.steps)
        width = task.prompts.tokens.shape[1] + task.sampling.max_new_tokens
        empty = _empty(len(times) * self.pairs, width)
        inner = self.train(study, run)
        return _refreshed(inner, reward, times, self.pairs, empty, run.layout)

    def times(self, steps):
        """The iterations before which the model learns on, of a run of `steps`."""
        if isinstance(self.at, int):
            return tuple(range(self.at, steps, self.at)) if self.at > 0 else ()
        return tuple(sorted(i for i in set(self.at) if i < steps))

    def tuned(self, values):
        """The same method with the `Values` that a search chose for it."""
        return dataclasses.replace(self, train=self.train.tuned(values))

    def overridden(self, settings):
        """The same method with fields of Hyper that a user gives it alone."""
        return dataclasses.replace(self, train=self.train.overridden(settings))

    def tunes(self, *, resets):
        """The fields of `Values` that the method reads."""
        return self.train.tunes(resets=resets)


def _refreshed(inner, reward, times, pairs, empty, layout):
    """`inner`, a policy's `Trainer`, with the reward in its state."""

    def start():
        return State(inner.start(), layout.put(reward.frozen), layout.put(empty))

    def learn(state, number):
        params = inner.weights(inner.policy(state.policy))
        fresh = reward.refresh.sample(params, pairs, number)
        first, last = number * pairs, (number + 1) * pairs
        gathered = jax.tree.map(np.array, jax.device_get(state.gathered))
        for column, new in zip(gathered, fresh, strict=True):
            if column is not None:
                column[first:last] = new
        frozen = reward.refresh.learn(state.frozen, gathered, last, number)
        return state._replace(frozen=frozen, gathered=layout.put(gathered))

    def advance(state, iteration):
        if iteration in times:
            state = learn(state, times.index(iteration))
        policy, metrics, rows = inner.advance(state.policy, iteration, state.frozen)
        labelled = pairs * sum(time <= iteration for time in times)
        metrics = {**metrics, "refresh/pairs": np.float32(labelled)}
        return state._replace(policy=policy), metrics, rows

    average = inner.average
    return Trainer(
        start=start,
        advance=advance,
        policy=lambda state: inner.policy(state.policy),
        weights=inner.weights,
        mix=inner.mix,
        reset=lambda state: state._replace(policy=inner.reset(state.policy)),
        average=None if average is None else lambda state: average(state.policy),
    )


def _empty(count, width):
    """`Preferences` of zeros, to be filled."""
    tokens = np.zeros((count, width), np.int32)
    return Preferences(tokens, tokens, tokens, tokens, np.zeros(count, np.float32))
