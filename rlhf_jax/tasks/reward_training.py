"""The reward models of the microworld's families: their pairs, labels and weights.

People label pairs of π₀'s samples. All models of a seed learn from one pool of pairs,
and those of equal shape are trained side by side in one program.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.algorithms import reward_model
from rlhf_jax.evaluation import policy
from rlhf_jax.microworld import people, reviews
from rlhf_jax.models import config as model_config
from rlhf_jax.models import heads
from rlhf_jax.runtime import population
from rlhf_jax.studies import reward_population, supervised
from rlhf_jax.tasks import world_rewards
from rlhf_jax.types import Preferences

SHAPES = {  # about 5, 30 and 120 thousand weights
    "small": {"width": 8, "layers": 2, "heads": 2},
    "medium": {"width": 32, "layers": 1, "heads": 4},
    "large": {"width": 64, "layers": 2, "heads": 4},
}
# Peak learning rates of models from scratch; a trunk's is the config's.
RATES = {"small": 1e-2, "medium": 5e-3, "large": 3e-3}
# The paper's is 1. Of 4,000 pairs, 32 an update, r_Q then orders 55% of others as
# the truth does, with 0.1 it orders 72%, and its correlation with length is −0.02.
ODIN_WEIGHT = 0.1
_BLOCK = 500  # pairs labelled together: a pool of more pairs starts with the same ones
_MOST = 4  # times the updates that 1,000 pairs take
_FRESH = 2  # the part of pools that a policy in training writes


class Context(NamedTuple):
    """A world, its task, and what both are computed on."""

    world: Any
    task: Any
    config: Any  # tasks.microworld.Config
    layout: Any


class Job(NamedTuple):
    """One model to train: what decides its weights, in one world and for one seed."""

    size: str
    labels: str
    pairs: int
    start: int  # which initial weights
    order: int  # which order of the pairs
    odin: bool = False


class Pool(NamedTuple):
    """Pairs of samples with every kind of label; `chosen` is the first response."""

    pairs: Preferences  # [N]; `preference` is None
    margins: np.ndarray  # [N] gold(first) − gold(second)
    labels: dict[str, np.ndarray]  # [N] float32, 1: the first one is better


def network(size, policy_model, *, odin=False):
    """The reward model of a size, for the vocabulary of a policy: a `Classifier` of one
    label, or of two for ODIN."""
    shape = policy_model.config
    if size != "trunk":
        shape = model_config.llama(
            vocab_size=shape.vocab_size,
            max_length=shape.max_length,
            tied=True,
            **SHAPES[size],
        )
    return heads.Classifier(shape, labels=1 + odin)


# Data


def pool(context, seed, count, part=0):
    """The first `count` pairs of a seed's `Pool`; part: another number, others."""
    blocks = [_block(context, seed, part, b) for b in range(-(-count // _BLOCK))]
    return jax.tree.map(lambda *x: np.concatenate(x)[:count], *blocks)


def sampled(context, seed, count, number, params):
    """A `Pool` of `count` pairs that a policy writes; number: another one, others.

    Args: params: of the policy.
    """
    return _drawn(context, seed, (_FRESH, number), count, params)


def _block(context, seed, part, number):
    return _drawn(context, seed, (part, number), _BLOCK, context.task.params)


def _drawn(context, seed, which, count, params):
    """The `Pool` of new pairs; which: two numbers that name it."""
    world, task, config, layout = context
    rng = np.random.default_rng([config.world, seed, 7, *which])
    key = jax.random.fold_in(jax.random.key(3000 + seed), 100_000 * which[0] + which[1])
    draw = policy.compile_draw(task.model, layout, task.sampling)
    prompts, sides = world_rewards.sample_pairs(
        task, config, rng, draw, key, count, params
    )
    return _labelled(world, config, rng, prompts, sides)


def _labelled(world, config, rng, prompts, sides):
    """The `Pool` of given pairs.

    Args: prompts: (tokens, mask); sides: the same of the first and second responses.
    """
    given = prompts[0], *sides[0], *sides[1]
    honest = functools.partial(people.Noise, mode="flip", easily_pleased=0.0)
    kinds = {
        "people": people.Noise(agreement=config.agreement),
        "gold": honest(agreement=1.0),
        "flipped": honest(agreement=config.agreement),
    }
    labels = {
        name: people.preferences(world, rng, *given, noise=noise).astype(np.float32)
        for name, noise in kinds.items()
    }
    pairs = people.choose(*prompts, *sides[0], *sides[1], np.ones(len(given[0]), bool))
    truth = [people.reward(world, prompts[0], *side) for side in sides]
    return Pool(
        Preferences(*pairs)._replace(preference=None), truth[0] - truth[1], labels
    )


# Training


def train(context, wanted, seed):
    """(their `Pool`, {job: weights}) of all models of a seed, those of equal shape
    trained together; None and {} for none.

    Args: wanted: `Job`s.
    """
    if not wanted:
        return None, {}
    data = pool(context, seed, max(job.pairs for job in wanted))
    groups = {}
    for job in wanted:
        alike = job.size, job.odin, updates(context.config, job.pairs)
        groups.setdefault(alike, []).append(job)
    weights = {}
    for (size, odin, steps), members in groups.items():
        trained = _train(context, data, members, seed, size, odin, steps)
        weights |= dict(zip(members, trained, strict=True))
    return data, weights


def updates(config, pairs):
    """Updates for a number of pairs: as many epochs as the config gives 1,000 pairs,
    and fewer beyond 4,000."""
    return max(1, round(config.reward_steps * min(pairs / 1000, _MOST)))


def _train(context, data, members, seed, size, odin, steps):
    """[weights] of jobs that share a shape, in one program."""
    task, config, layout = context.task, context.config, context.layout
    model = network(size, task.model, odin=odin)
    starts = [_start(model, task, seed, job) for job in members]
    given = reward_population.Members(
        params=population.stack(starts),
        labels=np.stack([data.labels[job.labels] for job in members]),
        counts=tuple(job.pairs for job in members),
        seeds=tuple(1000 * seed + job.order for job in members),
        rates=(_rate(config, size),) * len(members),
    )
    return _fit(given, data.pairs, model, config, steps, layout)


def learn_on(context, model, params, pairs, *, count, size, seed):
    """[weights] of members that learn on from the first `count` of given pairs, at half
    the rate they first learned at and for as many updates as all pairs are worth.

    Args: params: of the members, [E, ...]; pairs: `Preferences` on the host, some of
    them empty, so that a program is compiled once; seed: of their order.
    """
    config, members = context.config, len(jax.tree.leaves(params)[0])
    given = reward_population.Members(
        params=params,
        labels=np.stack([pairs.preference] * members),
        counts=(count,) * members,
        seeds=tuple(seed + number for number in range(members)),
        rates=(_rate(config, size) / 2,) * members,
    )
    steps = updates(config, len(pairs.chosen))
    return _fit(given, pairs, model, config, steps, context.layout)


def _fit(given, pairs, model, config, steps, layout):
    trained, _ = reward_population.fit(
        given, pairs, objective(model), rows=config.reward_rows, steps=steps
    )
    return [layout.put(population.member(trained, i)) for i in range(len(given.counts))]


def _rate(config, size):
    return RATES.get(size, config.reward_learning_rate)


@functools.lru_cache(maxsize=16)
def objective(model):
    """Bradley–Terry for one label, ODIN for two; one object a model, so that a program
    is compiled once for all worlds."""
    make = reward_model.make_pair_loss
    if model.labels == 2:
        apart = {"prompt": reviews.WIDTH, "weight": ODIN_WEIGHT}
        make = functools.partial(reward_model.make_odin_loss, **apart)
    return supervised.Objective(
        model, make, reward_model.count, world_rewards.REWARD_MODEL
    )


def _start(model, task, seed, job):
    key = jax.random.fold_in(jax.random.key(4000 + seed), job.start)
    if job.size == "trunk":
        return heads.from_decoder(task.params, heads.init_head(model, key))
    return _initialize(model)(key)


@functools.lru_cache(maxsize=16)
def _initialize(model):
    tokens = jnp.zeros((1, model.config.max_length), jnp.int32)
    return jax.jit(lambda key: model.init(key, tokens)["params"])
