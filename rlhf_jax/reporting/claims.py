"""Claims that were declared before a run, and what its seeds say about them."""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import statistics
from rlhf_jax.reporting import results

# The smallest effect of interest by kind of endpoint; a hypervolume's is a share of
# the other method's mean.
SMALLEST = {
    "reward": 0.1,
    "reward_at": 0.1,
    "gold": 0.05,
    "gold_at": 0.05,
    "hypervolume": 0.05,
    "tax": 0.03,
    "win_rate": 0.05,
}
_LESS_IS_BETTER = ("drift", "drift_at", "tax", "truth")


@dataclasses.dataclass(frozen=True)
class Claim:
    """ "`method` is better than each of `others`", or as good, on one endpoint."""

    method: str
    others: tuple[str, ...]
    endpoint: str  # a name of `results.endpoints`
    smallest_effect: float | None = None  # None: from SMALLEST
    kind: str = "greater"  # or "equal"
    family: str = ""  # p-values are adjusted within it; a heading of the report

    def __post_init__(self):
        if self.kind not in ("greater", "equal"):
            raise ValueError(f'kind must be "greater" or "equal", got {self.kind!r}')
        if self.smallest_effect is None and self.group not in SMALLEST:
            raise ValueError(
                f"{self.endpoint!r} has no usual smallest effect: give smallest_effect"
            )

    @property
    def group(self):
        """The kind of endpoint: what stands before the first slash."""
        return self.endpoint.split("/")[0]

    @property
    def axis(self):
        """What stands behind the first slash: the drift axis of a front's endpoint."""
        return self.endpoint.partition("/")[2]

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


def possible(claims, methods, axes):
    """The claims about those methods that were run, on the axes that were measured.

    An endpoint that is of no front, as `reward` or `gold`, needs no axis.
    """
    limited = (
        claim.among(methods)
        for claim in claims
        if claim.group not in results.OF_A_FRONT or claim.axis in axes
    )
    return tuple(claim for claim in limited if claim is not None)


def judge(claims, found, *, axes, corners=None):
    """Every comparison of every claim, paired by seed, positive = `method` is better.

    Drift and reward are matched within the two methods compared. Seeds that only one
    of them has are left out; a seed that diverged is not, and takes the verdict away.
    What was not run or not measured is a finding without a verdict, and no error: the
    run is over, and the other claims are to be read.

    Args: claims: sequence of Claim; found: sequence of results.Run; the rest as in
    `results.summarize`. Returns a list of Finding, Holm over each family of claims.
    """

    @functools.cache
    def table(method, other):
        pair = [run for run in found if run.method in (method, other)]
        return results.endpoints(pair, axes=axes, corners=corners)

    findings = [
        _compare(claim, other, table(claim.method, other))
        for claim in claims
        for other in claim.others
    ]
    for family in {claim.family for claim in claims}:
        _adjust(findings, family)
    return findings


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


def _compare(claim, other, table):
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
    smallest = _smallest(claim, pairs[finite, 1])
    if not finite.all():
        lost = [str(s) for s, good in zip(seeds, finite, strict=True) if not good]
        reason = f"{results.absent(claim.endpoint)} in seed {', '.join(lost)}"
        return Finding(claim, other, smallest, None, reason)
    sign = -1.0 if claim.group in _LESS_IS_BETTER else 1.0
    gains = sign * (pairs[:, 0] - pairs[:, 1])
    verdict = statistics.verdict(gains, smallest, claim=claim.kind)
    return Finding(claim, other, smallest, verdict, "")


def _smallest(claim, others):
    if claim.smallest_effect is not None:
        return claim.smallest_effect
    usual = SMALLEST[claim.group]
    if claim.group != "hypervolume":
        return usual
    return usual * max(abs(float(np.mean(others))), 1e-12) if len(others) else None
