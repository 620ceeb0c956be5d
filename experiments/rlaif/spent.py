"""What a labeler's calls came to: money and tokens, failures, and its position bias.

    python -m experiments.rlaif --ledger runs/label/<time>/ledger.sqlite

By model, over all runs that wrote to the ledger. Position bias is read from pairs whose
two orders a labelling job has written down.
"""

import dataclasses
import pathlib

import numpy as np

from experiments.label import report
from rlhf_jax.cli import command, experiment
from rlhf_jax.evaluation import position_bias
from rlhf_jax.feedback import ledger, pairings


@dataclasses.dataclass(frozen=True)
class Config:
    """Which ledger."""

    ledger: str = ""
    """The file of a labelling job, or of d-RLAIF by an endpoint."""


CONFIG = Config()


def main():
    config = command.parse(CONFIG, description=__doc__)
    command.main(lambda: run(config))


def run(config, *, console=None):
    """Prints the lines, and returns them."""
    lines = read(config.ledger)
    experiment.say(command.console() if console is None else console, lines)
    return lines


def read(path):
    """Lines about a ledger. Raises ValueError where there is none."""
    if not pathlib.Path(path).is_file():
        raise ValueError(f"--ledger {path}: there is no such file")
    book = ledger.open_file(path)
    slots = pairings.probabilities(book)
    lines = []
    for model, spent in ledger.summary(book).items():
        lines += [model, *(f"  {line}" for line in _spent(spent))]
        lines += [f"  {line}" for line in _biased(slots.get(model))]
    return lines or ["no calls yet"]


def _biased(slots):
    """Position bias by (p_ab, p_ba), or None where no order was written down."""
    if slots is None or np.isnan(np.sum(slots, axis=0)).all():
        return ["position bias: no pair has an answer in both orders"]
    return report.bias(position_bias.measure(*slots))


def _spent(spent):
    """What was asked of one model."""
    failed = spent.calls - spent.answers
    yield (
        f"{spent.calls} calls, {spent.answers} answered, {failed} failed; "
        f"{spent.prompt_tokens} tokens read, {spent.completion_tokens} written; "
        f"{spent.cost:.4f} in money"
    )
    for reason, count in spent.failures.items():
        yield f"failed {count} times: {reason}"
