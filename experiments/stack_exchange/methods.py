"""What is compared, and what was claimed of it before any run.

Every arm has the adaptive KL penalty to the fine-tuned model, as published; the nulls
average the weights of PPO, stop it early, or reset to the fine-tuned model itself.
"""

from rlhf_jax import elastic_reset
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting.claims import Claim
from rlhf_jax.studies import methods, post_hoc, tables
from rlhf_jax.studies.interfaces import Method

_SHARED = ("ppo", "ppo_kl", "elastic_reset", "elastic_reset_kl")

METHODS = (
    {"zero_shot": Method("SFT", "the fine-tuned model, measured")}
    | {name: methods.METHODS[name] for name in _SHARED}
    | {
        "reset_to_initial_kl": methods.trained(
            "policy ← fine-tuned model at the same iterations, no EMA",
            "reset to SFT + KL", {"reset_target": elastic_reset.INITIAL},
            role="ablation", resets=True,
        ),
        "ppo_kl_average": tables.derived(
            "the EMA of PPO + KL, no resets", "EMA of PPO + KL", "ppo_kl",
            post_hoc.average,
        ),
        "ppo_kl_ma50": tables.derived(
            "½ fine-tuned model + ½ PPO + KL", "½ PPO + KL, ½ SFT", "ppo_kl",
            post_hoc.interpolate(0.5),
        ),
        "ppo_kl_early_stop": tables.derived(
            "PPO + KL stopped at its best validation checkpoint",
            "PPO + KL, early stop", "ppo_kl", post_hoc.best, at_end=True,
        ),
    }
)  # fmt: skip

AXES = (axes.TEXT_NLL, axes.KL_INITIAL, axes.SKILLS)
RIVALS = ("ppo_kl",)
NULLS = ("ppo_kl_ma50", "ppo_kl_average", "reset_to_initial_kl")
# Declared before any run: the judge's score, which the paper reports, is primary.
CLAIMS = (
    Claim("elastic_reset_kl", RIVALS, "gold", 0.1),
    Claim("elastic_reset_kl", RIVALS, axes.TEXT_NLL.key, secondary=True),
    *(
        Claim("elastic_reset_kl", others, f"hypervolume/{axis.key}", secondary=True)
        for others in (RIVALS, NULLS)
        for axis in AXES
    ),
)
RECOVERY = ("elastic_reset_kl", "reset_to_initial_kl")  # compared after their resets


def measured(suites):
    """The axes of a run; suites: names of the suites, none: skills are not measured."""
    return (*AXES, *suite_axes(suites)) if suites else AXES[:2]


def suite_axes(suites):
    """The axis of each suite's accuracy."""
    return tuple(axes.accuracy(f"tax/{name}") for name in suites)
