"""What the game's methods can be tuned in, and the flags that ask for a setting.

`rlhf_jax.tuning` draws the trials and chooses; here stands what differs in the game:
penalties have one strength each, and an interval can be so long that the retained
weight w = 1 − decay^every is 1 whatever the decay: then the decay itself is tuned.
"""

import dataclasses

from rlhf_jax import elastic_reset
from rlhf_jax.studies import search

_ALL = 1e-6  # of 1 − w: what is left of the initial sender is nothing


@dataclasses.dataclass(frozen=True)
class Space:
    """What trials are made of. Rates and strengths are multiples of the run's own."""

    learning_rate: tuple[float, ...] = search.Space.learning_rate
    """Times --rl.learning-rate."""
    strength: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    """Times the method's own of --strengths: none is published."""
    weight: tuple[float, ...] = (0.1, 0.3, 0.5, 0.8, 0.995)
    """Retained weights w of a reset; the decay is derived."""
    every: tuple[int, ...] = (50, 75, 100, 150)
    """Steps between resets."""
    decay: tuple[float, ...] = (0.9, 0.99, 0.995, 0.999)
    """Of the EMA, where --rl.decay keeps nothing of the initial sender at a reset."""


def own(method, rl, strengths):
    """The `tuning.Values` that a run's flags stand for: what a method reads, no more.

    Args: method: `pivot.methods.Method`; rl: `flags.RL`; strengths: `flags.Strengths`.
    Raises ValueError where a method that resets is tuned around a run that does not.
    """
    if not method.trains:
        return search.Values()
    found = {"learning_rate": rl.learning_rate}
    if method.resets and rl.reset_every < 1:
        raise ValueError(
            f"--rl.reset-every {rl.reset_every}: methods that reset are tuned around a "
            "run that resets; give the steps between its resets"
        )
    if method.averages and not method.watched and not _to_initial(method):
        found |= _average(rl)
    if method.resets:
        found["every"] = rl.reset_every
    if method.strength:
        found["strength"] = getattr(strengths, method.strength)
    return search.Values(**found)


def _to_initial(method):
    return method.hyper.get("reset_target") == elastic_reset.INITIAL


def _average(rl):
    weight = elastic_reset.retained_weight(rl.decay, rl.reset_every or 1)
    if 1 - weight < _ALL:
        return {"decay": rl.decay}
    return {"weight": float(weight)}


def command(values, method, rl):
    """The flags that give a run of one method, `pivot.methods.Method`, these values."""
    return search.written(values, rl, penalty=f"strengths.{method.strength}")
