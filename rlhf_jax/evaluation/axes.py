"""What is measured: one record for each quantity, and nothing about it anywhere else.

A run logs numbers under keys such as `drift/text_nll`. What a number means, its title,
its unit, which way is better, is never read off its key: it stands in an `Axis`, and
whoever reads records is handed the axes. An experiment whose `eval/reward` is BLEU
hands over another Axis for that key.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Axis:
    """One measured quantity."""

    key: str
    """Its name in metrics.jsonl."""
    title: str
    """As plots and tables print it."""
    unit: str = ""
    better: Literal["more", "less"] | None = None
    """None: neither, as of the length of a response."""
    corner: float | None = None
    """Distance from the start to the worst drift that counts in a hypervolume. An axis
    that has a corner is a drift axis: reward is plotted against it."""
    smallest: float | None = None
    """The smallest effect of interest, in the unit of the records."""
    from_start: bool = False
    """Read as the drop since the start: start − value, as of an accuracy."""
    percent: bool = False
    """Printed in points, a hundred times the recorded share."""
    short: str = ""
    """A shorter title for tables of endpoints; by default the title."""

    @property
    def label(self):
        """Title and unit, as on the axis of a plot."""
        return f"{self.title}  ({self.unit})" if self.unit else self.title

    @property
    def scale(self):
        """What turns a recorded number into the printed one."""
        return 100.0 if self.percent else 1.0

    @property
    def arrow(self):
        """ " ↑" or " ↓", where the quantity is better; "" where that cannot be said."""
        return {"more": " ↑", "less": " ↓", None: ""}[self.better]


REWARD = Axis(
    "eval/reward", "Proxy reward", "sd of initial samples", "more",
    smallest=0.1, short="reward",
)  # fmt: skip
GOLD = Axis("eval/gold", "Gold reward", "", "more", smallest=0.05, short="gold")
# The smallest effect on a drift is a twentieth of the way to its corner.
TEXT_NLL = Axis(
    "drift/text_nll", "Human-text NLL", "nats / token", "less",
    corner=1.0, smallest=0.05,
)  # fmt: skip
KL_INITIAL = Axis(
    "drift/kl_initial", "KL from the initial policy", "nats / sample", "less",
    corner=30.0, smallest=1.5,
)  # fmt: skip
KL_CORPUS_POLICY = Axis(
    "truth/kl_corpus_policy", "Corpus mass lost, KL(p*‖π)", "nats / sample", "less"
)
KL_POLICY_CORPUS = Axis(
    "truth/kl_policy_corpus", "Off-corpus mass, KL(π‖p*)", "nats / sample", "less"
)
ENTROPY = Axis("eval/entropy", "Entropy", "nats / token")
LENGTH = Axis("eval/length", "Length", "tokens")
SCORES = Axis(
    "objective/scores", "Proxy reward while training", "sd of initial samples", "more"
)
KL_REFERENCE = Axis("objective/kl", "KL from the reference", "nats / sample", "less")
TRAINING_ENTROPY = Axis("objective/entropy", "Entropy while training", "nats / sample")


def accuracy(key, title="", **fields):
    """The axis of a capability: how much of an accuracy (a share) alignment costs."""
    return Axis(
        key, title or key, "points of accuracy", "less", smallest=0.03,
        from_start=True, percent=True, **fields,
    )  # fmt: skip


# Of a reward that is not scaled on samples of the initial policy.
OWN_UNITS = (
    dataclasses.replace(REWARD, unit="own units", smallest=None),
    dataclasses.replace(SCORES, unit="own units"),
)
SKILLS = accuracy("tax/skills", "Skills lost", corner=0.5)
STANDARD = (
    REWARD,
    GOLD,
    TEXT_NLL,
    KL_INITIAL,
    SKILLS,
    KL_CORPUS_POLICY,
    KL_POLICY_CORPUS,
    ENTROPY,
    LENGTH,
    SCORES,
    KL_REFERENCE,
    TRAINING_ENTROPY,
)

# What recipes measure on held-out rows besides.
HELD_OUT = (
    Axis("eval/nll", "Held-out NLL", "nats / token", "less"),
    Axis("eval/loss", "Held-out loss", "", "less"),
    Axis("eval/accuracy", "Held-out accuracy", "", "more"),
    Axis("eval/margin", "Held-out margin", "", "more"),
    Axis("eval/rewards/accuracies", "Held-out accuracy", "", "more"),
    Axis("eval/rewards/margins", "Held-out margin of implicit rewards", "", "more"),
)


def by_key(axes):
    """{key: Axis}. Raises ValueError where two axes describe one key."""
    result = {}
    for axis in axes:
        if result.setdefault(axis.key, axis) != axis:
            raise ValueError(f"two axes describe {axis.key!r}: keep one of them")
    return result


def find(key, axes):
    """The axis of a key: of `axes`, else of `STANDARD`, else one titled by its key."""
    known = {axis.key: axis for axis in (*STANDARD, *axes)}
    return known.get(key, Axis(key, key))


def drifts(axes):
    """The axes that reward is plotted against: those with a corner."""
    return tuple(axis for axis in axes if axis.corner is not None)


def rewards(axes):
    """The axes of the proxy reward and of the gold reward."""
    return find(REWARD.key, axes), find(GOLD.key, axes)


def with_corners(axes, corners):
    """The axes, the drift axes with other corners, as the flags --corner.* give them.

    corners: {flag: distance}, a flag being the last part of a key: text_nll, skills.
    Flags of axes that are not measured here change nothing.
    """
    result = []
    for axis in axes:
        flag = axis.key.rpartition("/")[2]
        if axis.corner is not None and flag in corners:
            axis = dataclasses.replace(axis, corner=float(corners[flag]))
        result.append(axis)
    return tuple(result)
