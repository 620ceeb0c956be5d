"""Whose feedback a policy learns from, as rows of a table.

Lee et al. 2023, "RLAIF vs. RLHF", arXiv:2309.00267. Every row starts from the same
policy and is trained by the same algorithm for as long: only the reward differs.
"""

from rlhf_jax.studies import tables
from rlhf_jax.studies.interfaces import Method
from rlhf_jax.studies.policy_gradient import PolicyGradient

# The paper's objective is (1 − β)·r − β·KL with β = 0.05: r − β/(1 − β)·KL, scaled.
KL = 0.05 / 0.95
ALGORITHMS = {
    "reinforce": {"algorithm": "reinforce"},
    "ppo": {},
    "grpo": {"algorithm": "grpo", "kl_in": "loss"},
}
# Name: reward, label, summary, role.
ARMS = {
    "rlhf": (
        "train",
        "RLHF",
        "a reward model of people's labels",
        "arm",
    ),
    "rlaif": (
        "ai_large",
        "RLAIF",
        "a reward model of a large labeler's soft labels of the same pairs",
        "arm",
    ),
    "rlaif_same": (
        "ai_same",
        "RLAIF, same size",
        "a reward model of the soft labels of π₀ itself",
        "arm",
    ),
    "d_rlaif": (
        "d_same",
        "d-RLAIF",
        "no reward model: π₀ itself rates every sample",
        "arm",
    ),
    "d_rlaif_large": (
        "d_large",
        "d-RLAIF, large",
        "no reward model: a large labeler rates every sample",
        "relative",
    ),
    "rlaif_one_order": (
        "ai_one_order",
        "RLAIF, one order",
        "the large labeler reads every pair in one order only",
        "ablation",
    ),
    "rlhf_rlaif": (
        "ai_human",
        "RLHF and RLAIF",
        "a reward model of people's labels and as many of the large labeler's",
        "relative",
    ),
    "rlhf_many": (
        "human_many",
        "RLHF, many labels",
        "a reward model of as many human labels as labelers read comparisons",
        "control",
    ),
    "rlaif_random": (
        "random",
        "random reward model",
        "an untrained reward model: nothing may be learned",
        "control",
    ),
}


def table(algorithm="reinforce"):
    """{name: its row}, with every arm trained by an algorithm of `ALGORITHMS`."""
    static = ALGORITHMS[algorithm]
    rows = {"sft": Method("SFT (π₀)", "the initial policy, measured")}
    for name, (reward, label, summary, role) in ARMS.items():
        train = PolicyGradient({"kl_coef": KL}, static)
        rows[name] = tables.trained(summary, label, train, role=role, reward=reward)
    rows["online_dpo"] = tables.trained(
        "online AI feedback: DPO on two fresh samples a prompt, of which π₀ itself "
        "prefers one (arXiv:2402.04792)",
        "online DPO",
        PolicyGradient(static={"algorithm": "online_dpo", "candidates": 2}),
        role="relative",
        reward="pairs_same",
    )
    rows["rlhf_copy"] = tables.trained(
        "RLHF with another sampling key: nothing may tell them apart",
        "RLHF, another key",
        PolicyGradient({"kl_coef": KL}, static, copy=1),
        role="control",
        reward="train",
    )
    return rows


DEFAULT = ("sft", "rlhf", "rlaif", "rlaif_same", "d_rlaif")
