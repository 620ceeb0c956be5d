"""The subject of the study: the fine-tuned policy, its prompts, rewards and texts."""

import dataclasses
import functools

import numpy as np

from rlhf_jax import sampling
from rlhf_jax.data import choices, stop_tokens, tokenization
from rlhf_jax.evaluation import drift
from rlhf_jax.tasks import Task, classifiers, models
from rlhf_jax.types import Tokens

SUITES_LENGTH = 512  # tokens of a question with an option, at most


@dataclasses.dataclass(frozen=True)
class Config:
    """How answers are written and read."""

    longest: int = 48
    """Tokens of an answer."""
    shortest: int = 16
    """With --answers.end length: an answer's length is uniform from here to longest."""
    end: str = "length"
    """length: answers are cut at a length drawn for each, and no token ends one, as in
    StackLLaMA; token: they end where the policy says so."""
    temperature: float = 1.0
    normalized: bool = True
    """Rewards have mean 0 and standard deviation 1 on the fine-tuned model's answers;
    not: they are the reward model's own."""
    window: int = 128
    stride: int = 64
    """Of the perplexity: held-out texts are joined and read in windows."""


def check(config):
    """Raises ValueError for what can be told before anything is read."""
    if config.end not in ("length", "token"):
        raise ValueError(f"--answers.end {config.end}: choose length or token")
    if not 1 <= config.shortest <= config.longest:
        raise ValueError(
            f"--answers.shortest {config.shortest}: must lie between 1 and "
            f"--answers.longest {config.longest}"
        )
    if not 0 < config.stride < config.window:
        raise ValueError(
            f"--answers.stride {config.stride}: must lie between 0 and "
            f"--answers.window {config.window}"
        )


def create(config, policy, reward, judge, parts, layout, *, dtype, prompt_length):
    """`Task` of a fine-tuned model's directory.

    Args: reward, judge: directories of reward models, or hub names; parts: of
    `parts.read`; dtype: what is computed in; prompt_length: tokens of a prompt. The
    judge is `eval/gold` of the metrics: it trains nothing and chooses nothing.
    """
    model, params, tokenizer = models.read_decoder("--policy", policy, dtype)
    _check_room(config, model, prompt_length)
    written = joined(tokenizer, parts.heldout)
    text, counts = windows(config, tokenizer, written)

    def perplexity(totals):
        """The published measure: windows count alike, whatever they hold."""
        return {"drift/perplexity_windows": float(np.exp(np.mean(totals / counts)))}

    task = Task(
        model=model,
        params=layout.place(params),
        tokenizer=tokenizer,
        sampling=_sampling(config, model, tokenizer),
        prompts=_prompts(tokenizer, parts.prompts, prompt_length),
        eval_prompts=_prompts(tokenizer, parts.eval_prompts, prompt_length),
        heldout=text,
        best=None,
        decode=functools.partial(tokenization.texts, tokenizer),
        reward=None,
        facts={"policy": policy, "reward": reward, "judge": judge},
        text_truth=perplexity,
    )
    proxy = scores(config, reward, task, layout)
    truth = scores(config, judge, task, layout)
    return dataclasses.replace(
        task,
        reward=lambda seed: proxy,
        truth=functools.partial(_judged, _over_rollouts(truth, task, layout)),
    )


def joined(tokenizer, texts):
    """The texts as one, each followed by EOS: [L] int32, no other special tokens."""
    end = tokenization.eos_id(tokenizer)
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return np.concatenate([np.array([*row, end], np.int32) for row in rows])


def windows(config, tokenizer, text):
    """(`Tokens` [W, window], counts [W]): a text in strides, what each adds as targets.

    text [L] as of `joined`. Summed over targets it is the sliding window's NLL, of
    `drift.windows`: window and stride are part of the measure.
    """
    plan = drift.windows(len(text), window=config.window, stride=config.stride)
    pad = tokenization.pad_id(tokenizer)
    tokens = np.full((len(plan), config.window), pad, np.int32)
    mask, targets = np.zeros_like(tokens), np.zeros_like(tokens)
    for row, (begin, stop, first) in enumerate(plan):
        tokens[row, : stop - begin] = text[begin:stop]
        mask[row, : stop - begin] = 1
        targets[row, first - begin : stop - begin] = 1
    return Tokens(tokens, mask, targets), targets.sum(-1)


def scores(config, name, task, layout):
    """`tasks.Reward` of a reward model's directory or hub name."""
    return classifiers.loaded(name, task, layout, raw=not config.normalized)


def suites(tokenizer, model, names, count, question):
    """{name: `choices.Options`} of data sets PATH[:SPLIT]: the alignment tax's."""
    length = min(model.config.max_length, SUITES_LENGTH)
    found = {}
    for name in names:
        path, colon, split = name.rpartition(":")
        path, split = (path, split) if colon else (name, "test")
        asked = choices.read(path, split=split, count=count, question=question)
        short = path.rstrip("/").rpartition("/")[2]
        found[short] = choices.tokens(tokenizer, asked, length=length)
    return found


def _over_rollouts(reward, task, layout):
    """rollout -> [M] of a reward, whichever form it has."""
    if reward.score is not None:
        score = layout.over_rows(
            lambda frozen, rows: reward.score(frozen, *rows), whole=1
        )
        return lambda rollout: score(reward.frozen, (rollout.tokens, rollout.mask))

    def read(rollout):
        width = rollout.tokens.shape[1] - rollout.response_mask.shape[1]
        prompts = task.decode(rollout.tokens[:, :width], rollout.mask[:, :width])
        answers = task.decode(rollout.tokens[:, width:], rollout.response_mask)
        return np.asarray(reward.host(prompts, answers))

    return read


def _judged(judge, rollout):
    return {"eval/gold": judge(rollout)}


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
