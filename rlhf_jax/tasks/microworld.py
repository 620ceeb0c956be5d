"""The microworld as a task: a pretrained policy, a reward model per seed, the truth.

Pretrained weights are cached under a digest of everything they depend on.
"""

import dataclasses
import functools
import pathlib
from typing import Literal

import numpy as np

from rlhf_jax import microworld, optim, ranges, sampling
from rlhf_jax.microworld import people, reviews, skills
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.runtime import processes
from rlhf_jax.studies.task import Answers, Skills, Task
from rlhf_jax.tasks import (
    pretraining,
    reward_families,
    reward_specs,
    world_rewards,
)
from rlhf_jax.types import Prompts, Tokens

CONTEXT = 64  # of the policy
LENGTH = 56  # of a row of its corpus: a review, or about five skills


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the microworld's task; defaults fit two CPU cores."""

    world: ranges.Natural = 0
    """Seed of the world: its films, its words' roles, its grammar."""
    pretrain_steps: ranges.Count = 4500
    """Updates of the policy's pretraining."""
    pretrain_rows: ranges.Count = 16
    """Rows per update of the pretraining."""
    pretrain_learning_rate: ranges.Positive = 4e-3
    """Of the pretraining, at its peak."""
    pairs: ranges.Count = 1000
    """Preference pairs per reward model, made of samples of π₀."""
    reward_steps: ranges.Count = 100
    """Updates of a reward model."""
    reward_rows: ranges.Count = 32
    """Pairs per update of a reward model."""
    reward_learning_rate: ranges.Positive = 1e-3
    """Of a reward model, at its peak."""
    agreement: ranges.Share = 0.75
    """How often annotators prefer the better text."""
    prompts: ranges.Count = 4096
    """Training prompts."""
    eval_prompts: ranges.Count = 128
    """Prompts that evaluations sample on."""
    eval_split: Literal["test", "validation"] = "test"
    """The split that evaluations read; use validation for tuning."""
    skill_items: ranges.Count = 40
    """Questions per kind; 300 for a study."""
    temperature: ranges.Positive = 1.0
    """Logits are divided by it before sampling."""


# Many small updates and a small ε: in the same processor time, 1,000 updates of 64
# rows with the ε of RL, 1e-5, ended 3 nats a review from the corpus, not 1.
PRETRAINING = optim.Config(
    schedule="cosine", warmup=100, weight_decay=0.01, beta2=0.99, eps=1e-8
)


def create(config, preset, reward, *, layout, cache, report, signals=None):
    """The task of a world.

    Args: preset: of the policy; reward: "train" (a reward model on noisy pairs),
    "gold" (the truth itself: no mismatch), "random" (untrained, a negative control), a
    family of `reward_specs` ("worst:size=small") or a host function; report(text,
    done=, total=, ...) receives the progress.
    """
    reward = _checked(reward)
    world = microworld.create(config.world)
    model, params = pretrained(
        world, preset, config, layout=layout, cache=cache, report=report,
        signals=signals,
    )  # fmt: skip
    rng = np.random.default_rng([config.world, 1])
    prompts = reviews.prompts(world, rng, config.prompts, split="train")
    split = config.eval_split
    questions = reviews.prompts(world, rng, config.eval_prompts, split=split)
    heldout, surprise = _heldout(world, rng, split)
    task = Task(
        model=model,
        params=params,
        tokenizer=_tokenizer(world, pathlib.Path(cache)),
        sampling=_sampling(world, config),
        prompts=Prompts(*prompts[:2]),
        eval_prompts=Prompts(*questions[:2]),
        heldout=heldout,
        best=_best(world, rng, config),
        decode=functools.partial(_decode, world),
        rewards={},
        facts={
            "dataset": f"microworld {config.world}",
            "policy": f"scratch:{preset}",
            "own units": callable(reward),
        },
        truth=functools.partial(_truth, world),
        text_truth=lambda totals: {
            "truth/kl_corpus_policy": float(np.mean(totals) - surprise)
        },
        skills=_skills(world, config),
        replay=functools.partial(_replay, world),
        exercises=functools.partial(_exercises, world),
    )
    pairs = world_rewards.judged_pairs(world, task, config, layout)
    task = dataclasses.replace(task, pairs=pairs)
    return dataclasses.replace(
        task, rewards=_rewards(world, task, config, layout, reward)
    )


def _checked(reward):
    """The reward as given, or the `Spec` it names. Raises ValueError for neither."""
    if reward_specs.named(reward):
        return reward_specs.parse(reward)
    if callable(reward) or reward in world_rewards.MAKERS:
        return reward
    known = (*world_rewards.MAKERS, *(f"{name}:..." for name in reward_specs.FIELDS))
    raise ValueError(
        f"--reward {reward}: on the microworld choose {', '.join(known)}, or "
        "module:function"
    )


def _rewards(world, task, config, layout, reward):
    """`Task.rewards`: those of every task, and the one that was asked for as proxy."""
    if not isinstance(reward, reward_specs.Spec):
        return world_rewards.create(world, task, config, layout, reward)
    usual = world_rewards.create(world, task, config, layout, "train")
    family = reward_families.create(task, config, layout, (reward,))
    return {**usual, **family, "proxy": family[str(reward)]}


def _sampling(world, config):
    return sampling.Config(
        max_new_tokens=reviews.RESPONSE,
        temperature=config.temperature,
        eos_ids=(world.eos_id,),
        pad_id=world.pad_id,
    )


# The policy


def pretrained(world, preset, config, *, layout, cache, report, signals=None):
    """(model, params) of a preset that has learned a world's corpus.

    Args: config: `Config`; the others as of `create`.
    """
    size = {"vocab_size": len(world.vocabulary), "max_length": CONTEXT}
    model = decoder.Decoder(model_config.preset(preset, **size))
    keep = {k: v for k, v in vars(config).items() if k.startswith("pretrain")}
    words = microworld.corpus.digest(world)
    name = f"microworld-{config.world}-{preset}"
    parts = [keep, words, LENGTH, repr(model.config), repr(PRETRAINING)]
    key = pretraining.digest(parts)
    folder = pathlib.Path(cache) / f"{name}-{key}"

    def data():
        report("writing the corpus ...")
        rng = np.random.default_rng([config.world, 0])
        rows = config.pretrain_steps * config.pretrain_rows // 2
        return Tokens(*microworld.corpus.sample(world, rng, rows, length=LENGTH))

    params = pretraining.cached(
        model,
        data,
        folder,
        config=PRETRAINING,
        steps=config.pretrain_steps,
        rows=config.pretrain_rows,
        learning_rate=config.pretrain_learning_rate,
        layout=layout,
        report=report,
        signals=signals,
        seed=config.world,
    )
    return model, params


# Truth


def _truth(world, rollout):
    width = rollout.tokens.shape[1] - rollout.response_mask.shape[1]
    prompts, mask = rollout.tokens[:, :width], rollout.mask[:, :width]
    responses, valid = rollout.tokens[:, width:], rollout.response_mask
    gold = microworld.gold.reward(world, prompts, responses, valid, rollout.ended)
    corpus = microworld.likelihood.log_prob(world, prompts, mask, responses, valid)
    logps = np.asarray(rollout.logps, np.float64).sum(-1)
    parts = microworld.gold.components(world, prompts, responses, valid)
    return {
        "eval/gold": gold,
        "truth/kl_policy_corpus": logps - corpus,
        **{f"gold/{name}": value for name, value in parts.items()},
    }


def _heldout(world, rng, split, rows=256):
    """Reviews for a split's prompts, and their mean NLL under the corpus itself."""
    prompts, mask, _ = reviews.prompts(world, rng, rows, split=split)
    words, valid = reviews.sample(world, rng, prompts, mask)
    surprise = -microworld.likelihood.log_prob(world, prompts, mask, words, valid)
    tokens = np.concatenate([prompts, words], axis=1).astype(np.int32)
    targets = np.concatenate([np.zeros_like(mask), valid], axis=1).astype(np.int32)
    both = np.concatenate([mask, valid], axis=1).astype(np.int32)
    return Tokens(tokens, both, targets), float(surprise.mean())


def _best(world, rng, config):
    """What `sft` imitates: for each prompt, whichever of two reviews people chose."""
    pairs = people.pairs(
        world, rng, config.prompts, noise=people.Noise(agreement=config.agreement)
    )
    targets = pairs.chosen_mask.copy()
    targets[:, : reviews.WIDTH] = 0
    return Tokens(pairs.chosen, pairs.chosen_mask, targets)


def _skills(world, config):
    parts = [
        skills.items(world, kind, config.eval_split, config.skill_items)
        for kind in skills.KINDS
    ]
    questions, mask, words, valid = map(np.concatenate, zip(*parts, strict=True))
    both = np.hstack([questions, words]), np.hstack([mask, valid])
    return Skills(Answers(*both, valid), np.repeat(skills.KINDS, config.skill_items))


def _replay(world, rows):
    """Pretraining text that π₀ has not seen."""
    rng = np.random.default_rng([world.seed, 4])
    return Tokens(*microworld.corpus.sample(world, rng, rows, length=LENGTH))


def _exercises(world, kind, count):
    """Questions of the training split with their answers, which are the targets."""
    rng = np.random.default_rng([world.seed, 5])
    questions, mask, words, valid = skills.items(world, kind, "train", count, rng=rng)
    tokens, both = np.hstack([questions, words]), np.hstack([mask, valid])
    targets = np.hstack([np.zeros_like(mask), valid])
    return Tokens(*(x.astype(np.int32) for x in (tokens, both, targets)))


def _decode(world, tokens, mask):
    rows = np.where(np.asarray(mask) != 0, tokens, world.pad_id)
    return [world.decode(row) for row in rows]


def _tokenizer(world, cache):
    folder = cache / f"microworld-{world.seed}-tokenizer"
    if processes.first():
        microworld.tokenizer.save(world, folder)
    processes.barrier("tokenizer")
    return microworld.tokenizer.load(folder)
