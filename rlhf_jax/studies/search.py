"""Tuning with equal budgets: what a method can be tuned in, its trials, the choice.

Every method gets as many trials. A trial is a setting of the hyperparameters that the
method reads (`Method.tunes`): the learning rate; the strength of its penalty, if it has
one; the retained weight w and the interval, if it resets. The search is over
w = 1 − decay^every, and the decay follows from it, because the same decay means
opposite regimes at two intervals.
"""

import dataclasses
import functools
import itertools
import math
from typing import Annotated

import numpy as np

from rlhf_jax import elastic_reset, ranges
from rlhf_jax.studies.values import Values

MULTIPLES = ("learning_rate", "kl_coef", "strength")  # in a space: of the run's own
_FORGOTTEN = 1e-6  # of 1 − w: an average that keeps no more of where it began
_ATTEMPTS = 200
Fraction = Annotated[float, ranges.Range(above=0, below=1)]


@dataclasses.dataclass(frozen=True)
class Space:
    """What trials are made of. Rates and β are multiples of the run's own."""

    learning_rate: tuple[ranges.Positive, ...] = (
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
    kl_coef: tuple[ranges.Positive, ...] = (0.3, 0.55, 1.0, 1.8, 3.0)
    """Times --rl.kl-coef."""
    weight: tuple[Fraction, ...] = (0.08, 0.3, 0.5, 0.8, 0.995)
    """Retained weights w of a reset; the decay follows. IMDB's 0.08 to StackLLaMA's
    0.995."""
    every: tuple[ranges.Count, ...] = (7, 10, 14, 20)
    """Iterations between resets."""
    decay: tuple[Fraction, ...] = (0.9, 0.99, 0.995, 0.999)
    """Of the EMA, in place of w where --rl.decay retains all at a reset."""


def current(name, method, config):
    """The `Values` that the flags of a run stand for, of what the method tunes.

    Where the interval is so long that w is 1 whatever the decay, the decay itself is
    tuned.

    Args: method: `interfaces.Method`, with the settings that flags give it alone;
    config: the run's flags, `rl` among them. Raises ValueError if a method that resets
    is tuned around a run that never does.
    """
    rl, fields = config.rl, method.tunes
    if not fields:
        return Values()
    if "every" in fields and rl.reset_every < 1:
        raise ValueError(
            f"--rl.reset-every {rl.reset_every}: {name} is tuned around a run that "
            "resets; give the iterations between its resets"
        )
    weight = float(elastic_reset.retained_weight(rl.decay, rl.reset_every or 1))
    if 1 - weight < _FORGOTTEN:
        fields = ["decay" if field == "weight" else field for field in fields]
    train = method.train
    settings = {
        "learning_rate": getattr(rl, train.rate),
        "weight": weight,
        "decay": rl.decay,
        "every": rl.reset_every,
    }
    for field in {"kl_coef", "strength"} & set(fields):
        settings[field] = functools.reduce(getattr, train.penalty.split("."), config)
    settings |= getattr(train, "override", {})
    return Values(**{field: settings[field] for field in fields})


def trials(name, first, space, *, count, steps, seed=0):
    """The `count` settings that a method is tried with; the run's own is the first.

    The others are a Latin hypercube of the space: every value of a field is used as
    often as any other, give or take one. The draw depends on the method's name and the
    seed, not on what else is tuned.

    Args: first: the run's own `Values`, whose known fields are tuned; space: `Space`,
    or another one with these fields; steps: of a run. Returns a list of Values, all
    different. Raises ValueError if a value is out of its range, the space has fewer
    combinations than trials, or an interval leaves no reset in a run.
    """
    ranges.check(space)
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
    if count == 1:
        return [first]
    rng = np.random.default_rng([seed, *name.encode()])
    return [first, *_balanced(rng, fields, grid, others, count - 1)]


def choose(values):
    """The index of the largest value; the first of equals. None and NaN are failures.

    Returns None if every trial failed.
    """
    scores = [-math.inf if v is None or math.isnan(v) else v for v in values]
    best = max(scores, default=-math.inf)
    return None if best == -math.inf else scores.index(best)


def flags(name, table, values, rl):
    """The flags that give a run of one method these values.

    Args: name: of the method in `table`, {name: interfaces.Method}; if nothing trains
    it, the flags are those of its source; rl: the flags `rl` of the run, for what
    `values` leave open.
    """
    method = table[name]
    train = method.train or table[method.source].train
    decay = values.average(decay=rl.decay, every=rl.reset_every)["decay"]
    averaged = values.weight is not None or values.decay is not None
    strength = values.kl_coef if values.strength is None else values.strength
    written = (
        (f"rl.{train.rate}", values.learning_rate, ".6g"),
        (getattr(train, "penalty", None), strength, ".6g"),
        ("rl.decay", decay if averaged else None, ".8g"),
        ("rl.reset_every", values.every, "d"),
    )
    return " ".join(
        f"--{flag.replace('_', '-')} {value:{form}}"
        for flag, value, form in written
        if value is not None
    )


def note(source, tuned, methods, flags):
    """The line of a report that says what was tuned, and what was not.

    Args: source: the file of the sweep; tuned: {method: Values}; methods: of the
    study, by name; flags(name): the flags of a method's setting.
    """
    written = [f"{name}: {flags(name)}" for name in methods if name in tuned]
    rest = [name for name in methods if name not in tuned]
    return (
        f"Tuned by {source}: {'; '.join(written) or 'none of these methods'}."
        + f" As the flags have them: {', '.join(rest)}." * bool(rest)
    )


def _choices(field, space, first, steps):
    """The values of a field as they are used, each once."""
    values = getattr(space, field)
    for every in values if field == "every" else ():
        if every >= steps:
            raise ValueError(
                f"--space.every {every}: a run of {steps} steps would never be reset; "
                "lower it, or raise --steps"
            )
    if field in MULTIPLES:
        values = [getattr(first, field) * value for value in values]
    return list(dict.fromkeys(values))


def _named(fields, row):
    return Values(**dict(zip(fields, row, strict=True)))


def _same(one, other):
    pairs = zip(one.known().values(), other.known().values(), strict=True)
    return all(math.isclose(a, b, rel_tol=1e-9) for a, b in pairs)


def _balanced(rng, fields, grid, others, count):
    """`count` different members of `others`, every value as often as any other, if a
    few hundred Latin hypercubes have such a draw; else any `count` of them."""
    from scipy.stats import qmc  # slow to import, and only a search needs it

    # A point in the middle of each of `count` strata: k values share them out evenly.
    cube = qmc.LatinHypercube(len(fields), scramble=False, rng=rng)
    sizes = [len(values) for values in grid]
    for _ in range(_ATTEMPTS):
        points = cube.integers([0] * len(sizes), u_bounds=sizes, n=count)
        # Which values come once more than others is drawn as well.
        orders = [rng.permutation(size) for size in sizes]
        drawn = [
            _named(fields, [v[o[i]] for v, o, i in zip(grid, orders, row, strict=True)])
            for row in points
        ]
        if len(set(drawn)) == count and set(drawn) <= set(others):
            return drawn
    return [others[i] for i in rng.permutation(len(others))[:count]]
