"""Texts that READMEs make of the kept study of AI feedback."""

from experiments import results
from experiments.rlaif import measures, methods, orderings
from rlhf_jax.reporting import markdown, report
from rlhf_jax.reporting.sections import Evidence
from rlhf_jax.studies import tables

LABELS = tables.labels(methods.table())
_SHOWN = (*measures.WINS.values(), measures.CONTROLLED)


def texts():
    """{name: text}: what labelers are worth, orderings of them, who wins."""
    kept = results.load("rlaif")
    about = report.Report("", axes=kept.axes)
    evidence = Evidence(kept.records, [], kept.summary, [], about)
    found = {"wins": wins(kept.summary)}
    for section in orderings.SECTIONS:
        parts = section.render(section.compute(evidence), evidence)
        parts = [part for part in parts if not part.startswith("## ")]
        found[section.key] = "\n\n".join(parts).replace("### ", "")
    return found


def wins(summary):
    """Final win rates against the initial policy, judge by judge, in percent."""
    rows = []
    for method, one in summary["methods"].items():
        if method == "sft":
            continue
        cells = [
            markdown.interval(one["other"].get(axis.key), 100.0) for axis in _SHOWN
        ]
        gold = markdown.interval(one["gold"])
        rows.append([LABELS[method], *cells, gold])
    header = [axis.short or axis.title for axis in _SHOWN]
    table = markdown.table(["method", *header, "gold"], rows)
    return f"{table}\n\nIn percent of prompts; {markdown.brackets(summary)}."
