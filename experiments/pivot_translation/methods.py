"""The game's methods: what each changes in the one program, and whom it is a null for.

A method is an overlay on `translation_game.Hyper`. Of Elastic Reset in this game decay,
interval and whether the receiver is reset too are not known: the first two are flags of
the run, the third is two arms.
"""

import dataclasses

from rlhf_jax import elastic_reset
from rlhf_jax.studies import methods as named

NOTHING, PRETRAINING = "none", "pretraining text of both pairs, at every step"


@dataclasses.dataclass(frozen=True)
class Method(named.Method):
    """A method, and what it learns from besides the game."""

    supervision: str = NOTHING
    imitates: bool = False  # seeded iterated learning
    strength: str = ""  # the field of `flags.Strengths` that its Hyper takes
    receives: str = ""  # the Hyper field that takes it
    watched: bool = False  # its EMA is measured, though nothing is done with it

    @property
    def averages(self):
        """Whether anything reads the EMA; where nothing does, it stands still."""
        return self.resets or self.watched or "reference_average" in self.hyper


def _reset(summary, label, **hyper):
    return Method(summary, hyper, resets=True, label=label)


METHODS = {
    "frozen_sender": Method(
        "the receiver learns, the sender stays as it was pretrained",
        {"train_sender": 0.0},
        label="frozen sender",
    ),
    "reinforce": Method(
        "REINFORCE with a learned baseline", watched=True, label="REINFORCE"
    ),
    "reinforce_kl": Method(
        "REINFORCE with the exact KL to the initial sender",
        strength="kl",
        receives="kl_coef",
        label="REINFORCE + KL",
    ),
    "reinforce_kl_average": Method(
        "null: REINFORCE with the exact KL to the sender's EMA, no resets",
        {"reference_average": True},
        strength="kl",
        receives="kl_coef",
        label="REINFORCE + KL to EMA",
    ),
    "reinforce_entropy": Method(
        "REINFORCE with a larger entropy bonus",
        strength="entropy",
        receives="entropy_coef",
        label="REINFORCE + entropy",
    ),
    "reinforce_l2": Method(
        "REINFORCE with L2 to the initial sender",
        strength="l2",
        receives="l2_coef",
        label="REINFORCE + L2",
    ),
    "s2p_01": Method(
        "a supervised loss besides, α = 0.1",
        {"lesson_coef": 0.1},
        supervision=PRETRAINING,
        label="S2P, α = 0.1",
    ),
    "s2p_1": Method(
        "a supervised loss besides, α = 1",
        {"lesson_coef": 1.0},
        supervision=PRETRAINING,
        label="S2P, α = 1",
    ),
    "s2p_5": Method(
        "a supervised loss besides, α = 5",
        {"lesson_coef": 5.0},
        supervision=PRETRAINING,
        label="S2P, α = 5",
    ),
    "sil": Method(
        "seeded iterated learning: at intervals a student imitates the agents",
        imitates=True,
        supervision="none; more updates on the game's own sentences",
        label="SIL",
    ),
    "elastic_reset": _reset(
        "at intervals sender ← EMA, then EMA ← initial; the receiver plays on",
        "Elastic Reset",
    ),
    "elastic_reset_receiver": _reset(
        "Elastic Reset of both agents",
        "Elastic Reset, both agents",
        reset_receiver=True,
    ),
    "elastic_reset_average_kl": Method(
        "Elastic Reset with the exact KL to the EMA",
        {"reference_average": True},
        resets=True,
        strength="kl",
        receives="kl_coef",
        label="Elastic Reset + KL to EMA",
    ),
    "reset_policy_only": _reset(
        "ablation: sender ← EMA, and the EMA goes on",
        "reset to EMA only",
        reset_average=False,
    ),
    "reset_to_initial": _reset(
        "ablation: sender ← initial, no EMA",
        "reset to initial",
        reset_target=elastic_reset.INITIAL,
    ),
    "reset_to_interpolation": _reset(
        "null: sender ← (1 − w)·initial + w·sender, w the retained weight",
        "reset to interpolation",
        reset_target=elastic_reset.INTERPOLATION,
    ),
    "reinforce_early_stop": Method(
        "null: REINFORCE stopped at its best validation BLEU",
        source="reinforce",
        label="REINFORCE, early stop",
    ),
    "reinforce_average": Method(
        "null: the EMA of REINFORCE's sender, with its receiver, no resets",
        source="reinforce",
        label="EMA of REINFORCE",
    ),
    "reinforce_ma25": Method(
        "null: sender ¾ initial + ¼ REINFORCE, with its receiver",
        source="reinforce",
        weight=0.25,
        label="¼ REINFORCE + ¾ π₀",
    ),
    "reinforce_ma50": Method(
        "null: sender ½ initial + ½ REINFORCE, with its receiver",
        source="reinforce",
        weight=0.5,
        label="½ REINFORCE + ½ π₀",
    ),
    "reinforce_ma75": Method(
        "null: sender ¼ initial + ¾ REINFORCE, with its receiver",
        source="reinforce",
        weight=0.75,
        label="¾ REINFORCE + ¼ π₀",
    ),
}

LABELS = {name: method.label for name, method in METHODS.items()}
# What the published tables compare, the ablations and the nulls.
STUDY = tuple(
    name
    for name in METHODS
    if name not in ("reinforce_kl_average", "elastic_reset_average_kl")
)
QUICK = (
    "frozen_sender",
    "reinforce",
    "s2p_1",
    "elastic_reset",
    "reinforce_early_stop",
    "reinforce_ma50",
)


def choose(names):
    """The methods asked for, in the order of the table, sources before what derives.

    `study` and `quick` stand for those lists, `all` for the whole table. Raises
    ValueError for an unknown name, with the names that exist.
    """
    lists = {"all": tuple(METHODS), "study": STUDY, "quick": QUICK}
    wanted = {known for name in names for known in lists.get(name, (name,))}
    for name in wanted:
        if name not in METHODS:
            raise ValueError(
                f"--methods {name}: unknown; choose from {', '.join(METHODS)}; or "
                f"{', '.join(lists)}"
            )
    wanted |= {METHODS[name].source for name in wanted} - {None}
    return tuple(name for name in METHODS if name in wanted)


def overlay(hyper, method, strengths, *, decay, every, strength=None):
    """The Hyper of a method: the run's, the method's changes, the calendar's.

    Args: hyper: translation_game.Hyper of the run; strengths: `flags.Strengths`; decay
    and every: of the EMA and the resets, used where the method resets; strength: of
    the method's penalty, in place of the one in strengths.
    """
    changes = {"decay": decay if method.averages else 1.0, **method.hyper}
    if method.strength:
        own = getattr(strengths, method.strength)
        changes[method.receives] = own if strength is None else strength
    if method.resets:
        changes["reset_every"] = every
        weight = elastic_reset.retained_weight(decay, every)
        changes["reset_weight"] = float(weight)
    return hyper._replace(**changes)
