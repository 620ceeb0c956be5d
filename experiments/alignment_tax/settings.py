"""What every setting gained and lost since the start, unit by unit."""

import numpy as np
from scipy import special

from rlhf_jax.evaluation import statistics, units
from rlhf_jax.evaluation.axes import REWARD, SKILLS
from rlhf_jax.reporting import evaluations, results


def changes(records, keys):
    """{method: {key: {unit: its last evaluation − the initial policy's}}}."""
    found = {}
    for run in evaluations.runs(records):
        first, last = run.rows[0], run.rows[-1]
        for key in keys:
            if key in first and key in last:
                by_unit = found.setdefault(run.method, {}).setdefault(key, {})
                by_unit[run.unit] = last[key] - first[key]
    return found


def minus(one, other):
    """{unit: a − b} of the units that both have."""
    return {unit: one[unit] - other[unit] for unit in one if unit in other}


def estimates(by_key):
    """{key: estimate over worlds} of {key: {unit: number}}, with the numbers."""
    return {
        key: {**results.estimate(by_unit), "per_unit": _named(by_unit)}
        for key, by_unit in by_key.items()
        if by_unit
    }


def difference(found, one, other, keys):
    """{key: estimate of one method's change − another's}; {} where one was not run."""
    if not {one, other} <= set(found):
        return {}
    pairs = {k: (found[one].get(k, {}), found[other].get(k, {})) for k in keys}
    return estimates({k: minus(*pair) for k, pair in pairs.items()})


def shares(found, setting, aligner):
    """How much of the tax a setting returns, and what share of the gain it costs.

    Ratios of means over worlds: {"returned", "paid"}, with a jackknife over worlds for
    their 95% interval; None where the aligner lost no skill.
    """
    if not {setting, aligner} <= set(found):
        return None
    lost, gained = (found[aligner][key] for key in (SKILLS.key, REWARD.key))
    returned = minus(found[setting][SKILLS.key], lost)
    gained = {unit: gained[unit] for unit in returned}
    paid = minus(gained, found[setting][REWARD.key])
    tax = {unit: -lost[unit] for unit in returned}
    if np.mean(list(units.worlds(tax).values())) <= 0:
        return None
    return {"returned": _ratio(returned, tax), "paid": _ratio(paid, gained)}


def _ratio(top, bottom):
    """mean(top)/mean(bottom) over worlds, and its jackknife t-interval from 8 on."""
    tops, bottoms = (np.array(list(units.worlds(x).values())) for x in (top, bottom))
    whole, n = tops.mean() / bottoms.mean(), len(tops)
    if n < statistics.MIN_WORLDS:
        return {"mean": float(whole), "low": None, "high": None}
    without = (tops.sum() - tops) / (bottoms.sum() - bottoms)
    error = np.sqrt((n - 1) * np.mean(np.square(without - without.mean())))
    half = special.stdtrit(n - 1, 0.975) * error
    return {k: float(whole + d) for k, d in zip(_BOUNDS, (0, -half, half), strict=True)}


_BOUNDS = "mean", "low", "high"


def path(records, method, keys):
    """Along a run: {"steps", key: {"mean": [K], "trend": its `statistics.Trend` over
    worlds or None}} of the change since the start, K looks and the start."""
    runs = [run for run in evaluations.runs(records) if run.method == method]
    if not runs:
        return None
    looks = min(len(run.rows) for run in runs)
    found = {"steps": [row["step"] for row in runs[0].rows[:looks]]}
    for key in keys:
        if not all(key in row for run in runs for row in run.rows):
            continue
        series = {r.unit: [row[key] - r.rows[0][key] for row in r.rows] for r in runs}
        by_look = [
            units.worlds({unit: values[look] for unit, values in series.items()})
            for look in range(looks)
        ]
        table = np.array([list(each.values()) for each in by_look]).T  # [W, K]
        tested = len(table) >= statistics.MIN_WORLDS
        found[key] = {
            "mean": table.mean(0).tolist(),
            "trend": statistics.trend(table)._asdict() if tested else None,
        }
    return found


def partial(records, methods, predictor, *, outcome=SKILLS.key, given=REWARD.key):
    """{world: the rank correlation of a predictor with skills lost at matched reward}.

    Over all looks at these methods in a world: Spearman's ρ of predictor and loss, that
    of both with the reward taken out (a partial rank correlation). Worlds in which one
    of the three does not vary are left out.
    """
    points = {}
    for run in evaluations.runs(records):
        if run.method not in methods:
            continue
        start = run.rows[0]
        for row in run.rows[1:]:
            if predictor in row and outcome in row:
                loss, gain = start[outcome] - row[outcome], row[given] - start[given]
                points.setdefault(run.unit.world, []).append(
                    (row[predictor], loss, gain)
                )
    from scipy import stats  # 1 s to import

    found = {}
    for world, rows in sorted(points.items()):
        table = np.array(rows)
        if len(table) > 3 and (np.ptp(table, axis=0) > 0).all():
            rho = stats.spearmanr(table).statistic
            xy, xz, yz = rho[0, 1], rho[0, 2], rho[1, 2]
            room = np.sqrt((1 - xz**2) * (1 - yz**2))
            if room > 0:
                found[world] = float((xy - xz * yz) / room)
    return found


def _named(by_unit):
    return {str(unit): value for unit, value in by_unit.items()}
