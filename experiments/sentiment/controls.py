"""Negative controls: what should not happen, and whether it did."""

from rlhf_jax.evaluation.axes import GOLD


def judge(records):
    """(name, what should happen, what happened, passed) of controls that were run."""
    series = {}
    for record in records:
        if GOLD.key in record:
            key = record["method"], record["seed"]
            series.setdefault(key, []).append(record[GOLD.key])
    rows = []
    for (method, seed), golds in series.items():
        start, last, peak = golds[0], golds[-1], max(golds)
        what = f"gold {start:.3f} → peak {peak:.3f} → {last:.3f}"
        if method == "ppo_gold":
            fine = last - start >= 0.8 * (peak - start) and peak > start
            text = f"proxy = gold, seed {seed}"
            rows.append((text, "gold rises and stays", what, fine))
        if method == "ppo_random":
            fine = last <= start + 0.05
            text = f"random reward model, seed {seed}"
            rows.append((text, "gold does not rise", what, fine))
        if method == "sft_placebo":
            fine = abs(last - start) <= 0.1
            text = f"SFT on own samples, seed {seed}"
            rows.append((text, "gold stays", what, fine))
    return rows
