"""Model directories for tests: goldens unpacked, with a tokenizer of eleven words."""

import json

import safetensors.numpy
import tokenizers
import transformers
from golden import make


def word_tokenizer():
    words = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefg"]  # pads with `make.PAD`
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(model),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


TOKENIZER = word_tokenizer()


def unpack(case, folder):
    """A golden file as a directory with a tokenizer; returns torch's answers."""
    answers = make.unpack(case, folder)
    TOKENIZER.save_pretrained(folder)
    return answers


def read(folder):
    """(tensors, config.json) of a directory with one weight file."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    return tensors, json.loads((folder / "config.json").read_text())


def change(folder, **changes):
    """Write a config.json with some entries changed; None takes one out."""
    described = json.loads((folder / "config.json").read_text()) | changes
    described = {key: value for key, value in described.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(described))
