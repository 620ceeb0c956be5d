"""Rows of supervised fine-tuning that are read while they are trained on."""

import functools

from rlhf_jax.data import kinds, origins, spans, streams, tokenization
from rlhf_jax.tasks import rows, sft_rows

_CHUNK = 256  # rows that are tokenised together


def wanted(dataset, data):
    """Whether rows are to be streamed: by the flag, or as they were given."""
    return data.streaming or rows.is_stream(dataset)


def read(dataset, data, model, tokenizer, form):
    """(`streams.Stream` of training rows, held-out `Tokens`, lines about them).

    The first rows are held out, unless other ones are named. Args: as for
    `sft_rows.read`; form: `sft_rows.Form`. Raises ValueError for a stream without
    training rows, and later for the first row that cannot be read.
    """
    if form.pack:
        raise ValueError(
            "--pack: rows of a stream are not packed; leave one of them out"
        )
    held, skipped = _held(dataset, data)
    arrays, said = sft_rows.encoded(held, "held-out", model, tokenizer, form)
    train = functools.partial(_rows, dataset, data, model, tokenizer, form, skipped)
    if next(train(), None) is None:
        raise ValueError(
            f"{origins.words(held, len(held) - 1)}: no row after it has anything to "
            "learn; give more rows, or fewer --data.eval-rows"
        )
    about = [
        f"training rows are streamed, each cut or padded to {form.length} tokens; the "
        f"next one is drawn from {data.buffer}",
        said + " (the first rows)" * (skipped > 0),
        sft_rows.form_of(held, tokenizer, data.cue),
    ]
    return streams.Stream(train, data.buffer), arrays, about


def _held(dataset, data):
    """(held-out rows, how many rows of the stream they are)."""
    held = rows.separate(dataset, data, among=sft_rows.KINDS)
    if held is not None:
        return held, 0
    found = rows.chunks(dataset, data, size=data.eval_rows, among=sft_rows.KINDS)
    held = next(found, None)
    if held is None:
        raise ValueError(f"{dataset}: the stream has no rows")
    return held, len(held)


def _rows(dataset, data, model, tokenizer, form, skipped):
    """`Tokens` [L] of each training row that has something to learn, in order."""
    among = sft_rows.KINDS
    found = rows.chunks(dataset, data, size=_CHUNK, among=among, skipped=skipped)
    for part in found:
        kind = kinds.of(part, among=among)
        whole = sft_rows.ragged(part, kind, model, tokenizer, form)
        short, _ = spans.shorten(
            whole,
            form.length,
            truncate=form.truncate,
            words=functools.partial(origins.words, part),
        )
        kept = spans.useful(short)
        if kept.ids:
            tokens = spans.pad(kept, form.length, tokenization.pad_id(tokenizer))
            yield from (type(tokens)(*row) for row in zip(*tokens, strict=True))
