"""Pairs of answers to questions, split into the parts that the stages learn from.

Stack Exchange's paired answers (`lvwerra/stack-exchange-paired`) have a question, the
better answer response_j and the worse one response_k. No two parts share a question:
finetune, reward, rl and evaluation are folders of the data set, or are split off here.
"""

import dataclasses
import itertools
import json
from typing import Literal, NamedTuple

import numpy as np

from rlhf_jax import ranges
from rlhf_jax.data import sources
from rlhf_jax.runtime import files

NAMES = ("finetune", "reward", "rl", "evaluation")
COLUMNS = ("question", "response_j", "response_k")
_EVAL_PAIRS = 1000  # at most, that reward models are measured on


@dataclasses.dataclass(frozen=True)
class Config:
    """Which rows a stage gets, and how they are written."""

    columns: tuple[ranges.Text, ...] = ()
    """Your names of columns, as question=prompt response_j=chosen response_k=rejected.
    """
    parts: Literal["split", "folders"] = "split"
    """split: questions are split here; folders: the data set has data/finetune,
    data/reward, data/rl and data/evaluation."""
    shares: tuple[ranges.Share, ...] = (0.3, 0.45, 0.15, 0.1)
    """Of questions, for split: finetune, reward, rl, evaluation."""
    split: ranges.Text = "train"
    """Split to read."""
    eval_split: ranges.Text | None = None
    """With split: where evaluation comes from; its share of --data.split is unused."""
    question: ranges.Text = "Question: {question}\n\nAnswer: "
    """How a prompt is written; an answer follows it."""
    length: ranges.Count = 256
    """Tokens of a pair's longer side; longer pairs train no reward model."""
    prompt_length: ranges.Count = 96
    """Tokens of a prompt to answer; longer ones are left out."""
    texts: ranges.Count = 20000
    """At most so many rows to fine-tune on, and so on."""
    pairs: ranges.Count = 20000
    """At most so many pairs for each reward model."""
    prompts: ranges.Count = 20000
    """At most so many prompts for RL."""
    eval_prompts: ranges.Count = 64
    """At most so many prompts that evaluations sample on."""
    heldout: ranges.Count = 128
    """Held-out answers whose perplexity is the drift."""


class Parts(NamedTuple):
    """What each stage learns from, or is measured on; texts."""

    texts: list[str]  # question and better answer
    pairs: list[dict]  # prompt, chosen, rejected
    judge_pairs: list[dict]  # likewise, of other questions, for a second reward model
    prompts: list[str]
    eval_pairs: list[dict]
    eval_prompts: list[str]
    heldout: list[str]


def read(dataset, config, tokenizer, *, judge):
    """`Parts` of a data set.

    judge: whether half of the reward part goes to a second reward model. Raises
    ValueError for a part that has nothing left.
    """
    finetune, reward, rl, held = _parts(dataset, config)
    pairs = _short(tokenizer, reward, config, dataset)
    halves = _halves(pairs) if judge else (pairs, [])
    prompts = _prompts(tokenizer, rl, config, f"{dataset}, part rl")
    eval_prompts = _prompts(tokenizer, held, config, f"{dataset}, part evaluation")
    return Parts(
        texts=_texts(finetune, config)[: config.texts],
        pairs=_plain(halves[0])[: config.pairs],
        judge_pairs=_plain(halves[1])[: config.pairs],
        prompts=prompts[: config.prompts],
        eval_pairs=_plain(_short(tokenizer, held, config, dataset))[:_EVAL_PAIRS],
        eval_prompts=eval_prompts[: config.eval_prompts],
        heldout=_texts(held, config)[: config.heldout],
    )


def texts(dataset, config):
    """The texts of the finetune part: what a tokenizer can be learned from."""
    return _texts(_parts(dataset, config)[0], config)[: config.texts]


def write(folder, parts):
    """The parts as JSONL files for the stages: {name: path}."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "finetune": [{"text": text} for text in parts.texts],
        "heldout": [{"text": text} for text in parts.heldout],
        "reward": parts.pairs,
        "judge": parts.judge_pairs,
        "evaluation": parts.eval_pairs,
    }
    for name, rows in tables.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files.write(folder / f"{name}.jsonl", "".join(lines))
    return {name: str(folder / f"{name}.jsonl") for name in tables}


def _parts(dataset, config):
    """The rows of each part, in the order of `NAMES`: lists of dictionaries."""
    columns = _columns(config.columns)
    if config.parts == "folders":
        most = (config.texts, config.pairs, config.prompts, config.heldout)
        return [
            _rows(dataset, config.split, columns, f"data/{name}", 4 * count)
            for name, count in zip(NAMES, most, strict=True)
        ]
    if len(config.shares) != len(NAMES) or min(config.shares) <= 0:
        raise ValueError(
            f"--data.shares {' '.join(map(str, config.shares))}: four shares above 0 "
            f"are needed, for {', '.join(NAMES)}"
        )
    rows = _rows(dataset, config.split, columns)
    parts = _split(rows, config.shares)
    if config.eval_split is not None:
        known = {row["question"] for row in rows}
        held = _rows(dataset, config.eval_split, columns)
        parts[-1] = [row for row in held if row["question"] not in known]
    for name, part in zip(NAMES, parts, strict=True):
        if not part:
            raise ValueError(
                f"{dataset}: no question is left for the part {name}; give more rows, "
                "or other --data.shares"
            )
    return parts


def _rows(dataset, split, columns, folder=None, most=None):
    rows = sources.load(dataset, split=split, columns=columns, folder=folder)
    rows = rows.select_columns(list(COLUMNS))
    return list(rows if most is None else rows.select(range(min(most, len(rows)))))


def _columns(words):
    """{needed: present} of words such as "question=prompt"."""
    columns = {name: name for name in COLUMNS}
    for word in words:
        needed, equals, present = word.partition("=")
        if needed not in COLUMNS or not (equals and present):
            raise ValueError(
                f"--data.columns {word}: write needed=yours, of {', '.join(COLUMNS)}"
            )
        columns[needed] = present
    return columns


def _split(rows, shares):
    """Rows split question by question, at random and always the same."""
    questions = list(dict.fromkeys(row["question"] for row in rows))
    order = np.random.default_rng(0).permutation(len(questions))
    cumulative = np.cumsum(shares) / np.sum(shares)
    bounds = np.round(cumulative * len(questions)).astype(int)
    rank = {questions[i]: position for position, i in enumerate(order)}
    part = np.searchsorted(bounds, [rank[row["question"]] for row in rows], "right")
    return [[r for r, p in zip(rows, part, strict=True) if p == k] for k in range(4)]


def _halves(rows):
    """Two halves that share no question."""
    questions = dict.fromkeys(row["question"] for row in rows)
    half = {question: i % 2 for i, question in enumerate(questions)}
    return [[row for row in rows if half[row["question"]] == k] for k in (0, 1)]


def _prompt(row, config):
    return config.question.format(question=row["question"])


def _texts(rows, config):
    """Each question with its better answer, repeated texts once."""
    texts = (_prompt(row, config) + row["response_j"] for row in rows)
    return list(dict.fromkeys(texts))


def _plain(rows):
    names = {"prompt": "prompt", "chosen": "response_j", "rejected": "response_k"}
    return [{new: row[old] for new, old in names.items()} for row in rows]


def _short(tokenizer, rows, config, dataset):
    """Rows with their prompt, where both answers fit `config.length` after it."""
    rows = [{**row, "prompt": _prompt(row, config)} for row in rows]
    sides = ([row["prompt"] + row[x] for row in rows] for x in COLUMNS[1:])
    longest = np.maximum(*(_lengths(tokenizer, side) for side in sides))
    kept = list(itertools.compress(rows, longest <= config.length))
    if len(kept) < 4:
        raise ValueError(
            f"{dataset}: of {len(rows)} pairs {len(kept)} have at most {config.length} "
            "tokens a side; raise --data.length, or give shorter answers"
        )
    return kept


def _prompts(tokenizer, rows, config, where):
    """Prompts that fit, each question once."""
    prompts = list(dict.fromkeys(_prompt(row, config) for row in rows))
    fits = _lengths(tokenizer, prompts) <= config.prompt_length
    kept = list(itertools.compress(prompts, fits))
    if not kept:
        raise ValueError(
            f"{where}: none of {len(prompts)} questions has at most "
            f"{config.prompt_length} tokens; raise --data.prompt-length"
        )
    return kept


def _lengths(tokenizer, texts):
    """How many tokens each text has, special ones included: [N]."""
    return np.array(
        [len(row) for row in tokenizer(list(texts), verbose=False)["input_ids"]]
    )
