"""Judging, by labelers that are plain functions of the prompt."""

import dataclasses
import re

import numpy as np
import pytest

from rlhf_jax.feedback import judging, labelers, prompts

NAN = float("nan")
BASE = prompts.load("summarization_base")
HARM = prompts.load("harmless_base")
RATING = prompts.load("summarization_rating")
PAIRS = [("post", "one", "three"), ("text", "a longer one", "b"), ("x", "same", "same")]
WARM = labelers.Decoding(temperature=0.7)


def log(*p):
    with np.errstate(divide="ignore"):
        return np.log(np.array(p, np.float64))


def texts(prompt):
    """The candidates that a prompt shows last, in their slots."""
    found = re.findall(r"^(?:Summary|Response) [12] - (.*)$", prompt, re.M)
    return found[-2:]


def labeler(judge, think=lambda prompt, decoding: "they differ", *, calls=None):
    """A labeler of a function: prompt -> (probabilities of labels) or a Failure.

    It answers in reverse order, and keeps what it was asked in `calls`.
    """
    calls = [] if calls is None else calls

    def read(asked, labels):
        calls.append(("read", list(asked), labels))
        for index in reversed(range(len(asked))):
            p = judge(asked[index])
            if isinstance(p, labelers.Failure):
                yield index, p
            else:
                logps = log(*p)
                yield (
                    index,
                    labelers.Reading(logps, np.isfinite(logps), 1 - sum(p), 100, 1),
                )

    def write(asked, decoding):
        calls.append(("write", list(asked), decoding))
        for index in reversed(range(len(asked))):
            text = think(asked[index], decoding)
            failed = isinstance(text, labelers.Failure)
            yield index, text if failed else labelers.Written(text, 90, 20)

    return labelers.Labeler("a function", {"kind": "test"}, read, write)


def likes_length(prompt):
    one, two = map(len, texts(prompt))
    return (0.9 * one / (one + two), 0.9 * two / (one + two))


def always_first(prompt):
    return (0.9, 0.1)


def fails(word, reason="timed out"):
    """Likes length, and fails on prompts with a word."""

    def judge(prompt):
        return labelers.Failure(reason) if word in prompt else likes_length(prompt)

    return judge


# Pairs.


def test_preferences_by_hand():
    found = judging.prefer(labeler(likes_length), BASE, PAIRS)
    expected = [3 / 8, 12 / 13, 1 / 2]
    for p in (found.preference, found.p_ab, 1 - found.p_ba):
        np.testing.assert_allclose(p, expected, rtol=1e-6)
    assert found.preference.dtype == np.float32
    assert found.logps.shape == (3, 2, 1, 2) and found.told.all()
    np.testing.assert_allclose(found.logps[0, 1, 0], log(0.9 * 5 / 8, 0.9 * 3 / 8))
    np.testing.assert_allclose(found.outside, 0.1)
    assert found.failures == (None,) * 3 and found.rationales[0, 0, 0] is None
    np.testing.assert_array_equal(found.prompt_tokens, 200)
    np.testing.assert_array_equal(found.completion_tokens, 2)


def test_swapping_the_candidates_gives_exactly_one_minus(rng):
    words = [["w" * n for n in rng.integers(1, 60, 2)] for _ in range(40)]
    forth = [("c", one, two) for one, two in words]
    back = [("c", two, one) for one, two in words]
    p, swapped = (
        judging.prefer(labeler(likes_length), BASE, x).preference for x in (forth, back)
    )
    np.testing.assert_array_equal(swapped, 1 - p)
    assert len(set(p.tolist())) > 20


def test_a_labeler_that_reads_positions_only_prefers_nothing():
    found = judging.prefer(labeler(always_first), BASE, PAIRS)
    np.testing.assert_allclose(found.preference, 0.5, atol=1e-6)
    np.testing.assert_allclose(found.p_ab, 0.9, rtol=1e-6)
    np.testing.assert_allclose(found.p_ba, 0.9, rtol=1e-6)


def test_polarity_is_applied_once_after_averaging():
    """It names the longer text, which for this prompt is the more harmful one."""
    found = judging.prefer(labeler(likes_length), HARM, PAIRS)
    plain = judging.prefer(labeler(likes_length), BASE, PAIRS)
    np.testing.assert_array_equal(found.preference, 1 - plain.preference)
    np.testing.assert_array_equal(found.p_ab, plain.p_ab)
    np.testing.assert_array_equal(found.p_ba, plain.p_ba)


@pytest.mark.parametrize(("orders", "slot"), [("ab", 0), ("ba", 1)])
def test_one_order_costs_half_and_keeps_the_bias(orders, slot):
    found = judging.prefer(labeler(always_first), BASE, PAIRS, orders=orders)
    expected = (0.9, 0.1)[slot]
    np.testing.assert_allclose(found.preference, expected, rtol=1e-6)
    assert np.isnan((found.p_ba, found.p_ab)[slot]).all()
    assert found.failures == (None,) * 3
    np.testing.assert_array_equal(found.prompt_tokens, 100)
    assert np.isnan(found.logps[:, 1 - slot]).all()


def test_prompts_are_rendered_with_their_shots_and_wrapped():
    calls = []
    judging.prefer(
        labeler(likes_length, calls=calls), BASE, PAIRS[:1], shots=2, wrap="<{}>".format
    )
    ((kind, asked, labels),) = calls
    values = {"context": "post", "first": "one", "second": "three"}
    text = prompts.render(BASE, shots=2, **values)
    swapped = prompts.render(
        BASE, shots=2, **values | {"first": "three", "second": "one"}
    )
    assert (kind, asked, labels) == ("read", [f"<{text}>", f"<{swapped}>"], ("1", "2"))


# Failures.


def test_a_failed_row_is_nan_with_its_reason_and_stops_no_other():
    found = judging.prefer(labeler(fails("longer")), BASE, PAIRS)
    clean = judging.prefer(labeler(likes_length), BASE, PAIRS)
    assert found.failures == (None, "order ab: timed out", None)
    for name in ("preference", "p_ab", "p_ba"):
        rows = np.isnan(getattr(found, name))
        np.testing.assert_array_equal(rows, [False, True, False])
        np.testing.assert_array_equal(
            getattr(found, name)[~rows], getattr(clean, name)[~rows]
        )
    np.testing.assert_array_equal(found.prompt_tokens, [200, 0, 200])


def test_a_row_whose_other_order_fails_keeps_what_was_read_and_paid():
    found = judging.prefer(labeler(fails("Summary 1 - three")), BASE, PAIRS)
    assert found.failures == ("order ba: timed out", None, None)
    assert np.isnan(found.preference[0]) and np.isnan(found.p_ab[0])
    assert np.isfinite(found.logps[0, 0]).all() and np.isnan(found.logps[0, 1]).all()
    np.testing.assert_array_equal(found.prompt_tokens, [100, 200, 200])


def test_labels_that_were_not_told_are_counted_and_have_no_probability():
    found = judging.prefer(labeler(lambda prompt: (0.0, 0.4)), BASE, PAIRS[:1])
    np.testing.assert_array_equal(found.told[0, :, 0], [[False, True]] * 2)
    assert found.preference[0] == 0.5 and found.p_ab[0] == 0

    silent = judging.prefer(labeler(lambda prompt: (0.0, 0.0)), BASE, PAIRS[:1])
    assert np.isnan(silent.preference).all() and not silent.told.any()
    assert silent.failures == ("order ab: none of the labels ['1', '2'] was told",)


def test_a_log_probability_that_is_none_is_a_failure():
    found = judging.prefer(labeler(lambda prompt: (NAN, 0.4)), BASE, PAIRS[:1])
    assert "log-probabilities of the labels are" in found.failures[0]


def test_a_labeler_of_other_labels_is_refused():
    with pytest.raises(ValueError, match=r"a labeler read \(3,\) of 2 labels"):
        judging.prefer(labeler(lambda prompt: (0.1, 0.1, 0.1)), BASE, PAIRS)


def test_no_pairs_are_no_preferences():
    found = judging.prefer(labeler(likes_length), BASE, [])
    assert found.preference.shape == (0,) and found.failures == ()


# Chains of thought.


def test_a_chain_of_thought_is_written_for_each_order():
    calls = []

    def think(prompt, decoding):
        one, two = texts(prompt)
        return f" {one} before {two}.\n\nPreferred Summary=2 and so on"

    found = judging.prefer(
        labeler(likes_length, think, calls=calls),
        BASE,
        PAIRS[:1],
        chain_of_thought=True,
    )
    (_, asked, decoding), (_, read, _) = calls
    values = {"context": "post", "first": "one", "second": "three"}
    assert asked[0] == prompts.ask_rationale(BASE, **values)
    assert read[0] == prompts.render(BASE, rationale="one before three.", **values)
    assert "Rationale: three before one.\n\nPreferred Summary=" in read[1]
    assert decoding == labelers.Decoding(stop=("Preferred Summary=",))
    assert decoding.max_tokens == 512 and decoding.temperature == 0
    assert [x.strip() for x in found.rationales[0, :, 0]] == [
        "one before three.",
        "three before one.",
    ]
    np.testing.assert_array_equal(found.prompt_tokens, 2 * (90 + 100))
    np.testing.assert_array_equal(found.completion_tokens, 2 * (20 + 1))


def test_self_consistency_averages_distributions_of_seeded_samples():
    seeds = {5: 0.9, 6: 0.6, 7: 0.3}

    def think(prompt, decoding):
        return f"p = {seeds[decoding.seed]}"

    def judge(prompt):
        p = float(re.findall(r"p = (\S+)", prompt)[-1])
        return (p, 1 - p)

    found = judging.prefer(
        labeler(judge, think),
        BASE,
        PAIRS,
        chain_of_thought=True,
        decoding=dataclasses.replace(WARM, seed=5),
        samples=3,
    )
    np.testing.assert_allclose(found.p_ab, 0.6, rtol=1e-6)
    np.testing.assert_allclose(found.p_ba, 0.6, rtol=1e-6)
    np.testing.assert_allclose(found.preference, 0.5, rtol=1e-6)
    assert found.rationales[2, 1].tolist() == ["p = 0.9", "p = 0.6", "p = 0.3"]


def test_a_failed_rationale_is_not_read_and_fails_its_row():
    calls = []

    def think(prompt, decoding):
        bad = "longer" in prompt and decoding.seed == 1
        return labelers.Failure("refused") if bad else "well"

    found = judging.prefer(
        labeler(likes_length, think, calls=calls),
        BASE,
        PAIRS,
        chain_of_thought=True,
        decoding=WARM,
        samples=2,
    )
    assert found.failures == (None, "order ab, sample 1, rationale: refused", None)
    assert len(calls[-1][1]) == 10
    np.testing.assert_array_equal(np.isnan(found.preference), [False, True, False])
    assert found.rationales[1, 0].tolist() == ["well", None]


# Ratings.


def graded(prompt):
    """All of the mass on the number of letters in the summary."""
    (summary,) = re.findall(r"^SUMMARY: (.*)$", prompt, re.M)
    return [0.8 * (len(summary) == i) for i in range(1, 11)]


def test_ratings_by_hand():
    calls = []
    found = judging.rate(
        labeler(graded, calls=calls), RATING, ["post"] * 3, ["a", "b" * 10, "c" * 7]
    )
    np.testing.assert_allclose(found.score, [-1, 1, 1.5 / 4.5], rtol=1e-6)
    assert found.score.dtype == np.float32
    np.testing.assert_array_equal(found.told.sum(-1), 1)
    np.testing.assert_allclose(found.outside, 0.2)
    np.testing.assert_array_equal(found.prompt_tokens, 100)
    ((_, asked, labels),) = calls
    assert asked[0] == prompts.render(RATING, context="post", response="a")
    assert labels == RATING.labels


def test_even_ratings_are_zero_and_polarity_turns_them_around():
    even = judging.rate(labeler(lambda prompt: [0.1] * 10), RATING, ["a"], ["b"])
    np.testing.assert_allclose(even.score, 0, atol=1e-7)
    worse = dataclasses.replace(RATING, polarity="worse")
    found = judging.rate(labeler(graded), worse, ["post"] * 2, ["a", "b" * 10])
    np.testing.assert_array_equal(found.score, [1, -1])


def test_a_failed_rating_is_nan_with_its_reason():
    def judge(prompt):
        return labelers.Failure("too long") if "bbb" in prompt else graded(prompt)

    found = judging.rate(labeler(judge), RATING, ["post"] * 2, ["a", "bbb"])
    np.testing.assert_array_equal(found.score, [-1, NAN])
    assert found.failures == (None, "too long")
    np.testing.assert_array_equal(found.prompt_tokens, [100, 0])


# Misuse.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"orders": "first"}, "orders='first': must be both, ab, ba"),
        ({"samples": 4}, "go with chain_of_thought=True"),
        ({"decoding": WARM}, "go with chain_of_thought=True"),
        ({"chain_of_thought": True, "samples": 4}, "samples=4 at temperature 0"),
        ({"chain_of_thought": True, "samples": 0}, "samples=0: must be at least 1"),
        ({"shots": 9}, "shots=9: the prompt summarization_base has 8 exemplars"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_any_call(options, said):
    calls = []
    with pytest.raises(ValueError, match=re.escape(said)):
        judging.prefer(labeler(likes_length, calls=calls), BASE, PAIRS, **options)
    assert not calls


def test_prompts_of_the_other_kind_are_refused():
    with pytest.raises(ValueError, match="summarization_rating is of kind rating, not"):
        judging.prefer(labeler(likes_length), RATING, PAIRS)
    with pytest.raises(ValueError, match="summarization_base is of kind pair, not rat"):
        judging.rate(labeler(graded), BASE, ["a"], ["b"])
    with pytest.raises(ValueError, match="zip"):
        judging.rate(labeler(graded), RATING, ["a"], ["b", "c"])
