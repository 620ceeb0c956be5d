"""Seeded iterated learning: agents play, then a student imitates them and takes over.

Lu, Singhal, Strub, Pietquin, Courville 2020, "Countering Language Drift with Seeded
Iterated Learning", arXiv:2003.12694. After every k₁ rounds of play a student learns
from the teacher: its sender imitates the teacher's greedy messages, its receiver learns
the reference German from those messages. The student then plays the next generation. It
starts from the previous generation's student, not from the initial agents.

    play k₁ rounds → imitate k₂ steps (sender) → tune k₂′ steps (receiver) → take over
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import optim, ranges, sampling, training, trees
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
    """The steps of a generation; the defaults are the published ones."""

    play: ranges.Count = 4000  # k₁, rounds of the game
    imitate: ranges.Natural = 400  # k₂, updates of the student's sender
    tune: ranges.Natural = 400  # k₂′, updates of the student's receiver

    def __post_init__(self):
        ranges.check(self)

    def generations(self, total):
        """The number of steps done at the end of each generation, as a list.

        None ends with the last of `total` steps: nobody would play with that student.
        """
        return list(range(self.play, total, self.play))


class Student(NamedTuple):
    """The learner states of a student's two agents."""

    sender: training.State
    receiver: training.State


def init(agents, tx):
    """A student that starts from {"sender", "receiver"} of the previous generation.

    Each generation starts with new optimiser moments.
    """
    agents = trees.copy(agents)
    return Student(*(training.init(agents[name], tx) for name in Student._fields))


def agents(student):
    """{"sender", "receiver"}: the weights of a student."""
    return {name: getattr(student, name).params for name in Student._fields}


def dictate(teacher, batch, *, networks, config):
    """The teacher's greedy messages to the sources of `Pairs`; `messages.Message`."""
    rows = jnp.arange(batch.source.shape[0])
    keys = sampling.row_keys(jax.random.key(0), rows)  # unused: decoding is greedy
    source, how = (batch.source, batch.source_mask), config.sampling
    return messages.speak(networks.sender, teacher["sender"], *source, keys, config=how)


def imitate(student, teacher, batch, hyper, *, networks, tx, config, axis_name=None):
    """One update of the student's sender: L = −mean log π(the teacher's message).

    Args: student: `Student`; teacher: {"sender", "receiver"} weights; batch: Pairs of
    this device, whose sources are used; hyper: training.Hyper. Returns (student,
    metrics).
    """
    message = dictate(teacher, batch, networks=networks, config=config)
    mask = message.mask * (batch.target_mask != 0).any(-1, keepdims=True)  # no padding
    pairs = Pairs(batch.source, batch.source_mask, message.heard, mask)
    step = _step(networks.sender, tx, config, axis_name)
    state, metrics = step(student.sender, pairs, hyper)
    return student._replace(sender=state), metrics


def tune(student, teacher, batch, hyper, *, networks, tx, config, axis_name=None):
    """One update of the student's receiver: L = −mean log π(German | the message).

    The message is the teacher's, the German is the reference. Args as in `imitate`.
    """
    message = dictate(teacher, batch, networks=networks, config=config)
    pairs = Pairs(message.heard, message.mask, batch.target, batch.target_mask)
    step = _step(networks.receiver, tx, config, axis_name)
    state, metrics = step(student.receiver, pairs, hyper)
    return student._replace(receiver=state), metrics


def _step(model, tx, config, axis_name):
    return training.make_step(
        messages.make_loss(model),
        tx,
        config=config.optimizer,
        count=messages.count,
        axis_name=axis_name,
    )
