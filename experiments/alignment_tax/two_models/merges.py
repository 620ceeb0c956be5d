"""Models between and around two: a row each, with nothing trained.

`before` are the weights alignment started from, `after` the aligned ones, τ = after −
before. A weight is on `after`: "20% of the starting weights" is 0.8. A merge operator
works on τ alone here and its result is added to `before`; a density is the share of τ
that it keeps. All but the graft, which compares all weights with one another, are made
tensor by tensor, so that of their masks one tensor's are held.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

from rlhf_jax import averaging, merging, trees

_KEY = 2311  # of what is dropped at random
_EPSILON = 0.15  # DELLA's, where the density has room for it


class Point(NamedTuple):
    """A model that is made of two."""

    name: str  # as --method has it
    label: str  # as pictures and tables print it
    family: str  # a key of FAMILIES
    weight: float  # on the aligned model; of a merge, its density
    make: Callable | None  # (before, after) -> parameters; None: HMA trains its ratios


class Family(NamedTuple):
    """Points that belong on one line."""

    label: str
    summary: str
    by: str  # what varies along it: "weights", "beyond" or "densities" of the flags
    make: Callable | None  # weight -> (before, after) -> parameters
    advised: bool = True  # False: an extrapolation, which is shown and never advised


def interpolate(weight):
    """(1 − w)·before + w·after; beyond 1 it extrapolates."""
    return lambda before, after: averaging.interpolate(before, after, weight)


def graft(density):
    """`after` where it moved furthest, for a share of all weights; else `before`."""
    return lambda before, after: averaging.graft(before, after, density)


def by_tensor(operator):
    """density -> (before, after) -> before + operator(τ), a leaf at a time.

    operator(vectors, weights, density=, stacked=, key=, axis=) -> merged vector, as in
    `merging`; key: one for each leaf; axis: that of a unit's inputs.
    """

    def of(density):
        def make(before, after):
            structure, leaves = jax.tree.structure(before), []
            every = (trees.paths(before), *map(jax.tree.leaves, (before, after)))
            for i, (path, a, b) in enumerate(zip(*every, strict=True)):
                key = jax.random.fold_in(jax.random.key(_KEY), i)
                axis = -2 if path.endswith("kernel") else -1
                stacked = int(path.startswith("layers/"))
                vector = averaging.task_vector(a, b)
                merged = operator(
                    [vector],
                    [1.0],
                    density=density,
                    stacked=stacked,
                    key=key,
                    axis=axis,
                )
                leaves.append(averaging.add_vectors(a, [merged], [1.0]))
            return jax.tree.unflatten(structure, leaves)

        return make

    return of


def _plain(operator):
    """An operator without a key or an axis."""
    return lambda *args, key, axis, **named: operator(*args, **named)


def _dare(*args, axis, **named):
    return merging.dare(*args, **named)


def _della(*args, density, **named):
    epsilon = min(_EPSILON, 0.5 * density, 0.5 * (1.0 - density))
    return merging.della(*args, density=density, epsilon=epsilon, **named)


FAMILIES = {
    "ma": Family("MA", "(1 − w)·before + w·after", "weights", interpolate),
    "hma": Family(
        "HMA", "a weight for each block of layers, fitted to samples", "weights", None
    ),
    "beyond": Family("extrapolation", "w above 1", "beyond", interpolate, False),
    "ties": Family(
        "TIES", "the largest changes of each tensor", "densities",
        by_tensor(_plain(merging.ties)),
    ),
    "dare": Family(
        "DARE", "changes dropped at random, the others rescaled", "densities",
        by_tensor(_dare),
    ),
    "della": Family(
        "DELLA", "DARE that keeps large changes more often", "densities",
        by_tensor(_della),
    ),
    "breadcrumbs": Family(
        "breadcrumbs", "neither the largest 1% nor the smallest changes", "densities",
        by_tensor(_plain(merging.breadcrumbs)),
    ),
    "graft": Family(
        "graft", "the largest changes of all weights", "densities", graft
    ),
}  # fmt: skip


def points(families, *, weights, beyond, densities):
    """The rows of some families, in the order of the table, by weight within each."""
    along = {"weights": weights, "beyond": beyond, "densities": densities}
    return [
        point(name, weight)
        for name in FAMILIES
        if name in families
        for weight in sorted(along[FAMILIES[name].by])
    ]


def named(name):
    """The row that a name such as "ma_0.8" or "ties_0.2" is of.

    Raises ValueError for another form, and for a weight that the family cannot have.
    """
    family, _, number = name.rpartition("_")
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    most = {"weights": 1.0, "densities": 1.0, "beyond": 2.0}
    known = family in FAMILIES and 0 < weight <= most[FAMILIES[family].by]
    if not known:
        raise ValueError(
            f"--method {name}: name a family of {', '.join(FAMILIES)} and a weight or "
            "density above 0, as in ma_0.8 or ties_0.2"
        )
    return point(family, weight)


@functools.cache
def point(name, weight):
    """The row of a family, by its key, at a weight."""
    family = FAMILIES[name]
    text = f"{weight:g}"
    make = None if family.make is None else family.make(weight)
    return Point(f"{name}_{text}", f"{family.label} {text}", name, weight, make)
