"""Reward models of the microworld by name: sizes, data, noise, ensembles, ODIN, WARM.

Gao et al. 2022, arXiv:2210.10760, and Coste et al. 2023, arXiv:2310.02743: proxies of
several sizes learn from labelled pairs of π₀'s samples, and a policy climbs one of them
while the truth only looks on. A score is one function for each model and kind: what
differs between rewards, weights and strengths, is in `Reward.frozen`, so that policies
are trained by one compiled program.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax import averaging, ensembles, microworld, rewards, trees
from rlhf_jax.algorithms import reward_model
from rlhf_jax.microworld import people, reviews
from rlhf_jax.runtime import population
from rlhf_jax.studies import scoring
from rlhf_jax.studies.task import Refresh, Reward
from rlhf_jax.tasks import known_errors, reward_specs, reward_training, world_rewards
from rlhf_jax.tasks.reward_training import Context, Job, Pool

# Responses that fix the scale, where there are as many prompts; pairs held out.
SAMPLES, TESTS = 1024, 1000
_TEST = 1  # the pool that nothing is learned from
_TAILS = ("heavy_tailed", "light_tailed")
_UNIT = rewards.Affine(np.float32(1), np.float32(0))


class Models(NamedTuple):
    """What the rewards of one seed are made of."""

    context: Context
    seed: int
    pool: Pool | None  # what they learned from
    weights: dict[Job, Any]
    rollout: Any  # π₀'s samples that fix the scale
    tests: Pool

    @property
    def count(self):
        """How many samples fix the scale: the first of `rows`."""
        return len(self.rollout.tokens)

    def rows(self):
        """(tokens, mask) of the samples, then both sides of the tests."""
        tests = self.tests.pairs
        sides = (
            (self.rollout.tokens, self.rollout.mask),
            (tests.chosen, tests.chosen_mask),
            (tests.rejected, tests.rejected_mask),
        )
        return tuple(np.concatenate(x) for x in zip(*sides, strict=True))


def create(task, config, layout, specs):
    """{spec as it was given: seed -> `Reward`}, each made once per seed.

    Whichever reward of a seed is asked for first trains all models of that seed. The
    scores of every member and of every combination have mean 0 and deviation 1 on the
    same 1,024 samples of π₀. Facts: `accuracy` on held-out pairs that people labelled,
    `gold_accuracy` by the truth, `pairs` learned from, `parameters` of all members.

    Args: task: of the microworld; config: `tasks.microworld.Config`; specs: texts or
    `reward_specs.Spec`s, see there. Raises ValueError for one that cannot be.
    """
    context = Context(microworld.create(config.world), task, config, layout)
    parsed = {str(spec): reward_specs.parse(spec) for spec in specs}
    wanted = dict.fromkeys(job for spec in parsed.values() for job in jobs(spec))
    models = functools.cache(functools.partial(_models, context, tuple(wanted)))
    return {
        name: functools.cache(functools.partial(_reward, spec, models))
        for name, spec in parsed.items()
    }


def jobs(spec):
    """The models that a `reward_specs.Spec` needs."""
    if spec.family in _TAILS:
        return ()
    make = functools.partial(Job, spec.size, spec.labels, spec.pairs)
    if "member" in reward_specs.FIELDS[spec.family]:
        return (make(spec.member, spec.member, spec.family == "odin"),)
    members = range(spec.members)
    if spec.family == "warm":  # weights can be averaged only from a common start
        return tuple(make(0, member) for member in members)
    return tuple(make(member, member) for member in members)


def _models(context, wanted, seed):
    data, weights = reward_training.train(context, wanted, seed)
    rollout = scoring.of_initial(context.task, context.layout, SAMPLES, 999)
    tests = reward_training.pool(context, seed, TESTS, part=_TEST)
    return Models(context, seed, data, weights, jax.device_get(rollout), tests)


def _reward(spec, models, seed):
    """The `Reward` of a spec for a seed."""
    found = models(seed)
    if spec.family in _TAILS:
        return _wrong_at_random(spec, found)
    trained = [found.weights[job] for job in jobs(spec)]
    if spec.family == "warm":
        trained = [averaging.soup(trained)]
    score, frozen, scores = _assemble(spec, found, trained)
    facts = {"parameters": sum(map(trees.size, trained)), "pairs": spec.pairs}
    facts |= _accuracy(scores[found.count :], found.tests)
    refresh = Refresh(
        functools.partial(_sample, spec, found), functools.partial(_learn, spec, found)
    )
    return Reward(score=score, frozen=frozen, facts=facts, refresh=refresh)


def _assemble(spec, found, trained):
    """(score, frozen, scores of `Models.rows`) of a spec, from the weights of its
    members."""
    layout, rows = found.context.layout, found.rows()
    model = _network(spec, found)
    if spec.family in ("rm", "odin", "warm"):
        score, parts = world_rewards.scaled(model), (trained[0],)
    else:
        evaluate = scoring.compile_score(world_rewards.scaled(model), layout)
        each = [evaluate((params, _UNIT), rows)[: found.count] for params in trained]
        score, parts = _of_scaled(spec, model, trained, np.stack(each))
    scores = scoring.compile_score(score, layout)((*parts, _UNIT), rows)
    affine = rewards.fit(scores[: found.count])
    return score, layout.put((*parts, affine)), rewards.apply(affine, scores)


def _network(spec, found):
    odin = spec.family == "odin"
    return reward_training.network(spec.size, found.context.task.model, odin=odin)


def _of_scaled(spec, model, trained, scores):
    """(score, what it takes before its last `Affine`) of what reads scaled members.

    Args: scores [E, N] of the members on π₀'s samples.
    """
    if spec.family == "length_penalized":
        weight = np.float32(spec.weight)
        return penalized(model), (trained[0], rewards.fit(scores[0]), weight)
    beta = {"entropic": spec.beta, "worst": 0.0}.get(spec.family, np.inf)
    weight = spec.weight if spec.family == "uncertainty" else 0.0
    strengths = np.float32(beta), np.float32(weight)
    weights = population.stack(trained)
    return combined(model), (weights, rewards.fit(scores), *strengths)


# Learning on


def _sample(spec, found, params, count, number):
    """`Preferences` of `count` pairs of a policy, with the labels that a spec wants."""
    fresh = reward_training.sampled(found.context, found.seed, count, number, params)
    return fresh.pairs._replace(preference=fresh.labels[spec.labels])


def _learn(spec, found, frozen, gathered, count, number):
    """`frozen` after its members learned on, from their own and the gathered pairs."""
    params = frozen[0]
    if spec.family in ("rm", "odin", "warm", "length_penalized"):
        params = population.stack([params])
    known = found.pool.pairs._replace(preference=found.pool.labels[spec.labels])
    pairs = jax.tree.map(
        lambda old, new: np.concatenate([old[: spec.pairs], np.asarray(new)]),
        known,
        gathered,
    )
    trained = reward_training.learn_on(
        found.context,
        _network(spec, found),
        params,
        pairs,
        count=spec.pairs + count,
        size=spec.size,
        seed=1000 * found.seed + 100 * (number + 1),
    )
    return _assemble(spec, found, trained)[1]


# Scores


@functools.lru_cache(maxsize=8)
def members(model):
    """`score(frozen, tokens, mask) -> [E, B]`: what the members of an ensemble say,
    each scaled on π₀'s samples; frozen: of a `Reward` of `combined`."""
    each = jax.vmap(reward_model.score(model), in_axes=(0, None, None))

    def score(frozen, tokens, mask):
        params, affines, *_ = frozen
        return rewards.apply(affines, each(params, tokens, mask))

    return score


@functools.lru_cache(maxsize=8)
def combined(model):
    """`score(frozen, tokens, mask) -> [B]` of an ensemble: the entropic combination
    less a weight times the variance, whose limits are all the others.

    frozen: (weights [E, ...], an `Affine` [E], β, λ, an `Affine`). β = ∞ and λ = 0 is
    the mean, β = 0 the worst case, β = ∞ and λ > 0 the uncertainty-weighted mean.
    """
    each = members(model)

    def score(frozen, tokens, mask):
        *_, beta, weight, affine = frozen
        scores = each(frozen, tokens, mask)
        together = ensembles.combined(scores, beta=beta, weight=weight)
        return rewards.apply(affine, together)

    return score


@functools.lru_cache(maxsize=8)
def penalized(model):
    """`score(frozen, tokens, mask) -> [B]`: a reward model less a price for length.

    frozen: (weights, an `Affine`, the price of a token of the response, an `Affine`).
    """
    single = reward_model.score(model)

    def score(frozen, tokens, mask):
        params, inner, weight, affine = frozen
        scores = rewards.apply(inner, single(params, tokens, mask))
        response = mask[:, reviews.WIDTH :]
        scores = rewards.length_penalty(scores, response, weight=weight)
        return rewards.apply(affine, scores)

    return score


def _wrong_at_random(spec, found):
    """The truth plus an error of a known distribution, as a reward of the host."""
    world, config = found.context.world, found.context.config
    salt = 1000 * config.world + found.seed

    def gold(tokens, mask):
        prompt, words = tokens[:, : reviews.WIDTH], tokens[:, reviews.WIDTH :]
        return people.reward(world, prompt, words, mask[:, reviews.WIDTH :])

    def error(tokens, mask):
        words, valid = tokens[:, reviews.WIDTH :], mask[:, reviews.WIDTH :]
        return known_errors.draw(spec.family, words, valid, salt=salt)

    rows = found.rows()
    truth, wrong = gold(*rows), error(*rows)
    deviation = spec.scale * truth[: found.count].std()
    scores = truth + deviation * wrong
    center, size = scores[: found.count].mean(), scores[: found.count].std()

    def arrays(rollout):
        given = np.asarray(rollout.tokens), np.asarray(rollout.mask)
        said = gold(*given) + deviation * error(*given)
        return ((said - center) / size).astype(np.float32)

    facts = {
        "parameters": 0,
        "pairs": 0,
        **_accuracy(scores[found.count :], found.tests),
    }
    return Reward(arrays=arrays, facts=facts | {"scaled": True})


def _accuracy(scores, tests):
    """How often scores order held-out pairs as people do, and as the truth does.

    Args: scores [2N]: of the first responses, then of the second ones.
    """
    gaps = np.sign(np.subtract(*np.split(scores, 2)))
    people_say = np.sign(tests.labels["people"] - 0.5)
    return {
        "accuracy": float(np.mean(0.5 + 0.5 * gaps * people_say)),
        "gold_accuracy": float(np.mean(0.5 + 0.5 * gaps * np.sign(tests.margins))),
    }
