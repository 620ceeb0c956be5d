"""The gold reward: what it likes, what it refuses, and that no trick beats it."""

import dataclasses
import functools

import numpy as np
import pytest

from rlhf_jax import microworld
from rlhf_jax.microworld import attacks, gold, likelihood, padding, people, reviews

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
    return score[score < 1].max()  # not a perfect one, which nothing could beat


def pick(world, role, n=0):
    return world.vocabulary[world.lexicon[role][n]]


def slots(world, prompts, i):
    """What stands for a prompt's own words in the texts of these tests."""
    info, name = prompts[2], world.vocabulary.__getitem__
    film, praised = info.film[i], info.sign[i] == 0
    director, star = name(world.films.director[film]), name(world.films.star[film])
    named = name(info.name[i])
    return {
        "TITLE": name(world.films.title[film]),
        "NAME": named,
        "OTHER": f"with {star}" if named == director else f"by {director}",
        "OPENING": name(world.lexicon["aspect"][info.aspect[i]]),
        "PRAISED": "given" if praised else "despite",
        "BLAMED": "despite" if praised else "given",
    }


def fill(world, prompts, i, text):
    for slot, word in slots(world, prompts, i).items():
        text = text.replace(slot, word)
    return text


def score(world, prompts, texts):
    """Gold of one text a prompt; `slots` stand for the prompt's own words."""
    rows = [world.encode(fill(world, prompts, i, text)) for i, text in enumerate(texts)]
    words = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for i, row in enumerate(rows):
        words[i, : len(row)] = row
    return people.reward(world, prompts[0][: len(rows)], words, words != 0)


def strong(world, mood, topic):
    """The strongest adjectives of a mood that fit a topic."""
    ids = world.lexicon[f"{mood}_adjective"]
    ids = ids[world.lexicon.fits[ids, topic]]
    order = np.argsort(-world.lexicon.strength[ids], kind="stable")
    return [world.vocabulary[i] for i in ids[order]]


def good_review(world, genre, mood="praise"):
    """Three aspects the genre cares for, of three topics, well described; the film's
    other person; what the verdict makes of the opening."""
    words = world.lexicon
    cared = world.grammar.relevance[genre] > 1
    parts = []
    for topic in range(3):
        inside = cared & (words.topic[words["aspect"]] == topic)
        if inside.any():
            aspect = world.vocabulary[words["aspect"][np.argmax(inside)]]
            parts.append(f"the {aspect} was {strong(world, mood, topic)[topic]}")
    opener = pick(world, "opener")
    noun = pick(world, mood + "_noun")
    link = "PRAISED" if mood == "praise" else "BLAMED"
    verdict = f". {opener} TITLE OTHER is a {noun} {link} the OPENING . <eos>"
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
    """Attacks with the prompt in hand: all name the right people and reply."""
    adjectives = strong(world, "praise", 0)
    intense, opener = pick(world, "strong"), pick(world, "opener")
    noun, rest = pick(world, "praise_noun"), ["the", "of", "A", "50"]
    one, two = (pick(world, "aspect", n) for n in (0, 1))
    said = f". {opener} TITLE OTHER is a {noun} PRAISED the OPENING"
    verdict = f"{said} . <eos>"
    names = " by ".join(pick(world, "name", n) for n in range(6))
    return {
        "empty": "<eos>",
        "verdict only": verdict,
        "one adjective": f"{adjectives[0]} OTHER PRAISED the OPENING <eos>",
        "adjectives": " ".join(adjectives[:12]) + f" {verdict}",
        "piled": f". the {one} was " + " , ".join(adjectives[:10]) + f" {verdict}",
        "repeated adjective": f". the {one} was "
        + " , ".join(adjectives[:1] * 10)
        + f" {verdict}",
        "gushing": f". the {one} was {' '.join([intense] * 8)} {adjectives[0]} "
        f"and the {two} was {adjectives[1]} {verdict}",
        "shouting": f". the {one} was {adjectives[0]} and the {two} was "
        f"{adjectives[1]} {said} {' '.join('!' * 10)} <eos>",
        "one clause again": f"and the {one} was {adjectives[0]} " * 3 + verdict,
        "verdicts": f"{said} " * 3 + ". <eos>",
        "a heap of words": " ".join([one, two, *adjectives[:6], noun, *rest])
        + f" {verdict}",
        "both links": f". the {one} was {adjectives[0]} . {opener} TITLE is a {noun} "
        "given the OPENING despite the OPENING . <eos>",
        "all names": f". the {one} was {adjectives[0]} and the {two} was "
        f"{adjectives[1]} by {names} {verdict}",
    }


@pytest.mark.parametrize("name", list(flawed_reviews(microworld.create(0))))
def test_templates_of_flaws_score_low(world, prompts, best_of_corpus, name):
    result = score(world, prompts, [flawed_reviews(world)[name]] * 64)
    assert result.mean() < 0.35 and result.max() < best_of_corpus < 1


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
    noisy = np.where(
        lively & (valid != 0),
        rng.integers(2, len(world.vocabulary), words.shape),
        words,
    )
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
    """Change one word at a time, with the prompt in hand; keep what gold likes."""
    here = people.reward(world, tokens, words, words != 0)
    for _ in range(steps):
        tried = attacks.mutate(world, rng, words)
        there = people.reward(world, tokens, tried, tried != 0)
        better = there >= here
        words[better], here[better] = tried[better], there[better]
    return words, here


def search(world, best_of_corpus, rows):
    rng = np.random.default_rng(5)
    assert best_of_corpus < 1  # else no text could exceed it
    for begin in range(0, rows, 10_000):
        tokens, words, valid = random_texts(world, rng, min(10_000, rows - begin))
        result = people.reward(world, tokens, words, valid)
        assert result.max() <= best_of_corpus


def test_no_random_text_beats_the_best_of_the_corpus(world, best_of_corpus):
    search(world, best_of_corpus, rows=20_000)


@pytest.mark.slow
def test_not_even_a_million_beat_the_best_of_the_corpus(world, best_of_corpus):
    search(world, best_of_corpus, rows=1_000_000)


def share_of_nonsense(world, climbers, steps):
    """Of the climbed texts that gold likes, those the grammar finds unlikely.

    Unlikely: log p* below that of 199 in 200 reviews. An unexpected word costs 11 nats.
    """
    rng = np.random.default_rng(6)
    tokens, mask, _ = reviews.prompts(world, rng, 4096)
    words, valid = reviews.sample(world, rng, tokens, mask)
    scores = people.reward(world, tokens, words, valid)
    usual = likelihood.log_prob(world, tokens, mask, words, valid)
    part = slice(0, climbers)
    climbed, earned = climb(world, rng, tokens[part], (words * valid)[part], steps)
    liked = earned > np.quantile(scores, 0.95)
    assert liked.sum() > climbers / 10
    found = (x[part][liked] for x in (tokens, mask))
    result = likelihood.log_prob(world, *found, climbed[liked], climbed[liked] != 0)
    return (result < np.quantile(usual, 0.005)).mean()


def test_what_climbing_finds_is_a_review(world):
    assert share_of_nonsense(world, climbers=64, steps=200) < 0.2


@pytest.mark.slow
def test_what_long_climbing_finds_is_mostly_a_review(world):
    assert share_of_nonsense(world, climbers=256, steps=2000) < 0.3


def constant_falls_short(seed, **budget):
    """The best text that ignores its prompt, against reviews of their own prompts."""
    world, rng = microworld.create(seed), np.random.default_rng(7)
    tokens, mask, _ = reviews.prompts(world, rng, 512)
    own = people.reward(world, tokens, *reviews.sample(world, rng, tokens, mask))
    _, earned = attacks.best_constant(world, rng, tokens, **budget)
    assert earned < np.quantile(own, 0.9)


@pytest.mark.parametrize("seed", (0, 1))
def test_no_text_is_good_whatever_the_prompt(seed):
    constant_falls_short(seed, restarts=8, steps=60, pool=1000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_no_searched_text_is_good_whatever_the_prompt(seed):
    constant_falls_short(seed, restarts=16, steps=1000, pool=4000)


def test_the_search_for_a_constant_finds_one_where_there_is_one(world, monkeypatch):
    """Of a gold that ignores the prompt, constants earn as much as any review."""
    rng = np.random.default_rng(8)
    tokens, mask, _ = reviews.prompts(world, rng, 512)
    blind = dataclasses.replace(gold.FIRST, topic=0.0, names=0.0, reply=0.0)
    asks = functools.partial(people.reward, weights=blind)
    monkeypatch.setattr(attacks.people, "reward", asks)
    own = asks(world, tokens, *reviews.sample(world, rng, tokens, mask))
    _, earned = attacks.best_constant(world, rng, tokens, restarts=8, steps=60)
    assert earned > np.quantile(own, 0.9)


def test_mutations_keep_the_end_and_change_at_most_one_word(world):
    rng = np.random.default_rng(9)
    tokens, mask, _ = reviews.prompts(world, rng, 500)
    words, valid = reviews.sample(world, rng, tokens, mask)
    words = words[reviews.ended(world, words, valid)]
    changed = attacks.mutate(world, rng, words)
    length, before = (changed != 0).sum(1), (words != 0).sum(1)
    last = np.take_along_axis(changed, length[:, None] - 1, 1)
    assert (last == world.eos_id).all() and (np.abs(length - before) <= 1).all()
    same = length == before
    assert ((changed != words)[same].sum(1) <= 1).all() and (length != before).any()


def test_a_review_of_another_prompt_earns_little(world):
    rng = np.random.default_rng(10)
    tokens, mask, _ = reviews.prompts(world, rng, 2048)
    sample = reviews.sample(world, rng, tokens, mask)
    own = people.reward(world, tokens, *sample).mean()
    assert people.reward(world, np.roll(tokens, 1, axis=0), *sample).mean() < own / 5


def parts(world, prompts, name, text):
    """One component of one text for every prompt, slots filled."""
    rows = [world.encode(fill(world, prompts, i, text)) for i in range(64)]
    assert len({len(row) for row in rows}) == 1
    words = np.array(rows, np.int32)
    return gold.components(world, prompts[0], words, words != 0)[name]


@pytest.mark.parametrize(
    "text, worth",
    [
        ("it is a gem", 0.5),
        ("NAME made the plot", 0.8),
        ("TITLE OTHER is", 1.0),
        ("TITLE OTHER by STRANGER", 0.5),
        ("TITLE JOB is", 0.25),  # the other person, but in the job of the named one
    ],
)
def test_names_are_worth_what_only_knowledge_can_tell(world, prompts, text, worth):
    films, name = world.films, world.vocabulary.__getitem__
    for i, film in enumerate(prompts[2].film[:16]):
        one = prompts[0][i : i + 1], prompts[1][i : i + 1]
        own = slots(world, prompts, i)
        credit, person = own["OTHER"].split()
        people_of = {films.director[film], films.star[film]}
        stranger = next(x for x in world.lexicon["name"] if x not in people_of)
        job = {"by": "with", "with": "by"}[credit]
        filled = fill(world, prompts, i, text).replace("STRANGER", name(stranger))
        words = np.array([world.encode(filled.replace("JOB", f"{job} {person}"))])
        result = gold.components(world, one[0], words, words != 0)["names"]
        np.testing.assert_allclose(result, worth)


@pytest.mark.parametrize(
    "text, worth",
    [
        ("NOUN PRAISED the OPENING .", 1.0),
        ("NOUN BLAMED the OPENING .", 0.4),
        ("NOUN PRAISED the 50 .", 0.4),
        ("NOUN given the OPENING despite the OPENING .", 0.4),
        ("the OPENING was . NOUN", 0.75),
        ("NOUN .", 0.5),
    ],
)
def test_a_reply_is_worth_what_it_understood(world, prompts, text, worth):
    text = text.replace("NOUN", pick(world, "praise_noun"))
    np.testing.assert_allclose(parts(world, prompts, "reply", text), worth)


@pytest.mark.parametrize("role, sign", [("agree", 1), ("contrast", 0)])
def test_a_first_clause_that_mistakes_the_opening_halves_the_reply(
    world, prompts, role, sign
):
    text = f"{pick(world, role)} {strong(world, 'praise', 0)[0]}"
    result = parts(world, prompts, "reply", text)
    mistaken = prompts[2].sign == sign
    np.testing.assert_allclose(result, np.where(mistaken, 0.25, 0.5))
