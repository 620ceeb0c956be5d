"""What is measured of every model: suites, human text, and samples on prompts.

Questions, texts, prompts and sampling keys are the same for all models, so that every
difference is paired item by item.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.benchmarks import suites
from rlhf_jax.data import conversations, tokenization
from rlhf_jax.evaluation import policy
from rlhf_jax.feedback import function
from rlhf_jax.studies import heterogeneous, scoring
from rlhf_jax.studies.task import Reward
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.tasks import (
    judges,
    models,
    prompt_rewards,
    prompts,
    reward_ensembles,
    rows,
)
from rlhf_jax.types import Prompts, Tokens

_ROWS = 32  # compared with `before` at a time


class Asked(NamedTuple):
    """What models are asked, as texts; read and checked before any weights are."""

    suites: dict  # of `suites.read`
    texts: list[str] | None  # human text
    prompts: Any  # `datasets` rows, or None
    reward: Any  # as for `prompt_rewards.create`, or None


class Inputs(NamedTuple):
    """The same as arrays."""

    suites: dict  # of `suites.tokens`
    text: Tokens | None
    task: Any  # `task.Task` of the prompts, or None
    reward: Reward | None


class Reading(NamedTuple):
    """What a model scores, item by item."""

    suites: dict  # {name: `suites.Measured`}
    text: tuple | None = None  # (Σ NLL [N] in nats, tokens [N])
    reward: np.ndarray | None = None  # [P]: the mean over a prompt's samples
    kl: np.ndarray | None = None  # [P]: KL(model ‖ before) of its own samples, in nats

    def scores(self, names=None):
        """The scores of questions, all or those of some suites: [Q] in [0, 1]."""
        chosen = self.suites if names is None else names
        return np.concatenate([suites.scores(self.suites[k]) for k in chosen])

    @property
    def text_nll(self):
        """Nats a token of human text; None where it was not read."""
        return None if self.text is None else float(np.divide(*map(np.sum, self.text)))


def read(config, tokenizer):
    """`Asked`: whatever the flags name. Raises ValueError for what needs no model."""
    asked = suites.read(config.suites, count=config.count)
    if config.chat:
        asked = suites.chat(asked, tokenizer)
    texts = None
    if config.text is not None:
        texts = prompts.texts(*suites.path_and_split(config.text), config.count)
    given = None
    if config.prompts is not None:
        given = rows.of_prompts("--prompts", config.prompts)
        if not len(given):
            raise ValueError(
                f"--prompts {config.prompts}: it has no lines; write a prompt in each"
            )
        given = rows.sample(given, config.prompt_count)
    reward = config.reward or None
    if reward is not None and ":" in reward:
        if not judges.named(reward) and not reward_ensembles.named(reward):
            function.load(reward)
    elif reward is not None:
        reward = models.read("--reward", reward)
    return Asked(asked, texts, given, reward)


def prepare(config, asked, pair, before, layout):
    """`Inputs` of what is asked; before: the parameters that KL is relative to."""
    model, tokenizer = pair.model, pair.tokenizer
    length = min(config.length or model.config.max_length, model.config.max_length)
    text = task = reward = None
    if asked.texts is not None:
        text = tokenization.sft(tokenizer, asked.texts, length=length)
        text = models.narrow(text, [text.mask])
    if asked.prompts is not None:
        task = _task(config, asked.prompts, model, before, tokenizer)
    if asked.reward is not None:
        how = {"label": config.label, "dtype": config.dtype}
        given = asked.reward, config.reward
        reward = prompt_rewards.create(*given, task=task, layout=layout, **how)
    encoded = suites.tokens(asked.suites, tokenizer, length=length)
    return Inputs(encoded, text, task, reward)


def measure(config, pair, before, inputs, layout, params):
    """The `Reading` of some parameters."""
    model = pair.model
    text = reward = divergence = None
    if inputs.task is not None:  # first, as a reward of the user's may fail
        reward, divergence = _own_samples(config, before, inputs, layout, params)
    found = suites.measure(
        model, params, inputs.suites, layout=layout, normalize=config.normalize
    )
    if inputs.text is not None:
        text = policy.compile_text_nll(model, layout)(params, inputs.text)
    return Reading(found, text, reward, divergence)


def fitter(config, pair, both, inputs, layout):
    """`fit(mean) -> (make, metrics)` of HMA: `make(before, after)` builds the average
    whose ratios have this mean.

    The ratios maximise the likelihood of samples of the aligned model, drawn once, for
    the first of them. metrics: ratios, how far they moved, likelihoods.
    """
    samples = functools.cache(lambda: _hma_samples(config, both[1], inputs, layout))

    def fit(mean):
        options = heterogeneous.Config(
            mean=mean,
            blocks=min(config.hma.blocks, pair.model.config.layers),
            learning_rate=config.hma.learning_rate,
            rows=-(-config.hma.rows // layout.size) * layout.size,  # a multiple of it
            epochs=config.hma.epochs,
        )
        found = heterogeneous.fit(
            pair.model, Trainable(both[0]), *both, samples(),
            config=options, layout=layout, seed=config.seed,
        )  # fmt: skip
        named = {k.removeprefix("average/"): x for k, x in found.metrics.items()}
        ratios = [x for k, x in named.items() if k.startswith("ratio_")]
        return functools.partial(_averaged, ratios, options), named

    return fit


def _averaged(ratios, options, before, after):
    return heterogeneous.average(before, after, ratios, options)


def _hma_samples(config, after, inputs, layout):
    """`Tokens` that the aligned model writes to the prompts: those of the highest
    reward, or all without one."""
    reward = inputs.reward or Reward(arrays=lambda drawn: np.zeros(len(drawn.tokens)))
    keep = min(config.hma.keep, config.hma.draws)
    texts = heterogeneous.high_reward_samples(
        inputs.task, after, reward, layout,
        draws=config.hma.draws if inputs.reward else keep, keep=keep, seed=config.seed,
    )  # fmt: skip
    return models.narrow(texts, [texts.mask])


def _task(config, given, model, before, tokenizer):
    asked = given
    if config.chat:
        turns = map(conversations.turn, given["prompt"])
        asked = [{**row, "prompt": t} for row, t in zip(given, turns, strict=True)]
        asked = rows.load(asked, columns=["prompt"])
    lengths = None, config.max_new_tokens
    task = prompts.create(
        model, before, tokenizer, asked, asked,
        lengths=lengths, temperature=config.temperature,
    )  # fmt: skip
    for columns in (task.columns, task.eval_columns):
        columns[prompts.GIVEN] = list(given["prompt"])  # as reward functions expect
    return task


def _own_samples(config, before, inputs, layout, params):
    """(rewards [P] or None, KL to `before` [P] in nats) of samples, fixed keys."""
    task, copies = inputs.task, config.samples
    count = len(task.prompts.tokens)
    repeated = Prompts(*(np.repeat(x, copies, axis=0) for x in task.prompts))
    keyed = policy.prompt_rows(repeated, jax.random.key(config.seed))
    drawn = policy.compile_draw(task.model, layout, task.sampling)(params, keyed)
    compare = policy.compile_compare(task.model, layout, task.sampling, chunk=_ROWS)
    divergence, _ = compare(params, before, drawn)
    values = None
    if inputs.reward is not None:
        texts = scoring.decode(task, drawn)
        values = scoring.score(
            task, inputs.reward, layout, drawn, *texts, copies=copies
        )
        values = values.reshape(count, copies).mean(-1)
    return values, np.asarray(divergence, np.float64).reshape(count, copies).mean(-1)
