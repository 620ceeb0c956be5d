"""Rows of a data set as training texts, and as prompts.

The columns determine the kind: `text`; `prompt` and `completion`; `messages`. Prompts
and completions are texts or lists of messages.
"""

from rlhf_jax.data import conversations, kinds, origins, stop_tokens

LEARNED = ("messages", "completion", "text")  # kinds that supervised learning reads


def read(rows, tokenizer, *, cue=""):
    """The training text of each row, in spans: [[(text, is it learned?), ...], ...].

    All of a `text` is learned; of `prompt` and `completion` the completion; of
    `messages` the assistant's turns. cue: appended to prompts that are texts.
    """
    kind = kinds.of(rows, "rows", among=LEARNED, flag="--data.columns")
    if kind == "text":
        return [[(text, True)] for text in rows["text"]]
    if kind == "messages":
        return _each(
            rows, rows["messages"], lambda m: conversations.parts(m, tokenizer)
        )
    both = zip(rows["prompt"], rows["completion"], strict=True)
    return _each(rows, both, lambda row: _completion(*row, tokenizer, cue))


def form(rows, tokenizer, *, cue=""):
    """A line about how rows become texts."""
    kind = kinds.of(rows, "rows", among=LEARNED, flag="--data.columns")
    if kind == "text":
        end = tokenizer.convert_ids_to_tokens(stop_tokens.end_id(tokenizer))
        return f"texts are learned as they are, each with {end} at its end"
    texts = kind == "completion" and isinstance(rows[0]["prompt"], str)
    return conversations.form(tokenizer, texts=texts, cue=cue)


def prompts(rows, tokenizer, *, cue=""):
    """The prompt of each row as text, from a column `prompt`; cue as in `read`."""

    def text(asked):
        prompt = conversations.prompt(asked, tokenizer)
        return prompt + cue if isinstance(asked, str) else prompt

    return _each(rows, rows["prompt"], text)


def _completion(asked, completion, tokenizer, cue):
    if not isinstance(completion, str):
        completion = conversations.last_answer(completion, "a completion")
    if not isinstance(asked, str):
        completion = conversations.reply(asked, completion, tokenizer)
    text = conversations.prompt(asked, tokenizer)
    text += cue if isinstance(asked, str) else ""
    return [(text, False), (completion, True)]


def _each(rows, values, read):
    """read(value) of each row; an error says where the row stands."""
    results = []
    for i, value in enumerate(values):
        try:
            results.append(read(value))
        except ValueError as error:
            raise ValueError(f"{origins.words(rows, i)}: {error}") from None
    return results
