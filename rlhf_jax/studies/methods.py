"""Named methods of language-model studies, and what each is a null for.

A row is data (`interfaces.Method`): trained rows hold what they change in the one
program of `algorithms.policy_gradient`; derived rows train nothing and are read off
another method's run (Noukhovitch et al. 2023 against its nulls: averaging and early
stopping), or off the initial policy. The nearest relatives of Elastic Reset are here
too, as arms of one run: the rule that sets a paper apart, not all that it does.
"""

import re

from rlhf_jax import elastic_reset
from rlhf_jax.algorithms.policy_gradient import variants
from rlhf_jax.studies import post_hoc, tables
from rlhf_jax.studies.best_of_n import BestOf
from rlhf_jax.studies.fine_tuning import FineTuning
from rlhf_jax.studies.interfaces import Method
from rlhf_jax.studies.policy_gradient import PolicyGradient

_NO_KL = {"kl_coef": 0.0}
_BEST_OF = re.compile(r"best_of_([1-9]\d*)")


def trained(
    summary, label, hyper=None, static=None, *, ticks_once=False, copy=0, **fields
):
    """A row that is trained by policy gradients: see `PolicyGradient`."""
    train = PolicyGradient(hyper or {}, static or {}, ticks_once, copy)
    return tables.trained(summary, label, train, **fields)


def best_of(n):
    """The row of the best of n samples."""
    return Method(
        f"best of {n}",
        f"the best of {n} samples of the initial policy; its KL is the bound "
        "log n − (n − 1)/n",
        measure=BestOf(n),
    )


def table(names):
    """`METHODS`, and a row for every other best_of_N among the names: the best of n in
    the order of n, so that the best of 1, which is π₀, is the first of them."""
    known = [name for name in (*METHODS, *names) if _BEST_OF.fullmatch(name)]
    counts = sorted({int(_BEST_OF.fullmatch(name)[1]) for name in known})
    rest = {k: row for k, row in METHODS.items() if k not in known}
    several = {f"best_of_{n}": best_of(n) for n in counts}
    return rest | several


def _own_clip(name):
    """The clip of a named method, which studies otherwise give to every arm."""
    row = variants.VARIANTS[name]
    return {"clip": row.clip, "clip_high": row.clip_high}


METHODS = {
    "zero_shot": Method("π₀, zero-shot", "the initial policy, measured"),
    "sft": Method(
        "SFT",
        "supervised fine-tuning on the best texts",
        "arm",
        train=FineTuning("best"),
        tunes=("learning_rate",),
    ),
    "sft_placebo": Method(
        "SFT, own samples",
        "as many supervised steps on the initial model's own samples",
        "control",
        train=FineTuning("own_samples"),
        tunes=("learning_rate",),
        follows="sft",
    ),
    "reinforce": trained(
        "REINFORCE with a learned baseline, no KL penalty",
        "REINFORCE",
        _NO_KL,
        {"algorithm": "reinforce"},
    ),
    "rloo": trained(
        "REINFORCE leave-one-out with the KL penalty",
        "RLOO + KL",
        static={"algorithm": "rloo"},
    ),
    "grpo": trained(
        "group-relative policy optimisation, KL in the loss",
        "GRPO + KL",
        static={"algorithm": "grpo"},
    ),
    "dr_grpo": trained(
        "GRPO without the std and the length of a response, no KL (arXiv:2503.20783)",
        "Dr. GRPO",
        _NO_KL,
        {"algorithm": "dr_grpo"},
    ),
    "dapo": trained(
        "GRPO clipped at 0.2 and 0.28, averaged over all tokens, no KL "
        "(arXiv:2503.14476); its dynamic sampling is --rl.dynamic-sampling",
        "DAPO",
        {**_NO_KL, **_own_clip("dapo")},
        {"algorithm": "dapo"},
    ),
    "gspo": trained(
        "GRPO with the ratios of responses, no KL (arXiv:2507.18071)",
        "GSPO",
        {**_NO_KL, **_own_clip("gspo")},
        {"algorithm": "gspo"},
    ),
    "reinforce_plus_plus": trained(
        "PPO + KL without a critic: advantages whitened over the batch "
        "(arXiv:2501.03262)",
        "REINFORCE++ + KL",
        static={"algorithm": "reinforce_plus_plus"},
    ),
    "rsf": trained(
        "rejection sampling: likelihood of the best of K own samples (RAFT, "
        "arXiv:2304.06767)",
        "RSF",
        _NO_KL,
        {"algorithm": "rsf"},
    ),
    "online_dpo": trained(
        "DPO on two fresh samples a prompt, the better one by the reward "
        "(arXiv:2402.04792)",
        "online DPO",
        static={"algorithm": "online_dpo", "candidates": 2},
    ),
    "ppo": trained("PPO without a KL penalty", "PPO", _NO_KL),
    "ppo_kl": trained("PPO with a KL penalty to the initial model", "PPO + KL"),
    "ppo_kl_matched": trained(
        "PPO + KL at Elastic Reset's coefficient and target, where PPO + KL has its "
        "own",
        "PPO + KL, matched",
        role="control",
        twin="ppo_kl",
    ),
    "nlpo": trained(
        "PPO + KL that draws what a masking policy finds likely (arXiv:2210.01241); "
        "measured without the mask",
        "NLPO + KL",
        static={"masked": True},
    ),
    "elastic_reset": trained(
        "PPO; at intervals policy ← EMA, then EMA ← initial",
        "Elastic Reset",
        _NO_KL,
        resets=True,
    ),
    "elastic_reset_copy": trained(
        "Elastic Reset with another sampling key: nothing may tell them apart",
        "Elastic Reset, another key",
        _NO_KL,
        role="control",
        resets=True,
        copy=1,
        follows="elastic_reset",
    ),
    "elastic_reset_kl": trained(
        "Elastic Reset with the KL penalty to the initial model",
        "Elastic Reset + KL",
        resets=True,
    ),
    "elastic_reset_average_kl": trained(
        "Elastic Reset, KL penalty to the EMA (the authors' IMDB code)",
        "Elastic Reset + KL to EMA",
        {"reference_average": True},
        resets=True,
    ),
    "reset_policy_only": trained(
        "policy ← EMA, and the EMA goes on",
        "reset to EMA only",
        {**_NO_KL, "reset_average": False},
        role="ablation",
        resets=True,
        follows="elastic_reset",
    ),
    "reset_to_initial": trained(
        "policy ← initial, no EMA",
        "reset to initial",
        {**_NO_KL, "reset_target": elastic_reset.INITIAL},
        role="ablation",
        resets=True,
    ),
    "reset_to_interpolation": trained(
        "policy ← (1 − w)·initial + w·policy, w the retained weight",
        "reset to interpolation",
        {**_NO_KL, "reset_target": elastic_reset.INTERPOLATION},
        role="null",
        resets=True,
    ),
    "elastic_reset_value": trained(
        "the critic is reset too",
        "Elastic Reset, critic too",
        {**_NO_KL, "reset_value": True},
        role="ablation",
        resets=True,
        follows="elastic_reset",
    ),
    "elastic_reset_optimizer": trained(
        "the optimiser's moments are reset too",
        "Elastic Reset, Adam too",
        {**_NO_KL, "reset_optimizer": True},
        role="ablation",
        resets=True,
        follows="elastic_reset",
    ),
    "elastic_reset_both": trained(
        "critic and moments are reset too",
        "Elastic Reset, critic and Adam too",
        {**_NO_KL, "reset_value": True, "reset_optimizer": True},
        role="ablation",
        resets=True,
        follows="elastic_reset",
    ),
    "kl_average": trained(
        "PPO with the KL penalty to its EMA, no resets",
        "PPO + KL to EMA",
        {"reference_average": True},
        role="null",
    ),
    "trdpo_soft": trained(
        "KL to a reference that moves 0.6 of the way once an interval (TR-DPO, "
        "arXiv:2404.09656, its rule in PPO)",
        "PPO + KL to a soft reference",
        {"reference_average": True, "decay": 0.4},
        role="relative",
        ticks_once=True,
    ),
    "trdpo_hard": trained(
        "KL to the policy as it was an interval ago (TR-DPO's hard update)",
        "PPO + KL to a hard reference",
        {"reference_average": True, "decay": 0.0},
        role="relative",
        ticks_once=True,
    ),
    "reference_reset": trained(
        "reference ← policy and fresh moments once an interval (ProRL, "
        "arXiv:2505.24864)",
        "reference and Adam reset",
        {
            "reference_average": True,
            "decay": 0.0,
            "reset_target": elastic_reset.INTERPOLATION,
            "reset_weight": 1.0,
            "reset_average": False,
            "reset_optimizer": True,
        },
        role="relative",
        resets=True,
        ticks_once=True,
    ),
    "ppo_bounded": trained(
        "a sigmoid of the reward, 2·tanh(r/2) (arXiv:2502.18770)",
        "PPO, bounded reward",
        {**_NO_KL, "reward_bound": 2.0},
        role="relative",
    ),
    "ppo_chi2": trained(
        "χ² in place of KL, token by token (arXiv:2403.03185)",
        "PPO + χ²",
        {"chi2_weight": 1.0},
        role="relative",
    ),
    "ppo_chi2_kl": trained(
        "χ² and KL half and half (χPO's mixture, arXiv:2407.13399)",
        "PPO + χ² + KL",
        {"chi2_weight": 0.5},
        role="relative",
    ),
    "ppo_gold": trained(
        "PPO on the gold reward, where no mismatch may be found",
        "PPO on gold",
        _NO_KL,
        role="control",
        reward="gold",
        follows="ppo",
    ),
    "ppo_random": trained(
        "PPO on an untrained reward model",
        "PPO on a random RM",
        _NO_KL,
        role="control",
        reward="random",
        follows="ppo",
    ),
    "ppo_early_stop": tables.derived(
        "PPO stopped at its best validation checkpoint",
        "PPO, early stop",
        "ppo",
        post_hoc.best,
        at_end=True,
    ),
    "ppo_average": tables.derived(
        "the EMA of PPO, no resets",
        "EMA of PPO",
        "ppo",
        post_hoc.average,
        tunes=("weight",),
    ),
    "ppo_ma25": tables.derived(
        "¾ initial + ¼ PPO", "¼ PPO + ¾ π₀", "ppo", post_hoc.interpolate(0.25)
    ),
    "ppo_ma50": tables.derived(
        "½ initial + ½ PPO", "½ PPO + ½ π₀", "ppo", post_hoc.interpolate(0.5)
    ),
    "ppo_ma75": tables.derived(
        "¼ initial + ¾ PPO", "¾ PPO + ¼ π₀", "ppo", post_hoc.interpolate(0.75)
    ),
    "warp_25": tables.derived(
        "¾ initial + ¼ of PPO with its EMA as the anchor (WARP, arXiv:2406.16768, of "
        "one run)",
        "WARP, ¼",
        "kl_average",
        post_hoc.interpolate(0.25),
        role="relative",
    ),
    "warp_50": tables.derived(
        "half way from the initial model to PPO with its EMA as the anchor",
        "WARP, ½",
        "kl_average",
        post_hoc.interpolate(0.5),
        role="relative",
    ),
    "warp_75": tables.derived(
        "¼ initial + ¾ of PPO with its EMA as the anchor",
        "WARP, ¾",
        "kl_average",
        post_hoc.interpolate(0.75),
        role="relative",
    ),
} | {f"best_of_{n}": best_of(n) for n in (2, 4, 8, 16)}

LABELS = tables.labels(METHODS)
DEFAULT = ("sft", "ppo", "ppo_kl", "elastic_reset")
