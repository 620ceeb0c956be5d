"""A world's words as a word-level tokenizer directory."""

import json
import pathlib


def save(world, folder):
    """Writes `tokenizer.json` and `tokenizer_config.json`, which `transformers` opens.

    Words are separated by blanks; no special tokens are added.
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
    """The saved tokenizer, read by `transformers`."""
    import transformers  # slow to import

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
