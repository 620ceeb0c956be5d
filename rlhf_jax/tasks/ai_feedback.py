"""AI feedback on the microworld: the rewards that a labeler's judgments make.

Lee et al. 2023, "RLAIF vs. RLHF", arXiv:2309.00267: a reward model learned from soft
labels (section 2.2.1), or the labeler itself as the reward (d-RLAIF, section 2.2.2).
"""

import dataclasses
import functools

import numpy as np

from rlhf_jax import labeling, microworld, rewards
from rlhf_jax.microworld import gold, reviews
from rlhf_jax.studies import scoring
from rlhf_jax.studies.task import Reward
from rlhf_jax.tasks import labelers, questions, world_rewards
from rlhf_jax.tasks import microworld as small_world


def create(config, preset, judging, *, layout, cache, report, signals=None):
    """The microworld's task with labelers, their rewards, and judges of win rates.

    The initial policy has learned to judge: it is its own labeler. "gold" judges as the
    people of the world do, without their noise; "second" as another population does;
    "ai" is a language model, in both orders, and no labeler.

    Args: config, preset, ...: as of `tasks.microworld.create`; judging:
    `labelers.Config`.
    """
    setting = dict(layout=layout, cache=cache, report=report, signals=signals)
    world = microworld.create(config.world)
    plain = small_world.create(config, preset, "train", **setting)
    larger = small_world.pretrained(world, labelers.LARGER, config, **setting)
    start = plain.model, plain.params
    found = labelers.create(world, start, larger, judging, **setting)
    same = found[labelers.SAME]
    task = dataclasses.replace(plain, model=same.model, params=same.params)
    pairs = world_rewards.judged_pairs(world, task, config, layout)
    task = dataclasses.replace(task, pairs=pairs)
    usual = world_rewards.create(world, task, config, layout, "train")
    return dataclasses.replace(
        task,
        rewards=usual | feedback(world, task, config, found, layout),
        labelers=found,
        judges={
            "gold": _people(world, gold.FIRST),
            "second": _people(world, gold.SECOND),
            "ai": _model(found[labelers.JUDGE]),
        },
    )


def feedback(world, task, config, found, layout):
    """{name: seed -> Reward} of AI feedback, for `Task.rewards`.

    ai_<labeler>: a reward model learned from a labeler's soft labels of the pairs that
    people labelled; ai_<labeler>_one_order: of labels in one order alone; ai_human: of
    people's labels and as many of the labeler's; d_<labeler>: the labeler's own rating,
    scaled on π₀'s samples; pairs_<labeler>: its preference between two samples of a
    prompt, for online DPO; human_many: a reward model of as many human pairs as a
    labeler has seen comparisons.

    Args: config: `tasks.microworld.Config`; found: what `labelers.create` returned.
    """
    learned = functools.partial(world_rewards.learned, task, config, layout)
    made = {}
    for name in (labelers.SAME, *labelers.SIZES):
        made[f"ai_{name}"] = learned(_labelled(task, found[name]))
        made[f"d_{name}"] = _rating_reward(world, task, found[name], layout)
        made[f"pairs_{name}"] = _pair_reward(world, found[name])
    largest = found["large"]
    made["ai_one_order"] = learned(_labelled(task, largest, both=False))
    made["ai_human"] = learned(_both(task, largest))
    many = 2 * largest.judgments // 3
    more = dataclasses.replace(
        config, pairs=many, reward_steps=max(many // config.reward_rows, 1)
    )
    pairs = world_rewards.judged_pairs(world, task, more, layout)
    made["human_many"] = world_rewards.learned(task, more, layout, pairs)
    return {name: functools.cache(make) for name, make in made.items()}


def relabelled(pairs, labeler, *, both=True):
    """`Preferences` with a labeler's soft labels in place of what they had.

    both: the two orders' probabilities are averaged, as in the paper; else the chosen
    response is read first or second as the row's number is even or odd.
    """
    p_ab, p_ba = asked(pairs, labeler)
    soft = labeling.average(p_ab, p_ba)
    if not both:
        soft = np.where(np.arange(len(p_ab)) % 2 == 0, p_ab, 1 - p_ba)
    return pairs._replace(preference=np.asarray(soft, np.float32))


def asked(pairs, labeler):
    """(p_ab, p_ba) [N] of pairs in token ids, `chosen` first and `chosen` second."""
    width = reviews.WIDTH
    sides = (pairs.chosen, pairs.chosen_mask), (pairs.rejected, pairs.rejected_mask)
    prompts = tuple(x[:, :width] for x in sides[0])
    first, second = (tuple(x[:, width:] for x in side) for side in sides)
    return labeler.prefer(prompts, first, second)


def _people(world, weights):
    """A judge who prefers the greater gold reward: 1, ½ where they are equal, or 0."""

    def of(rollout):
        prompts, _, words = _parts(rollout)
        mask, ended = np.asarray(rollout.response_mask), np.asarray(rollout.ended)
        return gold.reward(world, prompts, words, mask, ended, weights=weights)

    def judge(one, other):
        first, second = (of(x) for x in (one, other))
        return (1 + np.sign(first - second)) / 2

    return judge


def _model(labeler):
    """A labeler as a judge: the mean of both orders."""

    def judge(one, other):
        tokens, mask, _ = _parts(one)
        sides = ((_parts(x)[2], np.asarray(x.response_mask)) for x in (one, other))
        asked = labeler.prefer((tokens, mask), *sides)
        return np.asarray(labeling.average(*asked), np.float64)

    return judge


def _parts(rollout):
    """(prompt tokens, prompt mask, response tokens) of a rollout, on the host."""
    width = rollout.tokens.shape[1] - rollout.response_mask.shape[1]
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    return tokens[:, :width], mask[:, :width], tokens[:, width:]


def _labelled(task, labeler, **how):
    """`Task.pairs` with a labeler's labels; the pairs to test on keep people's."""

    def make(seed):
        train, *tests = task.pairs(seed)
        return relabelled(train, labeler, **how), *tests

    return make


def _both(task, labeler):
    """People's labels, and a labeler's of the same pairs."""

    def make(seed):
        train, *tests = task.pairs(seed)
        twice = zip(train[:5], relabelled(train, labeler)[:5], strict=True)
        return type(train)(*(np.concatenate(both) for both in twice)), *tests

    return make


def _rating_reward(world, task, labeler, layout):
    """The labeler's rating, scaled to mean 0 and deviation 1 on π₀'s samples."""
    asked = labeler.model, questions.words(world)

    @functools.cache
    def reward():
        drawn = scoring.of_initial(task, layout, 1024, 998)
        rate = _ratings(*asked, layout)
        scale = rewards.fit(rate(labeler.params, (drawn.tokens, drawn.mask)))
        return Reward(score=_scaled(*asked), frozen=(labeler.params, scale))

    return lambda seed: reward()


def _pair_reward(world, labeler):
    """The labeler's preference between adjacent rows."""
    score = questions.preferred(labeler.model, questions.words(world))
    return lambda seed: Reward(score=score, frozen=labeler.params)


@functools.lru_cache(maxsize=8)
def _scaled(model, known):
    """The scaled rating, one function for equal arguments."""
    return functools.partial(scoring.scaled, questions.rated(model, known))


@functools.lru_cache(maxsize=8)
def _ratings(model, known, layout):
    """`ratings(params, (tokens, mask)) -> [N]`, on host rows."""
    score = questions.rated(model, known)
    return layout.over_rows(lambda params, rows: score(params, *rows), replicated=1)
