"""Texts as conversations: a user asks for one by its first words, a model answers."""

from rlhf_jax.data import conversations, stop_tokens, tokenization

PLACE = "{text}"  # in an instruction: where the first words of a text stand


def check(instruction, tokenizer):
    """Raises ValueError unless the instruction and the tokenizer can make a turn."""
    if PLACE not in instruction:
        raise ValueError(
            f"--text.chat {instruction!r}: without {PLACE} all prompts would be one"
        )
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("--text.chat: the policy's tokenizer has no chat template")


def prompts(instruction, texts, tokenizer, *, words, length):
    """`Prompts` [N, length]: the instruction with the first words of each text, as a
    user's turn in the tokenizer's chat template, and the start of the answer's turn.

    A turn of more than `length` tokens gets fewer words. Raises ValueError where the
    template and the instruction alone have more.
    """

    def written(text, count):
        content = instruction.replace(PLACE, " ".join(text.split()[:count]))
        return conversations.prompt(conversations.turn(content), tokenizer)

    turns = []
    for text in texts:
        count = words
        while count and len(tokenizer(written(text, count))["input_ids"]) > length:
            count -= 1
        turns.append(written(text, count))
    return tokenization.prompts(tokenizer, turns, length=length, truncate="error")


def ends(tokenizer):
    """(ids that end an answer, another id to pad with)."""
    stops = stop_tokens.stop_ids(tokenizer)
    return stops, tokenization.pad_id(tokenizer, stops)
