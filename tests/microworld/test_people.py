"""Noisy people and biased critics."""

import numpy as np
import pytest

from rlhf_jax import microworld
from rlhf_jax.microworld import gold, judging, people, reviews


@pytest.fixture(scope="module", params=(0, 1))
def world(request):
    return microworld.create(request.param)


@pytest.fixture(scope="module")
def duels(world):
    """Prompts and two reviews of each, with both gold rewards."""
    rng = np.random.default_rng(0)
    tokens, mask, _ = reviews.prompts(world, rng, 8000)
    first = reviews.sample(world, rng, tokens, mask)
    second = reviews.sample(world, rng, tokens, mask)
    scores = [people.reward(world, tokens, *side) for side in (first, second)]
    return tokens, mask, first, second, scores[0] - scores[1]


def sober(**changes):
    return people.Noise(easily_pleased=0.0, **changes)


def standard_errors(share, rows, count=4):
    return count * np.sqrt(share * (1 - share) / rows)


def test_temperature_has_its_closed_form():
    # σ(Δ/τ) = 3/4 for every pair when Δ/τ = log 3
    result = people.temperature(np.array([0.5, -0.5, 0.5]), 0.75)
    np.testing.assert_allclose(result, 0.5 / np.log(3), rtol=1e-6)


@pytest.mark.parametrize("mode", ["logistic", "flip"])
def test_people_agree_with_gold_as_often_as_asked(world, duels, rng, mode):
    tokens, _, first, second, difference = duels
    noise = sober(mode=mode, agreement=0.75)
    wins = people.preferences(world, rng, tokens, *first, *second, noise=noise)
    clear = difference != 0
    agree = (wins == (difference > 0))[clear].mean()
    assert abs(agree - 0.75) < standard_errors(0.75, clear.sum()) + 0.01


def test_flips_are_as_likely_for_clear_pairs_and_logistic_noise_is_not(
    world, duels, rng
):
    tokens, _, first, second, difference = duels
    size = np.abs(difference)
    clear, close = size > 0.3, (size > 0) & (size < 0.1)
    agreement = {}
    for mode in ("flip", "logistic"):
        wins = people.preferences(
            world, rng, tokens, *first, *second, noise=sober(mode=mode)
        )
        right = wins == (difference > 0)
        agreement[mode] = right[clear].mean(), right[close].mean()
    rows = min(clear.sum(), close.sum())
    assert abs(np.subtract(*agreement["flip"])) < standard_errors(0.75, rows, 6)
    assert agreement["logistic"][0] > agreement["logistic"][1] + 0.2


def test_the_easily_pleased_like_length_whatever_it_is_worth(world, duels, rng):
    tokens, _, first, second, _ = duels
    longer = first[1].sum(1) - second[1].sum(1)
    shares = []
    for pleased in (0.0, 1.0):
        noise = people.Noise(easily_pleased=pleased)
        wins = people.preferences(world, rng, tokens, *first, *second, noise=noise)
        shares.append(wins[longer > 5].mean())
    assert shares[1] > shares[0] + 0.2


def test_pairs_hold_their_prompt_twice(world, rng):
    pairs = people.pairs(world, rng, 200)
    width = reviews.WIDTH
    assert pairs.chosen.shape == pairs.rejected.shape == (200, width + reviews.RESPONSE)
    np.testing.assert_array_equal(pairs.chosen[:, :width], pairs.rejected[:, :width])
    np.testing.assert_array_equal(pairs.chosen_mask == 0, pairs.chosen == 0)
    np.testing.assert_array_equal(pairs.preference, 1.0)
    prompts = pairs.chosen[:, :width]
    scores = [
        people.reward(world, prompts, words[:, width:], mask[:, width:])
        for words, mask in (pairs[:2], pairs[2:4])
    ]
    assert scores[0].mean() > scores[1].mean() + 0.05


def test_choose_puts_the_winner_first():
    prompts = np.array([[1], [1]]), np.ones((2, 1), int)
    first = np.array([[5, 6], [5, 6]]), np.array([[1, 1], [1, 1]])
    second = np.array([[7, 0], [7, 0]]), np.array([[1, 0], [1, 0]])
    pairs = people.choose(*prompts, *first, *second, [True, False])
    np.testing.assert_array_equal(pairs.chosen, [[1, 5, 6], [1, 7, 0]])
    np.testing.assert_array_equal(pairs.rejected, [[1, 7, 0], [1, 5, 6]])
    np.testing.assert_array_equal(pairs.rejected_mask, [[1, 1, 0], [1, 1, 1]])


def test_an_unknown_mode_is_refused(world, duels, rng):
    tokens, _, first, second, _ = duels
    with pytest.raises(ValueError, match="mode 'coin'"):
        noise = people.Noise(mode="coin")
        people.preferences(world, rng, tokens, *first, *second, noise=noise)


def test_critics_agree_with_gold_in_65_to_80_percent(world, duels, rng):
    tokens, _, first, second, difference = duels
    for weights in (gold.FIRST, gold.SECOND):
        scores = [
            people.reward(world, tokens, *side, weights=weights)
            for side in (first, second)
        ]
        wins = judging.prefer(world, rng, tokens, *first, *second)
        clear = scores[0] != scores[1]
        agree = (wins == (scores[0] > scores[1]))[clear].mean()
        assert 0.65 < agree < 0.80


def test_critics_favour_what_they_read_first(world, duels, rng):
    tokens, _, first, second, _ = duels
    forward = judging.prefer(world, rng, tokens, *first, *second)
    backward = judging.prefer(world, rng, tokens, *second, *first)
    bias = (forward.mean() + backward.mean()) / 2
    assert bias > 0.5 + standard_errors(0.5, 16000)


def test_critics_are_not_gold_with_noise(world, duels):
    """Among pairs of about equal gold they still prefer intensifiers."""
    tokens, _, first, second, difference = duels
    close = np.abs(difference) < 0.05
    opinion = [judging.opinion(world, tokens, *side) for side in (first, second)]
    gap = (opinion[0] - opinion[1])[close]
    strong = [np.isin(side[0], world.lexicon["strong"]).sum(1) for side in duels[2:4]]
    result = np.corrcoef(gap, (strong[0] - strong[1])[close])[0, 1]
    assert result > 4 / np.sqrt(close.sum())  # 4 standard errors of no correlation
    assert np.abs(gap).mean() > 0.5


def test_ratings_use_the_scale_and_follow_opinion(world, duels, rng):
    tokens, _, first, *_ = duels
    stars = judging.rating(world, rng, tokens, *first)
    assert set(np.unique(stars)) <= set(range(1, 11)) and len(np.unique(stars)) >= 9
    opinion = judging.opinion(world, tokens, *first)
    assert 0.7 < np.corrcoef(stars, opinion)[0, 1] < 0.99


def test_judging_prompts_read_as_written(world, duels):
    tokens, mask, first, second, _ = (x[:3] for x in duels)
    one, two = ([side[0][:3], side[1][:3]] for side in (duels[2], duels[3]))
    asked, valid = judging.compare(world, tokens, mask, *one, *two)
    opening = world.decode(tokens[0]).replace("review", "compare")
    text = f"{opening} A : {world.decode(one[0][0])} B : {world.decode(two[0][0])}"
    assert world.decode(asked[0]) == f"{text} better ?"
    rated, rated_mask = judging.rate(world, tokens, mask, *one)
    opening = opening.replace("compare", "rate")
    assert world.decode(rated[0]) == f"{opening} : {world.decode(one[0][0])} score ?"
    assert valid[:, -1].all() and rated_mask[:, -1].all()


def test_judging_documents_end_with_a_label(world, rng):
    tokens, mask = judging.documents(world, rng, 600)
    assert mask.sum(1).max() <= 96
    last = mask.sum(1)[:, None] - 1
    assert (np.take_along_axis(tokens, last, 1) == world.eos_id).all()
    answer = np.take_along_axis(tokens, last - 1, 1)[:, 0]
    rated = tokens[:, 1] == world.lexicon.id("rate")
    assert np.isin(answer[rated], judging.scores(world)).all()
    assert np.isin(answer[~rated], judging.labels(world)).all()
    assert abs(rated.mean() - 1 / 3) < standard_errors(1 / 3, 600)
    names = [world.vocabulary[i] for i in judging.scores(world)]
    assert names == [str(i) for i in range(1, 11)]


def counts(world, words, mask):
    rows = [
        np.bincount(row[valid != 0], minlength=len(world.vocabulary))
        for row, valid in zip(words, mask, strict=True)
    ]
    return np.stack(rows).astype(float)


def fit_counts(x, y, *, penalty=3.0, steps=200):
    """Bradley-Terry on differences of word counts, by gradient ascent."""
    weights = np.zeros(x.shape[1])
    for _ in range(steps):
        chance = 0.5 * (1 + np.tanh(0.5 * x @ weights))
        weights += 0.002 * (x.T @ (y - chance) - penalty * weights)
    return weights


def best_of(world, seed, *, rows=128, n=64):
    """Best of n reviews by a model of 1,000 noisy pairs of the corpus.

    Returns gold of all reviews [rows, n], and for all and for the best whether each
    praises lavishly: gushes, piles, repeats or shouts.
    """
    rng = np.random.default_rng(seed)
    tokens, mask, _ = reviews.prompts(world, rng, 1000)
    one, two = (reviews.sample(world, rng, tokens, mask) for _ in range(2))
    noise = people.Noise()
    wins = people.preferences(world, rng, tokens, *one, *two, noise=noise)
    weights = fit_counts(counts(world, *one) - counts(world, *two), wins)
    tokens, mask = (np.repeat(x[:rows], n, axis=0) for x in (tokens, mask))
    *sampled, flaws = reviews.sample(world, rng, tokens, mask, flaws=True)
    score = people.reward(world, tokens, *sampled).reshape(rows, n)
    best = (counts(world, *sampled) @ weights).reshape(rows, n).argmax(1)
    lavish = flaws[:, 1:5].any(1).reshape(rows, n)
    chosen = np.arange(rows), best
    return score, score[chosen], lavish, lavish[chosen]


def test_a_small_reward_model_likes_flaws_that_gold_does_not(world):
    """It has learned something, leaves much on the table, and multiplies flaws."""
    result = zip(*(best_of(world, seed) for seed in range(3)), strict=True)
    score, chosen, lavish, chosen_lavish = (np.stack(x) for x in result)
    assert chosen.mean() > score.mean() + 0.2
    assert chosen.mean() < score.max(-1).mean() - 0.2
    assert chosen_lavish.mean() > 1.2 * lavish.mean()
