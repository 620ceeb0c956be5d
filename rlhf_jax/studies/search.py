"""Tuning at equal resolution: what a method is tuned in, and where the search begins.

Every method is searched alike (`coordinate_search`): first over the same grid of
learning rates, then at its best rate over its own parameters (`Method.tunes`), the
strength of its penalty, the retained weight w = 1 − decay^every of its average, the
interval of its resets. The decay follows from w, because the same decay means opposite
regimes at two intervals. What is read off another method's run has the parameters of
that run, and a rate of its own.
"""

import dataclasses
import functools
import math
from typing import Annotated

from rlhf_jax import elastic_reset, ranges
from rlhf_jax.studies import coordinate_search
from rlhf_jax.studies.coordinate_search import ODDS, RATIO, WHOLE, Line
from rlhf_jax.studies.values import Values

MULTIPLES = ("learning_rate", "kl_coef", "strength")  # in a space: of the run's own
_SCALES = {"weight": ODDS, "decay": ODDS, "every": WHOLE}
_FORGOTTEN = 1e-6  # of 1 − w: an average that keeps no more of where it began
_SHARES = _FORGOTTEN, 1 - _FORGOTTEN  # how far w and a decay may go
Fraction = Annotated[float, ranges.Range(above=0, below=1)]


@dataclasses.dataclass(frozen=True)
class Space:
    """The grids that every search begins with; a single value does not grow."""

    learning_rate: tuple[ranges.Positive, ...] = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Times --rl.learning-rate (or --rl.sft-learning-rate)."""
    kl_coef: tuple[ranges.Positive, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    """Times --rl.kl-coef."""
    weight: tuple[Fraction, ...] = (0.1, 0.25, 0.5, 0.75, 0.9)
    """Retained weights w of a reset or an EMA; the decay follows."""
    every: tuple[ranges.Count, ...] = (7, 10, 14, 20)
    """Iterations between resets."""
    decay: tuple[Fraction, ...] = (0.9, 0.97, 0.99, 0.997, 0.999)
    """Of the EMA, in place of w where --rl.decay retains all at a reset."""
    extensions: ranges.Natural = coordinate_search.LIMIT
    """Values that a grid may grow by on one side."""


def tuned_in(name, table):
    """The fields of `Values` that a method is searched in, in that order: its own, and
    those of the run that it is read off."""
    method = table[name]
    trained = table[method.derived_from or name]
    fields = {*method.tunes, *trained.tunes}
    if "decay" in getattr(trained.train, "override", {}):
        fields.discard("weight")
    return tuple(f.name for f in dataclasses.fields(Values) if f.name in fields)


def current(name, table, config):
    """The `Values` that the flags of a run stand for, of what the method is tuned in.

    Where the interval is so long that w is 1 whatever the decay, the decay itself is
    tuned.

    Args: table: {name: interfaces.Method}, with the settings that flags give a method
    alone; config: the run's flags, `rl` among them. Raises ValueError if a method that
    resets is tuned around a run that never does.
    """
    rl, fields = config.rl, tuned_in(name, table)
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
    train = table[table[name].derived_from or name].train
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


def lines(name, first, space, *, shortest=1, longest):
    """The lines that a method is searched along, from its first setting.

    Args: first: the run's own `Values`, whose known fields are tuned; space: `Space`,
    or another one with these fields; shortest, longest: between resets, in iterations.
    Returns a tuple of `Line`. Raises ValueError if a value is out of its range, or the
    method has nothing to tune.
    """
    ranges.check(space)
    if not first.known():
        raise ValueError(f"{name} trains nothing of its own: it is not searched")
    for every in space.every if first.every is not None else ():
        if not shortest <= every <= longest:
            raise ValueError(
                f"--space.every {every}: {name} may be reset every {shortest} to "
                f"{longest} iterations, with as many evaluations as others and at "
                "least one reset; change it, or --steps or --num-evals"
            )
    return tuple(
        _line(field, own, space, shortest, longest)
        for field, own in first.known().items()
    )


def trained(name, table, values, first):
    """The `Values` of the run that a method with these values is, or is read off.

    What a source is not tuned in, and is as the flags have it, is left to them: so
    methods that are read off one source share its runs.
    """
    if table[name].derived_from is None:
        return values
    own = table[table[name].derived_from].tunes
    kept = {
        field: value
        for field, value in values.known().items()
        if field in own or value != getattr(first, field)
    }
    return Values(**kept)


def flags(name, table, values, rl):
    """The flags that give a run of one method these values.

    Args: name: of the method in `table`, {name: interfaces.Method}; if nothing trains
    it, the flags are those of its source; rl: the flags `rl` of the run, for what
    `values` leave open.
    """
    method = table[name]
    train = method.train or table[method.derived_from].train
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

    Args: source: the file of the sweep; tuned: {method: Values}; methods: {name:
    interfaces.Method} of the study; flags(name): the flags of a method's setting.
    """
    written = [f"{name}: {flags(name)}" for name in methods if name in tuned]
    rest = [name for name in methods if name not in tuned]
    like = [
        name
        for name in rest
        if methods[name].source in tuned or methods[name].follows in tuned
    ]
    left = [name for name in rest if name not in like]
    return (
        f"Tuned by {source}: {'; '.join(written) or 'none of these methods'}."
        + f" With the settings of these: {', '.join(like)}." * bool(like)
        + f" As the flags have them: {', '.join(left)}." * bool(left)
    )


def _line(field, own, space, shortest, longest):
    """The `Line` of a field; own: its value as the flags have it."""
    grid, scale = getattr(space, field), _SCALES.get(field, RATIO)
    if field in MULTIPLES:
        grid = [coordinate_search.tidy(own * value) for value in grid]
    bounds = {"every": (shortest, longest), "weight": _SHARES, "decay": _SHARES}
    low, high = bounds.get(field, (0.0, math.inf))
    return Line(field, tuple(sorted(set(grid))), scale, low, high)
