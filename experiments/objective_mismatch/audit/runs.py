"""A finished run of this package as series: one for each method and unit."""

import json
import pathlib

import numpy as np

from experiments.objective_mismatch.audit import series
from experiments.objective_mismatch.audit.series import Table
from rlhf_jax.evaluation import axes, units
from rlhf_jax.reporting import evaluations, figure_style, markdown
from rlhf_jax.runtime import metrics_log

# Of evaluations, which see fresh prompts, the first that is there; of training, where
# nothing was evaluated.
_EVALUATED = {
    "proxy": ("mismatch/proxy", axes.REWARD.key),
    "gold": ("mismatch/gold", axes.GOLD.key),
    "error": ("mismatch/gold_error",),
    "kl": (axes.KL_INITIAL.key,),
    "length": (axes.LENGTH.key,),
    "entropy": (axes.ENTROPY.key,),
    "duplicates": ("eval/duplicates",),
    "spread": ("mismatch/spread",),
}
_TRAINED = {
    "proxy": (axes.SCORES.key,),
    "kl": (axes.KL_REFERENCE.key,),
    "length": ("response/length",),
    "entropy": (axes.TRAINING_ENTROPY.key,),
}
_WATCHED = ("length", "entropy")  # of training, which has many more steps


def read(folder, methods=(), asked=None):
    """(series of a run folder, notes on those left out).

    The evaluations of each method on each unit (world, seed), and for monitors its
    length and entropy while training; of a method that was evaluated less than
    `series.LEAST` times, all that it logged while training. A step that was looked at
    before and after a reset has the look before it.

    Args: methods: those to read, all if empty; asked: {role: column}, in place of the
    usual columns. Raises ValueError where the folder holds no run or no such method.
    """
    folder = pathlib.Path(folder)
    records = metrics_log.read(folder / "metrics.jsonl")
    if not records:
        raise ValueError(f"--run {folder}: it has no metrics.jsonl with a line in it")
    if not all({"method", "seed", "step"} <= record.keys() for record in records):
        raise ValueError(
            f"--run {folder}: lines without method, seed and step are not this "
            f"package's; read them with --log {folder / 'metrics.jsonl'}"
        )
    ran = list(dict.fromkeys(record["method"] for record in records))
    for name in methods:
        if name not in ran:
            raise ValueError(f"--methods {name}: the run has {', '.join(ran)}")
    by_run = _by_run(records)
    labels, found, notes = _labels(folder), [], []
    units = {unit for _, unit in by_run}
    for (method, unit), rows in by_run.items():
        if methods and method not in methods:
            continue
        name = figure_style.method_name(method, labels)
        name += f" {unit}" if len(units) > 1 else ""
        try:
            found.append(_series(rows, asked or {}, name, folder))
        except ValueError as error:
            notes.append(f"left out: {error}")
    if not found:
        raise ValueError(notes[0].removeprefix("left out: "))
    return found, notes


def _by_run(records):
    """{(method, unit): (evaluations, all its records)}, in order of appearance."""
    looks = {(run.method, run.unit): run.rows for run in evaluations.runs(records)}
    return {
        key: (looks.get(key, []), [r for r in records if _key(r) == key])
        for key in dict.fromkeys(map(_key, records))
    }


def _key(record):
    return record["method"], units.of(record)


def _series(rows, asked, name, folder):
    evaluated, every = rows
    notes, usual = (), _EVALUATED
    if asked:
        rows = every
    elif len({row["step"] for row in evaluated}) >= series.LEAST:
        rows, notes = _before_resets(evaluated)
    else:
        rows = [row for row in every if axes.SCORES.key in row] or every
        usual = _TRAINED
        notes = ("hardly evaluated: read from what it logged while training",)
    names = {column for row in rows for column in row}
    columns = {
        role: next(column for column in known if column in names)
        for role, known in usual.items()
        if names.intersection(known)
    }
    columns = {"step": "step", **columns, **asked}
    places = [f"step {row['step']}" for row in rows]
    table = Table(rows, places, str(folder / "metrics.jsonl"), notes)
    (one,) = series.build(table, columns, name)
    return one if rows is every else one._replace(watched=_watched(every, one))


def _watched(records, one):
    """{role: (steps [T], values [T])} of training, where it was logged more often."""
    found = {}
    for role in _WATCHED:
        (column,) = _TRAINED[role]
        points = [(r["step"], r[column]) for r in records if column in r]
        points = np.array(points, float).reshape(-1, 2)
        points = points[np.isfinite(points).all(-1)]
        if role in one.values and len(points) > len(one.steps):
            found[role] = points[:, 0], points[:, 1]
    return found


def _before_resets(rows):
    """(rows with one look a step, the first; what to say of the others)."""
    kept = {}
    for row in rows:
        kept.setdefault(row["step"], row)
    resets = sum(row.get("eval/phase") == "after_reset" for row in rows)
    if not resets:
        return list(kept.values()), ()
    said = f"{markdown.count(resets, 'reset')}: of these steps the look before it"
    return list(kept.values()), (said,)


def _labels(folder):
    """{method: how the report of the run names it}."""
    path = folder / "results.json"
    return json.loads(path.read_text()).get("labels", {}) if path.exists() else {}
