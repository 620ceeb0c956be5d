"""Results that are kept: a run's evaluation points, and every number made from them.

A kept file holds what a reader needs to recompute it: the evaluations of every run, six
digits each, and where recoveries are compared the scores of training; beside them the
summary and the findings, unit by unit, the command, digest, machine and date. `load`
reads it, `recompute` makes the summary again; a test compares.
"""

import dataclasses
import json
import math
import pathlib
from typing import NamedTuple

from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.axes import REWARD, SCORES, Axis
from rlhf_jax.reporting import claims, evaluations, families, recoveries, results
from rlhf_jax.reporting.families import Family
from rlhf_jax.runtime import files, metrics_log

_DIGITS = 6
_LINE = ("step", "eval/phase")
_BESIDE = ("eval/entropy", "eval/length", "eval/duplicates", "eval/distinct_2")
_HALVES = ("", *evaluations.HALVES)
# What averages logged of how they were made, and what was measured of reward models.
_GROUPS = ("average/", "mismatch/")


class Recorded(NamedTuple):
    """A kept result."""

    about: dict  # commands, digest, commit, machine, date, versions, a note
    axes: tuple  # of Axis
    records: list  # as in metrics.jsonl, what was kept of it
    summary: dict  # as `results.summarize` makes it, with "verdicts", "budget", ...


def save(path, folders, *, note=""):
    """Keeps finished runs, of several folders as one result. Returns a Recorded.

    The axes, claims and tables are those that results.json of the first folder was made
    with. Raises ValueError where two folders hold one method on one unit.
    """
    folders = [pathlib.Path(folder) for folder in folders]
    made = json.loads((folders[0] / "results.json").read_text())
    axes = tuple(Axis(**axis) for axis in made["axes"])
    records = _joined(folders)
    data = {
        "about": about(folders, note),
        "axes": [dataclasses.asdict(axis) for axis in axes],
        "runs": _packed(records, axes, _pair(made), made.get("training", ())),
    }
    kept = _unpacked(data["runs"])
    summary = _summarized(kept, axes, made)
    summary["budget"] = made.get("budget", {}) if len(folders) == 1 else {}
    data["summary"] = rounded(summary)
    files.write(path, _text(data))
    return Recorded(data["about"], axes, kept, data["summary"])


def load(path):
    """A kept result, as it was saved."""
    data = json.loads(pathlib.Path(path).read_text())
    axes = tuple(Axis(**axis) for axis in data["axes"])
    records = _unpacked(data["runs"])
    return Recorded(data["about"], axes, records, data["summary"])


def recompute(recorded):
    """The summary of a kept result, made again from its evaluation points."""
    summary = _summarized(recorded.records, recorded.axes, recorded.summary)
    return rounded({**summary, "budget": recorded.summary["budget"]})


def declared(row):
    """The claim of an entry of "verdicts", about the one method it names."""
    share = row["endpoint"].startswith("hypervolume/")
    return claims.Claim(
        row["method"],
        (row["other"],),
        row["endpoint"],
        None if share else row["smallest_effect"],
        kind=row["kind"],
        family=row["family"],
        secondary=row["secondary"],
    )


def _summarized(records, axes, made):
    """The summary with the findings and the recovery that `made` has as well."""
    records = _read_as(records, made)
    summary = results.summarize(records, axes=axes)
    asked = [declared(row) for row in made["verdicts"]]
    found = claims.judge(asked, evaluations.runs(records), axes=axes)
    summary["verdicts"] = [claims.row(finding) for finding in found]
    if _pair(made):
        summary["recovery"] = recoveries.compare(records, *_pair(made))
    for key in ("families", "training"):
        if key in made:
            summary[key] = made[key]
    return summary


def _read_as(records, made):
    """The records of families, where the report read settings as such."""
    if "families" not in made:
        return records
    found = {k: Family(k, tuple(names)) for k, names in made["families"].items()}
    return families.records(records, found)


def _pair(made):
    """The methods whose recoveries were compared; () if none were."""
    compared = made.get("recovery")
    return (compared["method"], compared["other"]) if compared else ()


def about(folders, note=""):
    """What made the runs, from their config.json, and a note on it."""
    made = [json.loads((folder / "config.json").read_text()) for folder in folders]
    names = ("commit", "machine", "date", "versions")
    return {
        "commands": [one["command"] for one in made],
        "digests": [one["digest"] for one in made],
        **{name: made[0][name] for name in names},
        **({"note": note} if note else {}),
    }


def _joined(folders):
    records, owner = [], {}
    for folder in folders:
        for record in metrics_log.read(folder / "metrics.jsonl"):
            run = record["method"], units.of(record)
            if owner.setdefault(run, folder) != folder:
                raise ValueError(
                    f"{owner[run]} and {folder} both hold {run[0]}, world/seed {run[1]}"
                )
            records.append(record)
    return records


def _packed(records, axes, compared, training=()):
    """One entry a run: a list for each thing that its evaluations measured, and some of
    what was logged in training: what `training` names, and of methods whose recoveries
    are compared the scores and resets."""
    keys = [axis.key + half for axis in (REWARD, *axes) for half in _HALVES]
    keys = list(dict.fromkeys([*keys, "eval/gold", "eval/gold_a", "eval/gold_b"]))
    by_run = {}
    for record in records:
        by_run.setdefault((record["method"], units.of(record)), []).append(record)
    packed = []
    for (method, unit), rows in by_run.items():
        looks = [row for row in rows if REWARD.key in row]
        asked = (*keys, *_BESIDE, *_under(looks))
        known = [k for k in asked if any(k in row for row in looks)]
        entry = {"method": method, **unit._asdict()}
        entry |= {k: [_number(row.get(k)) for row in looks] for k in (*_LINE, *known)}
        logged = [row for row in rows if SCORES.key in row]
        asked = (SCORES.key, recoveries.RESET) * (method in compared) + tuple(training)
        if asked and logged:
            entry["training"] = {
                k: [_number(row.get(k)) for row in logged] for k in ("step", *asked)
            }
        packed.append(entry)
    return packed


def _under(rows):
    """Names that are no axes and are kept: see `_GROUPS`."""
    return sorted({k for row in rows for k in row if k.startswith(_GROUPS)})


def _unpacked(packed):
    records = []
    for entry in packed:
        columns = {k: v for k, v in entry.items() if isinstance(v, list)}
        run = {k: entry[k] for k in ("method", "world", "seed")}
        for part in (entry.get("training", {}), columns):
            for values in zip(*part.values(), strict=True):
                row = dict(zip(part, values, strict=True))
                records.append({**run, **{k: _spelled(v) for k, v in row.items()}})
    for record in records:
        for key in [k for k, v in record.items() if v is None]:
            del record[key]
    return records


def _number(value):
    """Six digits; what JSON lacks is spelled."""
    if isinstance(value, bool) or not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else str(value)


def _spelled(value):
    return float(value) if value in ("nan", "inf", "-inf") else value


def rounded(value):
    """Numbers of a JSON value at the digits that are kept."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return _number(value.item() if hasattr(value, "item") else value)


def _text(data):
    """JSON with a line for each run and each part of the summary."""
    parts = [f' "{k}": {json.dumps(data[k])}' for k in ("about", "axes")]
    runs = ",\n  ".join(json.dumps(run, separators=(",", ":")) for run in data["runs"])
    parts.append(f' "runs": [\n  {runs}\n ]')
    summary = ",\n  ".join(
        f'"{k}": {json.dumps(v, separators=(",", ":"))}'
        for k, v in data["summary"].items()
    )
    parts.append(f' "summary": {{\n  {summary}\n }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"
