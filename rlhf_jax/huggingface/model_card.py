"""The model card of an exported model: README.md with the metadata that the hub reads.

`transformers` opens a directory with or without one.
"""

import pathlib
from typing import NamedTuple

from rlhf_jax.huggingface import weight_files
from rlhf_jax.runtime import files

FILE = "README.md"
_LIBRARY = "rlhf_jax"
_LANGUAGE_MODEL = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```"""
_REWARD_MODEL = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
score = model(**tokenizer(prompt + answer + {end!r}, return_tensors="pt")).logits[0, 0]
```"""


class Facts(NamedTuple):
    """What a card says of a model, in the order in which it says it."""

    name: str
    base: str | None  # a directory or hub name; None: given in memory
    data: str  # a directory, file, hub name, or what was given in memory
    reward: str | None  # what paid, of reinforcement learning
    method: str  # its honest name, with what it depends on most
    scores: bool  # a reward model, not a language model
    end: str | None  # the token that ends an answer
    settings: dict  # {flag: value}
    numbers: dict  # {measure: (before, after)} on held-out rows
    steps: int
    command: str
    versions: dict  # {package: version}
    tags: tuple[str, ...] = ()


def write(folder, facts):
    """Writes the card of a model directory. Returns its path."""
    return files.write(pathlib.Path(folder) / FILE, str(_card(facts)))


def _card(facts):
    import huggingface_hub

    origin, licence = _origin(facts.base)
    data = huggingface_hub.ModelCardData(
        library_name="transformers",
        base_model=origin,
        license=licence,
        datasets=[facts.data] if is_hub_name(facts.data) else None,
        pipeline_tag="text-classification" if facts.scores else "text-generation",
        tags=[_LIBRARY, *facts.tags],
    )
    parts = (f"---\n{data.to_yaml()}\n---", *_paragraphs(facts, licence))
    return huggingface_hub.ModelCard("\n\n".join(parts) + "\n")


def _paragraphs(facts, licence):
    made_of = f"`{_shown(facts.base)}`" if facts.base else "a model given in Python"
    example = _REWARD_MODEL if facts.scores else _LANGUAGE_MODEL
    lines = [
        f"- base model: {made_of}, licence {licence or 'not stated'}",
        f"- data: `{_shown(facts.data)}`",
        *[f"- reward: `{_shown(reward)}`" for reward in (facts.reward,) if reward],
        f"- method: {facts.method}; steps: {facts.steps}",
    ]
    header = "| measure | before | after |\n|---|---|---|"
    rows = [f"| {k} | {x:.5g} | {y:.5g} |" for k, (x, y) in facts.numbers.items()]
    flags = [f"| `--{name}` | `{value}` |" for name, value in facts.settings.items()]
    return (
        f"# {facts.name}",
        "\n".join(lines),
        example.format(name=facts.name, end=facts.end or ""),
        "## On held-out rows",
        "\n".join([header, *rows]),
        "One run of one seed: descriptive, no test.",
        "## How it was made",
        f"```\n{facts.command}\n```",
        "\n".join(["| flag | value |\n|---|---|", *flags]),
        ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    )


def _shown(name):
    """A hub name, or the last part of a path: folders of a machine are its own."""
    path = pathlib.Path(name).expanduser()
    return path.resolve().name if _exists(path) else name


def _exists(path):
    try:
        return pathlib.Path(path).exists()
    except (OSError, ValueError):  # no path at all: too long, or with a null byte
        return False


def is_hub_name(name):
    """Whether a name can be one on the hub, and is nothing on this disk."""
    return name_fault(name) is None and not _exists(name)


def name_fault(name):
    """Why the hub can have no such name, in one line; None where it can."""
    from huggingface_hub import errors, utils

    try:
        utils.validate_repo_id(name)
    except errors.HFValidationError as error:
        return " ".join(str(error).split())


def _origin(base):
    """(hub name or None, licence or None) of a base model, as its own card says."""
    import huggingface_hub

    if base is None:
        return None, None
    folder = pathlib.Path(base).expanduser()
    card = folder / FILE
    if is_hub_name(base):
        cached = huggingface_hub.try_to_load_from_cache(base, FILE)
        card = pathlib.Path(cached) if isinstance(cached, str) else card
    origin = base if is_hub_name(base) else None
    licence = None
    # Cards are written by people, and a broken one is no fault of this run.
    try:
        # `ModelCard.load` would warn of a card without metadata.
        stated = huggingface_hub.metadata_load(card) or {}
        theirs = huggingface_hub.ModelCardData(**stated)
        origin, licence = origin or theirs.base_model, theirs.license
    except Exception:
        pass
    if licence is None and (folder / "config.json").is_file():
        licence = weight_files.read_json(folder / "config.json").get("license")
    return origin, licence
