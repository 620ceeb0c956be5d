"""Labelers of the microworld: what they are asked, and what becomes of it."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import labeling, microworld
from rlhf_jax.algorithms import judging as learning
from rlhf_jax.feedback import in_process, prompts
from rlhf_jax.feedback import judging as text_judging
from rlhf_jax.microworld import judging, reviews
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.runtime import parallel
from rlhf_jax.tasks import ai_feedback, labelers, questions
from rlhf_jax.types import Preferences, Prompts

ROWS = 6


@pytest.fixture(scope="module")
def world():
    return microworld.create(0)


@pytest.fixture(scope="module")
def model(world):
    size = {"vocab_size": len(world.vocabulary), "max_length": labelers.CONTEXT}
    return decoder.Decoder(model_config.preset("tiny", **size))


@pytest.fixture(scope="module")
def params(model):
    return model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]


@pytest.fixture(scope="module")
def asked(world):
    """(prompts, first responses, second ones), with masks."""
    rng = np.random.default_rng(0)
    prompts = reviews.prompts(world, rng, ROWS)[:2]
    return prompts, *(reviews.sample(world, rng, *prompts) for _ in range(2))


def test_a_rating_in_jax_is_the_answer_to_the_question_in_words(
    world, model, params, asked
):
    prompts, responses, _ = asked
    question = Prompts(*judging.rate(world, *prompts, *responses))
    logits = learning.label_logits(model, params, question)
    expected = labeling.expected_score(logits, judging.scores(world))
    known = questions.words(world)
    both = (np.concatenate(x, axis=1) for x in zip(prompts, responses, strict=True))
    found = questions.rated(model, known)(params, *map(jnp.asarray, both))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_comparison_in_jax_is_the_answer_in_words_in_both_orders(
    world, model, params, asked
):
    """±½ the log-odds of a pair of adjacent rows."""
    prompts, first, second = asked
    prefer = labelers.preferences(world, model, params, parallel.layout())
    p = labeling.average(*prefer(prompts, first, second))
    known = questions.words(world)

    def rows(i):
        both = zip(prompts, first, second, strict=True)
        parts = [
            np.stack([np.hstack([x, a]), np.hstack([x, b])], 1) for x, a, b in both
        ]
        return jnp.asarray(parts[i].reshape(2 * ROWS, -1))

    scores = questions.preferred(model, known)(params, rows(0), rows(1))
    pairs = np.asarray(scores).reshape(-1, 2)
    np.testing.assert_allclose(pairs[:, 0], -pairs[:, 1])
    np.testing.assert_allclose(
        1 / (1 + np.exp(pairs[:, 1] - pairs[:, 0])), p, atol=1e-5
    )


def test_what_follows_the_end_of_a_response_is_not_rated(world, model, params, asked):
    prompts, (words, valid), _ = asked
    score = questions.rated(model, questions.words(world))
    junk = np.where(valid == 0, 7, words)

    def rated(body):
        tokens = np.concatenate([prompts[0], body], axis=1)
        mask = np.concatenate([prompts[1], valid], axis=1)
        return score(params, jnp.asarray(tokens), jnp.asarray(mask))

    np.testing.assert_array_equal(rated(words), rated(junk))


def test_worlds_of_one_shape_share_the_program_of_ratings(world, model):
    known, other = (questions.words(x) for x in (world, microworld.create(7)))
    assert questions.rated(model, known) is questions.rated(model.clone(), other)


def test_swapping_the_candidates_turns_a_preference_round(world, model, params, asked):
    prompts, first, second = asked
    prefer = labelers.preferences(world, model, params, parallel.layout())
    one = labeling.average(*prefer(prompts, first, second))
    other = labeling.average(*prefer(prompts, second, first))
    np.testing.assert_array_equal(one, 1 - np.asarray(other))
    same = labeling.average(*prefer(prompts, first, first))
    np.testing.assert_array_equal(same, 0.5)


CRITIC = """
name = "critic"
version = 1
summary = "Which of two reviews is better."
kind = "pair"
polarity = "better"
labels = [" A", " B"]
preamble = "<bos> compare"
sample = "{context} A : {first} B : {second}"
ending = "better ?"
"""


def test_a_prompt_in_words_to_any_labeler_has_the_same_answer(
    tmp_path, world, model, params, asked
):
    """The way of users, through texts and a tokenizer, is the way of the study."""
    (tmp_path / "critic.toml").write_text(CRITIC)
    microworld.tokenizer.save(world, tmp_path)
    tokenizer = microworld.tokenizer.load(tmp_path)
    marks = ("<bos>", "<eos>", "<pad>", "review")

    def words(tokens, mask):
        rows = np.where(np.asarray(mask) != 0, tokens, world.pad_id)
        texts = (world.decode(row).split() for row in rows)
        return [" ".join(x for x in text if x not in marks) for text in texts]

    labeler = in_process.labeler(model, params, tokenizer)
    template = prompts.load(tmp_path / "critic.toml")
    pairs = zip(*(words(*side) for side in asked), strict=True)
    judged = text_judging.prefer(labeler, template, list(pairs))
    prefer = labelers.preferences(world, model, params, parallel.layout())
    p_ab, p_ba = prefer(*asked)
    np.testing.assert_allclose(judged.p_ab, p_ab, atol=1e-5)
    np.testing.assert_allclose(judged.p_ba, p_ba, atol=1e-5)


def always_first(prompts, first, second):
    return np.ones(ROWS, np.float32), np.ones(ROWS, np.float32)


def likes_length(prompts, first, second):
    longer = first[1].sum(1) > second[1].sum(1)
    return longer.astype(np.float32), 1 - longer.astype(np.float32)


def pairs(asked):
    prompts, first, second = asked
    sides = []
    for words, valid in (first, second):
        sides += [
            np.concatenate([prompts[0], words], axis=1),
            np.concatenate([prompts[1], valid], axis=1),
        ]
    return Preferences(*sides, np.ones(ROWS, np.float32))


def labeler(prefer):
    return labelers.Labeler(None, None, prefer, 0)


def test_a_labeler_that_looks_at_positions_only_labels_a_half(asked):
    soft = ai_feedback.relabelled(pairs(asked), labeler(always_first)).preference
    np.testing.assert_array_equal(soft, 0.5)
    one = ai_feedback.relabelled(pairs(asked), labeler(always_first), both=False)
    np.testing.assert_array_equal(one.preference, np.arange(ROWS) % 2 == 0)


def test_labels_say_how_likely_the_chosen_one_is_better(asked):
    found = ai_feedback.relabelled(pairs(asked), labeler(likes_length))
    longer = asked[1][1].sum(1) > asked[2][1].sum(1)
    np.testing.assert_array_equal(found.preference, longer)
    np.testing.assert_array_equal(found.chosen, pairs(asked).chosen)
    one = ai_feedback.relabelled(pairs(asked), labeler(likes_length), both=False)
    np.testing.assert_array_equal(one.preference, longer)


def test_critics_of_another_taste_judge_otherwise(world):
    usual = judging.judgments(world, np.random.default_rng(0), 400)
    other = judging.judgments(
        world, np.random.default_rng(0), 400, taste=labelers.JUDGES_TASTE
    )
    np.testing.assert_array_equal(usual.tokens, other.tokens)
    assert 0.1 < np.mean(usual.labels != other.labels) < 0.9


def test_judgments_end_in_a_question_and_are_answered_by_a_label(world):
    made = judging.judgments(world, np.random.default_rng(0), 300)
    assert (made.tokens[:, -1] == world.lexicon.id("?")).all() and made.mask[
        :, -1
    ].all()
    known = np.concatenate([judging.labels(world), judging.scores(world)])
    assert np.isin(made.labels, known).all()
    compared = np.isin(made.labels, judging.labels(world))
    assert abs(compared.mean() - 2 / 3) < 4 * np.sqrt(2 / 9 / 300)
    again = judging.documents(world, np.random.default_rng(0), 300)
    ends = np.argmax(again[0] == world.eos_id, axis=1)
    np.testing.assert_array_equal(again[0][np.arange(300), ends - 1], made.labels)


def test_a_labeler_learns_once_what_the_cache_keeps(tmp_path, world, model, params):
    config, said = labelers.Config(steps=1, rows=4), []
    give = dict(layout=parallel.layout(), cache=tmp_path)

    def created(config, larger=params):
        said.clear()
        make = functools.partial(labelers.create, world, (model, params))
        return make(
            (model, larger), config, report=lambda x, **_: said.append(x), **give
        )

    found = created(config)
    assert set(found) == {labelers.SAME, labelers.JUDGE, *labelers.SIZES}
    assert said.count("writing judgments ...") == 4
    again = created(config)
    assert "writing judgments ..." not in said
    chex.assert_trees_all_equal(found["large"].params, again["large"].params)
    created(dataclasses.replace(config, steps=2))
    assert said.count("writing judgments ...") == 4
    created(config, larger=jax.tree.map(lambda x: 2 * x, params))
    assert said.count("writing judgments ...") == 1
