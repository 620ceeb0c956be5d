"""Tuning with equal budgets: what a method can be tuned in, its trials, the choice.

Every method gets as many trials, each a setting of what it reads: the learning rate;
β, where it has a KL penalty; the retained weight w and the interval, where it resets.
w = 1 − decay^every is what is searched and the decay is derived from it: one decay is
opposite regimes at two intervals.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import pathlib

import numpy as np

from rlhf_jax import elastic_reset
from rlhf_jax.studies import methods

MULTIPLES = ("learning_rate", "kl_coef", "strength")  # in a space: of the run's own
_ATTEMPTS = 200


@dataclasses.dataclass(frozen=True)
class Values:
    """A setting; None leaves what the run's flags say."""

    learning_rate: float | None = None
    kl_coef: float | None = None
    weight: float | None = None  # retained at a reset, or after `every` ticks of an EMA
    every: int | None = None  # iterations between resets
    strength: float | None = None  # of a translation game's penalty, whichever it is
    decay: float | None = None  # of the EMA itself, where w is 1 at any decay

    def known(self):
        """The fields that say something, as a dictionary."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    def hyper(self, base):
        """`policy_gradient.Hyper` with this learning rate and β."""
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


@dataclasses.dataclass(frozen=True)
class Space:
    """What trials are made of. Rates and β are multiples of the run's own."""

    learning_rate: tuple[float, ...] = (
        0.25,
        0.35,
        0.5,
        0.71,
        1.0,
        1.41,
        2.0,
        2.83,
        4.0,
    )
    """Times --rl.learning-rate (or --rl.sft-learning-rate)."""
    kl_coef: tuple[float, ...] = (0.3, 0.55, 1.0, 1.8, 3.0)
    """Times --rl.kl-coef."""
    weight: tuple[float, ...] = (0.08, 0.3, 0.5, 0.8, 0.995)
    """Retained weights w of a reset; the decay is derived. IMDB's 0.08 to StackLLaMA's
    0.995."""
    every: tuple[int, ...] = (7, 10, 14, 20)
    """Iterations between resets."""


def dimensions(name, method, override=None):
    """The fields of `Values` that a method reads, `methods.Method` of that name.

    override: {field of Hyper: value} that the run has for this method alone.

    What is derived from another method's run has none of its own.
    """
    if not method.trains:
        return ()
    found, fixed = ["learning_rate"], {**method.hyper, **(override or {})}
    if name not in methods.SUPERVISED:
        to_initial = fixed.get("reset_target") == elastic_reset.INITIAL
        averaged = fixed.get("reference_average", False)
        averaged = averaged or (method.resets and not to_initial)
        found += ["kl_coef"] * (fixed.get("kl_coef", 1.0) != 0.0)
        found += ["weight"] * (averaged and "decay" not in fixed)
        found += ["every"] * (method.resets or method.moves)
    return tuple(found)


def own(name, method, rl, override=None):
    """The `Values` that the flags of a run, `flags.RL`, stand for; an override wins.

    Raises ValueError where a method that resets is tuned around a run that does not.
    """
    fields = dimensions(name, method, override)
    if "every" in fields and rl.reset_every < 1:
        raise ValueError(
            f"--rl.reset-every {rl.reset_every}: {name} is tuned around a run that "
            "resets; give the iterations between its resets"
        )
    supervised = name in methods.SUPERVISED
    weight = elastic_reset.retained_weight(rl.decay, rl.reset_every or 1)
    every = {
        "learning_rate": rl.sft_learning_rate if supervised else rl.learning_rate,
        "kl_coef": rl.kl_coef,
        "weight": weight,
        "every": rl.reset_every,
        **(override or {}),
    }
    return Values(**{field: every[field] for field in fields})


def trials(name, first, space, *, count, steps, seed=0):
    """The `count` settings that a method is tried with; the run's own is the first.

    The others are a balanced draw from the space: each value of a field is used as
    often as any other, give or take one, and their combination is drawn. The draw of a
    method depends on its name and the seed, not on what else is tuned.

    Args: first: the run's own `Values`, whose known fields are tuned; space: `Space`,
    or another with these fields; steps: of a run. Returns a list of Values, all
    different. Raises ValueError where the space has fewer combinations than trials, or
    an interval leaves no reset in a run.
    """
    fields = tuple(first.known())
    if not fields:
        raise ValueError(f"{name} trains nothing of its own: it has no trials")
    grid = [_choices(field, space, first, steps) for field in fields]
    every = [_named(fields, row) for row in itertools.product(*grid)]
    others = [values for values in every if not _same(values, first)]
    if len(others) < count - 1:
        flag = fields[0].replace("_", "-")
        raise ValueError(
            f"{name} has {len(others) + 1} combinations of {', '.join(fields)}, and "
            f"{count} trials are asked for: add values to --space.{flag}"
        )
    rng = np.random.default_rng([seed, *name.encode()])
    return [first, *_balanced(rng, fields, grid, others, count - 1)]


def choose(values):
    """The index of the largest value; the first of equals. None and NaN are failures.

    Returns None where every trial failed.
    """
    scores = [-math.inf if v is None or math.isnan(v) else v for v in values]
    best = max(scores, default=-math.inf)
    return None if best == -math.inf else scores.index(best)


def command(values, name, rl):
    """The flags that give a run of one method these values."""
    rate = "sft-learning-rate" if name in methods.SUPERVISED else "learning-rate"
    return written(values, rl, rate=f"rl.{rate}")


def written(values, rl, *, rate="rl.learning-rate", penalty="rl.kl-coef"):
    """The flags of a setting. rate, penalty: the names of two that differ by method."""
    decay = values.average(decay=rl.decay, every=rl.reset_every)["decay"]
    averaged = values.weight is not None or values.decay is not None
    strength = values.kl_coef if values.strength is None else values.strength
    said = (
        (rate, values.learning_rate, ".6g"),
        (penalty, strength, ".6g"),
        ("rl.decay", decay if averaged else None, ".8g"),
        ("rl.reset-every", values.every, "d"),
    )
    return " ".join(f"--{n} {v:{form}}" for n, v, form in said if v is not None)


def told(source, tuned, chosen, flags):
    """The note of a report on what was tuned, of `chosen` methods, and what was not.

    source: the file of the sweep; tuned: {method: Values}; flags(method): as written.
    """
    said = [f"{name}: {flags(name)}" for name in chosen if name in tuned]
    rest = [name for name in chosen if name not in tuned]
    return (
        f"Tuned by {source}: {'; '.join(said) or 'none of these methods'}."
        + f" As the flags have them: {', '.join(rest)}." * bool(rest)
    )


def read(path):
    """{method: Values} that a sweep's results.json chose; {} for None.

    Raises ValueError for a file that is none.
    """
    if path is None:
        return {}
    try:
        chosen = json.loads(pathlib.Path(path).read_text())["chosen"]
        return {name: Values(**found["values"]) for name, found in chosen.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--tuned {path}: not the results.json of a sweep ({error!r}); name one "
            "that experiments.sweep wrote"
        ) from None


def digest(start, tuned):
    """`start`, the digest of a configuration, moved by what is tuned; 12 hex digits."""
    if not tuned:
        return start
    text = json.dumps([start, {k: v.known() for k, v in tuned.items()}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _choices(field, space, first, steps):
    """The values of a field as they are used, each once."""
    values = getattr(space, field)
    flag = field.replace("_", "-")
    for value in values:
        low = value > 0 and math.isfinite(value)
        share = field in ("weight", "decay")
        if not low or (share and value >= 1):
            raise ValueError(
                f"--space.{flag} {value:g}: must be above 0" + " and below 1" * share
            )
        if field == "every" and value >= steps:
            raise ValueError(
                f"--space.every {value}: a run of {steps} steps would never be reset; "
                "lower it, or raise --steps"
            )
    scale = getattr(first, field) if field in MULTIPLES else None
    if scale is not None:
        values = [scale * value for value in values]
    return list(dict.fromkeys(values))


def _named(fields, row):
    return Values(**dict(zip(fields, row, strict=True)))


def _same(one, other):
    pairs = zip(one.known().values(), other.known().values(), strict=True)
    return all(math.isclose(a, b, rel_tol=1e-9) for a, b in pairs)


def _balanced(rng, fields, grid, others, count):
    """`count` different members of `others`, each value as often as any other, where
    a few hundred draws find that; else any `count` of them."""
    for _ in range(_ATTEMPTS):
        columns = [_column(rng, values, count) for values in grid]
        drawn = [_named(fields, row) for row in zip(*columns, strict=True)]
        if len(set(drawn)) == count and set(drawn) <= set(others):
            return drawn
    return [others[i] for i in rng.permutation(len(others))[:count]]


def _column(rng, values, count):
    """`count` values in a random order, each as often as any other, give or take 1."""
    times = -(-count // len(values))
    tiled = [values[i] for _ in range(times) for i in rng.permutation(len(values))]
    return [tiled[:count][i] for i in rng.permutation(count)]
