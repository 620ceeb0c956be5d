"""Policies that no run is made for: read off another run, or off the initial policy.

A `derive` is a function of `interfaces.Source` that returns a policy as it was trained:
averaging weights (the nulls of Noukhovitch et al. 2023; WiSE-FT and the averages of Lin
et al. 2023, arXiv:2309.06256), an EMA that is never reset to, an early stop. Weights
and ratios are on the trained policy: "20% of the starting weights" is 0.8.
"""

import numpy as np

from rlhf_jax import averaging, trees
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
    ratios = [weight if name == each else 1.0 for each in _PARTS]
    embedded = 0 if embeddings else None
    config = blockwise.Config(others="rlhf", norms="layer", embeddings=embedded)
    return lambda source: blockwise.average(
        _initial(source), source.policy, ratios, config
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


def with_ratios(ratios, **options):
    """Averages with given ratios, such as orders of those that a run learned, or random
    ones: controls of HMA. options: of `studies.heterogeneous.Config`."""
    known = {"blocks": len(ratios), "mean": float(np.mean(ratios))}
    config = blockwise.Config(**{**known, **options})
    return lambda source: blockwise.average(
        _initial(source), source.policy, ratios, config
    )


def samples(**sizes):
    """source -> the samples of the trained policy that HMA learns from, scored by what
    the policy was trained on. sizes: `draws` and `keep`."""

    def draw(source):
        run, task = source.run, source.study.task_of(source.run)
        name = source.study.methods[run.method].reward
        reward, seed = task.rewards[name](run.unit.seed), run.unit.seed
        params = _learned(source).weights(source.policy)
        return blockwise.high_reward_samples(
            task, params, reward, run.layout, **sizes, seed=seed
        )

    return draw


def _initial(source):
    """The initial policy, as the source's is trained."""
    return source.mix(source.policy, 0.0)


def _learned(source):
    """What of the source's model is trained."""
    study, run = source.study, source.run
    own = getattr(study.methods[run.method].train, "adapter", None)
    return Trainable(study.task_of(run).params, own or study.settings.adapter)
