"""Stages of a run, each a run of a plain recipe in a folder of its own, made once.

A stage that is done is not run again; one that was stopped goes on from its last
checkpoint; one of other flags is refused. Its result is a model directory.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp

from rlhf_jax import huggingface
from rlhf_jax.cli import command
from rlhf_jax.data import bpe
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.runtime import loop, processes

SCRATCH = "scratch:"


def run(recipe, config, place, console):
    """The model directory of a stage, as text; trained now where it is not there yet.

    Args: recipe: a module of `experiments` with `run(config)`; config: its Config
    without a place; place: the stage's folder.
    """
    place = pathlib.Path(place)
    begun = (place / command.CONFIG).exists()
    config = dataclasses.replace(config, output=str(place), resume=begun)
    if begun and done(place):
        command.folder(config, place.name)  # refuses a stage of other flags
        _say(console, f"{place.name}: done already, in {place}")
        return str(place / "model")
    _say(console, f"\n{place.name}")
    recipe.run(config)
    return str(place / "model")


def done(place):
    """Whether the recipe in a folder wrote its last file, the page about it."""
    return (place / "results.json").exists() and (place / "report.md").exists()


def within(place, run):
    """`run()`, whose stages, where they are stopped, name the whole run's folder."""
    try:
        return run()
    except loop.Interrupted as stop:
        stop.folder = place
        raise


def from_scratch(policy, texts, place, *, vocabulary, length, seed, console):
    """A model directory with fresh weights and a tokenizer of the texts, made once.

    policy: "scratch:<preset>" of `models.config`; what trains it is the next stage.
    """
    place = pathlib.Path(place)
    if (place / "config.json").exists():
        return str(place)
    name = policy.removeprefix(SCRATCH)
    words = bpe.train(texts, vocabulary, place.with_name("tokenizer"))
    shape = model_config.preset(name, vocab_size=len(words), max_length=length)
    model = decoder.Decoder(shape)
    start = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 4), jnp.int32))
    huggingface.save(place, model, start["params"], words)
    _say(console, f"{policy}: fresh weights in {place}")
    return str(place)


def _say(console, text):
    if processes.first():
        console.print(text, highlight=False, markup=False, soft_wrap=True)
