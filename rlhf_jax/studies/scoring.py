"""Samples to strings, and to rewards: the same way in training and in evaluation."""

import functools

import jax
import numpy as np

from rlhf_jax import rewards
from rlhf_jax.evaluation import policy
from rlhf_jax.runtime import processes
from rlhf_jax.types import Prompts, Tokens


def decode(task, rollout):
    """(prompts, completions) of a rollout: lists of strings."""
    width = rollout.tokens.shape[1] - rollout.response_mask.shape[1]
    prompts = task.decode(rollout.tokens[:, :width], rollout.mask[:, :width])
    completions = task.decode(rollout.tokens[:, width:], rollout.response_mask)
    return prompts, completions


def to_learn(rollout):
    """A rollout as `Tokens` of the host: its responses are the targets."""
    mask, valid = np.asarray(rollout.mask), np.asarray(rollout.response_mask)
    targets = np.zeros_like(mask)
    targets[:, mask.shape[1] - valid.shape[1] :] = valid
    return Tokens(np.asarray(rollout.tokens), mask, targets)


def score(
    task, reward, layout, rollout, prompts, completions, *, copies=1, columns=None
):
    """The reward of evaluation rows, each prompt `copies` times: [N] float64.

    columns: {name: a value for each row}, of rows that are no evaluation rows.
    """
    if reward.score is not None:
        program = compile_score(reward.score, layout)
        scores = program(reward.frozen, (rollout.tokens, rollout.mask))
        return np.asarray(scores, np.float64)
    if columns is None:
        columns = {
            k: [value for value in v for _ in range(copies)]
            for k, v in task.eval_columns.items()
        }
    return on_host(reward, rollout, lambda: (prompts, completions), columns)


def scaled(score, frozen, tokens, mask):
    """gain · score + bias: a score (params, tokens, mask) -> [B] with `frozen`, (its
    params, the `rewards.Affine`), in place of its params."""
    params, affine = frozen
    return rewards.apply(affine, score(params, tokens, mask))


def of_initial(task, layout, count, key):
    """The rollout of π₀ on the first `count` prompts, which rewards are scaled on."""
    draw = policy.compile_draw(task.model, layout, task.sampling)
    prompts = Prompts(*(x[:count] for x in task.prompts))
    return draw(task.params, policy.prompt_rows(prompts, jax.random.key(key)))


def on_host(reward, rollout, texts, columns):
    """The reward of rows by a function of Python: [N] float64, the same on all hosts.

    Args: texts() -> (prompts, completions), asked for where the reward reads strings;
    columns: {name: a value for each row}.
    """
    if reward.arrays is not None:
        return np.asarray(reward.arrays(rollout), np.float64)
    ask = functools.partial(reward.host, *texts(), **columns)
    scores = processes.broadcast_from_first(
        lambda: np.asarray(ask(), np.float64).tolist()
    )
    return np.asarray(scores, np.float64)


@functools.lru_cache(maxsize=16)
def compile_score(score, layout):
    """`program(frozen, (tokens, mask)) -> [N]` of a `Reward.score` on rows of the host,
    compiled once for all who ask for the same."""
    return layout.over_rows(lambda frozen, rows: score(frozen, *rows), replicated=1)
