"""Texts that READMEs make of the kept study of the alignment tax."""

from experiments import results
from experiments.alignment_tax import methods, sections
from rlhf_jax.reporting import report
from rlhf_jax.reporting.sections import Evidence

LABELS = {name: family.label for name, family in methods.FAMILIES.items()}
_QUOTED = ("tax", "way", "kept", "hma", "adaptive", "forgetting")


def texts():
    """{key of a section: what it says of the kept study, its headings aside}."""
    kept = results.load("alignment_tax")
    about = report.Report("", axes=kept.axes)
    evidence = Evidence(kept.records, [], kept.summary, [], about)
    found = {}
    for section in sections.of_settings(kept.records, kept.axes):
        if section.key in _QUOTED:
            parts = section.render(section.compute(evidence), evidence)
            parts = [part for part in parts if not part.startswith("#")]
            found[section.key] = "\n\n".join(parts)
    return found
