"""A reward model on a preference set that it has not seen: is it right, and sure?

From scores of both answers and their lengths, N pairs; everything is plain numbers, as
results.json keeps them.
"""

import numpy as np
from scipy import special

from rlhf_jax.evaluation import agreement as agreements
from rlhf_jax.evaluation import calibration, correlation, statistics

QUANTILES = (0.25, 0.5, 0.75)
_ANY = (-0.5, 0.5)  # characters: between them answers are equally long


def measure_all(sets, *, bins=10):
    """{"temperature": T, "sets": {name: what `measure` returns}} of one reward model.

    T minimises the NLL of the first set, and of no other (Guo et al. 2017; see
    `calibration.temperature`): that is the one that belongs to the training pairs.

    Args: sets: {name: {"scores": [N, 2], "lengths": [N, 2], and "preference": [N]
    where labels are soft}}.
    """
    first = next(iter(sets.values()))
    margins = _pairs(first["scores"], "scores") @ [1.0, -1.0]
    heat = calibration.temperature(margins, preference=first.get("preference"))
    measured = {
        name: measure(
            one["scores"],
            one["lengths"],
            preference=one.get("preference"),
            temperature=heat,
            bins=bins,
        )
        for name, one in sets.items()
    }
    return {"temperature": heat if np.isfinite(heat) else None, "sets": measured}


def measure(scores, lengths, *, preference=None, temperature=None, bins=10):
    """{name: numbers} of a reward model on N pairs, with Δ = r(chosen) − r(rejected).

    `calibration.preference_quality` of Δ and, as "scaled", of Δ/T; the accuracy with
    its Wilson interval, within strata of the difference in length too; the agreement
    with the labels, where a tie counts ½; how scores go with lengths, and how often the
    longer answer is the chosen one: the accuracy of length alone. RewardBench counts a
    tie as wrong, and so do accuracies here.

    Args:
      scores: [N, 2] of the chosen and of the rejected answer.
      lengths: [N, 2] of the same, in characters.
      preference: [N], the probability that the chosen answer is the better one; 1.
      temperature: T, fitted on other pairs (`calibration.temperature`). Nothing is
        scaled without one, or by 0 or NaN.
    Raises ValueError for scores or lengths of other shapes, or that are not finite.
    """
    scores, lengths = _pairs(scores, "scores"), _pairs(lengths, "lengths")
    if scores.shape != lengths.shape:
        raise ValueError(
            f"scores {scores.shape} and lengths {lengths.shape}: give both of the same "
            "pairs"
        )
    margins, longer = scores[:, 0] - scores[:, 1], lengths[:, 0] - lengths[:, 1]
    p = np.ones(len(margins)) if preference is None else np.asarray(preference)
    asked = {"preference": p, "bins": bins}
    quality = calibration.preference_quality(margins, **asked)
    found = {
        **quality._asdict(),
        "accuracy": _interval(statistics.wilson(quality.accuracy, quality.pairs)),
        "agreement": _agreement(margins, p),
        "reliability": _reliability(margins, p, bins),
        "length": _length(scores, lengths, margins, longer, p),
        "scaled": None,
    }
    if temperature is not None and temperature > 0:
        cooled = margins / temperature
        better = calibration.preference_quality(cooled, **asked)._asdict()
        found["scaled"] = {
            "temperature": float(temperature),
            **{name: better[name] for name in ("nll", "brier", "ece")},
            "reliability": _reliability(cooled, p, bins),
        }
    return found


def _reliability(margins, p, bins):
    """A reliability diagram of the side that each margin is on; a tie is half right."""
    right = np.where(margins > 0, p, np.where(margins < 0, 1 - p, 0.5))
    confidence = special.expit(np.abs(margins))
    found = calibration.reliability(confidence, right, bins=bins)
    return {name: values.tolist() for name, values in found._asdict().items()}


def _length(scores, lengths, margins, longer, p):
    """What length has to do with it: strata, correlations, length as the reward."""
    strata = {
        "by_sign": calibration.by_strata(margins, longer, edges=_ANY, preference=p),
        "by_quantile": calibration.by_strata(
            margins, longer, quantiles=QUANTILES, preference=p
        ),
    }
    alone = calibration.preference_quality(longer, preference=p).accuracy
    return {
        **{name: [_stratum(s) for s in some] for name, some in strata.items()},
        "correlation": _correlation(scores.ravel(), lengths.ravel()),
        "correlation_of_differences": _correlation(margins, longer),
        "accuracy_of_length": _interval(statistics.wilson(alone, len(margins))),
    }


def _agreement(margins, p):
    found = agreements.agreement(special.expit(margins), p)
    return {"mean": found.share, "low": found.low, "high": found.high}


def _stratum(stratum):
    """A `calibration.Stratum` as JSON holds it: no bound where there is none."""
    bounds = {"lower": stratum.lower, "upper": stratum.upper}
    bounds = {k: v if np.isfinite(v) else None for k, v in bounds.items()}
    accuracy = _interval(stratum.accuracy) if stratum.pairs else None
    return {**bounds, "pairs": stratum.pairs, "accuracy": accuracy}


def _interval(interval):
    return interval._asdict()


def _correlation(x, y):
    """Pearson's, None where either is constant."""
    value = correlation.pearson(x, y).value
    return None if np.isnan(value) else value


def _pairs(values, name):
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1:] != (2,) or not np.isfinite(values).all():
        raise ValueError(
            f"{name} must be finite, [N, 2] of the chosen and the rejected answer; got "
            f"{values}, of shape {values.shape}"
        )
    return values
