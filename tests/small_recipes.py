"""A tiny chat model on disk, and data files as a TRL user has them."""

import contextlib
import dataclasses
import json

import jax
import pytest
import tiny_models
import tyro

from rlhf_jax import huggingface
from rlhf_jax.cli import command
from rlhf_jax.data import bpe
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder

LENGTH = 64
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ("red", "blue", "green", "warm", "cold", "old", "new", "small", "tall", "odd")
PAIRS = [
    {"prompt": f"Say {w} {v}:", "chosen": f" {w} {v} yes", "rejected": f" no {v}"}
    for w in WORDS
    for v in WORDS[:4]
]
REWARDS = """
def short(completions, **kwargs):
    return [-float(len(text)) for text in completions]

def polite(prompts, completions, word, **kwargs):
    for prompt, completion in zip(prompts, completions):
        assert prompt[-1]["role"] == "user" and prompt[-1]["content"].startswith("Say")
        assert completion[0]["role"] == "assistant" and len(completion) == 1
    assert len(word) == len(prompts)
    texts = [completion[0]["content"] for completion in completions]
    return [float(text.count(w)) - len(text) for w, text in zip(word, texts)]
"""


def tokenizer(folder, *, template=True):
    """A byte-level tokenizer; with a template it has turns, and pads with its EOS."""
    made = bpe.train(["say yes or no"] * 4, 262, folder)
    if template:
        special = ["<|im_start|>", "<|im_end|>"]
        made.add_special_tokens({"additional_special_tokens": special})
        made.chat_template = TEMPLATE
        made.pad_token = made.eos_token
    return made


def model(folder, *, template=True, seed=0):
    """A directory of a tiny Llama; returns its path as text."""
    words = tokenizer(folder / "words", template=template)
    shape = model_config.llama(
        vocab_size=len(words), width=16, layers=1, heads=2, max_length=LENGTH
    )
    network = decoder.Decoder(shape)
    huggingface.save(
        folder / "model", network, tiny_models.draw(network, seed=seed), words
    )
    return str(folder / "model")


def lines(path, rows):
    """Rows as a JSONL file; returns its path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def chats(pairs=PAIRS):
    """The pairs as conversations whose last answer is the chosen one."""
    return [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["chosen"].strip()},
            ]
        }
        for row in pairs
    ]


def config(recipe, **changes):
    """The Config that flags make; "__" in a name is a dot, "_" a dash."""
    words, usual = [], {"devices": 1, "eval_every": 0}
    if hasattr(recipe.CONFIG, "eval_samples") and "reward" not in changes:
        usual["eval_samples"] = 0  # what draws them takes seconds to compile
    for name, value in {**usual, **changes}.items():
        flag = f"--{name.replace('__', '.').replace('_', '-')}"
        if value is True:
            words.append(flag)
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [flag, *map(str, values)]
    return tyro.cli(type(recipe.CONFIG), default=recipe.CONFIG, args=words)


def run(recipe, **changes):
    """What the run that those flags ask for returns."""
    return recipe.run(config(recipe, **changes))


def folder(recipe, **changes):
    """The folder of a recipe's run."""
    return run(recipe, **changes).folder


def again(recipe, **changes):
    """The same as `run`, going on in its folder."""
    return recipe.run(dataclasses.replace(config(recipe, **changes), resume=True))


def share(monkeypatch):
    """The process keeps the devices that tests have."""
    monkeypatch.setattr(command, "prepare_devices", lambda *_: None)


@contextlib.contextmanager
def programs(folder):
    """Programs are kept in a folder, so that each is compiled once."""
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = [getattr(jax.config, name) for name in names]
    with pytest.MonkeyPatch.context() as monkeypatch:
        share(monkeypatch)
        for name, value in zip(names, (str(folder), 0.0), strict=True):
            jax.config.update(name, value)
        yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


def home(folder):
    """The folder, with a chat model, files as TRL reads them, a module of rewards."""
    model(folder)
    lines(folder / "pairs.jsonl", PAIRS)
    lines(folder / "chats.jsonl", chats())
    asked = [
        {"prompt": chat["messages"][:1], "word": row["prompt"].split()[1]}
        for chat, row in zip(chats(), PAIRS, strict=True)
    ]
    lines(folder / "prompts.jsonl", asked)
    (folder / "trl_style_rewards.py").write_text(REWARDS)
    return folder
