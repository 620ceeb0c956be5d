"""Where the evidence of a claim is, and the rows that it gives.

A paper's checklist is data: items, each with the places that speak of it. A place is a
comparison of a kept result, a family of statements, a pair of final values, a number,
a test, or the reason why there is nothing. Figures and verdicts are read, never
written down here.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from experiments.verdicts import shelves, studies
from rlhf_jax.evaluation import statistics, units
from rlhf_jax.evaluation.axes import REWARD
from rlhf_jax.reporting import claims, endpoints, recorded, report, verdicts
from rlhf_jax.reporting import results as estimates

NO_TEST, NOT_JUDGED, SHOWN = "no test", "not judged", "shown by a test"
UNTESTED, NOT_RUN = "not tested", "not run yet"
# From what speaks for a claim to what speaks against it, then what says neither.
JUDGED = (
    "reproduced",
    "≈",
    "better, negligibly",
    "undecided",
    "not reproduced",
    "worse, negligibly",
    "contradicted",
)
WORDS = (*JUDGED, NO_TEST, NOT_JUDGED, SHOWN, UNTESTED, NOT_RUN)


class Row(NamedTuple):
    """A line of the page: one comparison, number, test or reason."""

    what: str  # "PPO is better than SFT", or why nothing was tested
    word: str  # one of WORDS
    source: str = ""  # the name of a kept result, or a test as pytest takes it
    endpoint: str = ""  # what was measured, as printed
    mean: float | None = None  # of the difference, or the number itself, as recorded
    low: float | None = None  # of the interval; None where there is none
    high: float | None = None
    smallest: float | None = None  # effect of interest, as recorded
    scale: float = 1.0  # from the recorded to the printed unit
    unit: str = ""
    p_holm: float | None = None
    needed: str = ""  # " (about 20 worlds would decide)"
    units: str = ""  # "15 worlds × 2 seeds, no sweep"


class Item(NamedTuple):
    """A claim of a checklist."""

    number: str  # within its paper; "+" before what the checklist does not ask for
    claim: str  # one sentence
    evidence: tuple


class Paper(NamedTuple):
    """A checklist."""

    title: str
    source: str  # authors, year, number
    items: tuple


def rows(item, shelf):
    """The rows of an item, at least one; what was not run is said once."""
    found = [row for place in item.evidence for row in place.rows(shelf)]
    return list(dict.fromkeys(found))


class Claimed(NamedTuple):
    """Comparisons that a study declared: the primary one, or another endpoint's."""

    kept: str
    method: str
    others: tuple = ()  # (): every other one that it was compared with
    endpoint: str = ""  # "": the primary one

    def rows(self, shelf):
        kept = shelf.kept(self.kept)
        found = [] if kept is None else kept.summary["verdicts"]
        found = [row for row in found if self.asks(row)]
        return [_of_claim(self.kept, kept, row) for row in found] or [
            _not_run(self.kept, kept, f"nothing compared with {self.method}")
        ]

    def asks(self, row):
        asked = row["secondary"] and row["endpoint"] == self.endpoint
        return (
            row["method"] == self.method
            and (not self.others or row["other"] in self.others)
            and (asked if self.endpoint else not row["secondary"])
        )


class Stated(NamedTuple):
    """A family of statements, judged like claims."""

    kept: str
    family: str
    endpoint: str = ""  # what they are about, where the claim does not say

    def rows(self, shelf):
        kept = shelf.kept(self.kept)
        found = [] if kept is None else shelf.stated(self.kept)
        return [
            Row(
                row["text"],
                row["word"],
                self.kept,
                self.endpoint,
                unit=row["unit"] or studies.STUDIES[self.kept].unit,
                units=shelves.units(kept),
                p_holm=row.get("p_holm"),
                needed=verdicts.needed(_verdict(row)),
                **_numbers(row),
                smallest=row["smallest"],
                scale=row["scale"],
            )
            for row in found
            if row["family"] == self.family
        ] or [_not_run(self.kept, kept, f"nothing of “{self.family}”")]


class Ended(NamedTuple):
    """The final values of two methods of which no more was kept, unit by unit."""

    kept: str
    endpoint: str
    method: str
    other: str | None = None  # None: the initial policy

    def rows(self, shelf):
        kept, study = shelf.kept(self.kept), studies.STUDIES[self.kept]
        if kept is None:
            return [_not_run(self.kept, kept)]
        about = endpoints.parse(self.endpoint, study.axes)
        gaps, smallest = self._gaps(kept, about), about.smallest
        verdict = statistics.verdict(list(units.worlds(gaps).values()), smallest)
        one, other = study.labels[self.method], study.labels.get(self.other)
        return [
            Row(
                f"{one} is better than {other}" if other else f"{one} against π₀",
                verdict.word,
                self.kept,
                about.title,
                **_numbers(estimates.estimate(gaps)),
                smallest=smallest,
                scale=about.scale,
                unit=_unit(about),
                units=shelves.units(kept),
            )
        ]

    def _gaps(self, kept, about):
        one = kept.methods[self.method][self.endpoint]
        start = dict.fromkeys(one, kept.initial.get(self.endpoint))
        other = kept.methods[self.other][self.endpoint] if self.other else start
        sign = -1.0 if about.less_is_better and self.other else 1.0
        return {u: sign * (one[u] - other[u]) for u in one if u in other}


class Counted(NamedTuple):
    """A number that was measured, of which nothing was declared beforehand."""

    kept: str
    what: str
    find: Callable  # kept results -> an estimate, a number, or None
    endpoint: str = ""
    scale: float = 1.0
    unit: str = ""
    beside: tuple = ()  # other kept results that `find` is given

    def rows(self, shelf):
        kept = [shelf.kept(name) for name in (self.kept, *self.beside)]
        found = None if None in kept else self.find(*kept)
        if found is None:
            return [_not_run(self.kept, kept[0], self.what)]
        if not isinstance(found, dict):
            found = {"mean": found, "low": None, "high": None}
        return [
            Row(
                self.what,
                NOT_JUDGED,
                self.kept,
                self.endpoint,
                **_numbers(found),
                scale=self.scale,
                unit=self.unit,
                units=shelves.units(kept[0]),
            )
        ]


class Shown(NamedTuple):
    """A contract of the code, and the test that shows it."""

    test: str  # "tests/test_ema.py::test_two_updates_by_algebra"

    def rows(self, shelf):
        del shelf
        name = self.test.partition("::test_")[2].replace("_", " ")
        return [Row(name[0].upper() + name[1:], SHOWN, self.test)]


def shown(path, *names):
    """`Shown` for several tests of a file; names without their "test_"."""
    return tuple(Shown(f"tests/{path}::test_{name}") for name in names)


class Untested(NamedTuple):
    """Why there is nothing to see."""

    reason: str

    def rows(self, shelf):
        del shelf
        return [Row(self.reason, UNTESTED)]


def path(*names):
    """A `find`: the number that stands under these names in a summary or a report."""

    def find(kept):
        value = kept.summary if isinstance(kept, recorded.Recorded) else kept
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    return find


def logged(key, method=None):
    """A `find`: the last number under a key of the records, estimated over worlds."""

    def find(kept):
        found = {
            units.of(record): record[key]
            for record in kept.records
            if key in record and method in (None, record["method"])
        }
        return estimates.estimate(found) if found else None

    return find


def _of_claim(name, kept, row):
    """A row of "verdicts" of a kept study."""
    about = report.Report("", axes=kept.axes, labels=studies.STUDIES[name].labels)
    claim, endpoint = recorded.declared(row), about.endpoint(row["endpoint"])
    finding = claims.Finding(
        claim, row["other"], row["smallest_effect"], None, row["reason"], {},
        at=row["at"],
    )  # fmt: skip
    judged = not row["secondary"] or row["word"] == NO_TEST
    what = verdicts.sentence(finding, about)
    if row["mean"] is None:
        return Row(f"{what}: {row['reason']}", NOT_RUN, name)
    return Row(
        what,
        row["word"] if judged else NOT_JUDGED,
        name,
        verdicts.title(finding, about),
        **_numbers(row),
        smallest=row["smallest_effect"],
        scale=endpoint.scale,
        unit=_unit(endpoint._replace(measure=REWARD) if row["at"] else endpoint),
        p_holm=_finite(row["p_holm"]) if judged else None,
        needed=verdicts.needed(_verdict(row)) if judged else "",
        units=shelves.units(kept),
    )


def _verdict(row):
    return statistics.Verdict(*(row[name] for name in statistics.Verdict._fields))


def _numbers(row):
    return {name: _finite(row[name]) for name in ("mean", "low", "high")}


def _finite(value):
    """A number of a kept file, in which "nan" and "inf" are spelled; else None."""
    return None if value is None or not math.isfinite(float(value)) else float(value)


def _unit(endpoint):
    if endpoint.measure is None:
        return f"reward × {endpoint.axis.unit}"
    return "points" if endpoint.measure.percent else endpoint.measure.unit


def _not_run(name, kept, what=""):
    return Row("its study is not done" if kept is None else what, NOT_RUN, name)
