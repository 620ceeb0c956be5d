"""Claims that were declared before a run, and what its seeds say about them."""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import statistics
from rlhf_jax.reporting import endpoints


@dataclasses.dataclass(frozen=True)
class Claim:
    """ "`method` is better than each of `others`", or as good, on one endpoint."""

    method: str
    others: tuple[str, ...]
    endpoint: str  # a name as in `endpoints`
    smallest_effect: float | None = None  # None: that of the endpoint's axis
    kind: str = "greater"  # or "equal"
    family: str = ""  # p-values are adjusted within it; a heading of the report

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
    reason: str  # why there is no verdict: a seed diverged, a method was not run
    p_holm: float = math.nan  # over all findings of its family; NaN when not tested


def check(claims, axes):
    """Raises ValueError if neither a claim nor its axis has a smallest effect."""
    for claim in claims:
        usual = endpoints.parse(claim.endpoint, axes).smallest
        if claim.smallest_effect is None and usual is None:
            raise ValueError(
                f"{claim.endpoint!r} has no usual smallest effect: give the claim a "
                "smallest_effect, or its axis a smallest"
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
        if endpoint.reading == "final" or endpoint.axis.key in measured
    )


def judge(claims, runs, *, axes, corners=None):
    """Every comparison of every claim, paired by seed, positive = `method` is better.

    Drift and reward are matched within the two methods compared. Seeds that only one
    of them has are left out; a seed that diverged is kept and precludes a verdict. What
    was not run or not measured is a finding without a verdict, not an error, so that
    the other claims can still be read.

    Args: claims: sequence of Claim; runs: sequence of evaluations.Run; the rest as in
    `results.summarize`. Returns a list of Finding, Holm over each family of claims.
    """

    @functools.cache
    def table(method, other):
        pair = [run for run in runs if run.method in (method, other)]
        return endpoints.table(pair, axes=axes, corners=corners)

    findings = [
        _compare(claim, other, table(claim.method, other), axes)
        for claim in claims
        for other in claim.others
    ]
    for family in {claim.family for claim in claims}:
        _adjust(findings, family)
    return findings


def row(finding):
    """A finding as an entry of results.json."""
    result = {
        "method": finding.claim.method,
        "other": finding.other,
        "endpoint": finding.claim.endpoint,
        "kind": finding.claim.kind,
        "family": finding.claim.family,
        "smallest_effect": finding.smallest_effect,
        "p_holm": finding.p_holm,
        "reason": finding.reason,
    }
    verdict = finding.verdict
    return {**result, **(verdict._asdict() if verdict else {"word": "none"})}


def _adjust(findings, family):
    """Holm's p over the findings of a family, written into the list."""
    tested = [
        i
        for i, f in enumerate(findings)
        if f.claim.family == family and f.verdict and f.verdict.p >= 0
    ]
    adjusted = statistics.holm([findings[i].verdict.p for i in tested])
    for i, p in zip(tested, adjusted, strict=True):
        findings[i] = findings[i]._replace(p_holm=float(p))


def _compare(claim, other, table, axes):
    names = claim.method, other
    absent = [name for name in names if name not in table]
    if absent:
        return Finding(claim, other, None, None, f"{absent[0]} was not run")
    one, two = (table[name].get(claim.endpoint, {}) for name in names)
    seeds = sorted(set(one) & set(two))
    if not seeds:
        return Finding(claim, other, None, None, "not measured")
    pairs = np.array([[one[seed], two[seed]] for seed in seeds])
    finite = np.isfinite(pairs).all(-1)
    endpoint = endpoints.parse(claim.endpoint, axes)
    smallest = _smallest(claim, endpoint, pairs[finite, 1])
    if not finite.all():
        lost = [str(s) for s, good in zip(seeds, finite, strict=True) if not good]
        reason = f"{endpoint.absent} in seed {', '.join(lost)}"
        return Finding(claim, other, smallest, None, reason)
    sign = -1.0 if endpoint.less_is_better else 1.0
    gains = sign * (pairs[:, 0] - pairs[:, 1])
    verdict = statistics.verdict(gains, smallest, claim=claim.kind)
    return Finding(claim, other, smallest, verdict, "")


def _smallest(claim, endpoint, others):
    if claim.smallest_effect is not None:
        return claim.smallest_effect
    if endpoint.reading != "hypervolume":
        return endpoint.smallest
    if not len(others):
        return None
    return endpoint.smallest * max(abs(float(np.mean(others))), 1e-12)
