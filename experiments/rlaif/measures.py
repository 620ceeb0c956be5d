"""What is measured of labelers, of reward models, and of the policies they make."""

import dataclasses

import numpy as np

from rlhf_jax import labeling
from rlhf_jax.evaluation import position_bias
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.tasks import ai_feedback

_JUDGED = {"gold": "the people's", "second": "other people's", "ai": "an AI judge's"}
WINS = {
    name: Axis(
        f"win/{name}", f"Win rate against SFT, {whose} verdict", "% of prompts", "more",
        smallest=0.05, percent=True, short=f"win rate, {whose}",
    )
    for name, whose in _JUDGED.items()
}  # fmt: skip
CONTROLLED = dataclasses.replace(
    WINS["gold"],
    key="win/gold_length_controlled",
    title="Win rate against SFT at equal length",
    short="win rate at equal length",
)
ACCURACY = Axis(
    "rm/accuracy", "Reward model's accuracy on people's labels", "% of pairs", "more",
    smallest=0.03, percent=True, short="accuracy of the RM",
)  # fmt: skip
PRIMARY_KEY = WINS["gold"].key
POLICY = (*WINS.values(), CONTROLLED, ACCURACY)


def labelers(task):
    """The evaluator of labelers, on pairs that people labelled: `labeler/<name>/...`.

    The pairs are those that reward models are tested on, samples of π₀. It reads
    nothing of a policy: it is asked at the start, once a unit.
    """

    def evaluate(params, run):
        del params
        _, pairs, margins = task.pairs(run.unit.seed)
        metrics = {}
        for name, labeler in task.labelers.items():
            found = quality(*ai_feedback.asked(pairs, labeler), margins)
            metrics |= {f"labeler/{name}/{k}": v for k, v in found.items()}
        return metrics, []

    return evaluate


def quality(p_ab, p_ba, margins):
    """{name: number} of a labeler's judgments, `chosen` first and `chosen` second.

    `agreement` with people is how often it prefers what they chose, both orders
    averaged; `gold_agreement` how often what has more gold; `same_slot` the share of
    pairs of which both orders prefer one slot, `first_slot` how many of these the
    first; `bias` the mean of |p_ab − (1 − p_ba)|, `beyond` its share above 0.1.

    Args: p_ab, p_ba [N]: of the first slot; margins [N]: gold(chosen) − gold(rejected).
    """
    chosen = np.asarray(labeling.average(p_ab, p_ba)) > 0.5
    differ = margins != 0  # of equal gold there is no better one
    found = position_bias.measure(p_ab, p_ba)
    return {
        "agreement": float(chosen.mean()),
        "gold_agreement": float((chosen == (margins > 0))[differ].mean()),
        "same_slot": float(found.same_slot),
        "first_slot": float(found.first) if found.same_slot else 0.5,
        "bias": float(found.gap),
        "beyond": float(found.beyond),
    }


def learned_from(task, methods):
    """The evaluator of the reward that a run was trained on: `rm/accuracy`, its
    accuracy on people's labels, where it was learned from pairs.

    methods: {name: Method}.
    """

    def evaluate(params, run):
        del params
        method = methods[run.method]
        if method.train is None:
            return {}, []
        facts = task.rewards[method.reward](run.unit.seed).facts
        if "accuracy" not in facts:
            return {}, []
        return {ACCURACY.key: facts["accuracy"]}, []

    return evaluate
