"""The settings of a method that a search may change."""

import dataclasses
import hashlib
import json
import pathlib

from rlhf_jax import elastic_reset


@dataclasses.dataclass(frozen=True)
class Values:
    """A setting; None leaves what the run's flags say.

    Fields stand in the order in which a search goes through them.
    """

    learning_rate: float | None = None
    kl_coef: float | None = None
    strength: float | None = None  # of a translation game's penalty, whichever it is
    weight: float | None = None  # retained at a reset, or after `every` ticks of an EMA
    decay: float | None = None  # of the EMA itself, where w is 1 at any decay
    every: int | None = None  # iterations between resets

    def known(self):
        """The fields that are set, as a dictionary."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    def hyper(self, base):
        """`base`, a NamedTuple of traced scalars, with this learning rate and β."""
        names = ("learning_rate", "kl_coef")
        return base._replace(**{k: v for k, v in self.known().items() if k in names})

    def average(self, *, decay, every):
        """{"decay", "every"} of the EMA and the resets, the run's where not set."""
        every = every if self.every is None else self.every
        if self.decay is not None:
            decay = self.decay
        elif self.weight is not None:
            decay = elastic_reset.decay_for(self.weight, every or 1)
        return {"decay": decay, "every": every}


def read(path):
    """{method: Values} that a sweep's results.json chose; {} for None.

    Raises ValueError for a file that is no such results.json.
    """
    if path is None:
        return {}
    try:
        chosen = json.loads(pathlib.Path(path).read_text())["chosen"]
        return {name: Values(**one["values"]) for name, one in chosen.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--tuned {path}: not the results.json of a sweep ({error!r}); name one "
            "that experiments.sweep wrote"
        ) from None


def digest(start, tuned):
    """The digest of a configuration, `start`, changed by what is tuned: 12 digits."""
    if not tuned:
        return start
    text = json.dumps([start, {k: v.known() for k, v in tuned.items()}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
