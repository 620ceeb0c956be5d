"""Learning from recorded rollouts on any layout: what tests of layouts compare.

Run as a program it is one of several processes: see `test_distributed`.
"""

import functools

import jax
import numpy as np
import tiny

from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.types import Rollout

ITERATIONS = 5
# Old log-probs are recomputed: the recorded tokens are nobody's samples.
CONFIG = tiny.config(value="shared", recompute_logps=True, epochs=1)


def recorded(number):
    """A rollout of ragged rows and its scores, the same wherever it is asked for."""
    prompts = tiny.batch(number)
    rng = np.random.default_rng([number, 1])
    lengths = rng.integers(1, tiny.NEW + 1, (tiny.ROWS, 1))
    valid = (np.arange(tiny.NEW) < lengths).astype(np.int32)
    tokens = rng.integers(1, tiny.VOCAB, valid.shape).astype(np.int32) * valid
    zeros = np.zeros(valid.shape, np.float32)
    rollout = Rollout(
        np.concatenate([prompts.tokens, tokens], axis=1),
        np.concatenate([prompts.mask, valid], axis=1),
        valid,
        zeros,
        zeros,
        lengths[:, 0] < tiny.NEW,
    )
    return rollout, rng.normal(size=tiny.ROWS).astype(np.float32)


def start():
    """The state before the first iteration."""
    return tiny.start(CONFIG, model=tiny.DECODER)


def learn(layout, state=None, first=0):
    """The state after the iterations from `first` on, from the start or a state."""
    step = functools.partial(policy_gradient.learn, **tiny.fixed(CONFIG, tiny.DECODER))
    program = layout.compile(step, rows_in=(1, 2), outputs=2, donate=(0,))
    state = layout.place(start() if state is None else state)
    metrics = []
    for number in range(first, ITERATIONS):
        rollout, scores = layout.shard(recorded(number))
        state, named = program(state, rollout, scores, tiny.traced())
        metrics.append(jax.device_get(named))
    return state, metrics
