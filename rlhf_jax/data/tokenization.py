"""From texts to padded arrays and back, with any fast `transformers` tokenizer.

Texts are encoded without special tokens, truncated, and then framed by the tokenizer's
special tokens, so truncation never loses a BOS. EOS is appended at the end of answers
and documents. Messages count rows from 0. All arrays are numpy int32.

Legend: N rows, L `length`.
"""

import numpy as np

from rlhf_jax.types import Labelled, Preferences, Prompts, Tokens

_CHUNK = 1000  # texts per call of the tokenizer
_BLANKS = ("▁", "Ġ")  # how tokenizers write a blank


def pad_id(tokenizer, stops=()):
    """The id for padding: the pad token, or else an id that ends no response.

    If there is no pad token, or it is EOS or among `stops`, this is the id of an
    ordinary token, hidden by masks; the vocabulary does not grow.
    """
    stop_ids = {tokenizer.eos_token_id, *stops}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in stop_ids:
        return tokenizer.pad_token_id
    return next(i for i in range(len(tokenizer)) if i not in stop_ids)


def eos_id(tokenizer):
    """The id of EOS. Raises ValueError if there is none: answers could not end."""
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end token; set "
            "tokenizer.eos_token to one of its tokens"
        )
    return tokenizer.eos_token_id


def prompts(tokenizer, texts, *, length, side="left", truncate="left"):
    """`Prompts` [N, L], padded on `side`.

    truncate: "left" cuts the beginning of a prompt that is too long, "right" its end,
    "error" raises.
    """
    before, _ = frame(tokenizer)
    rows = encode(tokenizer, texts)
    if not len(before) and not min(map(len, rows)):
        row = [len(row) for row in rows].index(0)
        raise ValueError(f"row {row}: the prompt has no tokens; give it some text")
    rows = _fit(rows, before, before[:0], length, truncate, "prompt")
    return Prompts(*pad_rows(rows, length, pad_id(tokenizer), side))


def sft(tokenizer, completions, *, length, prompts=None, truncate="right"):
    """`Tokens` [N, L] for supervised learning, right-padded: texts with EOS.

    With `prompts`, each completion follows its prompt, is encoded separately as in
    generation, and only it is learned. truncate: "right" cuts the end and with it EOS,
    "left" the beginning (of the prompt, if any), "error" raises.
    """
    before, _ = frame(tokenizer)
    if prompts is not None:
        _same_length(prompts=prompts, completions=completions)
    answers = _with_end(tokenizer, completions, prompts)
    if prompts is None:
        rows = _fit(answers, before, before[:0], length, truncate, "text")
        starts = [0] * len(rows)
    else:
        questions = encode(tokenizer, prompts)
        rows, starts = [], []
        for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            (row,), start = _join(before, question, [answer], length, truncate, i)
            rows.append(row)
            starts.append(start)
    tokens, mask = pad_rows(rows, length, pad_id(tokenizer), "right")
    learned = np.arange(length) >= np.array(starts)[:, None]
    return Tokens(tokens, mask, mask * learned.astype(np.int32))


def continuations(tokenizer, prompts, texts, *, length):
    """`Tokens` [N, L], right-padded: prompts with the texts that may follow them, L
    tokens in the longest row, at most `length`.

    Both are encoded as one text, as EleutherAI's harness does when it scores options,
    and white space at the end of a prompt belongs to what follows: the targets are what
    that has more than the prompt alone, without EOS. A long prompt loses its beginning.
    An empty one is the tokenizer's BOS, or else EOS.

    Raises ValueError for a text that adds no token or does not fit.
    """
    _same_length(prompts=prompts, texts=texts)
    before, _ = frame(tokenizer)
    stripped = encode(tokenizer, [prompt.rstrip() for prompt in prompts])
    joined = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    rows, counts = [], []
    for i, row in enumerate(encode(tokenizer, joined)):
        start, count = before, len(row) - len(stripped[i])
        if not len(start) and not len(stripped[i]):
            start = np.array([prefix_id(tokenizer)], np.int32)
        if not 0 < count <= length - max(len(start), 1):
            raise ValueError(
                f"row {i}: {texts[i][:40]!r} adds {count} tokens to its prompt, and "
                f"length={length} has room for {length - max(len(start), 1)}"
            )
        rows.append(np.concatenate([start, row[-(length - len(start)) :]]))
        counts.append(count)
    lengths = np.array([len(row) for row in rows])
    tokens, mask = pad_rows(rows, lengths.max(), pad_id(tokenizer), "right")
    learned = np.arange(lengths.max()) >= (lengths - counts)[:, None]
    return Tokens(tokens, mask, mask * learned.astype(np.int32))


def prefix_id(tokenizer):
    """The id before a text that nothing precedes: BOS, or EOS without one."""
    first = tokenizer.bos_token_id
    return eos_id(tokenizer) if first is None else first


def classification(tokenizer, texts, labels, *, length, truncate="right"):
    """`Labelled` [N, L], right-padded, with the tokenizer's special tokens."""
    labels = np.asarray(labels)
    _same_length(texts=texts, labels=labels)
    if labels.dtype.kind not in "iub":
        raise ValueError(f"labels are {labels.dtype}; classes are counted from 0")
    if labels.min() < 0:
        row = int(labels.argmin())
        raise ValueError(f"row {row}: label {labels[row]}; classes are counted from 0")
    before, after = frame(tokenizer)
    rows = encode(tokenizer, texts)
    rows = _fit(rows, before, after, length, truncate, "text")
    tokens, mask = pad_rows(rows, length, pad_id(tokenizer), "right")
    return Labelled(tokens, mask, labels.astype(np.int32))


def pairs(
    tokenizer, prompts, chosen, rejected, *,
    length, preference=None, truncate="left", end=None,
):  # fmt: skip
    """(`Preferences` [N, L], starts [N] int32 of the answers): prompt, answer, EOS.

    Rows are right-padded. preference: [N], the probability that `chosen` is better, by
    default 1. truncate: "left" cuts the beginning of the prompt, equally in both rows,
    and then the ends of answers that are still too long; "right" cuts the ends; "error"
    raises. end: ids that end an answer, by default EOS; () for none.
    """
    _same_length(prompts=prompts, chosen=chosen, rejected=rejected)
    before, _ = frame(tokenizer)
    questions = encode(tokenizer, prompts)
    sides = chosen, rejected
    answers = [_with_end(tokenizer, texts, prompts, end) for texts in sides]
    joined = [
        _join(before, question, both, length, truncate, i)
        for i, (question, *both) in enumerate(zip(questions, *answers, strict=True))
    ]
    pad = pad_id(tokenizer)
    sides = [
        pad_rows([row[k] for row, _ in joined], length, pad, "right") for k in (0, 1)
    ]
    labels = _probabilities(preference, len(joined))
    starts = np.array([start for _, start in joined], np.int32)
    return Preferences(*sides[0], *sides[1], labels), starts


def texts(tokenizer, tokens, mask):
    """The text of each row's valid tokens, without special tokens: a list of str."""
    rows = [
        np.asarray(row)[np.asarray(valid) != 0].tolist()
        for row, valid in zip(np.asarray(tokens), np.asarray(mask), strict=True)
    ]
    return tokenizer.batch_decode(
        rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def chunks(texts):
    """Yields the texts in lists of at most 1,000."""
    for start in range(0, len(texts), _CHUNK):
        yield list(texts[start : start + _CHUNK])


def ids(tokenizer, texts):
    """Token ids of a few texts, without special tokens: a list of int32 arrays."""
    encoded = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, verbose=False
    )
    return [np.array(row, np.int32) for row in encoded["input_ids"]]


def encode(tokenizer, texts):
    """Token ids of all texts, without special tokens: a list of int32 arrays."""
    if isinstance(texts, str):
        raise ValueError(f"a list of texts is needed, not one: {texts[:40]!r}")
    if not len(texts):
        raise ValueError("no texts were given; at least one row is needed")
    return [row for chunk in chunks(texts) for row in ids(tokenizer, chunk)]


def frame(tokenizer):
    """(before, after): the special tokens that the tokenizer puts around a text."""
    whole = tokenizer("a")["input_ids"]
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    starts = range(len(whole) - len(text) + 1)
    start = next((i for i in starts if whole[i : i + len(text)] == text), None)
    if start is None:  # the text is encoded differently beside special tokens
        start, text = len(whole), []
    parts = whole[:start], whole[start + len(text) :]
    return tuple(np.array(part, np.int32) for part in parts)


def encode_after(tokenizer, befores, texts):
    """Token ids of texts that continue others, as a model writes them: int32 arrays.

    SentencePiece marks the start of a text as if a blank were before it. What continues
    a text is marked only if a blank is there: it is what the joined text has more than
    the one before, or if their tokens merge, the text's own tokens without the mark.
    """
    alone = encode(tokenizer, texts)
    if not _marks_start(tokenizer):
        return alone
    starts = encode(tokenizer, befores)
    joined = [before + text for before, text in zip(befores, texts, strict=True)]
    found = []
    for i, whole in enumerate(encode(tokenizer, joined)):
        count = len(starts[i])
        if np.array_equal(whole[:count], starts[i]):
            found.append(whole[count:])
        else:
            found.append(_unmarked(tokenizer, texts[i], alone[i]))
    return found


def _marks_start(tokenizer):
    first = tokenizer("a", add_special_tokens=False)["input_ids"][:1]
    return any(x.startswith(_BLANKS) for x in tokenizer.convert_ids_to_tokens(first))


def _unmarked(tokenizer, text, alone):
    """A text's tokens as they follow a character that does not merge with it."""
    for before in ("\n", ".", "0"):
        start, whole = ids(tokenizer, [before, before + text])
        if len(start) and np.array_equal(whole[: len(start)], start):
            return whole[len(start) :]
    return alone


def _with_end(tokenizer, texts, befores=None, end=None):
    """Token ids of texts, with the ids that end them, by default EOS."""
    end = np.array(eos_id(tokenizer) if end is None else end, np.int32).reshape(-1)
    if befores is None:
        rows = encode(tokenizer, texts)
    else:
        rows = encode_after(tokenizer, befores, texts)
    return [np.concatenate([row, end]) for row in rows]


def _same_length(**columns):
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"the columns differ in length: {listed}; give equally many")


def cut(row, room, truncate, what, length):
    """`row` truncated to `room` tokens, or a ValueError that begins with `what`."""
    if truncate not in ("left", "right", "error"):
        raise ValueError(
            f"truncate={truncate!r}: choose 'left' (keep the end), 'right' (keep the "
            "beginning) or 'error'"
        )
    if truncate == "error" or room < 1:
        raise ValueError(
            f"{what}, length={length} is too short for it; raise length, shorten the "
            "text, or choose truncate='left' or 'right'"
        )
    return row[-room:] if truncate == "left" else row[:room]


def _fit(rows, before, after, length, truncate, noun):
    """Rows framed by special tokens, truncated to fit into `length`."""
    room = length - len(before) - len(after)
    fitted = []
    for i, row in enumerate(rows):
        if len(row) > room:
            what = f"row {i}: the {noun} has {len(row) + length - room} tokens"
            row = cut(row, room, truncate, what, length)
        fitted.append(np.concatenate([before, row, after]))
    return fitted


def _join(before, question, answers, length, truncate, i):
    """(rows of special tokens, question and answer, one per answer; their start)."""
    longest = len(before) + len(question) + max(map(len, answers))
    if longest > length:
        what = f"row {i}: prompt and answer have {longest} tokens"
        room = length - (longest - len(question))  # what the answers leave
        if truncate == "left" and len(question):
            question = question[-max(room, 1) :]
        start = len(before) + len(question)
        if truncate == "error" or start >= length:
            cut(question, 0, truncate, what, length)
        answers = [
            answer
            if start + len(answer) <= length
            else cut(answer, length - start, "right", what, length)
            for answer in answers
        ]
    rows = [np.concatenate([before, question, answer]) for answer in answers]
    return rows, len(before) + len(question)


def _probabilities(preference, count):
    if preference is None:
        return np.ones(count, np.float32)
    preference = np.asarray(preference, np.float32)
    if preference.shape != (count,):
        raise ValueError(
            f"preference has shape {preference.shape} for {count} pairs; need one each"
        )
    wrong = ~((preference >= 0) & (preference <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"row {row}: preference {preference[row]} is not a probability; scale "
            "labels to [0, 1]"
        )
    return preference


def pad_rows(rows, length, pad, side):
    """Rows as (tokens [N, L], mask [N, L]), padded on `side`."""
    if side not in ("left", "right"):
        raise ValueError(f"side={side!r}: choose 'left' or 'right'")
    lengths = np.array([len(row) for row in rows])[:, None]
    position = np.arange(length)
    mask = position < lengths if side == "right" else position >= length - lengths
    tokens = np.full(mask.shape, pad, np.int32)
    tokens[mask] = np.concatenate(rows)
    return tokens, mask.astype(np.int32)
