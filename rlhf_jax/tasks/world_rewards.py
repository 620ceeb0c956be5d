"""The rewards of the microworld's task: reward models per seed, and controls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import optim, rewards
from rlhf_jax.algorithms import reward_model
from rlhf_jax.evaluation import policy
from rlhf_jax.microworld import people
from rlhf_jax.models import heads
from rlhf_jax.studies import scoring, supervised
from rlhf_jax.studies.task import Reward
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.types import Preferences, Prompts

REWARD_MODEL = optim.Config(schedule="linear", weight_decay=0.01)


def create(world, task, config, layout, reward):
    """{"train", "gold", "random", "proxy": seed -> Reward}, each made once per seed.

    Args: task: a `Task` without rewards; config: `tasks.microworld.Config`; reward: a
    name of these, or a host function, which then is the proxy.
    """
    named = {
        name: functools.cache(make(world, task, config, layout))
        for name, make in MAKERS.items()
    }
    proxy = (lambda seed: Reward(host=reward)) if callable(reward) else named[reward]
    return {**named, "proxy": proxy}


def _trained_reward(world, task, config, layout):
    """A reward model per seed: pairs of π₀'s samples, human labels, Bradley–Terry."""
    del world
    return learned(task, config, layout, task.pairs)


def learned(task, config, layout, pairs):
    """seed -> `Reward`: a reward model of the policy's size, learned from pairs.

    Its facts are how often it orders pairs as people do that it has not seen, and as
    the gold reward does.

    Args: config: `tasks.microworld.Config`; pairs: as `Task.pairs`, with any labels.
    """
    model = heads.Classifier(task.model.config, labels=1)
    objective = supervised.Objective(
        model, reward_model.make_pair_loss, reward_model.count, REWARD_MODEL
    )
    score, evaluate = scaled(model), unscaled(model, layout)

    def make(seed):
        train, tests, test_gold = pairs(seed)
        head = heads.init_head(model, jax.random.fold_in(_key(seed), 2))
        trainer = supervised.trainer(
            Trainable(heads.from_decoder(task.params, head)),
            train,
            objective,
            rows=config.reward_rows,
            steps=config.reward_steps,
            learning_rate=config.reward_learning_rate,
            seed=seed,
            layout=layout,
        )
        params = supervised.fit(trainer, steps=config.reward_steps, layout=layout)
        chosen = evaluate(params, (tests.chosen, tests.chosen_mask))
        rejected = evaluate(params, (tests.rejected, tests.rejected_mask))
        affine = rewards.fit(np.concatenate([chosen, rejected]))
        facts = {
            "accuracy": float(np.mean(chosen > rejected)),
            "gold_accuracy": float(np.mean((chosen > rejected) == (test_gold > 0))),
            "pairs": len(train.chosen),
        }
        return Reward(score=score, frozen=(params, affine), facts=facts)

    return make


@functools.lru_cache(maxsize=8)
def scaled(model):
    """`scoring.scaled` of a reward model.

    One function a model: programs that hold it are compiled once for all worlds.
    """
    return functools.partial(scoring.scaled, reward_model.score(model))


@functools.lru_cache(maxsize=8)
def unscaled(model, layout):
    """`score(params, (tokens, mask)) -> [N]` of a reward model, on host rows."""
    score = reward_model.score(model)
    return layout.over_rows(lambda params, rows: score(params, *rows), replicated=1)


def judged_pairs(world, task, config, layout):
    """seed -> (`Preferences` to learn from, others to test on, their gold margins)."""
    sample = policy.compile_draw(task.model, layout, task.sampling)

    def make(seed):
        rng, key = np.random.default_rng([config.world, seed, 2]), _key(seed)
        given = world, task, config, rng, sample
        pairs, _ = _pairs(*given, key, config.pairs)
        return pairs, *_pairs(*given, jax.random.fold_in(key, 1), 512)

    return functools.lru_cache(maxsize=4)(make)


def _key(seed):
    return jax.random.key(1000 + seed)


def _pairs(world, task, config, rng, sample, key, count):
    """Pairs of π₀'s samples on training prompts, and gold(chosen) − gold(rejected)."""
    prompts, sides = sample_pairs(task, config, rng, sample, key, count)
    noise = people.Noise(agreement=config.agreement)
    wins = people.preferences(world, rng, prompts[0], *sides[0], *sides[1], noise=noise)
    pairs = people.choose(*prompts, *sides[0], *sides[1], wins)
    truth = [people.reward(world, prompts[0], *side) for side in sides]
    return Preferences(*pairs), np.where(wins, 1, -1) * (truth[0] - truth[1])


def sample_pairs(task, config, rng, sample, key, count, params=None):
    """Two responses to each of `count` training prompts, for people to compare.

    Args: sample: `policy.compile_draw` of the task; params: of a policy, by default π₀.
    Returns (prompts, (first, second)), each a (tokens, mask).
    """
    params = task.params if params is None else params
    rows = rng.choice(len(task.prompts.tokens), count, replace=count > config.prompts)
    prompts = task.prompts.tokens[rows], task.prompts.mask[rows]
    twice = Prompts(*(np.concatenate([x, x]) for x in prompts))
    out = sample(params, policy.prompt_rows(twice, key))
    width = prompts[0].shape[1]
    tokens, mask = out.tokens[:, width:], out.response_mask
    halves = np.split(np.arange(2 * count), 2)
    return prompts, [(tokens[part], mask[part]) for part in halves]


def of_rollouts(task, layout, read, facts):
    """seed -> the `Reward` of what is read off rollouts, scaled on π₀'s samples.

    read(rollout) -> [N].
    """

    @functools.cache
    def scale():
        values = read(scoring.of_initial(task, layout, 512, 999))
        return values.mean(), values.std()

    def arrays(rollout):
        mean, deviation = scale()
        return ((read(rollout) - mean) / deviation).astype(np.float32)

    return lambda seed: Reward(arrays=arrays, facts=facts)


def _gold_reward(world, task, config, layout):
    """The truth itself: a control without a mismatch."""
    del world, config

    def gold(rollout):
        return task.truth(rollout)["eval/gold"]

    return of_rollouts(task, layout, gold, {"gold": True})


def _random_reward(world, task, config, layout):
    """An untrained reward model of the same size: a control."""
    del world, layout
    model = heads.Classifier(task.model.config, labels=1)
    unit = rewards.Affine(jnp.ones(()), jnp.zeros(()))

    def make(seed):
        key = jax.random.key(5000 + seed)
        params = heads.from_decoder(task.params, heads.init_head(model, key))
        frozen = params, unit
        return Reward(score=scaled(model), frozen=frozen, facts={"random": True})

    del config
    return make


MAKERS = {"train": _trained_reward, "gold": _gold_reward, "random": _random_reward}
