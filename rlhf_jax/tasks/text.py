"""A user's own text as a task: prompts from a dataset, a policy, a reward.

The policy is a model directory, or is pretrained here from scratch on the text; the
reward is a classifier trained here on labelled text, a model, or a Python function.
"""

import dataclasses
import functools
from typing import Annotated, Literal

import numpy as np

from rlhf_jax import huggingface, ranges, sampling
from rlhf_jax.data import sources, tokenization
from rlhf_jax.models import heads
from rlhf_jax.studies.task import Joined, Reward, Task
from rlhf_jax.tasks import (
    chat,
    classifiers,
    direct_feedback,
    judges,
    reward_ensembles,
    scratch,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """How a dataset becomes prompts, held-out text and a reward."""

    prompt_split: ranges.Text = "train"
    """Split that training prompts come from."""
    eval_split: ranges.Text = "test"
    """Prompts and held-out text of evaluations, without rows of the training split."""
    validation: Annotated[float, ranges.Range(at_least=0, below=1)] = 0.0
    """Share of the prompt split, shuffled with seed 0, to evaluate on instead; the
    evaluation split is then read only at the start and the end."""
    keep_shared: bool = False
    """Keep held-out texts that are also training texts."""
    prompt_from: Literal["start", "half"] = "half"
    """start: the first prompt_length tokens of a text; half: the last prompt_length
    tokens of its first half, counted in words (the IMDB task)."""
    chat: str = ""
    """An instruction to ask for a text with, {text} its first words: prompts are then a
    user's turn in the policy's chat template, and rewards read the answer alone."""
    chat_words: ranges.Count = 12
    """Words of a text that --text.chat shows."""
    prompt_length: ranges.Count = 64
    """Tokens of a prompt, at most."""
    max_new_tokens: Annotated[ranges.Count, ranges.Was("response_length")] = 48
    """Tokens of a response, at most."""
    min_new_tokens: Annotated[ranges.Natural, ranges.Was("min_response_length")] = 0
    """48 with max_new_tokens 48 is the IMDB task: no text ends early."""
    temperature: ranges.Positive = 1.0
    """Logits are divided by it before sampling."""
    top_k: ranges.Natural = 0
    """Only the k most likely tokens are sampled; 0: all."""
    top_p: Annotated[float, ranges.Range(above=0, at_most=1)] = 1.0
    """Only the most likely tokens of this total probability are sampled."""
    prompts: ranges.Count = 20000
    """Maximum number of training prompts."""
    eval_prompts: ranges.Count = 128
    """Prompts that evaluations sample on."""
    heldout_rows: ranges.Count = 128
    """Maximum number of held-out texts."""
    heldout_length: ranges.Count = 128
    """Tokens of a held-out text that count in its NLL."""
    drift: Literal["rows", "joined"] = "rows"
    """joined: all held-out texts are read as one, in windows (the IMDB task)."""
    window: ranges.Count = 1024
    """Tokens of a window, with --text.drift joined."""
    stride: ranges.Count = 512
    """Tokens between the starts of two windows."""
    test_rows: ranges.Count = 25000
    """With --text.validation: maximum number of prompts and texts of the evaluation
    split."""
    whole_prompt: bool = False
    """A loaded reward reads all of the first half, not only what the policy saw."""
    raw_reward: bool = False
    """P(label) itself, not scaled to mean 0 and standard deviation 1 on samples of the
    initial policy. Always so for a classifier with another tokenizer."""
    labelled: ranges.Text | None = None
    """Dataset with text and label for --reward train; by default --dataset."""
    labelled_split: ranges.Text = "train"
    """Split that classifiers learn from."""
    labelled_eval_split: ranges.Text = "test"
    """Split that classifiers are tested on."""
    label: ranges.Natural = 1
    """The class that is rewarded."""
    classifier: ranges.Text = "policy"
    """The rewarding classifier: on the policy's trunk, or a preset from scratch."""
    classifier_texts: ranges.Natural = 0
    """Labelled texts that a rewarding classifier learns from, drawn for each seed; 0:
    the half of them that the judging classifier does not read."""
    judge: ranges.Text = "small"
    """The judging classifier, whose P(label) is gold: as --text.classifier; or bigrams,
    naive Bayes on pairs of words, whose log odds are."""
    judge_labelled: ranges.Text | None = None
    """Dataset that it learns from; by default its half of --text.labelled."""
    classifier_steps: ranges.Count = 600
    """Updates of a classifier."""
    classifier_rows: ranges.Count = 32
    """Texts per update of a classifier."""
    classifier_learning_rate: ranges.Positive = 5e-4
    """Of a classifier, at its peak."""
    classifier_length: ranges.Count = 64
    """Tokens of a text that a classifier reads."""
    pretrain_split: ranges.Text = "train"
    """Split to pretrain a policy from scratch on, for instance train+unsupervised."""
    vocabulary: ranges.Count = 4096
    """Tokens of a tokenizer that is trained here."""
    pretrain_steps: ranges.Count = 3000
    """Updates of a policy pretrained here."""
    pretrain_rows: ranges.Count = 32
    """Rows per update of the pretraining."""
    pretrain_length: ranges.Count = 128
    """Tokens per row of the pretraining."""
    pretrain_learning_rate: ranges.Positive = 2e-3
    """Of the pretraining, at its peak."""


def create(config, dataset, policy, reward, *, layout, cache, report, signals=None):
    """The task of a dataset.

    Args: dataset: a hub name, folder or file with a column `text`; policy: a model
    directory or hub name, or "scratch:<preset>"; reward: "train", a model directory or
    hub name, a `judges.Spec`, or a host function; report as in `tasks.microworld`.
    """
    model, params, tokenizer = _policy(
        config, dataset, policy, layout, cache, report, signals
    )
    report("reading prompts ...")
    train, held, test = _splits(config, dataset, policy)
    picked = classifiers.shuffled(train, config.prompts)
    counts = (config.eval_prompts, config.heldout_rows)
    task = Task(
        model=model,
        params=params,
        tokenizer=tokenizer,
        sampling=_sampling(config, model, tokenizer),
        prompts=_prompts(config, tokenizer, picked["text"]),
        best=_best(config, tokenizer, train),
        decode=functools.partial(tokenization.texts, tokenizer),
        rewards={},
        facts={"dataset": dataset, "policy": policy},
        columns=_columns(config, picked),
        **_measured(config, tokenizer, model, held, *counts),
    )
    if test is not None:
        counts = (min(len(test), config.test_rows),) * 2
        rest = _measured(config, tokenizer, model, test, *counts)
        task = dataclasses.replace(task, test=dataclasses.replace(task, **rest))
    facts = {"own units": config.raw_reward}
    if reward == "train":
        rewards, truth = classifiers.trained(
            config, dataset, task, layout, report, signals
        )
    else:
        given, truth = _given(config, reward, task, layout), None
        rewards = {"proxy": functools.partial(_constant, given)}
        scaled = given.score is not None or given.facts.get("scaled")
        facts = {**given.facts, "own units": config.raw_reward or not scaled}
    test = task.test and dataclasses.replace(task.test, rewards=rewards)
    made = {"rewards": rewards, "truth": truth, "test": test}
    return dataclasses.replace(task, **made, facts=task.facts | facts)


def _given(config, reward, task, layout):
    """The `Reward` of a labeler, of a host function, or of a model by its name."""
    if isinstance(reward, judges.Spec):
        return direct_feedback.create(reward, task, layout, raw=config.raw_reward)
    if reward_ensembles.named(reward):
        given = {"label": config.label, "raw": config.raw_reward}
        return reward_ensembles.create(reward, task, layout, **given)
    if callable(reward):
        return Reward(host=reward)
    return classifiers.loaded(
        reward,
        task,
        layout,
        label=config.label,
        raw=config.raw_reward,
        whole_prompt=config.whole_prompt,
    )


def _policy(config, dataset, policy, layout, cache, report, signals):
    if not policy.startswith("scratch:"):
        report(f"loading {policy} ...")
        model, params, tokenizer = huggingface.load(policy, dtype="float32")
        if isinstance(model, heads.Classifier):
            raise ValueError(f"--policy {policy} is a classifier, not a language model")
        return model, layout.put(params), tokenizer
    how = {"layout": layout, "cache": cache, "report": report, "signals": signals}
    return scratch.pretrained(config, dataset, policy[8:], **how)


def _splits(config, dataset, policy):
    """(rows to train on, rows to evaluate on, rows for the start and the end or None).

    Raises ValueError where too few are left.
    """
    train = sources.load(dataset, split=config.prompt_split, columns=["text"])
    held = sources.load(dataset, split=config.eval_split, columns=["text"])
    if not 0 <= config.validation < 1:
        raise ValueError(f"--text.validation {config.validation}: a share below 1")
    test = None
    if config.validation:
        # As `datasets` shuffles with seed 0, and RL4LMs cuts.
        train = train.select(np.random.default_rng(0).permutation(len(train)))
        first = int(len(train) * (1 - config.validation))
        if not 0 < first < len(train):
            raise ValueError(
                f"--text.validation {config.validation}: of {len(train)} texts nothing "
                "is left to train or to evaluate on; change it"
            )
        rest, test = range(first, len(train)), held
        train, held = train.select(range(first)), train.select(rest)
    if not config.keep_shared:
        held = sources.drop_shared(held, train)
        if policy.startswith("scratch:"):  # and what the policy was pretrained on
            seen = config.pretrain_split
            seen = sources.load(dataset, split=seen, columns=["text"])
            held = sources.drop_shared(held, seen)
        test = None if test is None else sources.drop_shared(test, train)
    needed = max(config.eval_prompts, config.heldout_rows)
    if len(held) < needed:
        split = config.prompt_split if config.validation else config.eval_split
        raise ValueError(
            f"{dataset}, split {split!r}: {len(held)} texts are not in the "
            f"training split, and {needed} are needed; lower --text.eval-prompts and "
            "--text.heldout-rows, or choose another --text.eval-split"
        )
    return train, held, test


def _measured(config, tokenizer, model, rows, prompts, texts):
    """The fields of `Task` that evaluations on a sample of the rows need."""
    asked = classifiers.shuffled(rows, prompts)
    read = list(classifiers.shuffled(rows, texts)["text"])
    joined = None
    if config.drift == "joined":
        joined = _joined(config, tokenizer, model, read)
    return {
        "eval_prompts": _prompts(config, tokenizer, asked["text"]),
        "heldout": tokenization.sft(tokenizer, read, length=config.heldout_length),
        "joined": joined,
        "eval_columns": _columns(config, asked),
        "groups": np.asarray(asked["label"]) if "label" in asked.column_names else None,
    }


def _joined(config, tokenizer, model, texts):
    """Texts joined by blank lines, as one row of tokens without special ones."""
    room = model.config.max_length
    if config.window > room:
        raise ValueError(
            f"--text.window {config.window}: the policy's context holds {room} tokens; "
            "lower it, and --text.stride below it"
        )
    ids = tokenizer("\n\n".join(texts), add_special_tokens=False)["input_ids"]
    if len(ids) <= config.window:
        raise ValueError(
            f"--text.window {config.window}: {len(texts)} held-out texts are "
            f"{len(ids)} tokens together, and two windows are needed; raise "
            "--text.heldout-rows"
        )
    return Joined(np.asarray(ids, np.int32), config.window, config.stride)


def _columns(config, rows):
    """Columns that reach a reward function, by name."""
    names = [k for k in rows.column_names if k not in ("text", "prompt")]
    columns = {k: list(rows[k]) for k in names}
    if config.whole_prompt:
        columns[classifiers.WHOLE_PROMPT] = _starts(config, list(rows["text"]))
    return columns


def _starts(config, texts):
    """The texts that prompts are cut from."""
    if config.prompt_from == "start" and not config.whole_prompt:
        return texts
    if config.prompt_from == "start":
        raise ValueError(
            "--text.whole-prompt: the whole text includes its continuation; add "
            "--text.prompt-from half"
        )
    if config.prompt_from != "half":
        raise ValueError(
            f"--text.prompt-from {config.prompt_from}: choose start or half"
        )
    return [_half(text.split(" ")) or _half(text.split()) for text in texts]


def _half(words):
    """The first half of the words, at least one; "" where all of it is blank."""
    text = " ".join(words[: max(len(words) // 2, 1)])
    return text if text.strip() else ""


def _prompts(config, tokenizer, texts):
    if config.chat:
        chat.check(config.chat, tokenizer)
        sizes = {"words": config.chat_words, "length": config.prompt_length}
        return chat.prompts(config.chat, texts, tokenizer, **sizes)
    truncate = "right" if config.prompt_from == "start" else "left"
    length = config.prompt_length
    texts = _starts(config, list(texts))
    return tokenization.prompts(tokenizer, texts, length=length, truncate=truncate)


def _best(config, tokenizer, train):
    """What `sft` imitates: texts of the rewarded class, or all of them."""
    if "label" in train.column_names:
        train = train.select(np.flatnonzero(np.array(train["label"]) == config.label))
    texts = classifiers.shuffled(train, config.prompts)["text"]
    length = config.prompt_length + config.max_new_tokens
    return tokenization.sft(tokenizer, list(texts), length=length)


def _sampling(config, model, tokenizer):
    limit = len(tokenizer) if len(tokenizer) < model.config.vocab_size else None
    ends, pad = (tokenization.eos_id(tokenizer),), tokenization.pad_id(tokenizer)
    if config.chat:
        ends, pad = chat.ends(tokenizer)
    return sampling.Config(
        max_new_tokens=config.max_new_tokens,
        min_new_tokens=config.min_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        eos_ids=ends,
        pad_id=pad,
        vocab_limit=limit,
    )


def _constant(reward, seed):
    del seed
    return reward
