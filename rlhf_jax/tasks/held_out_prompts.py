"""Rows that supervised recipes learn from, as prompts for the policy to complete."""

from typing import NamedTuple

from rlhf_jax.data import conversations, preferences

_WORDS = 8  # of a text that are its prompt


class Asked(NamedTuple):
    """Rows with a column prompt, as `prompts.create` reads them."""

    rows: object  # a `datasets.Dataset`
    texts: list[str] | None = None  # human text, where it is not what `prompts` takes
    cue: str = ""


def of_examples(rows, tokenizer, *, cue=""):
    """`Asked` of rows that `examples.read` reads; None where they hold no text.

    The prompt of a text is its first words, that of a conversation everything before
    the assistant's last turn. Args: cue: for prompts that are texts.
    """
    del tokenizer
    names = rows.column_names
    if {"prompt", "completion"} <= set(names):
        return Asked(rows, cue=cue)
    if "messages" in names:
        return _of_messages(rows)
    if "text" not in names:
        return None
    texts = list(rows["text"])
    starts = [" ".join(text.split()[:_WORDS]) for text in texts]
    asked = [{**row, "prompt": x} for row, x in zip(rows, starts, strict=True) if x]
    return Asked(_rows(asked), texts) if asked else None


def of_pairs(rows, tokenizer, *, cue="", chat=False):
    """`Asked` of rows that `preferences.read` reads; the prompts of conversations are
    what chosen and rejected have in common. cue, chat: as there."""
    known = "prompt" in rows.column_names
    if known and not chat:
        return Asked(rows, cue=cue)
    if known:
        starts = map(conversations.turn, rows["prompt"])
    else:
        starts = preferences.read(rows, tokenizer).prompts
    asked = [{**row, "prompt": x} for row, x in zip(rows, starts, strict=True)]
    return Asked(_rows(asked))


def _of_messages(rows):
    kept = [row for row in rows if _answered(row["messages"])]
    if not kept:
        return None
    made = [
        {
            **{k: v for k, v in row.items() if k != "messages"},
            "prompt": row["messages"][:-1],
            "completion": row["messages"][-1:],
        }
        for row in kept
    ]
    return Asked(_rows(made))


def _rows(made):
    import datasets  # takes two seconds, and is there already where rows are

    return datasets.Dataset.from_list(made)


def _answered(messages):
    """Whether the assistant has the last word, and somebody had one before."""
    roles = [turn["role"] for turn in messages]
    return len(roles) > 1 and roles[-1] == "assistant" != roles[-2]
