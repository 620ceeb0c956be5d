"""Rewards by name, of prompts that a user gives as texts or as messages."""

import dataclasses

from rlhf_jax.feedback import function
from rlhf_jax.studies import scoring
from rlhf_jax.studies.task import Reward
from rlhf_jax.tasks import (
    classifiers,
    direct_feedback,
    judges,
    prompts,
    reward_ensembles,
)


def check(name):
    """Raises ValueError for a name that cannot be a reward, before anything is read."""
    if judges.named(name):
        judges.of_reward(name)
    elif reward_ensembles.named(name):
        reward_ensembles.parse(name)


def create(given, name, *, task, layout, label=1, dtype="float32", folder=None):
    """The `Reward` of what was given: a labeler that rates, an ensemble of reward
    models, a function, or a reward model.

    Args: given: a name, or an object in its place; name: what errors call it; label:
    the class that pays, of a classifier; dtype: of a labeler; folder: for the ledger of
    a labeler behind a URL.
    """
    if judges.named(given):
        spec = judges.of_reward(given, folder)
        return direct_feedback.create(spec, task, layout, dtype=dtype)
    if reward_ensembles.named(given):
        return _of_texts(reward_ensembles.create(given, task, layout, label=label))
    if callable(given):
        return Reward(host=prompts.as_given(function.checked(given, name)))
    if isinstance(given, str) and ":" in given:
        return Reward(host=prompts.as_given(function.load(given)))
    return _of_texts(classifiers.loaded(given, task, layout, label=label))


def as_gold(task, reward, layout, rollout):
    """{"eval/gold": [M]}: what a reward that nothing learns from says of samples."""
    texts = scoring.decode(task, rollout)
    return {"eval/gold": scoring.score(task, reward, layout, rollout, *texts)}


def _of_texts(reward):
    """A model that reads texts, of prompts that may be messages."""
    if reward.host is None:
        return reward
    return dataclasses.replace(reward, host=prompts.of_texts(reward.host))
