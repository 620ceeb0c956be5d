"""Seeded iterated learning: agents play, and then a student learns what they say.

Lu, Singhal, Strub, Pietquin, Courville 2020, "Countering Language Drift with Seeded
Iterated Learning", arXiv:2003.12694. After every k₁ rounds of play a student imitates
the teacher: its sender the teacher's greedy messages, its receiver the reference German
from those messages. Then the teacher becomes the student, and plays on. The student is
the one of the generation before, not the initial agents.

    play k₁ rounds → imitate k₂ steps (sender) → tune k₂′ steps (receiver) → hand over
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import optim, sampling, training, trees
from rlhf_jax.algorithms.translation_game import messages
from rlhf_jax.types import Pairs


@dataclasses.dataclass(frozen=True)
class Config:
    """The statics of imitation."""

    sampling: sampling.Config  # of the teacher's messages: greedy
    optimizer: optim.Config = dataclasses.field(
        default_factory=lambda: optim.Config(
            beta1=0.9, beta2=0.98, eps=1e-9, max_grad_norm=None
        )
    )

    def __post_init__(self):
        if self.sampling.temperature != 0:
            raise ValueError(
                f"temperature={self.sampling.temperature}: a student imitates greedy "
                "messages; set it to 0"
            )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Steps of a generation; the defaults are those of the published configuration."""

    play: int = 4000  # k₁, rounds of the game
    imitate: int = 400  # k₂, updates of the student's sender
    tune: int = 400  # k₂′, updates of the student's receiver

    def __post_init__(self):
        for name in ("play", "imitate", "tune"):
            value, least = getattr(self, name), int(name == "play")
            if value < least:
                raise ValueError(f"{name}={value}: needs to be at least {least}")

    def due(self, iteration, total):
        """Does the game's step `iteration`, 0-based, end a generation? bool.

        Not the last of `total`: what nobody plays with is not learned.
        """
        done = iteration + 1
        return done % self.play == 0 and done < total

    def generations(self, total):
        """The steps done when each generation ends, of a game of `total`: a list."""
        return [i + 1 for i in range(total) if self.due(i, total)]


class Networks(NamedTuple):
    """The translators."""

    sender: Any
    receiver: Any


class Student(NamedTuple):
    """Both agents of a student in the making."""

    sender: training.State
    receiver: training.State


def init(agents, tx):
    """A student at the agents {"sender", "receiver"} of the generation before.

    Moments are new: each generation has an optimiser of its own.
    """
    agents = trees.copy(agents)
    return Student(*(training.init(agents[name], tx) for name in Student._fields))


def agents(student):
    """{"sender", "receiver"}: the weights of a student."""
    return {name: getattr(student, name).params for name in Student._fields}


def dictate(teacher, batch, *, networks, config):
    """The teacher's greedy messages to the sources of `Pairs`; `messages.Message`."""
    rows = jnp.arange(batch.source.shape[0])
    keys = sampling.row_keys(jax.random.key(0), rows)  # of which nothing is drawn
    return messages.speak(
        networks.sender,
        teacher["sender"],
        batch.source,
        batch.source_mask,
        keys,
        config=config.sampling,
    )


def imitate(student, teacher, batch, hyper, *, networks, tx, config, axis_name=None):
    """One update of the student's sender: L = −mean log π(the teacher's message).

    Args: student: `Student`; teacher: {"sender", "receiver"} weights; batch: Pairs of
    this device, of which the source is read; hyper: training.Hyper. Returns (student,
    metrics).
    """
    said = dictate(teacher, batch, networks=networks, config=config)
    pairs = Pairs(batch.source, batch.source_mask, said.heard, _of_rows(said, batch))
    step = _step(networks.sender, tx, config, axis_name)
    state, metrics = step(student.sender, pairs, hyper)
    return student._replace(sender=state), metrics


def tune(student, teacher, batch, hyper, *, networks, tx, config, axis_name=None):
    """One update of the student's receiver: L = −mean log π(German | the message).

    The message is the teacher's, the German the reference. Args as in `imitate`.
    """
    said = dictate(teacher, batch, networks=networks, config=config)
    pairs = Pairs(said.heard, said.mask, batch.target, batch.target_mask)
    step = _step(networks.receiver, tx, config, axis_name)
    state, metrics = step(student.receiver, pairs, hyper)
    return student._replace(receiver=state), metrics


def _of_rows(message, batch):
    """The message's mask, 0 in rows that are padding."""
    return message.mask * (batch.target_mask != 0).any(-1, keepdims=True)


def _step(model, tx, config, axis_name):
    return training.make_step(
        messages.make_loss(model),
        tx,
        config=config.optimizer,
        count=messages.count,
        axis_name=axis_name,
    )
