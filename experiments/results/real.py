"""Texts that READMEs make of reward models on real pairs, and of best of n on text."""

from experiments import results
from rlhf_jax.reporting import best_of_n, markdown, preference_sets, report
from rlhf_jax.reporting.sections import Evidence

MODELS = "reward_models_real"
TEXTS = ("best_of_n_text", "best_of_n_text_few")


def texts():
    """{name: text}: how reward models did, by length, and what the best of n gained."""
    tested = results.tests(MODELS)
    return {
        f"{MODELS}.quality": quality(tested),
        f"{MODELS}.lengths": lengths(tested),
        **{f"{name}.gains": gains(name) for name in TEXTS},
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
