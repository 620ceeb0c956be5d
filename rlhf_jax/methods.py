"""Named methods: what each changes in the one program, and what each is a null for.

A method is an overlay on `policy_gradient.Hyper`; only those of another algorithm
change the static Config. Derived methods train nothing: they are read off another
method's run (Noukhovitch et al. 2023 against its nulls: averaging and early stopping).
"""

import dataclasses
from typing import Any

from rlhf_jax import elastic_reset


@dataclasses.dataclass(frozen=True)
class Method:
    """What a method is, in one line, and what it changes."""

    summary: str
    hyper: dict[str, Any] = dataclasses.field(default_factory=dict)
    static: dict[str, Any] = dataclasses.field(default_factory=dict)
    resets: bool = False  # uses the decay and the interval of the run
    source: str | None = None  # derived from this method's run
    weight: float | None = None  # derived by interpolation: weight on the RL policy
    reward: str | None = None  # trained on this control of the task instead
    label: str = ""  # as pictures and tables print it


_NO_KL = {"kl_coef": 0.0}

METHODS = {
    "sft": Method("supervised fine-tuning on the best texts", label="SFT"),
    "sft_placebo": Method(
        "control: as many supervised steps on the initial model's own samples",
        label="SFT, own samples",
    ),
    "reinforce": Method(
        "REINFORCE with a learned baseline, no KL penalty",
        _NO_KL,
        {"algorithm": "reinforce"},
        label="REINFORCE",
    ),
    "rloo": Method(
        "REINFORCE leave-one-out with the KL penalty",
        static={"algorithm": "rloo"},
        label="RLOO + KL",
    ),
    "grpo": Method(
        "group-relative policy optimisation, KL in the loss",
        static={"algorithm": "grpo", "kl_in": "loss"},
        label="GRPO + KL",
    ),
    "ppo": Method("PPO without a KL penalty", _NO_KL, label="PPO"),
    "ppo_kl": Method("PPO with a KL penalty to the initial model", label="PPO + KL"),
    "elastic_reset": Method(
        "PPO; at intervals policy ← EMA, then EMA ← initial",
        _NO_KL,
        resets=True,
        label="Elastic Reset",
    ),
    "elastic_reset_kl": Method(
        "Elastic Reset with the KL penalty to the initial model",
        resets=True,
        label="Elastic Reset + KL",
    ),
    "elastic_reset_average_kl": Method(
        "Elastic Reset, KL penalty to the EMA (the authors' IMDB code)",
        {"reference_average": True},
        resets=True,
        label="Elastic Reset + KL to EMA",
    ),
    "reset_policy_only": Method(
        "ablation: policy ← EMA, and the EMA goes on",
        {**_NO_KL, "reset_average": False},
        resets=True,
        label="reset to EMA only",
    ),
    "reset_to_initial": Method(
        "ablation: policy ← initial, no EMA",
        {**_NO_KL, "reset_target": elastic_reset.INITIAL},
        resets=True,
        label="reset to initial",
    ),
    "reset_to_interpolation": Method(
        "null: policy ← (1 − w)·initial + w·policy, w the retained weight",
        {**_NO_KL, "reset_target": elastic_reset.INTERPOLATION},
        resets=True,
        label="reset to interpolation",
    ),
    "elastic_reset_value": Method(
        "ablation: the critic is reset too",
        {**_NO_KL, "reset_value": True},
        resets=True,
        label="Elastic Reset, critic too",
    ),
    "elastic_reset_optimizer": Method(
        "ablation: the optimiser's moments are reset too",
        {**_NO_KL, "reset_optimizer": True},
        resets=True,
        label="Elastic Reset, Adam too",
    ),
    "kl_average": Method(
        "null: PPO with the KL penalty to its EMA, no resets",
        {"reference_average": True},
        label="PPO + KL to EMA",
    ),
    "ppo_gold": Method(
        "control: PPO on the gold reward, where no mismatch may be found",
        _NO_KL,
        reward="gold",
        label="PPO on gold",
    ),
    "ppo_random": Method(
        "control: PPO on an untrained reward model",
        _NO_KL,
        reward="random",
        label="PPO on a random RM",
    ),
    "ppo_early_stop": Method(
        "null: PPO stopped at its best validation checkpoint",
        source="ppo",
        label="PPO, early stop",
    ),
    "ppo_average": Method(
        "null: the EMA of PPO, no resets", source="ppo", label="EMA of PPO"
    ),
    "ppo_ma25": Method(
        "null: ¾ initial + ¼ PPO", source="ppo", weight=0.25, label="¼ PPO + ¾ π₀"
    ),
    "ppo_ma50": Method(
        "null: ½ initial + ½ PPO", source="ppo", weight=0.5, label="½ PPO + ½ π₀"
    ),
    "ppo_ma75": Method(
        "null: ¼ initial + ¾ PPO", source="ppo", weight=0.75, label="¾ PPO + ¼ π₀"
    ),
}

LABELS = {name: method.label for name, method in METHODS.items()}
DEFAULT = ("sft", "ppo", "ppo_kl", "elastic_reset")


def choose(names):
    """The methods asked for, in the order of the table, sources before what derives.

    `all` stands for the whole table. A source that was not asked for is added.
    Raises ValueError for an unknown name, with the names that exist.
    """
    for name in names:
        if name not in METHODS and name != "all":
            raise ValueError(
                f"--methods {name}: unknown; choose from {', '.join(METHODS)}, or all"
            )
    if "all" in names:
        return tuple(METHODS)
    sources = {METHODS[name].source for name in names} - {None}
    return tuple(name for name in METHODS if name in sources or name in names)


def overlay(hyper, method, *, decay, every):
    """The Hyper of a method: the run's, the method's changes, the calendar's.

    Args: hyper: policy_gradient.Hyper of the run; decay and every: of the EMA and the
    resets, used where the method resets. Returns Hyper.
    """
    changes = dict(method.hyper)
    if method.resets:
        changes["reset_every"] = every
        weight = elastic_reset.retained_weight(decay, every)
        changes["reset_weight"] = float(weight)
    return hyper._replace(decay=decay, **changes)
