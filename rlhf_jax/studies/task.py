"""The subject of a language-model study: a policy, prompts, rewards, a truth.

`tasks.microworld` builds it from the small language, `tasks.text` from data and models
of a user.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import sampling
from rlhf_jax.types import Prompts, Tokens


@dataclasses.dataclass(frozen=True)
class Reward:
    """What a seed is trained on: a JAX score (fused) or a Python one (split).

    score(frozen, tokens [B, S], mask [B, S]) -> [B], with `frozen` its parameters; or
    host(prompts, completions, **columns) -> list[float] on plain strings, or
    arrays(rollout) -> [B] on token ids.
    """

    score: Callable | None = None
    frozen: Any = ()
    host: Callable | None = None
    arrays: Callable | None = None
    facts: dict = dataclasses.field(default_factory=dict)  # for the report
    refresh: "Refresh | None" = None  # how its model learns on; None: it cannot
    parts: "Parts | None" = None  # of several rewards together; then nothing above


class Parts(NamedTuple):
    """Several rewards, of which each may not apply to some completions."""

    rewards: tuple[Reward, ...]
    names: tuple[str, ...]  # as in rewards/<name>/mean
    weights: tuple[float, ...]
    normalized: bool = False  # each by its prompt's completions, before the sum


class Refresh(NamedTuple):
    """How a reward model learns on while a policy is trained on it.

    sample(params, count, number) -> `Preferences` of `count` pairs that a policy wrote
    and people labelled; number: another one, other pairs. learn(frozen, gathered,
    count, number) -> what takes the place of `frozen`: trained further on the pairs it
    knows and the first `count` of `gathered`, and scaled as before.
    """

    sample: Callable
    learn: Callable


class Answers(NamedTuple):
    """Questions and their right answers, as the policy would have written them."""

    tokens: np.ndarray  # [N, P + T] int32, padded on the left and on the right
    mask: np.ndarray  # [N, P + T] int32
    response_mask: np.ndarray  # [N, T] int32: the answer, its end included


@dataclasses.dataclass(frozen=True)
class Skills:
    """Questions with one right answer each, by kind: what alignment may tax."""

    answers: Answers
    kinds: np.ndarray  # [N] of str


@dataclasses.dataclass(frozen=True)
class Joined:
    """Held-out texts as one, read through a sliding window: the papers' perplexity."""

    tokens: np.ndarray  # [L] int32
    window: int
    stride: int


@dataclasses.dataclass(frozen=True, eq=False)  # the same task is the same object
class Task:
    """A subject of study. Arrays are on the host, rows first.

    Runs are trained and measured by `rewards["proxy"]`; the others are there for
    controls ("gold", "random") and for methods that ask for them by name.
    """

    model: Any  # the policy's module
    params: Any  # π₀, float32
    tokenizer: Any
    sampling: sampling.Config
    prompts: Prompts  # [N, P] to train on
    eval_prompts: Prompts  # [M, P], none of them trained on
    heldout: Tokens  # human text that nothing was trained on
    best: Tokens | None  # text that `sft` imitates
    decode: Callable  # (tokens, mask) -> list[str]
    rewards: Mapping[str, Callable[[int], Reward]]  # "proxy", "gold", ...: of a seed
    facts: dict  # for the report
    columns: dict[str, Sequence] = dataclasses.field(default_factory=dict)
    eval_columns: dict[str, Sequence] = dataclasses.field(default_factory=dict)
    truth: Callable | None = None  # (rollout, step's RNG) -> {name: [M]}, exact
    text_truth: Callable | None = None  # (text NLL a token) -> {name: float}
    skills: Skills | None = None
    # seed -> (`Preferences` that reward models learn from, others, their true margins)
    pairs: Callable | None = None
    replay: Callable | None = None  # n -> `Tokens` of n new rows of pretraining text
    # (kind, n) -> `Tokens` of questions of a kind with their answers, to learn from
    exercises: Callable | None = None
    labelers: Mapping[str, Any] | None = None  # language models that judge responses
    # {name: (rollout, another on the same prompts) -> [M], the probability that the
    # first one's response is better}
    judges: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    groups: np.ndarray | None = None  # [M] classes of the evaluation prompts
    joined: Joined | None = None  # what drift is read off, in place of `heldout`
    test: "Task | None" = None  # with test prompts and texts: before and after
