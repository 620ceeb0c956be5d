"""Texts that READMEs make of real models and real text."""

from experiments import results
from rlhf_jax.reporting import best_of_n, evaluations, markdown, preference_sets, report
from rlhf_jax.reporting import results as estimates
from rlhf_jax.reporting.sections import Evidence
from rlhf_jax.studies import methods

MODELS = "reward_models_real"
TEXTS = ("best_of_n_text", "best_of_n_text_few")
INSTRUCT = "smollm2_study"
_INSTRUCT = {
    "eval/reward": "P(negative)",
    "eval/gold": "judge",
    "drift/text_nll": "NLL of IMDB",
    "drift/other_text_nll": "NLL of WikiText",
    "drift/kl_initial": "KL from π₀",
    "tax/skills": "questions right",
}


def texts():
    """{name: text}: how reward models did, by length, what the best of n gained, and
    where an instruct model ended."""
    tested = results.tests(MODELS)
    return {
        f"{MODELS}.quality": quality(tested),
        f"{MODELS}.lengths": lengths(tested),
        **{f"{name}.gains": gains(name) for name in TEXTS},
        f"{INSTRUCT}.ends": end_points(INSTRUCT, _INSTRUCT),
    }


def quality(tested):
    """Accuracy and calibration of every model on every set."""
    rows = []
    for model, found in tested.items():
        for name, one in found["sets"].items():
            scaled = one["scaled"] or {}
            changes = [
                f"{markdown.number(one[key])} → {markdown.number(scaled.get(key))}"
                for key in ("nll", "ece")
            ]
            shares = one["accuracy"], one["length"]["accuracy_of_length"]
            rows.append(
                [model, name, one["pairs"], *map(markdown.interval, shares), *changes]
            )
    header = ["model", "set", "pairs", "accuracy", "length alone", "NLL", "ECE"]
    return markdown.table(header, rows)


def lengths(tested):
    """Accuracy where the chosen answer is shorter and where it is longer."""
    rows = []
    for model, found in tested.items():
        for name, one in found["sets"].items():
            shorter, _, longer = one["length"]["by_sign"]
            correlation = markdown.number(one["length"]["correlation"])
            cells = [preference_sets.stratum(s) for s in (shorter, longer)]
            rows.append([model, name, *cells, correlation])
    header = ["model", "set", "chosen shorter", "chosen longer", "r(score, length)"]
    return markdown.table(header, rows)


def gains(name):
    """The table of n, and the fit, of a kept run of experiments.sentiment."""
    kept = results.load(name)
    about = report.Report("", axes=kept.axes)
    evidence = Evidence(kept.records, [], kept.summary, [], about)
    section = best_of_n.SECTION
    parts = section.render(section.compute(evidence), evidence)
    return "\n\n".join(part for part in parts if not part.startswith("## "))


def end_points(name, columns):
    """The last evaluation of every run of a kept result, and of the initial policy:
    means over units with the least and the largest."""
    runs = evaluations.by_method(evaluations.runs(results.load(name).records))
    starts = next(iter(runs.values()))
    ends = {"π₀": _at(starts, 0, columns)}
    ends |= {methods.LABELS[m]: _at(own, -1, columns) for m, own in runs.items()}
    body = [
        [label, *(markdown.interval(estimates.estimate(own[c])) for c in columns)]
        for label, own in ends.items()
    ]
    return markdown.table(["method", *columns.values()], body)


def _at(runs, look, columns):
    """{column: {unit: its value}} at one look of runs, the first or the last."""
    return {c: {run.unit: run.rows[look][c] for run in runs} for c in columns}
