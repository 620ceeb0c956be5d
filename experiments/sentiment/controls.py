"""Negative controls: what should not happen, and whether it did."""

from rlhf_jax.evaluation.axes import STANDARD
from rlhf_jax.reporting import controls

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
_ENDPOINTS = (
    "hypervolume/drift/text_nll",
    "reward_at/drift/text_nll",
    "reward",
    "gold",
)


def judge(records):
    """(name, what should happen, what happened, passed) of controls that were run."""
    what = "an arm against its copy"
    copies = controls.of_copies(records, *COPIES, _ENDPOINTS, STANDARD, what)
    return [*controls.of_gold(records, GOLD_CONTROLS), *copies]
