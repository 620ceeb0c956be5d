"""Learning from recorded rollouts on any layout: what tests of layouts compare."""

import functools

import jax
import numpy as np
import tiny

from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.types import Rollout

ITERATIONS = 5
CONFIG = tiny.config(value="shared", epochs=1)


def recorded(number):
    """A rollout of ragged rows and its scores, the same wherever it is asked for.

    Tokens are drawn evenly: no policy of a layout decides what is learned from.
    """
    prompts = tiny.batch(number)
    rng = np.random.default_rng([number, 1])
    lengths = rng.integers(1, tiny.NEW + 1, (tiny.ROWS, 1))
    valid = (np.arange(tiny.NEW) < lengths).astype(np.int32)
    tokens = rng.integers(1, tiny.VOCAB, valid.shape).astype(np.int32) * valid
    logps = np.float32(-np.log(tiny.VOCAB)) * valid.astype(np.float32)
    rollout = Rollout(
        np.concatenate([prompts.tokens, tokens], axis=1),
        np.concatenate([prompts.mask, valid], axis=1),
        valid,
        logps,
        logps,
        lengths[:, 0] < tiny.NEW,
    )
    return rollout, rng.normal(size=tiny.ROWS).astype(np.float32)


def start():
    """The state before the first iteration."""
    return tiny.start(CONFIG, model=tiny.DECODER)


@functools.cache
def program(layout):
    """`(state, rollout, scores, hyper) -> (state, metrics)`, compiled on a layout."""
    step = functools.partial(policy_gradient.learn, **tiny.fixed(CONFIG, tiny.DECODER))
    return layout.compile(step, rows_in=(1, 2), outputs=2, donate=(0,))


def learn(layout, state=None, first=0, last=ITERATIONS):
    """(state, metrics of each) of iterations first to last, from the start or a state.

    A state that is given is consumed.
    """
    state = layout.put(start() if state is None else state)
    metrics = []
    for number in range(first, last):
        rollout, scores = layout.shard_rows(recorded(number))
        state, named = program(layout)(state, rollout, scores, tiny.traced())
        metrics.append(jax.device_get(named))
    return state, metrics
