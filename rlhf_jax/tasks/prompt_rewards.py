"""Rewards by name, of prompts that a user gives as texts or as messages."""

import dataclasses
import itertools
import pathlib

from rlhf_jax.evaluation import axes
from rlhf_jax.feedback import function, user_modules
from rlhf_jax.studies import scoring
from rlhf_jax.studies.task import Parts, Reward
from rlhf_jax.tasks import (
    classifiers,
    direct_feedback,
    judges,
    prompts,
    reward_ensembles,
)


def listed(given):
    """The rewards of --reward, one or several: a tuple of names or of objects."""
    if isinstance(given, list):
        return tuple(given)
    several = isinstance(given, tuple) and not hasattr(given, "params")
    if several and not hasattr(given[0] if given else None, "apply"):
        return given
    return (given,)  # a name, a function, (model, params, tokenizer), a Result


def check(given):
    """Raises ValueError for a name that cannot be a reward, before anything is read.

    Args: given: a name, or several.
    """
    for name in listed(given):
        if judges.named(name):
            judges.of_reward(name)
        elif reward_ensembles.named(name):
            reward_ensembles.parse(name)


def imported(given):
    """The rewards of --reward with the function itself in place of module:function.

    Raises ValueError, naming the file and the line, where a module or a function cannot
    be used; nothing else is loaded.
    """
    return tuple(map(_imported, listed(given)))


def _imported(one):
    if not _names_a_function(one):
        if callable(one) or isinstance(one, type):
            function.checked(one, getattr(one, "__qualname__", type(one).__qualname__))
        return one
    found = user_modules.attribute(one)
    function.checked(found, one)
    return found


def _names_a_function(one):
    if not isinstance(one, str) or ":" not in one:
        return False
    return not judges.named(one) and not reward_ensembles.named(one)


def several(given, names, weights=(), *, normalized=False, **how):
    """The `Reward` of one or more, with weights (TRL's reward_weights; default 1).

    Args: given: names, or objects in their place; names: what errors call them;
    normalized: each is normalised by the candidates of its prompt before the sum;
    how: of `create`. One reward without weights is itself.
    """
    optional = len(given) > 1
    pairs = zip(given, names, strict=True)
    made = tuple(create(one, name, optional=optional, **how) for one, name in pairs)
    if len(made) == 1 and not weights:
        return made[0]
    said = [one.facts["judge"] for one in made if "judge" in one.facts]
    return Reward(
        parts=Parts(
            made, short_names(names), tuple(weights) or (1.0,) * len(made), normalized
        ),
        facts={"judge": "; ".join(said)} if said else {},
    )


def short_names(names):
    """Names for metrics, all different: of a function its own, of a folder its last.

    One that is taken is numbered: short, short_2.
    """
    result = []
    for name in names:
        path, _, attribute = name.rpartition(":")
        short = attribute.rpartition(".")[2] if path else pathlib.PurePath(name).name
        numbered = (f"{short}_{n}" for n in itertools.count(2))
        result.append(
            next(x for x in itertools.chain([short], numbered) if x not in result)
        )
    return tuple(result)


def create(given, name, *, task, layout, label=1, dtype="float32", folder=None, **how):
    """The `Reward` of what was given: a labeler that rates, an ensemble of reward
    models, a function, or a reward model.

    Args: given: a name, or an object in its place; name: what errors call it; label:
    the class that pays, of a classifier; dtype: of a labeler; folder: for the ledger of
    a labeler behind a URL; how: of `function.checked`, where it is one.
    """
    if judges.named(given):
        spec = judges.of_reward(given, folder)
        return direct_feedback.create(spec, task, layout, dtype=dtype)
    if reward_ensembles.named(given):
        return _of_texts(reward_ensembles.create(given, task, layout, label=label))
    if callable(given):
        return Reward(host=prompts.as_given(function.checked(given, name, **how)))
    if _names_a_function(given):
        return Reward(host=prompts.as_given(function.load(given, **how)))
    return _of_texts(classifiers.loaded(given, task, layout, label=label))


def axes_of(reward, corners):
    """The axes of a run that is paid by a reward, in its units: `evaluation.axes`.

    Args: reward: `Reward`, or None where nothing pays; corners: as of
    `axes.with_corners`.
    """
    measured = (axes.TEXT_NLL, axes.KL_INITIAL)
    scaled = reward is None or reward.score is not None or reward.facts.get("scaled")
    return axes.with_corners(measured + (() if scaled else axes.OWN_UNITS), corners)


def as_gold(task, reward, layout, rollout):
    """{"eval/gold": [M]}: what a reward that nothing learns from says of samples."""
    texts = scoring.decode(task, rollout)
    return {"eval/gold": scoring.score(task, reward, layout, rollout, *texts)}


def _of_texts(reward):
    """A model that reads texts, of prompts that may be messages."""
    if reward.host is None:
        return reward
    return dataclasses.replace(reward, host=prompts.of_texts(reward.host))
