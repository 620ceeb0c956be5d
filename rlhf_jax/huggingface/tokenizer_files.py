"""The tokenizer of a model directory, and whether it and its chat template are whole.

Each fault is one line that names the file, what is wrong with it, and what to do.
"""

import json

TEMPLATE = "chat_template.jinja"
_JSON = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_LISTED = 3  # tokens that a message names


def load(folder):
    """The tokenizer in a directory, as `transformers` reads it.

    Raises ValueError naming the file that is missing or broken.
    """
    import transformers

    for name in _JSON:
        _check_json(folder / name)
    try:
        return transformers.AutoTokenizer.from_pretrained(folder)
    # Of files that it does not understand, tokenizers raises a plain Exception.
    except Exception as error:
        known = [name for name in _VOCABULARIES if (folder / name).is_file()]
        if not known:
            raise ValueError(
                f"{folder} has no tokenizer that transformers can read: there is no "
                "tokenizer.json; copy there that of the model it was trained from"
            ) from None
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{folder} has no tokenizer that transformers can read: {known[0]} is "
            f"damaged or of another kind ({reason}); copy there that of the model it "
            "was trained from"
        ) from None


def _check_json(file):
    if not file.is_file():
        return
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file.parent} has no tokenizer that transformers can read: {file.name} "
            f"is no JSON ({error}); copy it again"
        ) from None


def check_ids(folder, tokenizer, vocab_size):
    """Raises ValueError if the tokenizer has ids that the embedding does not have.

    A padding token may be beyond it: masks hide it.
    """
    added = tokenizer.added_tokens_decoder
    if max([len(tokenizer) - 1, *added]) < vocab_size:
        return
    pad = tokenizer.pad_token_id
    ids = {i: token for token, i in tokenizer.get_vocab().items()}
    beyond = sorted(i for i in ids if i >= vocab_size and i != pad)
    if beyond:
        shown = ", ".join(f"{ids[i]!r} ({i})" for i in beyond[:_LISTED])
        more = f" and {len(beyond) - _LISTED} more" * (len(beyond) > _LISTED)
        raise ValueError(
            f"{folder}: the tokenizer has ids that the model's embedding of "
            f"{vocab_size} rows does not have: {shown}{more}; take the tokenizer that "
            "belongs to the model, or enlarge the embedding in transformers "
            "(resize_token_embeddings)"
        )


def check_template(where, tokenizer):
    """Raises ValueError for a chat template that fails, or drops what is said.

    where: the model, for the message. Two short conversations are rendered: they must
    differ, and hold the words of both sides.
    """
    if not getattr(tokenizer, "chat_template", None):
        return
    words = (("aquestion", "ananswer"), ("bquestion", "bnanswer"))
    fix = f"mend its {TEMPLATE} (or chat_template in tokenizer_config.json)"
    try:
        one, two = (_rendered(tokenizer, *said) for said in words)
    # A template may fail in any way that an expression in it can.
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(
            f"{where}: its chat template fails on a user's and an assistant's turn "
            f"({kind}: {' '.join(str(error).split())}); {fix}"
        ) from None
    if one == two:
        raise ValueError(
            f"{where}: its chat template renders {one[:40]!r} whatever is said; {fix}"
        )
    for side, word in zip(("user", "assistant"), words[0], strict=True):
        if word not in one:
            raise ValueError(
                f"{where}: its chat template leaves out what the {side} says; {fix}"
            )


def _rendered(tokenizer, question, answer):
    turns = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return tokenizer.apply_chat_template(turns, tokenize=False)
