"""Claims that were declared before a run, and what its worlds say about them."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import statistics, units
from rlhf_jax.reporting import endpoints, evaluations


@dataclasses.dataclass(frozen=True)
class Claim:
    """ "`method` is better than each of `others`", or as good, on one endpoint.

    A study has one primary endpoint. Comparisons on any other are `secondary`: they are
    printed with their interval, and no verdict.
    """

    method: str
    others: tuple[str, ...]
    endpoint: str  # a name as in `endpoints`
    smallest_effect: float | None = None  # None: that of the endpoint's axis
    kind: str = "greater"  # or "equal"
    family: str = ""  # p-values are adjusted within it; a heading of the report
    secondary: bool = False

    def __post_init__(self):
        if self.kind not in ("greater", "equal"):
            raise ValueError(f'kind must be "greater" or "equal", got {self.kind!r}')

    def among(self, methods):
        """The claim about those of its methods that were run; None if none is left."""
        others = tuple(other for other in self.others if other in methods)
        if self.method not in methods or not others:
            return None
        return dataclasses.replace(self, others=others)


class Finding(NamedTuple):
    """One comparison of a claim."""

    claim: Claim
    other: str
    smallest_effect: float | None  # in the endpoint's unit
    verdict: statistics.Verdict | None
    reason: str  # why there is no verdict: a method was not run
    pairs: dict  # {unit: (the method's number, the other's)}; NaN where one diverged
    p_holm: float = math.nan  # over all findings of its family; NaN when not tested
    at: str = ""  # the method at whose only look both were read; see `endpoints.pair`

    @property
    def differences(self):
        """{unit: the method's number − the other's} of the units that are not void."""
        return {u: a - b for u, (a, b) in self.pairs.items() if math.isfinite(a - b)}

    @property
    def intraclass(self):
        """How alike the differences of seeds of a world are."""
        return units.intraclass(self.differences)

    @property
    def void(self):
        """The units in which one of the two diverged."""
        return [u for u, (a, b) in self.pairs.items() if not math.isfinite(a - b)]


def check(claims, axes, worlds=None):
    """Raises ValueError for claims that cannot be judged.

    That is if neither a claim nor its axis has a smallest effect, if two endpoints are
    primary, or a family is too large to be decided by so many worlds (`worlds` of at
    least `statistics.MIN_WORLDS`).
    """
    for claim in claims:
        usual = endpoints.parse(claim.endpoint, axes).smallest
        if claim.smallest_effect is None and usual is None:
            raise ValueError(
                f"{claim.endpoint!r} has no usual smallest effect: give the claim a "
                "smallest_effect, or its axis a smallest"
            )
    primary = [claim for claim in claims if not claim.secondary]
    names = sorted({claim.endpoint for claim in primary})
    if len(names) > 1:
        raise ValueError(
            f"{', '.join(names)} are all primary endpoints: keep one, and mark the "
            "other claims secondary"
        )
    if worlds is None or worlds < statistics.MIN_WORLDS:
        return
    for family in {claim.family for claim in primary}:
        size = sum(len(c.others) for c in primary if c.family == family)
        if size > statistics.largest_family(worlds):
            raise ValueError(
                f"family {family!r} has {size} comparisons, and {worlds} worlds can "
                f"decide {statistics.largest_family(worlds)}: split it, or run more"
            )


def possible(claims, methods, axes):
    """The claims about methods that were run, on axes that were measured.

    Endpoints without a front, such as `reward` and `gold`, need no drift axis.
    axes: sequence of Axis.
    """
    measured = {axis.key for axis in axes_.drifts(axes)}
    limited = [claim.among(methods) for claim in claims]
    parsed = [endpoints.parse(claim.endpoint, axes) for claim in claims]
    return tuple(
        claim
        for claim, endpoint in zip(limited, parsed, strict=True)
        if claim is not None
        if endpoint.reading in ("final", "end") or endpoint.axis.key in measured
    )


def judge(claims, runs, *, axes):
    """Every comparison of every claim, paired by unit, positive = `method` is better.

    Units that only one of them has are left out; one in which either diverged is void,
    and counted. Seeds of a world are averaged before anything is tested. What was not
    run or not measured is a finding without a verdict, not an error, so that the other
    claims can still be read.

    Args: claims: sequence of Claim; runs: sequence of evaluations.Run; axes: sequence
    of Axis. Returns a list of Finding, Holm over each family of primary claims.
    """
    by_method = {
        method: {run.unit: run for run in group}
        for method, group in evaluations.by_method(runs).items()
    }
    findings = [
        _compare(claim, other, by_method, axes)
        for claim in claims
        for other in claim.others
    ]
    for family in {claim.family for claim in claims}:
        _adjust(findings, family)
    return findings


def row(finding):
    """A finding as an entry of results.json, its numbers unit by unit."""
    result = {
        "method": finding.claim.method,
        "other": finding.other,
        "endpoint": finding.claim.endpoint,
        "kind": finding.claim.kind,
        "family": finding.claim.family,
        "secondary": finding.claim.secondary,
        "smallest_effect": finding.smallest_effect,
        "p_holm": finding.p_holm,
        "reason": finding.reason,
        "at": finding.at,
        "intraclass": finding.intraclass,
        "void": [str(unit) for unit in finding.void],
        "per_unit": {str(unit): list(pair) for unit, pair in finding.pairs.items()},
    }
    verdict = finding.verdict
    return {**result, **(verdict._asdict() if verdict else {"word": "none"})}


def _adjust(findings, family):
    """Holm's p over the primary findings of a family, written into the list."""
    tested = [
        i
        for i, f in enumerate(findings)
        if f.claim.family == family and not f.claim.secondary
        if f.verdict and f.verdict.word != "no test"
    ]
    adjusted = statistics.holm([findings[i].verdict.p for i in tested])
    for i, p in zip(tested, adjusted, strict=True):
        findings[i] = findings[i]._replace(p_holm=float(p))


def _compare(claim, other, by_method, axes):
    nothing = Finding(claim, other, None, None, "", {})
    for name in (claim.method, other):
        if name not in by_method:
            return nothing._replace(reason=f"{name} was not run")
    ones, others = by_method[claim.method], by_method[other]
    shared = sorted(set(ones) & set(others))
    pairs = {
        unit: endpoints.pair(ones[unit], others[unit], claim.endpoint, axes)
        for unit in shared
    }
    if None in pairs.values() or not pairs:
        return nothing._replace(reason=_why_not(claim, ones, others, shared, axes))
    endpoint = endpoints.parse(claim.endpoint, axes)
    single = [name for name in (claim.method, other) if _looks(by_method[name]) == 1]
    single = single[:1] if endpoint.reading in endpoints.OF_A_FRONT else []
    finding = nothing._replace(pairs=pairs, at="".join(single))
    rest = [b for a, b in pairs.values() if math.isfinite(a - b)]
    if not rest:
        return finding._replace(reason="diverged in every unit")
    smallest = _smallest(claim, endpoint, rest, axes_.rewards(axes)[0], single)
    sign = -1.0 if endpoint.less_is_better else 1.0
    gains = units.worlds({u: sign * d for u, d in finding.differences.items()})
    verdict = statistics.verdict(list(gains.values()), smallest, kind=claim.kind)
    return finding._replace(smallest_effect=smallest, verdict=verdict)


def _why_not(claim, ones, others, shared, axes):
    """Why two methods cannot be compared on an endpoint."""
    if not shared:
        return "no unit has both"
    one, other = ones[shared[0]], others[shared[0]]
    if endpoints.parse(claim.endpoint, axes).reading == "hypervolume":
        if one.looks != other.looks:
            return f"{one.looks} looks and {other.looks}: measure both as often"
    return "not measured"


def _looks(by_unit):
    return max(run.looks for run in by_unit.values())


def _smallest(claim, endpoint, others, reward, single):
    if claim.smallest_effect is not None:
        return claim.smallest_effect
    if single and endpoint.reading == "hypervolume":
        return reward.smallest
    if endpoint.reading != "hypervolume":
        return endpoint.smallest
    return endpoint.smallest * max(abs(float(np.mean(others))), 1e-12)
