"""The tokens and strings that end an answer, in training texts and in generation.

A chat template ends turns with a token such as <|im_end|> or <|eot_id|>, which need not
be the tokenizer's EOS. Training texts end with the template's; both stop generation.
"""

import json
import pathlib

from rlhf_jax import stopping
from rlhf_jax.data import token_bytes, tokenization

_PROBE = "answer"


def end_id(tokenizer):
    """The id that ends an answer: the template's end of turn, or else EOS."""
    turn = end_of_turn(tokenizer)
    return tokenization.eos_id(tokenizer) if turn is None else turn


def stop_ids(tokenizer):
    """Every id that ends a response: a sorted tuple, for `sampling.Config.eos_ids`.

    EOS, the template's end of turn, and the end tokens in the model's
    generation_config.json. Raises ValueError if there are none.
    """
    ids = {tokenizer.eos_token_id, end_of_turn(tokenizer), *_declared(tokenizer)}
    ids.discard(None)
    if not ids:
        tokenization.eos_id(tokenizer)  # raises
    return tuple(sorted(ids))


def matcher(tokenizer, strings):
    """Finds stop strings in what is generated: `sampling.Config.stops`, None for none.

    They are looked for in the response alone, special tokens included, by bytes.
    """
    if not strings:
        return None
    encoded = [string.encode() for string in strings]
    return stopping.matcher(encoded, token_bytes.of(tokenizer))


def end_of_turn(tokenizer):
    """The special token after an assistant's turn in the chat template, or None."""
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


def _declared(tokenizer):
    """The end tokens in the generation_config.json beside a tokenizer."""
    file = pathlib.Path(tokenizer.name_or_path or ".") / "generation_config.json"
    if not tokenizer.name_or_path or not file.is_file():
        return []
    ids = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    return [i for i in ids if i is not None]
