"""Samples to strings, and to rewards: the same way in training and in evaluation."""

import functools

import jax
import numpy as np

from rlhf_jax import rewards
from rlhf_jax.evaluation import policy
from rlhf_jax.feedback import combining
from rlhf_jax.feedback.function import IDS
from rlhf_jax.runtime import loop, processes
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

    Of several rewards their weighted sum. columns: {name: a value for each row}, of
    rows that are no evaluation rows.
    """
    if columns is None:
        columns = {
            k: [value for value in v for _ in range(copies)]
            for k, v in task.eval_columns.items()
        }
    texts = prompts, completions
    return of_rows(reward, layout, rollout, lambda: texts, columns)[0]


def of_rows(reward, layout, rollout, texts, columns):
    """(the reward of rows [N] float64, {metric: number} of each of several rewards).

    Args: texts, columns: as of `on_host`. Of several rewards the weighted sum, and
    rewards/<name>/mean and /std over the rows that each applies to. Raises
    `loop.Unscored` where none applies to a row.
    """
    if reward.parts is None:
        return _of_one(reward, layout, rollout, texts, columns), {}
    values = each(reward.parts, layout, rollout, texts, columns)
    total = combining.weighted_sum(values, reward.parts.weights)
    return total, moments_of(reward.parts, values)


def each(parts, layout, rollout, texts, columns):
    """[N, R] float64 of several rewards, NaN where one does not apply to a row."""
    texts = functools.cache(texts)
    asked = layout, rollout, texts, columns
    values = np.stack([_of_one(one, *asked) for one in parts.rewards], -1)
    models = np.array([one.host is None for one in parts.rewards])
    wrong = np.argwhere(~np.isfinite(values) & models)
    if len(wrong):
        row, column = wrong[0]
        raise loop.Unscored(
            f"the reward {parts.names[column]} is {values[row, column]} for completion "
            f"{row}, {texts()[1][row]!r}"
        )
    none = np.flatnonzero(np.isnan(values).all(-1))
    if len(none):
        prompts, completions = texts()
        raise loop.Unscored(
            f"no reward applies to completion {none[0]}, {completions[none[0]]!r} of "
            f"the prompt {prompts[none[0]]!r}: {', '.join(parts.names)} all returned "
            "None; let one of them answer with a number"
        )
    return values


def moments_of(parts, values):
    """{"rewards/<name>/mean", "rewards/<name>/std"} of values [N, R], TRL's names.

    A reward that applies to no row has no entry.
    """
    metrics = {}
    for name, mean, std in zip(parts.names, *combining.moments(values), strict=True):
        if np.isfinite(mean):
            metrics[f"rewards/{name}/mean"] = float(mean)
            metrics[f"rewards/{name}/std"] = float(std)
    return metrics


def _of_one(reward, layout, rollout, texts, columns):
    if reward.score is None:
        return on_host(reward, rollout, texts, columns)
    program = compile_score(reward.score, layout)
    scores = program(reward.frozen, (rollout.tokens, rollout.mask))
    return np.asarray(scores, np.float64)


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
    columns: {name: a value for each row}; the token ids of each completion, its end
    included, are one more. Raises `loop.Unscored` where the function fails.
    """
    if reward.arrays is not None:
        return np.asarray(reward.arrays(rollout), np.float64)
    columns = {**columns, IDS: completion_ids(rollout)}
    ask = functools.partial(reward.host, *texts(), **columns)
    try:
        scores = processes.broadcast_from_first(
            lambda: np.asarray(ask(), np.float64).tolist()
        )
    except (ValueError, OSError) as error:
        raise loop.Unscored(str(error)) from error
    return np.asarray(scores, np.float64)


def completion_ids(rollout):
    """The token ids of each completion of a rollout, as lists of int."""
    valid = np.asarray(rollout.response_mask) != 0
    tokens = np.asarray(rollout.tokens)[:, -valid.shape[1] :]
    return [row[kept].tolist() for row, kept in zip(tokens, valid, strict=True)]


@functools.lru_cache(maxsize=16)
def compile_score(score, layout):
    """`program(frozen, (tokens, mask)) -> [N]` of a `Reward.score` on rows of the host,
    compiled once for all who ask for the same."""
    return layout.over_rows(lambda frozen, rows: score(frozen, *rows), replicated=1)
