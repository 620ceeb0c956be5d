"""Worlds, prompts, reviews and the corpus: sizes, splits, entropy, flaws."""

import dataclasses

import numpy as np
import pytest

from rlhf_jax import microworld
from rlhf_jax.microworld import (
    corpus,
    gold,
    grammar,
    likelihood,
    padding,
    reviews,
    splits,
)

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module", params=SEEDS)
def world(request):
    return microworld.create(request.param)


@pytest.fixture(scope="module")
def sampled(world):
    rng = np.random.default_rng(0)
    prompts, mask, info = reviews.prompts(world, rng, 1024)
    words, valid, flaws = reviews.sample(
        world, rng, prompts, mask, length=51, flaws=True
    )
    return prompts, mask, info, words, valid, flaws


def test_a_seed_makes_one_world():
    assert microworld.create(0) is microworld.create(0)
    microworld.create.cache_clear()
    again = microworld.create(0)
    microworld.create.cache_clear()
    first = microworld.create(0)
    assert again.vocabulary == first.vocabulary
    np.testing.assert_array_equal(again.films.star, first.films.star)
    np.testing.assert_array_equal(
        again.grammar.machine.words, first.grammar.machine.words
    )


def test_worlds_differ_in_words_films_and_meaning():
    one, two = microworld.create(0), microworld.create(1)
    content = [
        {
            w.vocabulary[i]
            for role in ("title", "name", "aspect")
            for i in w.lexicon[role]
        }
        for w in (one, two)
    ]
    assert len(content[0] & content[1]) < 0.75 * len(content[0])
    value = [
        dict(zip(w.vocabulary, w.lexicon.polarity, strict=True)) for w in (one, two)
    ]
    shared = set(value[0]) & set(value[1])
    assert any(value[0][word] * value[1][word] < 0 for word in shared)


def test_vocabulary_is_as_large_as_promised(world):
    assert 384 <= len(world.vocabulary) <= 448
    assert len(set(world.vocabulary)) == len(world.vocabulary)
    sizes = {role: len(ids) for role, ids in world.lexicon.roles.items()}
    assert sizes["title"] == 48 and sizes["name"] == 32 and sizes["genre"] == 4
    assert sizes["aspect"] == 30 and sizes["number"] == 100
    assert sizes["praise_adjective"] == sizes["blame_adjective"] == 24
    assert sizes["source"] == 32
    assert (world.pad_id, world.eos_id, world.bos_id, world.unk_id) == (0, 1, 2, 3)


def test_every_aspect_has_fitting_adjectives_of_both_moods(world):
    opener = world.grammar.opener
    assert ((opener > 0).sum(-1) >= 12).all()
    np.testing.assert_allclose(opener.sum(-1), 1.0)


def test_encode_and_decode_are_inverse(world):
    text = " ".join(world.vocabulary[4:40])
    assert world.decode(world.encode(text)) == text
    assert world.encode("certainly-no-word") == [world.unk_id]


def test_prompts_are_left_padded_and_read_back(world, sampled):
    prompts, mask, info, *_ = sampled
    assert set(mask.sum(1)) == {12, 13} and mask[:, -1].all()
    np.testing.assert_array_equal(prompts != 0, mask == 1)
    result = reviews.parse(world, prompts, mask)
    for field, expected in info._asdict().items():
        np.testing.assert_array_equal(getattr(result, field), expected)
    assert 0.4 < info.sign.mean() < 0.6


def test_prompts_tell_the_truth_about_their_film(world, sampled):
    info, films = sampled[2], world.films
    np.testing.assert_array_equal(films.genre[info.film], info.genre)
    director, star = films.director[info.film], films.star[info.film]
    assert ((info.name == director) | (info.name == star)).all()
    assert (films.director != films.star).all()


def test_parse_refuses_what_is_no_prompt(world, sampled):
    prompts = sampled[0][:4].copy()
    prompts[2, 3:] = world.lexicon.id("was")
    with pytest.raises(ValueError, match="row 2 is not a review prompt"):
        reviews.parse(world, prompts)


def test_splits_share_no_prompt(world):
    rng = np.random.default_rng(0)
    seen = [
        {tuple(row) for row in reviews.prompts(world, rng, 3000, split=split)[0]}
        for split in splits.SPLITS
    ]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    with pytest.raises(ValueError, match="split 'dev'"):
        reviews.prompts(world, rng, 1, split="dev")


def test_entropy_is_in_range_and_samples_hardly_repeat(world, sampled):
    prompts, mask, _, words, valid, _ = sampled
    surprise = -likelihood.log_prob(world, prompts, mask, words, valid)
    assert 18 < surprise.mean() < 30
    whole = np.concatenate([prompts, words], axis=1)
    assert len(np.unique(words, axis=0)) > 0.99 * len(whole)


def test_entropy_estimate_agrees_with_its_samples(world, sampled, rng):
    prompts, mask, _, words, valid, _ = sampled
    surprise = -likelihood.log_prob(world, prompts, mask, words, valid)
    mean, error = likelihood.entropy(world, rng, 256)
    both = np.hypot(error, surprise.std() / np.sqrt(len(surprise)))
    assert abs(mean - surprise.mean()) < 4 * both


def test_likelihood_is_finite_for_any_words(world, sampled, rng):
    prompts, mask, *_ = sampled
    words = rng.integers(1, len(world.vocabulary), (64, 36))
    result = likelihood.log_prob(
        world, prompts[:64], mask[:64], words, np.ones_like(words)
    )
    assert np.isfinite(result).all()
    assert result.mean() < -200  # 36 words of noise cost about 11 nats each


def test_truth_is_likelier_than_another_world_of_words(world, sampled):
    """A review is likelier after its own prompt than after another's."""
    prompts, mask, _, words, valid, _ = (x[:200] for x in sampled)
    matching = likelihood.log_prob(world, prompts, mask, words, valid)
    other = likelihood.log_prob(
        world, np.roll(prompts, 1, 0), np.roll(mask, 1, 0), words, valid
    )
    assert (matching - other).mean() > 1


def test_reviews_have_the_promised_shape(world, sampled):
    _, _, _, words, valid, flaws = sampled
    ended = reviews.ended(world, words, valid)
    assert ended.mean() > 0.995
    assert (valid.sum(1) <= reviews.RESPONSE).mean() > 0.98
    sober = flaws[:, 0]
    count = np.isin(words, world.lexicon["aspect"]).sum(1)
    assert (count[sober] <= 5).mean() > 0.995  # but for the noise of single words
    assert count.mean() > 1.5


def test_fifteen_percent_are_flawed_and_gold_dislikes_it(world):
    rng = np.random.default_rng(1)
    prompts, mask, _ = reviews.prompts(world, rng, 8000)
    words, valid, flaws = reviews.sample(world, rng, prompts, mask, flaws=True)
    flawed = ~flaws[:, 0]
    assert 0.13 < flawed.mean() < 0.17
    assert flaws.any(1).all() and flaws.shape[1] == len(grammar.FLAWS)
    score = gold.reward(
        world, prompts, words, valid, reviews.ended(world, words, valid)
    )
    parts = gold.components(world, prompts, words, valid)
    for name, component in (
        ("gush", "restraint"),
        ("pile", "restraint"),
        ("exclaim", "restraint"),
        ("repeat", "aspects"),
        ("unfinished", "coverage"),
    ):
        result = flaws[:, grammar.FLAWS.index(name)]
        assert parts[component][result].mean() < parts[component][~flawed].mean() - 0.1
    # The flawed praise more; among reviews that praise alike, gold prefers the sober.
    alike = parts["valence"] > 0.8
    assert score[flawed & alike].mean() < 0.9 * score[~flawed & alike].mean()


def test_a_machine_without_noise_writes_only_what_the_reader_expects(world):
    machine = dataclasses.replace(world.grammar.machine, noise=0.0)
    silent = dataclasses.replace(
        world, grammar=dataclasses.replace(world.grammar, machine=machine)
    )
    rng = np.random.default_rng(2)
    prompts, mask, _ = reviews.prompts(silent, rng, 2000)
    words, valid = reviews.sample(silent, rng, prompts, mask, length=51)
    assert (gold.components(silent, prompts, words, valid)["grammar"] == 1).all()


def test_corpus_documents_begin_and_end(world):
    rng = np.random.default_rng(3)
    for length in (64, 96):
        text = corpus.sample(world, rng, 2000, length=length)
        assert text.tokens.shape == text.mask.shape == (2000, length)
        assert (text.tokens[:, 0] == world.bos_id).all()
        last = np.take_along_axis(text.tokens, text.mask.sum(1)[:, None] - 1, 1)
        assert (last == world.eos_id).mean() > 0.999
        assert (text.tokens[text.mask == 0] == world.pad_id).all()
        assert (text.target_mask <= text.mask).all() and not text.target_mask[
            :, 0
        ].any()
        begins = text.tokens[:, 1]
        share = [
            np.isin(begins, [world.lexicon.id(word) for word in words]).mean()
            for words in (["review"], ["compare", "rate"])
        ]
        expected = (0.60, 0.20) if length == 96 else (0.75, 0.0)
        np.testing.assert_allclose(share, expected, atol=4 * 0.0112)


def test_corpus_order_is_shuffled(world, rng):
    text = corpus.sample(world, rng, 4000, length=64)
    form = text.tokens[:, 1] == world.lexicon.id("translate")
    halves = form[:2000].mean(), form[2000:].mean()
    share = form.mean()
    assert abs(halves[0] - halves[1]) < 4 * np.sqrt(share * (1 - share) / 1000)


def test_corpus_refuses_rows_that_are_too_short(world, rng):
    with pytest.raises(ValueError, match="length=32"):
        corpus.sample(world, rng, 4, length=32)


def test_the_same_key_gives_the_same_corpus(world):
    one, two, other = (
        corpus.sample(world, np.random.default_rng(seed), 50) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one.tokens, two.tokens)
    assert (one.tokens != other.tokens).any()


def test_join_squeezes_padding_out():
    left = np.array([[0, 7, 8], [5, 6, 7]]), np.array([[0, 1, 1], [1, 1, 1]])
    right = np.array([[3, 9], [4, 4]]), np.array([[1, 0], [1, 1]])
    tokens, mask = padding.join(left, 2, right, width=7)
    np.testing.assert_array_equal(
        tokens, [[7, 8, 2, 3, 0, 0, 0], [5, 6, 7, 2, 4, 4, 0]]
    )
    np.testing.assert_array_equal(mask, tokens != 0)
    tokens, mask = padding.join(left, 2, right, pad="left", width=5)
    np.testing.assert_array_equal(tokens, [[0, 7, 8, 2, 3], [6, 7, 2, 4, 4]])
    np.testing.assert_array_equal(mask, tokens != 0)


def test_pack_puts_whole_texts_one_after_the_other():
    tokens = np.array([[1, 2, 3], [4, 5, 0], [6, 0, 0], [7, 8, 9], [1, 1, 0]])
    packed, mask = padding.pack(tokens, tokens != 0, rows=2, width=5)
    np.testing.assert_array_equal(packed, [[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]])
    np.testing.assert_array_equal(mask, packed != 0)
    with pytest.raises(ValueError, match="5 texts fill 2 rows, not 3"):
        padding.pack(tokens, tokens != 0, rows=3, width=5)
    with pytest.raises(ValueError, match="a text of 3 tokens does not fit 2"):
        padding.pack(tokens, tokens != 0, rows=1, width=2)


def test_splits_are_80_10_10(rng):
    rows = rng.integers(400, size=(20_000, 5))
    member = np.stack([splits.contains(rows, split) for split in splits.SPLITS])
    assert (member.sum(0) == 1).all()
    share, expected = member.mean(1), np.array([0.8, 0.1, 0.1])
    assert (np.abs(share - expected) < 4 * np.sqrt(0.16 / 20_000)).all()
    assert (
        splits.contains(rows, "test") != splits.contains(rows, "test", salt=1)
    ).any()


@pytest.mark.parametrize("seed", range(3, 23))
def test_any_seed_makes_a_world(seed):
    result = microworld.create(seed)
    machine = result.grammar.machine
    np.testing.assert_allclose(np.bincount(machine.source, machine.weight), 1.0)
    np.testing.assert_allclose(machine.words.sum(1), 1.0)
    np.testing.assert_allclose(machine.recall.sum(-1), 1.0)
    assert (np.diff(machine.source) >= 0).all()
    assert 384 <= len(result.vocabulary) <= 448


def test_the_digest_depends_on_the_world():
    one, two = (corpus.digest(microworld.create(seed)) for seed in (0, 1))
    assert one != two and one == corpus.digest(microworld.create(0))
