"""Texts that READMEs make of programs compiled for TPUs that are not here."""

from experiments import results
from experiments.throughput import table
from rlhf_jax.reporting import markdown

PROGRAMS = "tpu_programs"


def texts():
    """{name: text}: what a TPU's compiler made of every program."""
    return {PROGRAMS: programs(results.report(PROGRAMS))}


def programs(kept):
    """The table of programs and slices, and what made it."""
    rows = markdown.table(table.HEADER, map(table.cells, kept["programs"]))
    versions, day = kept["about"]["versions"], kept["about"]["date"][:10]
    made = f"libtpu {kept['libtpu']}, jax {versions['jax']}, {day}"
    return f"{rows}\n\nBytes on one device as its compiler counts them; {made}."
