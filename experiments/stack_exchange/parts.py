"""Pairs of answers to questions, cut into the parts that the stages learn from.

Stack Exchange's paired answers (`lvwerra/stack-exchange-paired`): question, response_j,
the better answer, response_k. Parts share no question: finetune, reward, rl and
evaluation, as the data set's own folders are, or cut here, question by question.
"""

import dataclasses
import itertools
import json
from typing import Literal, NamedTuple

import numpy as np

from rlhf_jax.data import sources
from rlhf_jax.runtime import metrics_log

NAMES = ("finetune", "reward", "rl", "evaluation")
COLUMNS = ("question", "response_j", "response_k")


@dataclasses.dataclass(frozen=True)
class Config:
    """Which rows a stage gets, and how they are written."""

    columns: tuple[str, ...] = ()
    """Your names of columns, as question=prompt response_j=chosen response_k=rejected.
    """
    parts: Literal["split", "folders"] = "split"
    """split: questions are dealt out here; folders: the data set has data/finetune,
    data/reward, data/rl and data/evaluation."""
    shares: tuple[float, ...] = (0.3, 0.45, 0.15, 0.1)
    """Of questions, for split: finetune, reward, rl, evaluation."""
    split: str = "train"
    eval_split: str | None = None
    """Where evaluation comes from, with split; its share is then dealt to nobody."""
    question: str = "Question: {question}\n\nAnswer: "
    """How a prompt is written; an answer follows it."""
    length: int = 256
    """Tokens of a pair's longer side; longer pairs train no reward model."""
    prompt_length: int = 96
    """Tokens of a prompt to answer; longer ones are left out."""
    texts: int = 20000
    """At most so many rows to fine-tune on, and so on."""
    pairs: int = 20000
    prompts: int = 20000
    eval_prompts: int = 64
    heldout: int = 128
    """Held-out answers whose perplexity is the drift."""


class Parts(NamedTuple):
    """What each stage learns from, or is measured on; texts."""

    texts: list[str]  # question and better answer
    pairs: list[dict]  # prompt, chosen, rejected
    judged: list[dict]  # likewise, of other questions: a second reward model's
    prompts: list[str]
    eval_pairs: list[dict]
    eval_prompts: list[str]
    heldout: list[str]


def read(dataset, config, tokenizer, *, judge):
    """`Parts` of a data set. judge: whether half of the reward part is a second reward
    model's. Raises ValueError where a part has nothing left."""
    finetune, reward, rl, held = _parts(dataset, config)
    learned = sources.drop_repeated([_text(row, config) for row in finetune])
    pairs = _short(tokenizer, reward, config, dataset)
    sides = _halves(pairs) if judge else (pairs, [])
    prompts = _prompts(tokenizer, rl, config, f"{dataset}, part rl")
    asked = _prompts(tokenizer, held, config, f"{dataset}, part evaluation")
    written = sources.drop_repeated([_text(row, config) for row in held])
    return Parts(
        texts=learned[: config.texts],
        pairs=_plain(sides[0])[: config.pairs],
        judged=_plain(sides[1])[: config.pairs],
        prompts=prompts[: config.prompts],
        eval_pairs=_plain(_short(tokenizer, held, config, dataset))[:1000],
        eval_prompts=asked[: config.eval_prompts],
        heldout=written[: config.heldout],
    )


def texts(dataset, config):
    """The finetune part alone, as texts: what a tokenizer can be learned from."""
    rows = _parts(dataset, config)[0]
    return sources.drop_repeated([_text(row, config) for row in rows])[: config.texts]


def write(place, parts):
    """The parts as JSONL files for the stages: {name: path}."""
    place.mkdir(parents=True, exist_ok=True)
    tables = {
        "finetune": [{"text": text} for text in parts.texts],
        "heldout": [{"text": text} for text in parts.heldout],
        "reward": parts.pairs,
        "judge": parts.judged,
        "evaluation": parts.eval_pairs,
    }
    found = {}
    for name, rows in tables.items():
        found[name] = str(place / f"{name}.jsonl")
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        metrics_log.write_text(place / f"{name}.jsonl", "".join(lines))
    return found


# Which rows


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
    dealt = _dealt(rows, config.shares)
    if config.eval_split is not None:
        known = {row["question"] for row in rows}
        held = _rows(dataset, config.eval_split, columns)
        dealt[-1] = [row for row in held if row["question"] not in known]
    for name, part in zip(NAMES, dealt, strict=True):
        if not part:
            raise ValueError(
                f"{dataset}: no question is left for the part {name}; give more rows, "
                "or other --data.shares"
            )
    return dealt


def _rows(dataset, split, columns, folder=None, most=None):
    found = sources.load(dataset, split=split, columns=columns, folder=folder)
    found = found.select_columns(list(COLUMNS))
    return list(found if most is None else found.select(range(min(most, len(found)))))


def _columns(words):
    """{needed: present} of words such as "question=prompt"."""
    found = {name: name for name in COLUMNS}
    for word in words:
        needed, equals, present = word.partition("=")
        if needed not in COLUMNS or not (equals and present):
            raise ValueError(
                f"--data.columns {word}: write needed=yours, of {', '.join(COLUMNS)}"
            )
        found[needed] = present
    return found


def _dealt(rows, shares):
    """Rows dealt out question by question, blindly and always the same."""
    asked = list(dict.fromkeys(row["question"] for row in rows))
    order = np.random.default_rng(0).permutation(len(asked))
    ends = np.round(np.cumsum(shares) / np.sum(shares) * len(asked)).astype(int)
    number = {asked[i]: place for place, i in enumerate(order)}
    places = np.searchsorted(ends, [number[row["question"]] for row in rows], "right")
    return [[r for r, p in zip(rows, places, strict=True) if p == k] for k in range(4)]


def _halves(rows):
    """Two halves that share no question."""
    place = {q: i % 2 for i, q in enumerate(dict.fromkeys(r["question"] for r in rows))}
    return [[row for row in rows if place[row["question"]] == k] for k in (0, 1)]


# What is written of a row


def _asked(row, config):
    return config.question.format(question=row["question"])


def _text(row, config):
    return _asked(row, config) + row["response_j"]


def _plain(rows):
    names = {"prompt": "asked", "chosen": "response_j", "rejected": "response_k"}
    return [{new: row[old] for new, old in names.items()} for row in rows]


def _short(tokenizer, rows, config, dataset):
    """Rows, with the prompt as `asked`, both of whose sides fit `config.length`."""
    rows = [{**row, "asked": _asked(row, config)} for row in rows]
    longest = np.max(
        [
            _lengths(tokenizer, [row["asked"] + row[side] for row in rows])
            for side in COLUMNS[1:]
        ],
        axis=0,
    )
    kept = list(itertools.compress(rows, longest <= config.length))
    if len(kept) < 4:
        raise ValueError(
            f"{dataset}: of {len(rows)} pairs {len(kept)} have at most {config.length} "
            "tokens a side; raise --data.length, or give shorter answers"
        )
    return kept


def _prompts(tokenizer, rows, config, where):
    """Prompts that fit, each question once."""
    asked = sources.drop_repeated([_asked(row, config) for row in rows])
    fits = _lengths(tokenizer, asked) <= config.prompt_length
    found = list(itertools.compress(asked, fits))
    if not found:
        raise ValueError(
            f"{where}: none of {len(asked)} questions has at most "
            f"{config.prompt_length} tokens; raise --data.prompt-length"
        )
    return found


def _lengths(tokenizer, texts):
    """How many tokens each text has, special ones included: [N]."""
    return np.array(
        [len(row) for row in tokenizer(list(texts), verbose=False)["input_ids"]]
    )
