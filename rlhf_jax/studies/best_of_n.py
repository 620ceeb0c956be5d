"""The best of n samples of the initial policy, as a method: it has no weights."""

import dataclasses
import functools

import jax
import numpy as np

from rlhf_jax.evaluation import best_of_n, correlation, diversity, policy
from rlhf_jax.studies import evaluators, scoring
from rlhf_jax.types import Prompts


@dataclasses.dataclass(frozen=True)
class BestOf:
    """Measures the best of n samples a prompt, as `evaluation.best_of_n` estimates it.

    `drift/kl_initial` is the bound log n − (n − 1)/n; human text and skills cannot be
    asked of it.
    """

    n: int

    def __call__(self, study, run):
        """(metrics, samples) on the task's evaluation prompts."""
        most = max(
            method.measure.n
            for method in study.methods.values()
            if isinstance(method.measure, BestOf)
        )
        return estimate(study.task_of(run), run, self.n, samples=4 * most)


def estimate(task, run, n, *, samples):
    """(metrics, samples) of the best of n, from `samples` a prompt."""
    measured, tokens, valid = _measured(task, run.layout, samples, run.unit.seed)
    scores = measured["eval/reward"]
    metrics = _best(task.groups, measured, n)
    alike = [
        diversity.duplicate_share(tokens[i : i + samples], valid[i : i + samples])
        for i in range(0, scores.size, samples)
    ]
    metrics["eval/duplicates_of_a_prompt"] = float(np.mean(alike))
    cost = {"tokens": float(valid.sum()), "reward_calls": scores.size}
    metrics |= {f"budget/{k}": v * n / samples for k, v in cost.items()}
    first = scores[:, :n].argmax(-1) + samples * np.arange(len(scores))
    texts = _drawn(task, run.layout, samples)[1]
    picked = ([some[i] for i in first] for some in texts)
    return metrics, evaluators.rows(*picked, scores.reshape(-1)[first])


@functools.lru_cache(maxsize=1)
def _measured(task, layout, samples, seed):
    """({name: [M, N]}, tokens, mask) of a seed's samples: the same for every n."""
    reward = task.rewards["proxy"](seed)
    drawn, texts, truth = _drawn(task, layout, samples)
    scores = scoring.score(task, reward, layout, drawn, *texts, copies=samples)
    valid = np.asarray(drawn.response_mask)
    tokens = np.asarray(drawn.tokens)[:, -valid.shape[1] :]
    found = {"eval/reward": scores, "eval/length": valid.sum(-1)} | truth
    return {k: np.reshape(v, (-1, samples)) for k, v in found.items()}, tokens, valid


@functools.lru_cache(maxsize=1)
def _drawn(task, layout, samples):
    """(rollout, its texts, its truth): the same for every n and every unit."""
    several = Prompts(*(np.repeat(x, samples, axis=0) for x in task.eval_prompts))
    key = jax.random.fold_in(jax.random.key(0), 1)
    draw = policy.compile_draw(task.model, layout, task.sampling)
    drawn = draw(task.params, policy.prompt_rows(several, key))
    truth = {} if task.truth is None else task.truth(drawn)
    return drawn, scoring.decode(task, drawn), truth


def _best(groups, measured, n):
    """The metrics of the best of n, from [M, N] of each."""
    weights = best_of_n.weights(measured["eval/reward"], n)
    best = {k: (weights * v).sum(-1) for k, v in measured.items()}
    bound = np.full(len(weights), best_of_n.kl_bound(n))
    metrics = evaluators.halves("drift/kl_initial", bound)
    metrics |= evaluators.of_groups(groups, best["eval/reward"])
    for name, values in best.items():
        metrics |= evaluators.halves(name, values)
    ties = best_of_n.ties(measured["eval/reward"], n)
    metrics["eval/ties"] = float(ties.mean())
    if "eval/gold" in measured:
        metrics |= _mismatch(measured["eval/reward"], measured["eval/gold"])
    return metrics


def _mismatch(proxy, gold):
    """How π₀'s samples [M, N] spread in gold, and how their order by proxy is that by
    gold: the mean over prompts of Spearman's ρ, where neither is constant."""
    pairs = zip(proxy, gold, strict=True)
    values = np.array([correlation.spearman(*pair).value for pair in pairs])
    known = values[~np.isnan(values)]
    mean = float(known.mean()) if len(known) else float("nan")
    return {"mismatch/gold_sd": float(gold.std()), "mismatch/correlation": mean}
