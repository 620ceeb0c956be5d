"""A world's words as an ordinary word-level tokenizer directory."""

import json
import pathlib


def save(world, folder):
    """Write `tokenizer.json` and `tokenizer_config.json`; `transformers` opens them.

    Words are separated by blanks; nothing is added around a text.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(_model(world), indent=1))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        **{f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


def load(folder):
    """The saved tokenizer, as `transformers` reads it."""
    import transformers  # heavy, and needed here alone

    return transformers.AutoTokenizer.from_pretrained(str(folder))


def _model(world):
    special = [
        {
            **{"id": position, "content": world.vocabulary[position]},
            **{"single_word": False, "lstrip": False, "rstrip": False},
            **{"normalized": False, "special": True},
        }
        for position in range(4)
    ]
    return {
        **{"version": "1.0", "truncation": None, "padding": None},
        **{"added_tokens": special, "normalizer": None},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        **{"post_processor": None, "decoder": None},
        "model": {
            "type": "WordLevel",
            "vocab": {word: i for i, word in enumerate(world.vocabulary)},
            "unk_token": "<unk>",
        },
    }
