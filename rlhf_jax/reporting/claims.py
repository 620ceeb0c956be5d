"""Claims that were declared before a run, and what its seeds say about them."""

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


class Claim(NamedTuple):
    """ "`method` is better than each of `others`", or as good, on one endpoint."""

    method: str
    others: tuple[str, ...]
    endpoint: str  # a name of `results.endpoints`
    smallest_effect: float | None = None  # None: from SMALLEST
    kind: str = "greater"  # or "equal"


class Finding(NamedTuple):
    """One comparison of a claim."""

    claim: Claim
    other: str
    smallest_effect: float  # in the endpoint's unit
    verdict: statistics.Verdict | None  # None: a seed was not finite
    p_holm: float  # over all findings judged together; NaN when not tested
    diverged: tuple[int, ...]  # seeds that are not finite


def judge(claims, found, *, axes, corners=None):
    """Every comparison of every claim, paired by seed, positive = `method` is better.

    Drift and reward are matched within the two methods compared. Seeds that only one
    of them has are left out; a seed that diverged is not, and takes the verdict away.

    Args: claims: sequence of Claim; found: sequence of results.Run; the rest as in
    `results.summarize`. Returns a list of Finding, Holm over all of them.
    """
    findings = []
    for claim in claims:
        for other in claim.others:
            pair = [run for run in found if run.method in (claim.method, other)]
            table = results.endpoints(pair, axes=axes, corners=corners)
            findings.append(_compare(claim, other, table))
    tested = [i for i, f in enumerate(findings) if f.verdict and f.verdict.p >= 0]
    adjusted = statistics.holm([findings[i].verdict.p for i in tested])
    for i, p in zip(tested, adjusted, strict=True):
        findings[i] = findings[i]._replace(p_holm=float(p))
    return findings


def less_is_better(endpoint):
    """Is a smaller value of the endpoint the better one?"""
    return endpoint.split("/")[0] in _LESS_IS_BETTER


def _compare(claim, other, table):
    one, two = (_values(table, name, claim.endpoint) for name in (claim.method, other))
    seeds = sorted(set(one) & set(two))
    if not seeds:
        raise ValueError(f"{claim.method} and {other} share no seed")
    pairs = np.array([[one[seed], two[seed]] for seed in seeds])
    finite = np.isfinite(pairs).all(-1)
    smallest = _smallest(claim, pairs[finite, 1])
    diverged = tuple(s for s, good in zip(seeds, finite, strict=True) if not good)
    verdict = None
    if not diverged:
        sign = -1.0 if less_is_better(claim.endpoint) else 1.0
        gains = sign * (pairs[:, 0] - pairs[:, 1])
        verdict = statistics.verdict(gains, smallest, claim=claim.kind)
    return Finding(claim, other, smallest, verdict, float("nan"), diverged)


def _values(table, method, endpoint):
    try:
        return table[method][endpoint]
    except KeyError as error:
        known = sorted(table.get(method, table))
        raise ValueError(
            f"no {endpoint!r} of {method!r}: {error} is not among {known}"
        ) from error


def _smallest(claim, others):
    if claim.smallest_effect is not None:
        return claim.smallest_effect
    kind = claim.endpoint.split("/")[0]
    if kind not in SMALLEST:
        raise ValueError(
            f"{claim.endpoint!r} has no usual smallest effect: give smallest_effect"
        )
    if kind == "hypervolume":
        return SMALLEST[kind] * max(abs(float(np.mean(others))), 1e-12)
    return SMALLEST[kind]
