"""The inputs and the state of a step of the game: Config, Hyper, State, Batch.

Config holds what determines shapes; Hyper holds what methods change and is traced. So a
frozen sender, REINFORCE with and without penalties, S2P, Elastic Reset and its
ablations share one compiled program per batch shape.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import elastic_reset, optim, ranges, sampling, training, trees
from rlhf_jax.types import Pairs


@dataclasses.dataclass(frozen=True)
class Config:
    """The static configuration of a step."""

    sampling: sampling.Config  # of training messages: sampled, not greedy
    optimizer: optim.Config = dataclasses.field(
        default_factory=lambda: optim.Config(
            beta1=0.9, beta2=0.98, eps=1e-9, max_grad_norm=0.1
        )
    )


class Hyper(NamedTuple):
    """The traced scalars of a step; the defaults are the published ones."""

    learning_rate: ranges.Positive = 1e-5
    """Of Adam, at the peak of its schedule."""
    total_updates: Any = 1  # until a linear schedule reaches 0; unused if constant
    policy_coef: ranges.NonNegative = 1.0
    """Of the sender's policy gradient."""
    value_coef: ranges.NonNegative = 10.0
    """Of the critic's squared error."""
    entropy_coef: ranges.NonNegative = 0.001
    """Of the messages' entropy, for all methods but reinforce_entropy."""
    receiver_coef: ranges.NonNegative = 1.0
    """Of the receiver's negative log-likelihood."""
    kl_coef: Any = 0.0  # on the exact KL per token
    reference_average: Any = False  # KL against the EMA, not the initial sender
    l2_coef: Any = 0.0  # on ½ Σ (θ − θ₀)² of the sender
    lesson_coef: Any = 0.0  # α of S2P
    train_sender: Any = 1.0  # 0: the sender stays as it is
    sender_rate: ranges.NonNegative = 1.0
    """The sender's learning rate, as a share of learning_rate. Below 1 in short runs:
    receiver and critic have to keep up with the sender before its English is gone."""
    critic_first: ranges.Natural = 0
    """Steps before the sender learns, in which the critic becomes a baseline."""
    decay: Any = 0.99  # of the EMA, once a step
    reset_target: Any = elastic_reset.AVERAGE
    reset_weight: Any = 0.0  # of the current weights, if the target interpolates
    reset_average: Any = True  # also reset the EMA to the initial weights
    reset_receiver: Any = False  # the receiver as well as the sender


class Networks(NamedTuple):
    """The modules: two translators, and the value head on the sender's features."""

    sender: Any
    receiver: Any
    value: Any


class Batch(NamedTuple):
    """Sentences to translate; a row without a target is padding and is ignored."""

    source: jax.Array  # [B, S] int32, what the sender reads
    source_mask: jax.Array  # [B, S] int32
    target: jax.Array  # [B, T] int32, the receiver's reference, EOS included
    target_mask: jax.Array  # [B, T] int32
    row_ids: jax.Array  # [B] int32, global


class Lesson(NamedTuple):
    """S2P's supervised data: a batch of pretraining text for each agent."""

    sender: Pairs
    receiver: Pairs


class State(NamedTuple):
    """The state of the game; no field has a device axis."""

    learner: training.State  # params {"sender", "receiver", "value"}
    elastic: elastic_reset.State  # EMA and initial weights of both agents
    key: jax.Array  # [] typed, constant: every step folds in its number
    iteration: jax.Array  # [] int32


def init(params, tx, key):
    """The state before the first step; shares no buffer with its arguments.

    params: {"sender", "receiver", "value"}, float32.
    """
    params = trees.copy(params)
    return State(
        learner=training.init(params, tx),
        elastic=elastic_reset.init(agents(params)),
        key=jnp.array(key, copy=True),
        iteration=jnp.zeros((), jnp.int32),
    )


def agents(params):
    """{"sender", "receiver"} of the parameters, without the critic."""
    return {name: params[name] for name in ("sender", "receiver")}
