"""The tokens that end an answer: what is learned to be written last, and stops writing.

A chat template ends a turn in a token of its own (<|im_end|>, <|eot_id|>), which need
not be the tokenizer's EOS. Both stop generation; the first ends what is learned.
"""

import json
import pathlib

from rlhf_jax.data import tokenization

_PROBE = "answer"


def end_id(tokenizer):
    """The id that ends an answer: the template's end of turn, else EOS."""
    turn = end_of_turn(tokenizer)
    return tokenization.eos_id(tokenizer) if turn is None else turn


def stop_ids(tokenizer):
    """Every id that ends a response: EOS, the end of a turn, and what the model's
    generation_config.json names. A sorted tuple, for `sampling.Config.eos_ids`."""
    found = {tokenizer.eos_token_id, end_of_turn(tokenizer), *_named(tokenizer)}
    found.discard(None)
    if not found:
        tokenization.eos_id(tokenizer)  # says what is missing
    return tuple(sorted(found))


def end_of_turn(tokenizer):
    """The special token after an assistant's words in the chat template, or None."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    turns = [
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": _PROBE},
    ]
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=False
    )
    after = text.rpartition(_PROBE)[2]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    return next((i for i in ids if i in special), None)


def _named(tokenizer):
    """The end tokens that the directory of a tokenizer declares for generation."""
    file = pathlib.Path(tokenizer.name_or_path or ".") / "generation_config.json"
    if not tokenizer.name_or_path or not file.is_file():
        return []
    named = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    named = named if isinstance(named, list) else [named]
    return [i for i in named if i is not None]
