"""The game's methods: what each changes in the one program, and what it is a null for.

A row is data (`interfaces.Method`). What is not published about Elastic Reset in this
game: its decay and interval, which are flags of the run, and whether the receiver is
reset too, for which there are two arms.
"""

import functools

from experiments.pivot_translation.students import Imitation
from experiments.pivot_translation.trainers import Play
from rlhf_jax import elastic_reset
from rlhf_jax.algorithms.translation_game import imitation
from rlhf_jax.studies import post_hoc, tables
from rlhf_jax.studies.interfaces import Method


def _played(summary, label, hyper=None, *, role="arm", resets=False, **play):
    """A row that plays the game: see `Play`."""
    train = Play(hyper or {}, **play)
    return tables.trained(summary, label, train, role=role, resets=resets)


def _lessons(alpha):
    """A row of S2P: the game, and α times a supervised loss on human translations."""
    summary = f"REINFORCE with a supervised loss, α = {alpha:g}"
    return _played(summary, f"S2P, α = {alpha:g}", {"lesson_coef": alpha})


def generation_ends(generations, schedule):
    """The 0-based steps after which a student replaces the agents.

    Args: generations: imitation.Schedule; schedule: interfaces.Schedule.
    """
    return tuple(step - 1 for step in generations.generations(schedule.steps))


def _imitated(generations):
    """The row of seeded iterated learning. generations: imitation.Schedule."""
    return Method(
        "SIL",
        "seeded iterated learning: at intervals a student imitates the agents",
        train=Imitation(generations),
        resets=functools.partial(generation_ends, generations),
        tunes=("learning_rate",),
    )


METHODS = {
    "frozen_sender": _played(
        "the receiver learns, the sender stays as pretrained", "frozen sender",
        {"train_sender": 0.0}, role="control",
    ),
    "reinforce": _played(
        "REINFORCE with a learned baseline", "REINFORCE", keeps_average=True
    ),
    "reinforce_kl": _played(
        "REINFORCE with the exact KL to the initial sender", "REINFORCE + KL",
        strength="kl", coefficient="kl_coef",
    ),
    "reinforce_kl_average": _played(
        "REINFORCE with the exact KL to the sender's EMA, no resets",
        "REINFORCE + KL to EMA", {"reference_average": True}, role="null",
        strength="kl", coefficient="kl_coef",
    ),
    "reinforce_entropy": _played(
        "REINFORCE with a larger entropy bonus", "REINFORCE + entropy",
        strength="entropy", coefficient="entropy_coef",
    ),
    "reinforce_l2": _played(
        "REINFORCE with L2 to the initial sender", "REINFORCE + L2", strength="l2",
        coefficient="l2_coef",
    ),
    "s2p_01": _lessons(0.1),
    "s2p_1": _lessons(1.0),
    "s2p_5": _lessons(5.0),
    "sil": _imitated(imitation.Schedule()),
    "elastic_reset": _played(
        "at intervals sender ← EMA, then EMA ← initial; the receiver is not reset",
        "Elastic Reset", resets=True,
    ),
    "elastic_reset_receiver": _played(
        "Elastic Reset of both agents", "Elastic Reset, both agents",
        {"reset_receiver": True}, resets=True,
    ),
    "elastic_reset_average_kl": _played(
        "Elastic Reset with the exact KL to the EMA", "Elastic Reset + KL to EMA",
        {"reference_average": True}, resets=True, strength="kl", coefficient="kl_coef",
    ),
    "reset_policy_only": _played(
        "sender ← EMA, and the EMA is not reset", "reset to EMA only",
        {"reset_average": False}, role="ablation", resets=True,
    ),
    "reset_to_initial": _played(
        "sender ← initial, no EMA", "reset to initial",
        {"reset_target": elastic_reset.INITIAL}, role="ablation", resets=True,
    ),
    "reset_to_interpolation": _played(
        "sender ← (1 − w)·initial + w·sender, w the retained weight",
        "reset to interpolation", {"reset_target": elastic_reset.INTERPOLATION},
        role="null", resets=True,
    ),
    "reinforce_early_stop": tables.derived(
        "REINFORCE stopped at its best validation BLEU", "REINFORCE, early stop",
        "reinforce", post_hoc.best, at_end=True,
    ),
    "reinforce_average": tables.derived(
        "the EMA of REINFORCE's sender, with its receiver, no resets",
        "EMA of REINFORCE", "reinforce", post_hoc.average, tunes=("weight",),
    ),
    "reinforce_ma25": tables.derived(
        "sender ¾ initial + ¼ REINFORCE, with its receiver", "¼ REINFORCE + ¾ π₀",
        "reinforce", post_hoc.interpolate(0.25),
    ),
    "reinforce_ma50": tables.derived(
        "sender ½ initial + ½ REINFORCE, with its receiver", "½ REINFORCE + ½ π₀",
        "reinforce", post_hoc.interpolate(0.5),
    ),
    "reinforce_ma75": tables.derived(
        "sender ¼ initial + ¾ REINFORCE, with its receiver", "¾ REINFORCE + ¼ π₀",
        "reinforce", post_hoc.interpolate(0.75),
    ),
}  # fmt: skip

LABELS = tables.labels(METHODS)
# What the published tables compare, the ablations and the nulls.
_BESIDE = ("reinforce_kl_average", "elastic_reset_average_kl")
STUDY = tuple(name for name in METHODS if name not in _BESIDE)
QUICK = (
    "frozen_sender", "reinforce", "s2p_1", "elastic_reset", "reinforce_early_stop",
    "reinforce_ma50",
)  # fmt: skip
LISTS = {"study": STUDY, "quick": QUICK}
# What each method learns from besides the game.
NOTHING, PRETRAINING = "none", "pretraining text of both pairs, at every step"
SUPERVISION = dict.fromkeys(METHODS, NOTHING)
SUPERVISION |= dict.fromkeys(("s2p_01", "s2p_1", "s2p_5"), PRETRAINING)
SUPERVISION["sil"] = "none; more updates on the game's own sentences"


def table(generations):
    """The table of a run whose seeded iterated learning has these generations."""
    return METHODS | {"sil": _imitated(generations)}


def choose(names):
    """The methods asked for, in the order of the table, sources before what derives.

    `study` and `quick` stand for those lists, `all` for the whole table. Raises
    ValueError for an unknown name, with the names that exist.
    """
    if not names:
        raise ValueError("--methods: name one or more of them, or all")
    return tables.choose(names, METHODS, LISTS)
