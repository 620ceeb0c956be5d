"""Texts that READMEs make of the kept study of objective mismatch."""

from experiments import results
from experiments.objective_mismatch import methods, sections
from rlhf_jax.reporting import report
from rlhf_jax.reporting.sections import Evidence

LABELS = methods.LABELS
_QUOTED = (
    "links", "statements", "remedies", "along", "models", "ranking", "best_of", "fits",
    "correlations", "alarms", "controls",
)  # fmt: skip


def texts():
    """{key of a section: what it says of the kept study, its headings aside}."""
    kept = results.load("objective_mismatch")
    about = report.Report("", axes=kept.axes)
    evidence = Evidence(kept.records, [], kept.summary, [], about)
    found = {}
    for section in sections.of_records(kept.records):
        if section.key in _QUOTED:
            parts = section.render(section.compute(evidence), evidence)
            parts = [part for part in parts if not part.startswith("## ")]
            found[section.key] = "\n\n".join(parts).replace("### ", "")
    return found
