"""The bytes that every token adds to a text, for any fast `transformers` tokenizer."""

import functools
import json
import re

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a byte token of SentencePiece
_VISIBLE = (*range(33, 127), *range(161, 173), *range(174, 256))  # kept by byte-level


@functools.lru_cache(maxsize=8)
def of(tokenizer):
    """The bytes of each id where other text precedes it: a tuple of byte strings.

    A token may be a part of a character. Special tokens have their own text, ids
    without a token none.
    """
    kinds, letters = _decoders(tokenizer), _byte_letters()
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}

    def spell(i, token):
        if i in added or token is None:
            return added.get(i, "").encode()
        if "ByteLevel" in kinds and letters.keys() >= set(token):
            return bytes(letters[letter] for letter in token)
        if "ByteFallback" in kinds and (byte := _BYTE.fullmatch(token)):
            return bytes.fromhex(byte[1])
        return _after_text(tokenizer, token).encode()

    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return tuple(spell(i, token) for i, token in enumerate(tokens))


def _decoders(tokenizer):
    """The names of the decoders that turn tokens into text."""
    decoder = tokenizer.backend_tokenizer.decoder
    if decoder is None:
        return set()
    described = json.loads(decoder.__getstate__())
    return {part["type"] for part in [described, *described.get("decoders", ())]}


def _after_text(tokenizer, token):
    """What a token adds to a text; at the start of one its space could be lost."""
    joined = tokenizer.convert_tokens_to_string(["a", token])
    return joined.removeprefix(tokenizer.convert_tokens_to_string(["a"]))


def _byte_letters():
    """{letter: byte} of byte-level BPE: bytes that cannot be seen are letters from
    U+0100 on (Radford et al. 2019, GPT-2)."""
    hidden = [byte for byte in range(256) if byte not in _VISIBLE]
    letters = {chr(byte): byte for byte in _VISIBLE}
    return letters | {chr(256 + i): byte for i, byte in enumerate(hidden)}
