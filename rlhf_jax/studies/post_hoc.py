"""Policies that no run is made for: read off another run, or off the initial policy.

A `derive` is a function of `interfaces.Source` that returns a policy as it was trained:
averaging weights (the nulls of Noukhovitch et al. 2023; WiSE-FT and the averages of Lin
et al. 2023, arXiv:2309.06256), an EMA that is never reset to, an early stop. Weights
and ratios are on the trained policy: "20% of the starting weights" is 0.8.
"""

import itertools

import jax
import numpy as np

from rlhf_jax import averaging, ratios, trees
from rlhf_jax.models import lora
from rlhf_jax.studies import heterogeneous as blockwise
from rlhf_jax.studies.trainable import Trainable

_PARTS = ("input", "middle", "output")


def interpolate(weight):
    """(1 − w)·π₀ + w·π, w the weight on the trained policy."""
    return lambda source: source.mix(source.policy, weight)


def average(source):
    """The EMA of the run, never reset to."""
    return source.average


def best(source):
    """The policy at the checkpoint that the study selects: an early stop."""
    return source.best


def part(name, weight, *, embeddings=False):
    """One third of the layers, norms too, at (1 − w)·π₀ + w·π; all else as trained.

    name: "input", "middle" or "output"; embeddings: they go with the input third, as in
    the authors' script for single parts.
    """
    if name not in _PARTS:
        raise ValueError(f"no part {name!r}: choose from {', '.join(_PARTS)}")
    alphas = [weight if name == each else 1.0 for each in _PARTS]
    embedded = 0 if embeddings else None
    config = blockwise.Config(others="rlhf", norms="layer", embeddings=embedded)
    return lambda source: blockwise.average(
        _initial(source), source.policy, alphas, config
    )


def graft(density):
    """π in the share of all weights that training moved furthest, elsewhere π₀."""

    def derive(source):
        if any(path.endswith(lora.B) for path in trees.paths(source.policy)):
            raise ValueError("a graft chooses among all weights: train them, no --lora")
        return averaging.graft(_initial(source), source.policy, density)

    return derive


def heterogeneous(mean, blocks=3, *, texts=None, **options):
    """Averages with a ratio for each block of layers, trained: HMA.

    It takes a training run, so let a row derive it `at_end`. The ratios, and how far
    they moved, are logged as `average/...`.

    Args:
      mean: of the ratios: what plain averaging has as its weight.
      blocks: K; None: a ratio for each layer.
      texts: source -> the `Tokens` whose likelihood is maximised; None: the paper's,
        2,000 of 5,000 samples of the trained policy, those of the highest reward.
      options: of `studies.heterogeneous.Config` besides.
    """
    config = blockwise.Config(mean=mean, blocks=blocks, **options)
    texts = samples() if texts is None else texts

    def derive(source):
        task = source.study.task_of(source.run)
        return blockwise.fit(
            task.model,
            _learned(source),
            _initial(source),
            source.policy,
            texts(source),
            config=config,
            layout=source.run.layout,
            seed=source.run.unit.seed,
        )

    return derive


def adaptive(mean, texts, **options):
    """A ratio for each layer, trained on labelled texts of one task: AdaMerging with
    labels, the control of Lin et al. that does not protect another task.

    Args as of `heterogeneous`.
    """
    return heterogeneous(mean, None, texts=texts, **options)


def with_ratios(alphas, **options):
    """Averages with given ratios, such as orders of those that a run learned, or random
    ones: controls of HMA.

    Args: alphas: [K], or source -> [K]; options: of `studies.heterogeneous.Config`.
    """

    def derive(source):
        given = np.asarray(alphas(source) if callable(alphas) else alphas)
        known = {"blocks": len(given), "mean": float(given.mean())}
        config = blockwise.Config(**{**known, **options})
        return blockwise.average(_initial(source), source.policy, given, config)

    return derive


def permuted(learned, order):
    """source -> the ratios that `learned` found, in another order, for `with_ratios`.

    Args: learned: source -> [K]; order: which block's ratio each block has.
    """
    return lambda source: learned(source)[np.asarray(order)]


def redrawn(learned, number):
    """source -> random ratios with the mean and the spread of those that `learned`
    found, for `with_ratios`.

    Args: learned: source -> [K]; number: of the draw, another one in every unit.
    """

    def draw(source):
        key = jax.random.key(number)
        for part in source.run.unit:
            key = jax.random.fold_in(key, part)
        return np.asarray(ratios.random(key, learned(source), count=1)[0])

    return draw


def learned(derive):
    """source -> the ratios [K] that a derive of `heterogeneous` finds, kept like
    `samples`."""

    def find(source):
        found = derive(source).metrics
        names = (f"average/ratio_{k}" for k in itertools.count())
        known = itertools.takewhile(found.__contains__, names)
        return np.array([found[name] for name in known])

    return _kept(find)


def samples(**sizes):
    """source -> the samples of the trained policy that HMA learns from, scored by what
    the policy was trained on. sizes: `draws` and `keep`.

    The last ones are kept: averages of one run learn from the same samples.
    """

    def draw(source):
        run, task = source.run, source.study.task_of(source.run)
        name = source.study.methods[run.method].reward
        reward, seed = task.rewards[name](run.unit.seed), run.unit.seed
        params = _learned(source).weights(source.policy)
        return blockwise.high_reward_samples(
            task, params, reward, run.layout, **sizes, seed=seed
        )

    return _kept(draw)


def _kept(fn):
    """fn(source), whose last value is kept for sources of the same policy."""
    last = {}

    def ask(source):
        # A policy that was read from disk again is another object with equal numbers.
        policy = source.run, float(trees.norm(source.policy))
        if last.get("policy") != policy:
            last.update(policy=policy, value=fn(source))
        return last["value"]

    return ask


def _initial(source):
    """The initial policy, as the source's is trained."""
    return source.mix(source.policy, 0.0)


def _learned(source):
    """What of the source's model is trained."""
    study, run = source.study, source.run
    own = getattr(study.methods[run.method].train, "adapter", None)
    return Trainable(study.task_of(run).params, own or study.settings.adapter)
