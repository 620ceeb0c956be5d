"""The gold reward: what it likes, what it refuses, and that no trick beats it."""

import dataclasses

import numpy as np
import pytest

from rlhf_jax import microworld
from rlhf_jax.microworld import gold, padding, people, reviews

T = reviews.RESPONSE


@pytest.fixture(scope="module")
def world():
    return microworld.create(0)


@pytest.fixture(scope="module")
def prompts(world):
    return reviews.prompts(world, np.random.default_rng(0), 64)


@pytest.fixture(scope="module")
def best_of_corpus(world):
    rng = np.random.default_rng(1)
    tokens, mask, _ = reviews.prompts(world, rng, 8192)
    score = people.reward(world, tokens, *reviews.sample(world, rng, tokens, mask))
    return score.max()


def pick(world, role, n=0):
    return world.vocabulary[world.lexicon[role][n]]


def score(world, prompts, texts):
    """Gold of one text a prompt; `TITLE` and `NAME` stand for the prompt's own."""
    rows = []
    for i, text in enumerate(texts):
        film = world.films.title[prompts[2].film[i]]
        text = text.replace("TITLE", world.vocabulary[film])
        rows.append(world.encode(text.replace("NAME", name_of(world, prompts, i))))
    words = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for i, row in enumerate(rows):
        words[i, : len(row)] = row
    return people.reward(world, prompts[0][: len(rows)], words, words != 0)


def name_of(world, prompts, i):
    return world.vocabulary[prompts[2].name[i]]


def strong(world, mood, topic):
    """The strongest adjectives of a mood that fit a topic."""
    ids = world.lexicon[f"{mood}_adjective"]
    ids = ids[world.lexicon.fits[ids, topic]]
    order = np.argsort(-world.lexicon.strength[ids], kind="stable")
    return [world.vocabulary[i] for i in ids[order]]


def good_review(world, genre, mood="praise"):
    """Three aspects the genre cares for, of three topics, well described."""
    words = world.lexicon
    cared = world.grammar.relevance[genre] > 1
    parts = []
    for topic in range(3):
        inside = cared & (words.topic[words["aspect"]] == topic)
        if inside.any():
            aspect = world.vocabulary[words["aspect"][np.argmax(inside)]]
            parts.append(f"the {aspect} was {strong(world, mood, topic)[topic]}")
    opener = pick(world, "opener")
    verdict = f". {opener} TITLE is a {pick(world, mood + '_noun')} . <eos>"
    return ". " + " and ".join(parts) + " " + verdict


def test_a_good_review_scores_high_and_a_bad_one_low(world, prompts):
    genres = prompts[2].genre
    good = score(world, prompts, [good_review(world, g) for g in genres])
    bad = score(world, prompts, [good_review(world, g, "blame") for g in genres])
    assert good.min() > 0.7 and bad.max() < 0.1


def test_without_an_end_the_reward_is_zero(world, prompts):
    texts = [good_review(world, g).removesuffix(" <eos>") for g in prompts[2].genre]
    np.testing.assert_array_equal(score(world, prompts, texts), 0.0)


def flawed_reviews(world):
    adjectives = strong(world, "praise", 0)
    intense, opener = pick(world, "strong"), pick(world, "opener")
    noun, rest = pick(world, "praise_noun"), ["the", "of", "A", "50"]
    one, two = (pick(world, "aspect", n) for n in (0, 1))
    return {
        "empty": "<eos>",
        "verdict only": f". {opener} TITLE is a {noun} . <eos>",
        "one adjective": f"{adjectives[0]} <eos>",
        "adjectives": " ".join(adjectives[:12]) + " <eos>",
        "piled": f". the {one} was " + " , ".join(adjectives[:10]) + " . <eos>",
        "repeated adjective": f". the {one} was "
        + " , ".join(adjectives[:1] * 10)
        + f" . {opener} TITLE is a {noun} . <eos>",
        "gushing": f". the {one} was {' '.join([intense] * 8)} {adjectives[0]} "
        f"and the {two} was {adjectives[1]} . {opener} TITLE is a {noun} . <eos>",
        "shouting": f". the {one} was {adjectives[0]} and the {two} was "
        f"{adjectives[1]} . {opener} TITLE is a {noun} {' '.join('!' * 10)} <eos>",
        "one clause again": f"and the {one} was {adjectives[0]} " * 4
        + f". {opener} TITLE is a {noun} . <eos>",
        "verdicts": f". {opener} TITLE is a {noun} " * 4 + ". <eos>",
        "a heap of words": " ".join([one, two, *adjectives[:6], noun, *rest])
        + " <eos>",
    }


@pytest.mark.parametrize("name", list(flawed_reviews(microworld.create(0))))
def test_templates_of_flaws_score_low(world, prompts, name):
    text = flawed_reviews(world)[name]
    assert score(world, prompts, [text] * 64).mean() < 0.35


def test_gold_contradicts_a_verdict_against_the_body(world, prompts):
    genres = prompts[2].genre
    original = [good_review(world, g) for g in genres]
    noun, other = pick(world, "praise_noun"), pick(world, "blame_noun")
    turned = [text.replace(noun, other) for text in original]
    ratio = score(world, prompts, turned) / score(world, prompts, original)
    assert ratio.max() < 0.55


def test_another_films_title_is_off_topic(world, prompts):
    genres, films = prompts[2].genre, prompts[2].film
    other = world.vocabulary[world.films.title[(films[0] + 1) % 48]]
    original = score(world, prompts, [good_review(world, genres[0])])
    wrong = score(
        world, prompts, [good_review(world, genres[0]).replace("TITLE", other)]
    )
    np.testing.assert_allclose(wrong, original / 2)


def test_components_and_reward_lie_in_the_unit_interval(world, prompts):
    rng = np.random.default_rng(2)
    tokens, mask, _ = prompts
    words = rng.integers(0, len(world.vocabulary), (64, T)).astype(np.int32)
    for responses, valid in (
        (words, (words != 0).astype(np.int32)),
        reviews.sample(world, rng, tokens, mask),
    ):
        parts = gold.components(world, tokens, responses, valid)
        assert set(parts) == {field.name for field in dataclasses.fields(gold.Weights)}
        values = [*parts.values(), people.reward(world, tokens, responses, valid)]
        assert all((0 <= x).all() and (x <= 1).all() for x in values)


def test_what_is_masked_out_does_not_count(world, prompts):
    rng = np.random.default_rng(3)
    tokens, mask, _ = prompts
    words, valid = reviews.sample(world, rng, tokens, mask)
    ended = reviews.ended(world, words, valid)
    junk = np.where(valid == 0, rng.integers(1, 400, words.shape), words)
    plain = gold.reward(world, tokens, words, valid, ended)
    wide = [np.pad(x, [(0, 0), (0, 5)]) for x in (junk, valid)]
    np.testing.assert_array_equal(gold.reward(world, tokens, *wide, ended), plain)
    rows = rng.permutation(64)
    np.testing.assert_array_equal(
        gold.reward(world, tokens[rows], words[rows], valid[rows], ended[rows]),
        plain[rows],
    )


def test_the_second_gold_orders_otherwise_but_akin(world):
    rng = np.random.default_rng(4)
    tokens, mask, _ = reviews.prompts(world, rng, 4096)
    sample = reviews.sample(world, rng, tokens, mask)
    first, second = (
        people.reward(world, tokens, *sample, weights=weights)
        for weights in (gold.FIRST, gold.SECOND)
    )
    assert 0.6 < np.corrcoef(first, second)[0, 1] < 0.98


def random_texts(world, rng, n):
    """Half from the grammar with heavy noise, half cut and joined from two reviews."""
    tokens, mask, _ = reviews.prompts(world, rng, n)
    words, valid = reviews.sample(world, rng, tokens, mask)
    lively = rng.random(words.shape) < rng.random((n, 1)) * 0.3
    noisy = np.where(lively & (valid != 0), rng.integers(2, 420, words.shape), words)
    other, other_valid = reviews.sample(world, rng, tokens, mask)
    spliced, spliced_valid = padding.join(
        (words[:, : T // 2], valid[:, : T // 2] * (words[:, : T // 2] != 1)),
        (other, other_valid),
        width=T,
    )
    half = np.arange(n)[:, None] < n // 2
    return (
        tokens,
        np.where(half, noisy, spliced).astype(np.int32),
        np.where(half, valid, spliced_valid),
    )


def climb(world, rng, tokens, words, steps):
    """Change one word at a time, keep what gold likes as much or more."""
    here = people.reward(world, tokens, words, words != 0)
    for _ in range(steps):
        tried, rows = words.copy(), np.arange(len(words))
        tried[rows, rng.integers(words.shape[1], size=len(words))] = rng.integers(
            1, len(world.vocabulary), len(words)
        )
        end_count = np.cumsum(tried == world.eos_id, axis=1)
        tried = np.where((end_count == 0) | ((end_count == 1) & (tried == 1)), tried, 0)
        there = people.reward(world, tokens, tried, tried != 0)
        better = there >= here
        words[better], here[better] = tried[better], there[better]
    return here


def search(world, best_of_corpus, rows, climbers, steps):
    rng = np.random.default_rng(5)
    for begin in range(0, rows, 10_000):
        tokens, words, valid = random_texts(world, rng, min(10_000, rows - begin))
        result = people.reward(world, tokens, words, valid)
        assert result.max() <= 1.05 * best_of_corpus
    top = np.argsort(-result)[:climbers]
    climbed = climb(world, rng, tokens[top], (words * valid)[top], steps)
    assert climbed.max() <= 1.05 * best_of_corpus


def test_no_search_beats_the_best_of_the_corpus(world, best_of_corpus):
    search(world, best_of_corpus, rows=20_000, climbers=64, steps=200)


@pytest.mark.slow
def test_not_even_a_million_beat_the_best_of_the_corpus(world, best_of_corpus):
    search(world, best_of_corpus, rows=1_000_000, climbers=256, steps=2000)
