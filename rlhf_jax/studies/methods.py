"""Named methods: what each changes in the one program, and what each is a null for.

A method is an overlay on `policy_gradient.Hyper`; only those of another algorithm
change the static Config. Derived methods train nothing: they are read off another
method's run (Noukhovitch et al. 2023 against its nulls: averaging and early stopping),
or off the initial policy itself. The nearest relatives of Elastic Reset are here too,
as arms of one run: the rule of a paper that sets it apart, not all that stands there.
"""

import dataclasses
import math
from typing import Any

from rlhf_jax import elastic_reset
from rlhf_jax.algorithms import policy_gradient

_OF_THE_RUN = ("total_updates", "reset_every", "reset_first")  # the study's clocks


@dataclasses.dataclass(frozen=True)
class Method:
    """What a method is, in one line, and what it changes."""

    summary: str
    hyper: dict[str, Any] = dataclasses.field(default_factory=dict)
    static: dict[str, Any] = dataclasses.field(default_factory=dict)
    resets: bool = False  # uses the decay and the interval of the run
    moves: bool = False  # the average ticks once an interval, not once an iteration
    untrained: bool = False  # the initial policy, measured
    best_of: int = 0  # of so many samples of the initial policy the best is taken
    source: str | None = None  # derived from this method's run
    weight: float | None = None  # derived by interpolation: weight on the RL policy
    reward: str | None = None  # trained on this control of the task instead
    twin: str | None = None  # this method, unless --override tells them apart
    label: str = ""  # as pictures and tables print it

    @property
    def trains(self):
        """Whether weights are trained for it: neither derived nor the initial ones."""
        return self.source is None and not self.untrained and not self.best_of


_NO_KL = {"kl_coef": 0.0}

METHODS = {
    "zero_shot": Method(
        "the initial policy, measured", untrained=True, label="π₀, zero-shot"
    ),
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
    "rsf": Method(
        "rejection sampling: likelihood of the best of K own samples (RAFT, "
        "arXiv:2304.06767)",
        _NO_KL,
        {"algorithm": "rsf"},
        label="RSF",
    ),
    "ppo": Method("PPO without a KL penalty", _NO_KL, label="PPO"),
    "ppo_kl": Method("PPO with a KL penalty to the initial model", label="PPO + KL"),
    "ppo_kl_matched": Method(
        "control: PPO + KL at Elastic Reset's coefficient and target, where PPO + KL "
        "has its own",
        twin="ppo_kl",
        label="PPO + KL, matched",
    ),
    "nlpo": Method(
        "PPO + KL that draws what a masking policy finds likely (arXiv:2210.01241); "
        "measured without the mask",
        static={"masked": True},
        label="NLPO + KL",
    ),
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
    "elastic_reset_both": Method(
        "ablation: critic and moments are reset too",
        {**_NO_KL, "reset_value": True, "reset_optimizer": True},
        resets=True,
        label="Elastic Reset, critic and Adam too",
    ),
    "kl_average": Method(
        "null: PPO with the KL penalty to its EMA, no resets",
        {"reference_average": True},
        label="PPO + KL to EMA",
    ),
    "trdpo_soft": Method(
        "relative: KL to a reference that moves 0.6 of the way once an interval (TR-DPO"
        ", arXiv:2404.09656, its rule in PPO)",
        {"reference_average": True, "decay": 0.4},
        moves=True,
        label="PPO + KL to a soft reference",
    ),
    "trdpo_hard": Method(
        "relative: KL to the policy as it was an interval ago (TR-DPO's hard update)",
        {"reference_average": True, "decay": 0.0},
        moves=True,
        label="PPO + KL to a hard reference",
    ),
    "reference_reset": Method(
        "relative: reference ← policy and fresh moments once an interval (ProRL, "
        "arXiv:2505.24864)",
        {
            "reference_average": True,
            "decay": 0.0,
            "reset_target": elastic_reset.INTERPOLATION,
            "reset_weight": 1.0,
            "reset_average": False,
            "reset_optimizer": True,
        },
        resets=True,
        moves=True,
        label="reference and Adam reset",
    ),
    "ppo_bounded": Method(
        "relative: a sigmoid of the reward, 2·tanh(r/2) (arXiv:2502.18770)",
        {**_NO_KL, "reward_bound": 2.0},
        label="PPO, bounded reward",
    ),
    "ppo_chi2": Method(
        "relative: χ² in place of KL, token by token (arXiv:2403.03185)",
        {"chi2_weight": 1.0},
        label="PPO + χ²",
    ),
    "ppo_chi2_kl": Method(
        "relative: χ² and KL half and half (χPO's mixture, arXiv:2407.13399)",
        {"chi2_weight": 0.5},
        label="PPO + χ² + KL",
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
    "warp_25": Method(
        "relative: ¾ initial + ¼ of PPO with its EMA as the anchor (WARP, "
        "arXiv:2406.16768, of one run)",
        source="kl_average",
        weight=0.25,
        label="WARP, ¼",
    ),
    "warp_50": Method(
        "relative: half way from the initial model to PPO with its EMA as the anchor",
        source="kl_average",
        weight=0.5,
        label="WARP, ½",
    ),
    "warp_75": Method(
        "relative: ¼ initial + ¾ of PPO with its EMA as the anchor",
        source="kl_average",
        weight=0.75,
        label="WARP, ¾",
    ),
} | {
    f"best_of_{n}": Method(
        f"the best of {n} samples of the initial policy; its KL is the bound "
        "log n − (n − 1)/n",
        best_of=n,
        label=f"best of {n}",
    )
    for n in (2, 4, 8, 16)
}

LABELS = {name: method.label for name, method in METHODS.items()}
DEFAULT = ("sft", "ppo", "ppo_kl", "elastic_reset")
SUPERVISED = ("sft", "sft_placebo")


def choose(names, table=None):
    """The methods asked for, in the order of the table, sources before what derives.

    `all` stands for the whole table, by default `METHODS`. A source that was not asked
    for is added. Raises ValueError for an unknown name, with the names that exist.
    """
    table = METHODS if table is None else table
    for name in names:
        if name not in table and name != "all":
            raise ValueError(
                f"--methods {name}: unknown; choose from {', '.join(table)}, or all"
            )
    if "all" in names:
        return tuple(table)
    sources = {table[name].source for name in names} - {None}
    return tuple(name for name in table if name in sources or name in names)


def overlay(hyper, method, *, decay, every):
    """The Hyper of a method: the run's, the method's changes, the calendar's.

    Args: hyper: policy_gradient.Hyper of the run; decay and every: of the EMA and the
    resets, used where the method resets. Returns Hyper.
    """
    changes = {"decay": decay}
    if method.resets:
        changes["reset_every"] = every
        weight = elastic_reset.retained_weight(decay, every)
        changes["reset_weight"] = float(weight)
    if method.moves:
        changes["tick_every"] = every
    return hyper._replace(**{**changes, **method.hyper})


def overrides(words):
    """{method: {field: value}} of words like "ppo_kl.kl_coef=0.1".

    What a method has of its own, over everything else: any field of
    `policy_gradient.Hyper` but the study's clocks; true and false for a switch.
    Raises ValueError for what names no such thing.
    """
    found = {}
    for word in words:
        name, dot, rest = word.partition(".")
        field, equals, text = rest.partition("=")
        if not dot or not equals:
            raise ValueError(
                f"--override {word}: write method.field=value, as ppo_kl.kl_coef=0.1"
            )
        if name not in METHODS:
            raise ValueError(
                f"--override {word}: there is no method {name}; choose from "
                f"{', '.join(METHODS)}"
            )
        if not METHODS[name].trains or name in SUPERVISED:
            raise ValueError(f"--override {word}: {name} takes no such settings")
        fields = policy_gradient.Hyper._field_defaults
        known = [x for x in fields if x not in _OF_THE_RUN]
        if field not in known:
            raise ValueError(
                f"--override {word}: {field} is no setting of a method; choose from "
                f"{', '.join(known)}"
            )
        value = _value(text, fields[field])
        if value is None:
            kind = "true or false" if isinstance(fields[field], bool) else "a number"
            raise ValueError(f"--override {word}: {text!r} is not {kind}")
        found.setdefault(name, {})[field] = value
    return found


def _value(text, default):
    """A word as the type of a default has it, None where it is none."""
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower())
    try:
        value = float(text)
    except ValueError:
        return None
    if isinstance(default, int) and not value.is_integer():
        return None
    return None if math.isnan(value) else type(default)(value)
