"""Evaluation of a policy on a task: every axis of a study, in one call.

The same prompts, keys and texts at every step of every method: differences are the
policy's. Rows are split in two halves (even and odd), so that a checkpoint can be
chosen on one and read on the other.
"""

import functools

import numpy as np

from rlhf_jax import hosts
from rlhf_jax.evaluation import diversity, policy


class Evaluator:
    """The compiled measurements of a task; weights and rewards are arguments."""

    def __init__(self, task, layout, *, key, score=None):
        self._task = task
        self._inputs = policy.prompt_rows(task.eval_prompts, key)
        self._initial = task.params
        self._draw = policy.compile_draw(task.model, layout, task.sampling)
        compare = policy.make_compare(task.model, config=task.sampling)
        self._compare = layout.over_rows(compare, whole=2)
        self._text_nll = layout.over_rows(policy.make_text_nll(task.model), whole=1)
        if score is not None:
            self._score = layout.over_rows(
                lambda frozen, rows: score(frozen, *rows), whole=1
            )
        if task.skills is not None:
            answer = policy.make_answer(task.model, config=task.skills.sampling)
            self._answer = layout.over_rows(answer, whole=1)

    def __call__(self, params, reward):
        """All metrics of a policy, and its samples with their scores.

        Args: params of the policy; reward: tasks.Reward. Returns (metrics, samples),
        samples a list of {"prompt", "completion", "score"}.
        """
        task = self._task
        drawn = self._draw(params, self._inputs)
        divergence, entropy = self._compare(params, self._initial, drawn)
        prompts, completions = self._texts(drawn)
        scores = self.scores(drawn, reward, prompts, completions)
        metrics = _spread("eval/reward", scores)
        for group in () if task.groups is None else np.unique(task.groups):
            # Where the prompt itself carries reward, gains are read by its class.
            metrics[f"eval/reward_of_{group}"] = float(
                scores[task.groups == group].mean()
            )
        metrics |= _spread("drift/kl_initial", divergence)
        length = drawn.response_mask.sum()
        metrics["eval/entropy"] = float(entropy.sum() / max(length, 1))
        metrics |= self._text(params)
        metrics |= _shape(drawn)
        if task.truth is not None:
            for name, values in task.truth(drawn).items():
                metrics |= _spread(name, values)
        if task.skills is not None:
            metrics |= self._skills(params)
        rows = zip(prompts, completions, scores, strict=True)
        samples = [
            {"prompt": p, "completion": c, "score": float(s)} for p, c, s in rows
        ]
        return metrics, samples

    def scores(self, rollout, reward, prompts, completions):
        """The proxy reward of evaluation rows, [M] float64."""
        if reward.score is not None:
            found = self._score(reward.frozen, (rollout.tokens, rollout.mask))
        elif reward.arrays is not None:
            found = reward.arrays(rollout)
        else:
            columns = self._task.eval_columns
            score = functools.partial(reward.host, prompts, completions, **columns)
            found = hosts.told(lambda: np.asarray(score()).tolist())
        return np.asarray(found, np.float64)

    def _texts(self, rollout):
        width = rollout.tokens.shape[1] - rollout.response_mask.shape[1]
        prompts = self._task.decode(rollout.tokens[:, :width], rollout.mask[:, :width])
        completions = self._task.decode(
            rollout.tokens[:, width:], rollout.response_mask
        )
        return prompts, completions

    def _text(self, params):
        totals, counts = self._text_nll(params, self._task.heldout)
        nll, even, odd = policy.halves(totals, counts)
        metrics = {
            "drift/text_nll": nll,
            "drift/text_nll_a": even,
            "drift/text_nll_b": odd,
            "drift/perplexity": float(np.exp(nll)),
        }
        if self._task.text_truth is not None:
            metrics |= self._task.text_truth(totals)
        return metrics

    def _skills(self, params):
        skills = self._task.skills
        tokens, mask = self._answer(params, tuple(skills.prompts))
        hits = np.asarray(skills.correct(tokens, mask), np.float64)
        metrics = _spread("tax/skills", hits)
        for kind in np.unique(skills.kinds):
            metrics[f"tax/{kind}"] = float(hits[skills.kinds == kind].mean())
        return metrics


def _spread(name, values):
    whole, even, odd = policy.halves(values)
    return {name: whole, f"{name}_a": even, f"{name}_b": odd}


def _shape(rollout):
    width = rollout.response_mask.shape[1]
    tokens = np.asarray(rollout.tokens)[:, -width:]
    mask = np.asarray(rollout.response_mask)
    return {
        "eval/length": float(mask.sum(-1).mean()),
        "eval/ended": float(np.mean(rollout.ended)),
        "eval/duplicates": float(diversity.duplicate_share(tokens, mask)),
        "eval/distinct_2": float(diversity.distinct(tokens, mask, n=2)),
    }
