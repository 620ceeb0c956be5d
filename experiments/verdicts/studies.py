"""What a kept result does not say of itself: names of methods, what was stated."""

from collections.abc import Callable
from typing import NamedTuple

from experiments.objective_mismatch import links
from experiments.objective_mismatch import methods as chain
from experiments.pivot_translation import methods as game
from experiments.pivot_translation import sections
from experiments.results import ai, tax
from experiments.rlaif import orderings
from rlhf_jax.evaluation import axes
from rlhf_jax.studies import methods


class Study(NamedTuple):
    """A kept result, by its name."""

    labels: dict  # {method: what tables print}
    axes: tuple = axes.STANDARD  # of final values, which are kept without axes
    state: Callable = lambda records: []  # records -> rows of statements
    unit: str = ""  # of statements that have none of their own


_LANGUAGE = Study(methods.LABELS)
_GAME = Study(game.LABELS, sections.MEASURED)
STUDIES = {
    "elastic_reset": _LANGUAGE,
    "elastic_reset_tuned": _LANGUAGE,
    "elastic_reset_ablations": _LANGUAGE,
    "worlds": _LANGUAGE,
    "imdb": _LANGUAGE,
    "stories": _LANGUAGE,
    "game_study": _GAME,
    "game_tuned": _GAME,
    "alignment_tax": Study(tax.LABELS),
    "rlaif": Study(ai.LABELS, state=orderings.judge, unit="points"),
    "objective_mismatch": Study(chain.LABELS, state=links.judge),
}
