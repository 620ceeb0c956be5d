"""Negative controls: what should not happen, and whether it did."""

from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.axes import GOLD, STANDARD
from rlhf_jax.reporting import claims, evaluations, markdown

COPIES = "elastic_reset", "elastic_reset_copy"  # one arm, and under another key


def judge(records):
    """(name, what should happen, what happened, passed) of controls that were run."""
    series = {}
    for record in records:
        if GOLD.key in record:
            key = record["method"], units.of(record)
            series.setdefault(key, []).append(record[GOLD.key])
    rows = []
    for (method, unit), golds in series.items():
        start, last, peak = golds[0], golds[-1], max(golds)
        what = f"gold {start:.3f} → peak {peak:.3f} → {last:.3f}"
        if method == "ppo_gold":
            fine = last - start >= 0.8 * (peak - start) and peak > start
            text = f"proxy = gold, world/seed {unit}"
            rows.append((text, "gold rises and stays", what, fine))
        if method == "ppo_random":
            fine = last <= start + 0.05
            text = f"random reward model, world/seed {unit}"
            rows.append((text, "gold does not rise", what, fine))
        if method == "sft_placebo":
            fine = abs(last - start) <= 0.1
            text = f"SFT on own samples, world/seed {unit}"
            rows.append((text, "gold stays", what, fine))
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
