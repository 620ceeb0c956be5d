"""The parts of Elastic Reset, as pairs of methods that differ in one of them.

Noukhovitch et al. 2023, arXiv:2312.07551, and the switches its authors built: reset to
the EMA without resetting the EMA, reset to the initial weights, the KL reference, the
critic, the optimiser. `ppo_kl` has the β of the resetting arm unless a run overrides
it; then `ppo_kl_matched` is the control at matched KL.
"""

from rlhf_jax.reporting.contrasts import Contrast

CONTRASTS = (
    Contrast("resetting the EMA as well", "elastic_reset", "reset_policy_only"),
    Contrast("a reset to the EMA, not to π₀", "elastic_reset", "reset_to_initial"),
    Contrast(
        "the average of the way, not a mixture of its ends",
        "elastic_reset",
        "reset_to_interpolation",
    ),
    Contrast("resetting the critic", "elastic_reset_value", "elastic_reset"),
    Contrast("resetting Adam's moments", "elastic_reset_optimizer", "elastic_reset"),
    Contrast(
        "resetting Adam's moments, the critic reset too",
        "elastic_reset_both",
        "elastic_reset_value",
    ),
    Contrast("a KL penalty beside resets", "elastic_reset_kl", "elastic_reset"),
    Contrast(
        "KL to the EMA, not to π₀", "elastic_reset_average_kl", "elastic_reset_kl"
    ),
    Contrast("resets, without KL on either side", "elastic_reset", "ppo"),
    Contrast("resets, each with its own β to π₀", "elastic_reset_kl", "ppo_kl"),
    Contrast("resets, at matched KL to π₀", "elastic_reset_kl", "ppo_kl_matched"),
    Contrast(
        "resets, at matched KL to the EMA", "elastic_reset_average_kl", "kl_average"
    ),
)
