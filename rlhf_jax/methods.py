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


_RESET = {"kl_coef": 0.0}

METHODS = {
    "sft": Method("supervised fine-tuning on the best texts of the corpus"),
    "reinforce": Method(
        "REINFORCE with a learned baseline, no KL penalty",
        {"kl_coef": 0.0},
        {"algorithm": "reinforce"},
    ),
    "rloo": Method(
        "REINFORCE leave-one-out with the KL penalty",
        static={"algorithm": "rloo"},
    ),
    "grpo": Method(
        "group-relative policy optimisation, KL in the loss",
        static={"algorithm": "grpo", "kl_in": "loss"},
    ),
    "ppo": Method("PPO without a KL penalty", {"kl_coef": 0.0}),
    "ppo_kl": Method("PPO with a KL penalty to the initial model"),
    "elastic_reset": Method(
        "PPO; policy ← EMA, EMA ← initial at intervals", _RESET, resets=True
    ),
    "elastic_reset_kl": Method(
        "Elastic Reset with the KL penalty to the initial model", {}, resets=True
    ),
    "elastic_reset_average_kl": Method(
        "Elastic Reset, KL penalty to the EMA (as in the authors' IMDB code)",
        {"reference_average": True},
        resets=True,
    ),
    "reset_policy_only": Method(
        "ablation: policy ← EMA, the EMA goes on",
        {**_RESET, "reset_average": False},
        resets=True,
    ),
    "reset_to_initial": Method(
        "ablation: policy ← initial, no EMA",
        {**_RESET, "reset_target": elastic_reset.INITIAL},
        resets=True,
    ),
    "reset_to_interpolation": Method(
        "null: policy ← interpolate(initial, policy, retained weight)",
        {**_RESET, "reset_target": elastic_reset.INTERPOLATION},
        resets=True,
    ),
    "elastic_reset_value": Method(
        "ablation: the critic is reset too",
        {**_RESET, "reset_value": True},
        resets=True,
    ),
    "elastic_reset_optimizer": Method(
        "ablation: the optimiser's moments are reset too",
        {**_RESET, "reset_optimizer": True},
        resets=True,
    ),
    "kl_average": Method(
        "null: PPO with the KL penalty to its EMA, no resets",
        {"reference_average": True},
    ),
    "ppo_early_stop": Method(
        "null: PPO stopped at its best validation checkpoint", source="ppo"
    ),
    "ppo_average": Method("null: the EMA of PPO, no resets", source="ppo"),
    "ppo_ma25": Method("null: ¾ initial + ¼ PPO", source="ppo", weight=0.25),
    "ppo_ma50": Method("null: ½ initial + ½ PPO", source="ppo", weight=0.5),
    "ppo_ma75": Method("null: ¼ initial + ¾ PPO", source="ppo", weight=0.75),
}

DEFAULT = ("sft", "ppo", "ppo_kl", "elastic_reset")


def choose(names):
    """The methods asked for, in the order of the table, sources before what derives.

    `all` stands for the whole table. A source that was not asked for is added.
    Raises ValueError for an unknown name, with the names that exist.
    """
    if "all" in names:
        return tuple(METHODS)
    for name in names:
        if name not in METHODS:
            raise ValueError(
                f"--methods {name}: unknown; choose from {', '.join(METHODS)}, or all"
            )
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
