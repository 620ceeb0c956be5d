"""Evaluation of a policy on a task: every axis of a study, in one call.

The same prompts, keys and texts at every step of every method: differences are the
policy's. Rows are split in two halves (even and odd), so that a checkpoint can be
chosen on one and read on the other.
"""

import copy
import functools

import jax
import numpy as np

from rlhf_jax.evaluation import best_of_n, diversity, drift, policy
from rlhf_jax.runtime import processes
from rlhf_jax.types import Prompts


class Evaluator:
    """The compiled measurements of a task; weights and rewards are arguments."""

    def __init__(self, task, layout, *, key, score=None):
        self._task = task
        self._inputs, self._key = policy.prompt_rows(task.eval_prompts, key), key
        self._initial = task.params
        self._draw = policy.compile_draw(task.model, layout, task.sampling)
        compare = policy.make_compare(task.model, config=task.sampling)
        self._compare = layout.over_rows(compare, whole=2)
        self._text_nll = layout.over_rows(policy.make_text_nll(task.model), whole=1)
        self._text_logps = layout.over_rows(policy.make_logps(task.model), whole=1)
        if score is not None:
            self._score = layout.over_rows(
                lambda frozen, rows: score(frozen, *rows), whole=1
            )
        if task.skills is not None:
            answer = policy.make_answer(task.model, config=task.skills.sampling)
            self._answer = layout.over_rows(answer, whole=1)
        self._test = None
        if task.at_ends is not None:
            self._test = self._on(task.at_ends)

    def _on(self, task):
        """The same programs on other prompts and texts."""
        other = copy.copy(self)
        other._task = task
        other._inputs = policy.prompt_rows(task.eval_prompts, self._key)
        return other

    def __call__(self, params, reward, *, everything=False):
        """All metrics of a policy, and its samples with their scores.

        Args: params of the policy; reward: tasks.Reward; everything: with the task's
        test prompts and texts, under `test/`. Returns (metrics, samples), samples a
        list of {"prompt", "completion", "score"}.
        """
        task = self._task
        drawn = self._draw(params, self._inputs)
        divergence, entropy = self._compare(params, self._initial, drawn)
        prompts, completions = self._texts(drawn)
        scores = self.scores(drawn, reward, prompts, completions)
        metrics = _spread("eval/reward", scores)
        metrics |= self._of_groups(scores)
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
        if everything and self._test is not None:
            for name, value in self._test(params, reward)[0].items():
                if not name.endswith(("_a", "_b")):
                    metrics[f"test/{name.split('/')[1]}"] = value
        return metrics, _samples(prompts, completions, scores)

    def _of_groups(self, scores):
        """Where the prompt itself carries reward, gains are read by its class."""
        groups = self._task.groups
        return {
            f"eval/reward_of_{group}": float(scores[groups == group].mean())
            for group in (() if groups is None else np.unique(groups))
        }

    def best_of(self, reward, numbers):
        """{n: (metrics, samples)} of the best of n samples of the initial policy.

        Of 4·max(n) samples a prompt, as `best_of_n` estimates it. `drift/kl_initial` is
        the bound; human text and skills cannot be asked of it.
        """
        task, count = self._task, 4 * max(numbers)
        several = Prompts(*(np.repeat(x, count, axis=0) for x in task.eval_prompts))
        rows = policy.prompt_rows(several, jax.random.fold_in(self._key, 1))
        drawn = self._draw(self._initial, rows)
        prompts, completions = self._texts(drawn)
        flat = self.scores(drawn, reward, prompts, completions, repeated=count)
        measured = {"eval/reward": flat} | (task.truth(drawn) if task.truth else {})
        valid = np.asarray(drawn.response_mask)
        measured["eval/length"] = valid.sum(-1)
        measured = {k: np.reshape(v, (-1, count)) for k, v in measured.items()}
        cost = {"tokens": float(valid.sum()), "reward_calls": len(flat)}
        tokens = np.asarray(drawn.tokens)[:, -valid.shape[1] :]
        alike = [
            diversity.duplicate_share(tokens[i : i + count], valid[i : i + count])
            for i in range(0, len(flat), count)
        ]
        found = {}
        for n in numbers:
            metrics = self._best(measured, n)
            metrics["eval/duplicates_of_a_prompt"] = float(np.mean(alike))
            metrics |= {f"budget/{k}": v * n / count for k, v in cost.items()}
            first = measured["eval/reward"][:, :n].argmax(-1)
            picked = first + count * np.arange(len(first))
            texts = ([some[i] for i in picked] for some in (prompts, completions))
            found[n] = metrics, _samples(*texts, flat[picked])
        return found

    def _best(self, measured, n):
        """The metrics of the best of n, from [M, N] of each."""
        weights = best_of_n.weights(measured["eval/reward"], n)
        best = {k: (weights * v).sum(-1) for k, v in measured.items()}
        bound = np.full(len(weights), best_of_n.kl_bound(n))
        metrics = _spread("drift/kl_initial", bound)
        metrics |= self._of_groups(best["eval/reward"])
        for name, values in best.items():
            metrics |= _spread(name, values)
        ties = best_of_n.ties(measured["eval/reward"], n)
        return metrics | {"eval/ties": float(ties.mean())}

    def scores(self, rollout, reward, prompts, completions, *, repeated=1):
        """The proxy reward of evaluation rows, each prompt `repeated`: float64."""
        if reward.score is not None:
            found = self._score(reward.frozen, (rollout.tokens, rollout.mask))
        elif reward.arrays is not None:
            found = reward.arrays(rollout)
        else:
            columns = {
                k: [value for value in v for _ in range(repeated)]
                for k, v in self._task.eval_columns.items()
            }
            score = functools.partial(reward.host, prompts, completions, **columns)
            found = processes.told(lambda: np.asarray(score()).tolist())
        return np.asarray(found, np.float64)

    def _texts(self, rollout):
        width = rollout.tokens.shape[1] - rollout.response_mask.shape[1]
        prompts = self._task.decode(rollout.tokens[:, :width], rollout.mask[:, :width])
        completions = self._task.decode(
            rollout.tokens[:, width:], rollout.response_mask
        )
        return prompts, completions

    def _text(self, params):
        joined = self._task.joined
        if joined is None:
            totals, counts = self._text_nll(params, self._task.heldout)
        else:
            totals, counts = drift.strided_totals(
                lambda *rows: self._text_logps(params, rows),
                joined.tokens,
                window=joined.window,
                stride=joined.stride,
            )
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


def _samples(prompts, completions, scores):
    rows = zip(prompts, completions, scores, strict=True)
    return [{"prompt": p, "completion": c, "score": float(s)} for p, c, s in rows]


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
