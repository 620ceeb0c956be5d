"""What is measured of a chain: reward models, the policies that climb them, the truth.

Everything is logged under `mismatch/`: of a policy at every look, of the reward models
and of the best of n samples once a unit. The evaluation regime is the same for every
reward: prompts, keys, gold.
"""

import dataclasses
import functools

import jax
import numpy as np

from experiments.objective_mismatch import methods
from rlhf_jax.evaluation import (
    best_of_n,
    calibration,
    correlation,
    policy,
    reward_variance,
)
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.studies import evaluators, scoring
from rlhf_jax.tasks import world_rewards
from rlhf_jax.types import Prompts

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # n of best-of-n
_PROMPTS, _SAMPLES = 32, 4 * SIZES[-1]
_WITHIN = 8  # samples a prompt, of the variance within prompts
BINS = 8  # of reliability, and of margins
_SD = "sd of initial samples"

PROXY = Axis("mismatch/proxy", "Own proxy reward", _SD, "more", smallest=0.1)
GOLD = Axis("mismatch/gold", "Gold reward", _SD, "more", smallest=0.1)
ACCURACY = Axis(
    "mismatch/accuracy", "RM's accuracy on the policy's pairs", "% of pairs", "more",
    smallest=0.03, percent=True,
)  # fmt: skip
NLL = Axis("mismatch/nll", "RM's NLL on the policy's pairs", "nats", "less")
TIES = Axis("mismatch/ties", "Pairs of equal gold", "% of pairs", percent=True)
AGREES = Axis("mismatch/correlation", "Correlation of proxy and gold", "", "more")
OF_LENGTH = Axis("mismatch/length_correlation", "Correlation of proxy and length")
SPREAD = Axis("mismatch/spread", "Disagreement of five RMs", _SD, "less")
ERROR = Axis("mismatch/gold_error", "Standard error of gold", _SD)
POLICY = (PROXY, GOLD, ACCURACY, NLL, TIES, AGREES, OF_LENGTH, SPREAD, ERROR)


# Of a policy, at every look


def chain(task, table):
    """The evaluator of a policy by the reward that it climbs, and by gold.

    Two samples a prompt are drawn: their rewards, whether the reward model orders the
    two as gold does, and how far five reward models disagree about them. Accuracy is
    re-weighted to the gold margins of π₀'s pairs, since pairs of a policy that has
    converged are closer together and so harder to order, whatever the reward model.
    """
    initial = _initial(task)

    def evaluate(params, run):
        name = methods.reward_of(run.method, table)
        drawn = draw_pairs(task, params, run.layout)
        return _of_policy(task, name, drawn, run, initial(run)), []

    return evaluate


def draw_pairs(task, params, layout):
    """Two rollouts of a policy on the evaluation prompts, under keys of their own."""
    draw = policy.compile_draw(task.model, layout, task.sampling)
    keys = (jax.random.fold_in(jax.random.key(0), i) for i in (2, 3))
    return [draw(params, policy.prompt_rows(task.eval_prompts, key)) for key in keys]


def _initial(task):
    """run -> the gold margins of π₀'s pairs, [M], made once a task."""

    @functools.cache
    def margins(layout):
        golds = [
            gold_of(task, drawn) for drawn in draw_pairs(task, task.params, layout)
        ]
        return golds[0] - golds[1]

    return lambda run: margins(run.layout)


def gold_of(task, rollout):
    """The gold reward of rows in deviations of π₀'s samples, [N] float64."""
    return np.asarray(task.rewards["gold"](0).arrays(rollout), np.float64)


def scores_of(task, name, rollout, run):
    """A reward of rows, by its name among the task's, [N] float64."""
    reward = task.rewards[name](run.unit.seed)
    return scoring.score(task, reward, run.layout, rollout, (), ())


def lengths_of(rollout):
    """Tokens of each response, [N]."""
    return np.asarray(rollout.response_mask).sum(-1).astype(np.float64)


def _of_policy(task, name, drawn, run, reference):
    """{key: number} of a pair of rollouts, by the reward `name`."""
    proxies = [scores_of(task, name, one, run) for one in drawn]
    golds = [gold_of(task, one) for one in drawn]
    lengths = np.concatenate([lengths_of(one) for one in drawn])
    proxy, gold = np.concatenate(proxies), np.concatenate(golds)
    found = evaluators.halves(PROXY.key, np.mean(proxies, axis=0))
    found |= evaluators.halves(GOLD.key, np.mean(golds, axis=0))
    margins = golds[0] - golds[1]
    found |= _ordering(proxies[0] - proxies[1], margins, reference)
    found[TIES.key] = float(np.mean(margins == 0))
    found[AGREES.key] = correlation.pearson(proxy, gold).value
    found[OF_LENGTH.key] = correlation.pearson(proxy, lengths).value
    members = [
        [scores_of(task, member, one, run) for one in drawn]
        for member in methods.ENSEMBLE
    ]
    found[SPREAD.key] = float(np.std(members, axis=0).mean())
    found[ERROR.key] = float(np.std(np.mean(golds, axis=0)) / len(golds[0]) ** 0.5)
    return {key: value for key, value in found.items() if np.isfinite(value)}


def _ordering(proxy, gold, reference):
    """Accuracy and NLL of ordering pairs, in classes of |gold margin| weighted as among
    π₀'s pairs. Args: margins [M] of the pairs; reference [K] gold margins of π₀'s."""
    known = np.abs(reference[reference != 0])
    edges = np.quantile(known, np.arange(1, BINS) / BINS)
    shares = np.bincount(np.searchsorted(edges, known), minlength=BINS)
    differ = gold != 0
    toward = (proxy * np.sign(gold))[differ]  # positive: ordered as gold does
    where = np.searchsorted(edges, np.abs(gold[differ]))
    counts = np.bincount(where, minlength=BINS)
    weights = (shares / np.maximum(counts, 1))[where]
    if not weights.sum():
        return {}
    return {
        ACCURACY.key: float(np.average(toward > 0, weights=weights)),
        NLL.key: float(np.average(np.logaddexp(0.0, -toward), weights=weights)),
    }


# Once a unit


@dataclasses.dataclass(frozen=True)
class Rewards:
    """Measures every reward of the study on π₀: a method that has no run.

    `mismatch/rm/<name>/...` on pairs that people labelled and on π₀'s samples,
    `mismatch/bon/<name>/<n>/...` of its best of n, `mismatch/start/<name>/...` what
    `chain` says of π₀ by this reward.
    """

    def __call__(self, study, run):
        """(metrics, samples) of π₀, and of the rewards that rows of the study climb."""
        task, metrics, samples = study.task_of(run), {}, []
        for evaluate in study.evaluators:
            found, rows = evaluate(task.params, run._replace(method=methods.BASE))
            metrics |= found
            samples += rows
        metrics |= _starts(task, study, run)
        metrics |= _qualities(task, run)
        metrics |= _best_of(task, run)
        return metrics, samples


def _starts(task, study, run):
    drawn = draw_pairs(task, task.params, run.layout)
    golds = [gold_of(task, one) for one in drawn]
    names = {m.reward for m in study.methods.values() if m.train is not None}
    found = {}
    for name in sorted(names):
        measured = _of_policy(task, name, drawn, run, golds[0] - golds[1])
        keys = {k: k.replace("mismatch/", f"mismatch/start/{name}/") for k in measured}
        found |= {keys[k]: value for k, value in measured.items()}
    return found


def _qualities(task, run):
    """What a reward model is worth before anything climbs it."""
    _, tests, margins = task.pairs(run.unit.seed)
    sides = (tests.chosen, tests.chosen_mask), (tests.rejected, tests.rejected_mask)
    longer = np.sign(tests.chosen_mask.sum(-1) - tests.rejected_mask.sum(-1))
    drawn = _several(task, run.layout, len(task.eval_prompts.tokens), _WITHIN)
    gold, lengths = gold_of(task, drawn), lengths_of(drawn)
    found = {}
    for name, (spec, _) in {**methods.MODELS, **methods.REWARDS}.items():
        reward = task.rewards[spec](run.unit.seed)
        program = scoring.compile_score(reward.score, run.layout)
        chosen, rejected = (np.asarray(program(reward.frozen, side)) for side in sides)
        gaps = (chosen - rejected).astype(np.float64)
        on_samples = scores_of(task, spec, drawn, run)
        numbers = {
            **_calibrated(gaps),
            "gold_accuracy": np.mean(((gaps > 0) == (margins > 0))[margins != 0]),
            "longer": np.mean(gaps[longer > 0] > 0),
            "shorter": np.mean(gaps[longer < 0] > 0),
            "variance": reward_variance.within_prompts(on_samples.reshape(-1, _WITHIN)),
            "correlation": correlation.pearson(on_samples, gold).value,
            "length_correlation": correlation.pearson(on_samples, lengths).value,
            "parameters": reward.facts.get("parameters", 0),
        }
        found |= {f"mismatch/rm/{name}/{k}": float(v) for k, v in numbers.items()}
    return found


def _calibrated(gaps):
    """Quality on held-out labels, and after a temperature that the other half fits."""
    quality = calibration.preference_quality(gaps)
    halves = gaps[::2], gaps[1::2]
    scaled = [
        calibration.preference_quality(one / calibration.temperature(other))
        for one, other in (halves, halves[::-1])
    ]
    found = {k: getattr(quality, k) for k in ("accuracy", "nll", "brier", "ece")}
    found["temperature"] = calibration.temperature(gaps)
    for name in ("nll", "ece"):
        found[f"{name}_scaled"] = np.mean([getattr(one, name) for one in scaled])
    bins = calibration.reliability(*symmetric(gaps), bins=BINS)
    for i, one in enumerate(zip(*bins, strict=True)):
        named = zip(("confidence", "accuracy", "count"), one, strict=True)
        found |= {f"bin{i}/{name}": value for name, value in named}
    return found


def symmetric(gaps):
    """(max(p, 1 − p), whether the preferred one is the chosen one) of margins [N]."""
    p = 1 / (1 + np.exp(-np.abs(gaps)))
    return p, gaps > 0


def _best_of(task, run):
    """The best of n by each reward: that reward and gold, on halves of the prompts."""
    drawn = _several(task, run.layout, _PROMPTS, _SAMPLES)
    gold = gold_of(task, drawn).reshape(_PROMPTS, _SAMPLES)
    found = {}
    for name, (spec, _) in methods.OF_BEST.items():
        scores = scores_of(task, spec, drawn, run).reshape(_PROMPTS, _SAMPLES)
        for n in SIZES:
            weights, start = best_of_n.weights(scores, n), f"mismatch/bon/{name}/{n}"
            found[f"{start}/proxy"] = float((weights * scores).sum(-1).mean())
            found |= evaluators.halves(f"{start}/gold", (weights * gold).sum(-1))
            found[f"{start}/ties"] = float(best_of_n.ties(scores, n).mean())
    return found


def _several(task, layout, prompts, samples):
    """A rollout of π₀ on the first prompts, `samples` side by side."""
    some = Prompts(*(np.repeat(x[:prompts], samples, 0) for x in task.eval_prompts))
    draw = policy.compile_draw(task.model, layout, task.sampling)
    key = jax.random.fold_in(jax.random.key(0), 4)
    return draw(task.params, policy.prompt_rows(some, key))


def length_reward(task, layout):
    """seed -> the reward of a response's number of tokens."""
    return world_rewards.of_rollouts(task, layout, lengths_of, {"length": True})
