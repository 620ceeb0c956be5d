"""Several reward models of a user as one reward: --reward "worst:DIR+DIR+DIR".

    mean:DIR+DIR                  their mean
    worst:DIR+DIR                 the lowest
    uncertainty:DIR+DIR,weight=1  mean − weight · variance over models
    entropic:DIR+DIR,beta=1       between the lowest (β = 0) and the mean (β = inf)
    warm:DIR+DIR                  one model, of averaged weights

Each has mean 0 and deviation 1 on samples of π₀ before they are combined, and so has
the combination. Coste et al. 2023, arXiv:2310.02743; Ramé et al. 2024 (WARM),
arXiv:2401.12187, whose models start from one set of weights.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import averaging, ensembles, rewards
from rlhf_jax.studies import scoring
from rlhf_jax.studies.task import Reward
from rlhf_jax.tasks import classifiers, models

# What a family reads besides its models, with its default.
FAMILIES = {
    "mean": {},
    "worst": {},
    "uncertainty": {"weight": 0.5},
    "entropic": {"beta": 1.0},
    "warm": {},
}
_SAMPLES = 512  # of π₀, that fix the scale


class Spec(NamedTuple):
    """What a word of --reward asks for."""

    family: str
    sources: tuple[str, ...]
    beta: float  # of the entropic combination
    weight: float  # of the variance


def named(text):
    """Whether a --reward names an ensemble of models."""
    return isinstance(text, str) and text.partition(":")[0] in FAMILIES


def parse(text):
    """The `Spec` of a word. Raises ValueError for what names no ensemble."""
    family, _, rest = text.partition(":")
    listed, *settings = rest.split(",")
    sources = tuple(filter(None, listed.split("+")))
    if len(sources) < 2:
        raise ValueError(
            f"--reward {text}: name two reward models or more, as {family}:DIR+DIR"
        )
    values = dict(FAMILIES[family])
    for word in settings:
        name, _, value = word.partition("=")
        if name not in values:
            known = ", ".join(values) or "nothing besides its models"
            raise ValueError(f"--reward {text}: {family} reads {known}, no {name!r}")
        values[name] = _number(text, name, value)
    beta = {"worst": 0.0, "entropic": values.get("beta")}.get(family, math.inf)
    return Spec(family, sources, beta, values.get("weight", 0.0))


def create(text, task, layout, *, label=1, raw=False):
    """The `Reward` of an ensemble.

    Args: text: as above; label: as of `classifiers.loaded`; raw: the combination is not
    scaled, its members are. Raises ValueError where models cannot be combined.
    """
    spec = parse(text)
    if spec.family == "warm":
        return classifiers.loaded(_averaged(spec), task, layout, label=label, raw=raw)
    members = [
        classifiers.loaded(source, task, layout, label=label) for source in spec.sources
    ]
    on_host = [member.host is not None for member in members]
    if any(on_host) and not all(on_host):
        one, other = (spec.sources[on_host.index(x)] for x in (True, False))
        raise ValueError(
            f"--reward {text}: {other} has the policy's tokenizer and {one} has not; "
            "combine models of one kind"
        )
    if all(on_host):
        return _of_hosts(spec, members, task, layout, raw)
    score = functools.partial(_combined, tuple(member.score for member in members))
    frozen = tuple(member.frozen for member in members)
    given = frozen, np.float32(spec.beta), np.float32(spec.weight)
    affine = classifiers.scale(task, score, given, layout, raw=raw)
    scaled = functools.partial(scoring.scaled, score)
    return Reward(score=scaled, frozen=(given, affine))


def _combined(scores, given, tokens, mask):
    """[B] of the scores of members, by `ensembles`; given: (their frozen, β, λ)."""
    frozen, beta, weight = given
    pairs = zip(scores, frozen, strict=True)
    each = jnp.stack([score(one, tokens, mask) for score, one in pairs])
    return ensembles.combined(each, beta=beta, weight=weight)


def _of_hosts(spec, members, task, layout, raw):
    """The reward of models with tokenizers of their own: each reads texts."""
    drawn = scoring.of_initial(task, layout, _SAMPLES, 777)
    texts = scoring.decode(task, drawn)
    said = np.stack([member.host(*texts) for member in members])
    affines = rewards.fit(said)

    def unscaled(said):
        each = rewards.apply(affines, jnp.asarray(said))
        return ensembles.combined(each, beta=spec.beta, weight=spec.weight)

    last = rewards.Affine(jnp.float32(1), jnp.float32(0))
    last = last if raw else rewards.fit(unscaled(said))

    def host(prompts, completions, **columns):
        said = np.stack([m.host(prompts, completions, **columns) for m in members])
        return np.asarray(rewards.apply(last, unscaled(said))).tolist()

    return Reward(host=host, facts={} if raw else {"scaled": True})


def _averaged(spec):
    """(model, averaged weights, tokenizer) of models that are alike."""
    read = [models.read("--reward", source) for source in spec.sources]
    model, _, tokenizer = read[0]
    for source, (other, params, words) in zip(spec.sources, read, strict=True):
        alike = other == model and words.get_vocab() == tokenizer.get_vocab()
        shapes = jax.tree.map(jnp.shape, (params, read[0][1]))
        if not alike or shapes[0] != shapes[1]:
            raise ValueError(
                f"--reward warm: {source} and {spec.sources[0]} differ in shape or "
                "vocabulary, so their weights have no average; use mean: instead"
            )
    return model, averaging.soup([params for _, params, _ in read]), tokenizer


def _number(text, name, value):
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not number >= 0:
        raise ValueError(f"--reward {text}: {name}={value} is no number of at least 0")
    return number
