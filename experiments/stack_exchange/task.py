"""The task of a StackLLaMA study: answer questions so that a reward model is pleased.

The initial policy is the fine-tuned model. Answers are drawn as the paper draws them,
the judge is a second reward model, and drift is the perplexity of held-out answers.
"""

import dataclasses
import functools
from typing import Literal

import numpy as np

from rlhf_jax import ranges, sampling
from rlhf_jax.data import stop_tokens, tokenization
from rlhf_jax.evaluation import drift
from rlhf_jax.studies import scoring
from rlhf_jax.studies.task import Task
from rlhf_jax.tasks import classifiers, models
from rlhf_jax.types import Tokens


@dataclasses.dataclass(frozen=True)
class Config:
    """How answers are written and read."""

    longest: ranges.Count = 48
    """Tokens of an answer."""
    shortest: ranges.Count = 16
    """With --answers.end length: an answer's length is uniform from here to longest."""
    end: Literal["length", "token"] = "length"
    """length: answers are cut at a length drawn for each, and no token ends one, as in
    StackLLaMA; token: they end where the policy says so."""
    temperature: ranges.Positive = 1.0
    """Logits are divided by it before sampling."""
    normalized: bool = True
    """Rewards have mean 0 and standard deviation 1 on the fine-tuned model's answers;
    not: they are the reward model's own."""
    window: ranges.Count = 128
    """Tokens of a window of the perplexity."""
    stride: ranges.Count = 64
    """Of the perplexity: held-out texts are joined and read in windows."""

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if self.shortest > self.longest:
            yield ("shortest", "longest"), "no answer can be both"
        if self.stride >= self.window:
            yield ("stride", "window"), "windows that do not overlap skip tokens"


def create(config, made, layout, *, dtype, prompt_length):
    """`task.Task` of what the stages made.

    Args: made: `stages.Stages`; dtype: what is computed in; prompt_length: tokens of a
    prompt, at most. The judge is `eval/gold` of the metrics: it trains nothing and
    selects nothing.
    """
    model, params, tokenizer = models.read_decoder("--policy", made.policy, dtype)
    _check_room(config, model, prompt_length)
    heldout, counts = windows(config, tokenizer, join(tokenizer, made.parts.heldout))
    task = Task(
        model=model,
        params=layout.put(params),
        tokenizer=tokenizer,
        sampling=_sampling(config, model, tokenizer),
        prompts=_prompts(tokenizer, made.parts.prompts, prompt_length),
        eval_prompts=_prompts(tokenizer, made.parts.eval_prompts, prompt_length),
        heldout=heldout,
        best=None,
        decode=functools.partial(tokenization.texts, tokenizer),
        rewards={},
        facts={
            "policy": made.policy,
            "reward": made.reward,
            "judge": made.judge,
            "heldout": len(made.parts.heldout),
        },
        text_truth=functools.partial(_mean_of_windows, counts),
    )
    raw = not config.normalized
    proxy = classifiers.loaded(made.reward, task, layout, raw=raw)
    judge = classifiers.loaded(made.judge, task, layout, raw=raw)
    return dataclasses.replace(
        task,
        rewards={"proxy": lambda seed: proxy},
        truth=functools.partial(_judged, task, judge, layout),
    )


def join(tokenizer, texts):
    """The texts as one, each followed by EOS: [L] int32, no other special tokens."""
    end = tokenization.eos_id(tokenizer)
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return np.concatenate([np.array([*row, end], np.int32) for row in rows])


def windows(config, tokenizer, text):
    """(`Tokens` [W, window], counts [W]): a text in overlapping windows.

    The targets of a window are the tokens that no window before it has scored. Summed
    over targets it is the NLL of the sliding window, as `drift.windows` plans it:
    window and stride are part of the measure. text [L] as of `join`.
    """
    plan = drift.windows(len(text), window=config.window, stride=config.stride)
    shape, pad = (len(plan), config.window), tokenization.pad_id(tokenizer)
    tokens, mask, scored = drift.spread(text, plan, shape, pad)
    return Tokens(tokens, mask, scored.astype(np.int32)), scored.sum(-1)


def _mean_of_windows(counts, totals):
    """The published perplexity: windows count alike, however many tokens they score."""
    return {"drift/perplexity_windows": float(np.exp(np.mean(totals / counts)))}


def _judged(task, judge, layout, rollout):
    """What the judge thinks of each answer of a rollout."""
    texts = scoring.decode(task, rollout)
    return {"eval/gold": scoring.score(task, judge, layout, rollout, *texts)}


def _sampling(config, model, tokenizer):
    stops = stop_tokens.stop_ids(tokenizer)
    cut = config.end == "length"
    return sampling.Config(
        max_new_tokens=config.longest,
        uniform_from=config.shortest if cut else 0,
        temperature=config.temperature,
        eos_ids=() if cut else stops,
        pad_id=tokenization.pad_id(tokenizer, stops),
        vocab_limit=min(len(tokenizer), model.config.vocab_size),
    )


def _prompts(tokenizer, texts, length):
    return tokenization.prompts(tokenizer, texts, length=length, truncate="error")


def _check_room(config, model, prompt_length):
    room = model.config.max_length
    if prompt_length + config.longest > room:
        raise ValueError(
            f"--data.prompt-length {prompt_length} and --answers.longest "
            f"{config.longest} exceed the policy's context of {room}; lower one"
        )
    if config.window > room:
        raise ValueError(
            f"--answers.window {config.window}: the policy's context is {room}; lower "
            "it, and --answers.stride below it"
        )
