"""A labeler that is a model in this process: exact log-probs of whole labels.

What all prompts begin with, such as instructions and exemplars, is read once, and each
prompt once for all of its labels.
"""

import dataclasses
import functools
import hashlib
import json
import zlib
from typing import NamedTuple

import numpy as np

from rlhf_jax.benchmarks import generations, programs
from rlhf_jax.data import conversations, tokenization
from rlhf_jax.feedback import label_tokens, labelers, scores
from rlhf_jax.runtime import checkpoint, parallel
from rlhf_jax.types import Prompts

_BATCH = {"cpu": 1024}  # tokens read at a time; a common beginning counts in each row
_LEAST = 32  # tokens worth reading once
_STEP = 64  # what a common beginning is padded to
_ROWS = 32  # texts written at a time


def labeler(
    model, params, tokenizer, *, name="in-process", layout=None, chat=False,
    batch=None,
):  # fmt: skip
    """A `Labeler` by a decoder's own log-probs.

    `read`: log p(label | prompt) is the sum over the label's tokens, encoded together
    with the prompt (`label_tokens.encode`). Labels exclude each other: where "10" is
    "1" and "0", p("1") is the probability of a 1 without a 0 after it, whatever else
    follows. `outside` is 1 − Σ p(label), the probability that the text goes on with the
    tokens of none; a label's own string in other tokens counts as outside. `write`
    samples by a key of the seed and the prompt, so that no other prompt changes a text.

    A prompt that leaves no room in the context, or whose end merges with a label, is a
    `Failure`; the others are read.

    Args:
      layout: the devices, by default all of this host; rows are divided among them.
      chat: a prompt is a user's turn, and labels begin the assistant's.
      batch: how many tokens are read at a time, by default 1024 on a CPU, where more
        are no faster, else 16384.
    Raises ValueError for a chat without a template.
    """
    if chat and not getattr(tokenizer, "chat_template", None):
        raise ValueError("chat=True: the tokenizer has no chat template")
    identity = _identity(model, params, tokenizer, chat)
    layout = parallel.layout() if layout is None else layout
    if batch is None:
        batch = _BATCH.get(layout.devices[0].platform, 16384)
    reader = _Reader(model, layout.put(params), tokenizer, layout, batch)

    def texts(prompts):
        if not chat:
            return list(prompts)
        turns = map(conversations.turn, prompts)
        return [conversations.prompt(turn, tokenizer) for turn in turns]

    return labelers.Labeler(
        name,
        identity,
        lambda prompts, labels: _read(reader, texts(prompts), tuple(labels)),
        lambda prompts, decoding: _write(reader, texts(prompts), decoding),
    )


class _Reader(NamedTuple):
    model: object
    params: object
    tokenizer: object
    layout: object
    batch: int


def _read(reader, prompts, labels):
    """Yields (index, `Reading` or `Failure`), failures first, then the longest."""
    label_tokens.check(labels)
    encoded = label_tokens.encode(reader.tokenizer, prompts, labels) if prompts else []
    groups = {}
    for i, one in enumerate(encoded):
        if isinstance(one, label_tokens.Encoded):
            one = _fitting(one, reader.model.config.max_length)
        if isinstance(one, labelers.Failure):
            yield i, one
        else:
            groups.setdefault(one.labels, []).append(i)
    for tokens, indices in groups.items():
        program = _scores(reader.model, reader.layout, tokens)
        contexts = [encoded[i].context for i in indices]
        for picked, prefix, rows in _batches(reader, contexts, tokens):
            logps, outside = program(reader.params, prefix, rows)
            for k, row in enumerate(picked):
                one = encoded[indices[row]]
                yield indices[row], _reading(logps[k], outside[k], one.prompt_tokens)


def _fitting(one, room):
    read = len(one.context) + max(map(len, one.labels)) - 1
    if read <= room:
        return one
    return labelers.Failure(
        f"{read} tokens of prompt and label exceed the context of {room}: shorten it"
    )


def _reading(logps, outside, prompt_tokens):
    if np.isnan(logps).any():
        return labelers.Failure("the model's log-probs are not numbers (NaN)")
    logps = np.asarray(logps, np.float64)
    told = np.ones(len(logps), bool)
    return labelers.Reading(logps, told, float(outside), prompt_tokens)


def _batches(reader, contexts, labels):
    """Yields (indices, `cache.Prefix` or None, (tokens, mask) of the rest of rows).

    Rows of similar length, the longest first, left-padded. Widths and numbers of rows
    are rounded up, so that few shapes occur.
    """
    lengths = np.array([len(context) for context in contexts])
    # At least the last token of a prompt is its own: its state is asked for.
    common = min(label_tokens.shared(contexts), lengths.min() - 1)
    common = int(common) if common >= _LEAST and len(contexts) > 1 else 0
    rests = lengths - common
    room = reader.model.config.max_length - max(map(len, labels)) + 1 - common
    prefix, longest = None, min(_width(rests.max()), room)
    if common:
        free = room + common - longest
        prefix = _prefix(reader, contexts[0][:common], free)
    order, start = np.argsort(-rests, kind="stable"), 0
    while start < len(order):
        width = min(_width(rests[order[start]]), room)
        most = max(reader.batch // (common + width), 1)
        picked = order[start : start + most]
        # Few rows may differ much in length: the rest of these get another batch.
        picked = picked[rests[picked] > min(0.75 * width, rests[picked[0]] - 1)]
        start += len(picked)
        filled = np.resize(picked, min(_rounded(len(picked)), most))
        rows = [contexts[i][common:] for i in filled]
        yield picked, prefix, tokenization.pad_rows(rows, width, 0, "left")


def _width(length):
    return _rounded(int(length), least=8)


def _rounded(number, least=1):
    """A number rounded up by less than a quarter: four steps from n to 2 n."""
    power = 1 << max(number - 1, 1).bit_length() - 1
    step = max(power // 4, least)
    return -(-number // step) * step


def _prefix(reader, tokens, room):
    """The `cache.Prefix` of a text on the devices, padded on the right."""
    size = min(-(-len(tokens) // _STEP) * _STEP, room)
    row = np.zeros((2, 1, size), np.int32)
    row[0, 0, : len(tokens)], row[1, 0, : len(tokens)] = tokens, 1
    program = _prefixes(reader.model, reader.layout)
    return reader.layout.put(program(reader.params, tuple(row)))


@functools.lru_cache(maxsize=8)
def _prefixes(model, layout):
    def program(params, rows):
        return model.apply({"params": params}, *rows, method="prefix")

    return layout.over_rows(program, replicated=1)


@functools.lru_cache(maxsize=32)
def _scores(model, layout, labels):
    """Compiled once for all prompts on which the labels are the same tokens."""
    program = scores.make_scores(model, labels)
    return layout.over_rows(program, replicated=2, chunk=2**20)


def _write(reader, prompts, decoding):
    """Yields (index, `Written` or `Failure`), failures first, then the longest."""
    tokenizer, new = reader.tokenizer, decoding.max_tokens
    config = generations.greedy(
        tokenizer, new, decoding.stop,
        temperature=decoding.temperature, top_k=decoding.top_k,
    )  # fmt: skip
    before, _ = tokenization.frame(tokenizer)
    rows = tokenization.encode(tokenizer, prompts) if prompts else []
    rows = [np.concatenate([before, row]) for row in rows]
    room, fitting = reader.model.config.max_length, []
    for i, row in enumerate(rows):
        if 0 < len(row) <= room - new:
            fitting.append(i)
            continue
        count = f"{len(row)} tokens of the prompt"
        yield i, labelers.Failure(
            f"{count} and {new} new ones exceed the context of {room}" if row.size
            else f"{count}: there is nothing to continue"
        )  # fmt: skip
    fitting.sort(key=lambda i: -len(rows[i]))
    for start in range(0, len(fitting), _ROWS):
        picked = fitting[start : start + _ROWS]
        asked = [rows[i] for i in picked]
        padded = tokenization.pad_rows(asked, max(map(len, asked)), 0, "right")
        tokens, mask = programs.complete(
            reader.model, reader.params, Prompts(*padded),
            config=config, layout=reader.layout, seed=decoding.seed,
            ids=np.array([zlib.crc32(prompts[i].encode()) for i in picked], np.uint32),
        )  # fmt: skip
        texts = tokenization.texts(tokenizer, tokens, mask)
        for i, text, count in zip(picked, texts, mask.sum(-1).tolist(), strict=True):
            text = generations.cut(text, decoding.stop)
            yield i, labelers.Written(text, len(rows[i]), count)


def _identity(model, params, tokenizer, chat):
    """Digests of weights and tokenizer, and the configuration with its precision."""
    words = json.loads(tokenizer.backend_tokenizer.to_str())
    words = {k: v for k, v in words.items() if k not in ("padding", "truncation")}
    words["template"] = tokenizer.chat_template if chat else None
    return {
        "kind": "in-process",
        "weights": checkpoint.digest(params),
        "architecture": dataclasses.asdict(model.config),
        "tokenizer": hashlib.sha256(
            json.dumps(words, sort_keys=True).encode()
        ).hexdigest(),
        "chat": chat,
    }
