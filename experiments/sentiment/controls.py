"""Negative controls: what should not happen, and whether it did."""

import numpy as np

from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.axes import GOLD, STANDARD
from rlhf_jax.reporting import claims, evaluations, markdown

COPIES = "elastic_reset", "elastic_reset_copy"  # one arm, and under another key


# Method: the control, what should happen, and whether the gold of a unit (at the
# start, at its peak, at the end) shows it.
GOLD_CONTROLS = {
    "ppo_gold": (
        "proxy = gold",
        "gold rises and stays",
        lambda start, peak, last: last - start >= 0.8 * (peak - start) > 0,
    ),
    "ppo_random": (
        "random reward model",
        "gold does not rise",
        lambda start, peak, last: last <= start + 0.05,
    ),
    "sft_placebo": (
        "SFT on own samples",
        "gold stays",
        lambda start, peak, last: abs(last - start) <= 0.1,
    ),
}
_ENOUGH = 0.9  # of the units


def judge(records):
    """(name, what should happen, what happened, passed) of controls that were run."""
    rows = []
    for method, (name, should, holds) in GOLD_CONTROLS.items():
        found = {}
        for record in records:
            if record["method"] == method and GOLD.key in record:
                found.setdefault(units.of(record), []).append(record[GOLD.key])
        if found:
            golds = [(series[0], max(series), series[-1]) for series in found.values()]
            held = sum(holds(*gold) for gold in golds)
            start, peak, last = np.mean(golds, axis=0)
            what = (
                f"in {held} of {len(golds)} runs; in the mean {start:.3f} → peak "
                f"{peak:.3f} → {last:.3f}"
            )
            rows.append((name, should, what, held >= _ENOUGH * len(golds)))
    return [*rows, *_copies(records)]


def _copies(records):
    """One arm against its own copy under another key: no verdict may come out."""
    names = ("hypervolume/drift/text_nll", "reward_at/drift/text_nll", "reward", "gold")
    found = claims.judge(
        [claims.Claim(COPIES[0], COPIES[1:], name) for name in names],
        evaluations.runs(records),
        axes=STANDARD,
    )
    for finding in found:
        verdict = finding.verdict
        if verdict is None or verdict.word == "no test":
            continue
        fine = verdict.word in ("undecided", "not reproduced", "≈")
        gap = markdown.interval(verdict._asdict())
        text = f"an arm against its copy, {finding.claim.endpoint}"
        yield text, "no verdict", f"{verdict.word}, {gap}", fine
