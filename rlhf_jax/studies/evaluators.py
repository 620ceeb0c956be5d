"""Evaluators of language models: each measures one thing about a policy.

An evaluator is a function `(params, run) -> (metrics, samples)`. The same prompts, keys
and texts serve every step of every method: differences are the policy's. Rows are
split in two halves (even and odd), so that a checkpoint can be chosen on one and read
on the other.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from rlhf_jax.evaluation import diversity, drift, length_control, policy, win_rate
from rlhf_jax.studies import scoring
from rlhf_jax.studies.interfaces import Measurement


def language(task, *, key=None):
    """What every study of a language model measures: (evaluators, those of the test
    split). Args: task: `task.Task`; key: of the evaluation's samples."""
    key = jax.random.key(0) if key is None else key
    usual = [own_samples(task, key=key), human_text(task)]
    if task.skills is not None:
        usual.append(skills(task))
    return tuple(usual), () if task.test is None else (on_test(task.test, key=key),)


def of_worlds(tasks):
    """The evaluators of `language`, for a study of several worlds.

    Each measures a run by the task of its world. Args: tasks: {world: `task.Task`},
    alike in what they have.
    """
    if len(tasks) == 1:
        return language(*tasks.values())
    made = {world: language(task) for world, task in tasks.items()}

    def at(group, i):
        return ByWorld({world: groups[group][i] for world, groups in made.items()})

    counts = map(len, next(iter(made.values())))
    return tuple(
        tuple(at(group, i) for i in range(count)) for group, count in enumerate(counts)
    )


class ByWorld(NamedTuple):
    """The evaluator that asks the one of a run's world."""

    made: dict  # {world: evaluator}

    def of(self, run):
        """The evaluator of the run's world."""
        return self.made[run.unit.world]

    def __call__(self, params, run):
        return self.of(run)(params, run)


def own_samples(task, *, key):
    """Samples of the policy: their reward, their exact KL to π₀, their shape.

    `eval/reward` is the proxy's, where there is one; `drift/kl_initial` is in nats a
    sample; where the task
    knows the truth it is read as well, and where it has judges the win rates against
    π₀'s samples on the same prompts and keys (see `wins`).
    """
    inputs = policy.prompt_rows(task.eval_prompts, key)

    @functools.cache
    def at_start(layout):
        draw = policy.compile_draw(task.model, layout, task.sampling)
        drawn = draw(task.params, inputs)
        return drawn, scoring.decode(task, drawn)[1]

    def ask(params, run):
        draw = policy.compile_draw(task.model, run.layout, task.sampling)
        compare = policy.compile_compare(task.model, run.layout, task.sampling)
        drawn = draw(params, inputs)
        return drawn, compare(params, task.params, drawn)

    def read(found, run):
        drawn, (divergence, entropy) = found
        texts = scoring.decode(task, drawn)
        metrics, scores = {}, None
        if "proxy" in task.rewards:
            reward = task.rewards["proxy"](run.unit.seed)
            given = run.layout, drawn, lambda: texts, task.eval_columns
            scores, logged = scoring.of_rows(reward, *given)
            metrics = {f"eval/{name}": value for name, value in logged.items()}
            metrics |= halves("eval/reward", scores)
            metrics |= of_groups(task.groups, scores)
        metrics |= halves("drift/kl_initial", divergence)
        length = drawn.response_mask.sum()
        metrics["eval/entropy"] = float(entropy.sum() / max(length, 1))
        metrics |= _shape(drawn)
        if task.truth is not None:
            for name, values in task.truth(drawn).items():
                metrics |= halves(name, values)
        if task.judges:
            metrics |= wins(task.judges, (drawn, texts[1]), at_start(run.layout))
        return metrics, rows(*texts, scores)

    return Measurement(ask, read)


def wins(judges, one, other):
    """{name: number}: win rates of one policy against another on the same prompts.

    `win/<judge>` is the mean over prompts of a win (1), a tie (½) or a loss (0), `_a`
    and `_b` those of the even and the odd prompts; `win/<judge>_length_controlled` is
    what a logistic fit to the ratio of lengths predicts where both are as long (Lee et
    al. 2023, arXiv:2309.00267, appendix J).

    Args: judges: as `Task.judges`; one, other: (rollout, its completions) each.
    """
    rollouts, texts = zip(one, other, strict=True)
    # An empty one counts as a character, as ratios need.
    lengths = [[max(len(text), 1) for text in side] for side in texts]
    metrics = {}
    for name, judge in judges.items():
        won = win_rate.verdicts(judge(*rollouts))
        metrics |= halves(f"win/{name}", won)
        controlled = length_control.by_ratio(won, *lengths)
        metrics[f"win/{name}_length_controlled"] = controlled.value
    return metrics


def human_text(task):
    """NLL of held-out human text under the policy, nats a token, and its perplexity."""

    def read(found, run):
        del run
        totals, counts = found
        nll, even, odd = policy.halves(totals, counts)
        metrics = {
            "drift/text_nll": nll,
            "drift/text_nll_a": even,
            "drift/text_nll_b": odd,
            "drift/perplexity": float(np.exp(nll)),
        }
        if task.text_truth is not None:
            metrics |= task.text_truth(totals)
        return metrics, []

    if task.joined is not None:  # its windows are put together on the host
        return lambda params, run: read(_windows(task, params, run.layout), run)

    def ask(params, run):
        return policy.compile_text_nll(task.model, run.layout)(params, task.heldout)

    return Measurement(ask, read)


def skills(task):
    """Exact match of greedy answers, in all and by kind, and what the right answers'
    log-prob is, in nats: `tax/...` and `skills/logp/...`."""
    asked = task.skills

    def ask(params, run):
        return _answering(task.model, run.layout)(params, asked.answers)

    def read(found, run):
        del run
        right, logps = found
        hits = np.asarray(right, np.float64)
        metrics = halves("tax/skills", hits)
        for kind in np.unique(asked.kinds):
            of_kind = asked.kinds == kind
            metrics[f"tax/{kind}"] = float(hits[of_kind].mean())
            metrics[f"skills/logp/{kind}"] = float(np.mean(logps[of_kind]))
        return metrics, []

    return Measurement(ask, read)


def on_test(task, *, key):
    """The same on the prompts and texts of a test split, under `test/`."""
    evaluators, _ = language(task, key=key)

    def evaluate(params, run):
        metrics = {}
        for one in evaluators:
            measured, _ = one(params, run)
            metrics |= {
                f"test/{name.split('/')[1]}": value
                for name, value in measured.items()
                if not name.endswith(("_a", "_b"))
            }
        return metrics, []

    return evaluate


# What evaluators share


def halves(name, values):
    """{name: mean, name_a: of even rows, name_b: of odd rows}."""
    whole, even, odd = policy.halves(values)
    return {name: whole, f"{name}_a": even, f"{name}_b": odd}


def of_groups(groups, scores):
    """Where the prompt itself carries reward, gains are read by its class."""
    return {
        f"eval/reward_of_{group}": float(scores[groups == group].mean())
        for group in (() if groups is None else np.unique(groups))
    }


def rows(prompts, completions, scores=None):
    """Rows of samples.jsonl."""
    if scores is None:
        pairs = zip(prompts, completions, strict=True)
        return [{"prompt": p, "completion": c} for p, c in pairs]
    together = zip(prompts, completions, scores, strict=True)
    return [{"prompt": p, "completion": c, "score": float(s)} for p, c, s in together]


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


def _windows(task, params, layout):
    """(Σ NLL, tokens) of each window of the held-out texts, read as one."""
    joined, program = task.joined, _text_logps(task.model, layout)
    return drift.strided_totals(
        lambda *windows: program(params, windows),
        joined.tokens,
        window=joined.window,
        stride=joined.stride,
    )


# Programs, compiled once for all who ask for the same


@functools.lru_cache(maxsize=8)
def _text_logps(model, layout):
    return layout.over_rows(policy.make_logps(model), replicated=1)


@functools.lru_cache(maxsize=8)
def _answering(model, layout):
    return layout.over_rows(policy.make_answers(model), replicated=1)
