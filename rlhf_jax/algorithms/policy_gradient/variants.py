"""What the named methods are made of: one row each.

A row is a combination of fields of `Config` and `Hyper`, which are also flags; a field
that is set goes before the row. Names of losses are those of `loss_type` in TRL 1.16.
"""

from typing import NamedTuple


class Variant(NamedTuple):
    """What a method is: its advantages, its loss, its average, its clip, its penalty.

    advantage: "gae"; "return", discounted sums of rewards; else of groups:
    "leave_one_out", "group" (as `scale_rewards` says), "best", "wins".
    """

    advantage: str
    kl_in: str = "reward"
    loss_type: str = "bnpo"
    scale_rewards: str = "none"
    whitening: str = "none"
    importance_sampling_level: str = "token"
    clip: float = 0.2
    clip_high: float | None = None  # None: as clip
    has_ratio: bool = True  # False: a likelihood, with nothing to clip


VARIANTS = {
    "ppo": Variant("gae", whitening="rollout"),
    "reinforce": Variant("gae", has_ratio=False),
    "rloo": Variant("leave_one_out"),
    "grpo": Variant("group", "loss", "grpo", "group"),
    # Dr. GRPO, DAPO, GSPO and RSF have no KL penalty, as in their papers.
    "dr_grpo": Variant("group", "none", "dr_grpo"),
    "dapo": Variant("group", "none", "dapo", "group", clip_high=0.28),
    "gspo": Variant(
        *("group", "none", "grpo", "group"),
        importance_sampling_level="sequence",
        clip=3e-4,
        clip_high=4e-4,
    ),
    # REINFORCE++, arXiv:2501.03262, and its form with a group's mean as the baseline.
    "reinforce_plus_plus": Variant("return", whitening="rollout"),
    "reinforce_plus_plus_baseline": Variant("group", "loss", whitening="rollout"),
    "rsf": Variant("best", "none", has_ratio=False),
    "online_dpo": Variant("wins", "objective", has_ratio=False),
}
GROUPED = tuple(  # compare the candidates of a prompt
    name for name, row in VARIANTS.items() if row.advantage not in ("gae", "return")
)
SCALED = tuple(name for name, row in VARIANTS.items() if row.advantage == "group")

# loss_type: how the losses of tokens are averaged, see `aggregation.weights`.
AVERAGE = {
    "grpo": "responses",
    "bnpo": "tokens",
    "dapo": "tokens",
    "dr_grpo": "length",
    "luspo": "sums",
    "cispo": "tokens",
    "sapo": "responses",
    "vespo": "tokens",
}
OF_ROLLOUT = ("dapo", "cispo", "vespo")  # tokens of the rollout, not of a minibatch
CISPO_CAP = 5.0  # ScaleRL, arXiv:2510.13786


def of(config):
    """The `Variant` of a `Config`: its method's row, with the fields that are set."""
    row = VARIANTS[config.algorithm]
    names = ("kl_in",) * (row.kl_in != "objective")
    if row.has_ratio:
        names += ("loss_type", "scale_rewards", "importance_sampling_level")
    given = {name: getattr(config, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("loss_type") == "cispo":
        given["clip_high"] = CISPO_CAP
    return row._replace(**given)


def of_tokens(row):
    """Whether every token of a minibatch counts alike in the loss, and by itself."""
    by_itself = row.importance_sampling_level == "token" and row.loss_type != "vespo"
    return by_itself and AVERAGE[row.loss_type] == "tokens"


def clips(row, hyper):
    """(ε, ε upwards) of a `Variant` and a `Hyper`, the row's where that has None.

    A clip that is set holds in both directions unless `clip_high` is set too. With the
    loss "cispo" the second is the cap of the ratio itself.
    """
    low = row.clip if hyper.clip is None else hyper.clip
    if hyper.clip_high is not None:
        return low, hyper.clip_high
    if row.clip_high is None or (hyper.clip is not None and row.loss_type != "cispo"):
        return low, low
    return low, row.clip_high
