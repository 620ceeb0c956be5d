"""Rows of a data set as training texts, and as prompts.

The columns determine the kind: `text`; `prompt` and `completion`; `messages`. Prompts
and completions are texts or lists of messages.
"""

from rlhf_jax.data import conversations, sources

LEARNED = ("messages", "completion", "text")  # kinds that supervised learning reads


def read(rows, tokenizer, *, cue=""):
    """The training text of each row, in spans: [[(text, is it learned?), ...], ...].

    All of a `text` is learned; of `prompt` and `completion` the completion; of
    `messages` the assistant's turns. cue: appended to prompts that are texts.
    """
    columns = rows.column_names
    kind = next((k for k in LEARNED if set(sources.KINDS[k]) <= set(columns)), None)
    if kind is None:
        raise ValueError(
            f"columns {', '.join(columns)}: needed is text, or prompt and completion, "
            "or messages; name yours with --data.columns text=..."
        )
    if kind == "text":
        return [[(text, True)] for text in rows["text"]]
    if kind == "messages":
        return _each(rows["messages"], lambda m: conversations.parts(m, tokenizer))
    both = zip(rows["prompt"], rows["completion"], strict=True)
    return _each(both, lambda row: _completion(*row, tokenizer, cue))


def prompts(rows, tokenizer, *, cue=""):
    """The prompt of each row as text, from a column `prompt`; cue as in `read`."""

    def text(asked):
        prompt = conversations.prompt(asked, tokenizer)
        return prompt + cue if isinstance(asked, str) else prompt

    return _each(rows["prompt"], text)


def _completion(asked, completion, tokenizer, cue):
    if not isinstance(completion, str):
        *_, last = completion or [{}]
        if last.get("role") != "assistant":
            raise ValueError("a completion must end with the assistant's message")
        completion = last["content"]
    if not isinstance(asked, str):
        completion = conversations.reply(asked, completion, tokenizer)
    text = conversations.prompt(asked, tokenizer)
    text += cue if isinstance(asked, str) else ""
    return [(text, False), (completion, True)]


def _each(rows, read):
    results = []
    for i, row in enumerate(rows):
        try:
            results.append(read(row))
        except ValueError as error:
            raise ValueError(f"row {i} (counted from 0): {error}") from None
    return results
