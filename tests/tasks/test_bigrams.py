"""Naive Bayes on words and pairs of words, against the formula."""

import numpy as np
import pytest

from rlhf_jax.tasks import bigrams

TEXTS = ["good film", "good good end", "bad film", "bad"]
LABELS = [1, 1, 0, 0]


def test_weights_are_log_ratios_of_smoothed_shares():
    model = bigrams.fit(TEXTS, LABELS)
    # Features: good, film, "good film", "good good", end, "good end" | bad, film,
    # "bad film"; eight in all, seven of the label and four of the others counted.
    known = {"good", "film", "bad", "end", "good film", "good good", "good end"}
    assert set(model.weights) == known | {"bad film"}
    assert model.weights["good"] == pytest.approx(np.log(3 / 15) - np.log(1 / 12))
    assert model.weights["film"] == pytest.approx(np.log(2 / 15) - np.log(2 / 12))
    assert model.bias == 0


def test_log_odds_add_up_and_a_repeated_word_counts_once():
    model = bigrams.fit(TEXTS, LABELS)
    once, nothing, cased = bigrams.log_odds(model, ["good", "unknown words", "GOOD."])
    assert once == model.weights["good"] == cased and nothing == 0
    (whole,) = bigrams.log_odds(model, ["good good good"])
    assert whole == pytest.approx(model.weights["good"] + model.weights["good good"])


def test_the_bias_is_how_often_the_label_comes():
    model = bigrams.fit([*TEXTS, "end"], [*LABELS, 1])
    assert bigrams.log_odds(model, [""]) == pytest.approx(np.log(3 / 2))
    other = bigrams.fit([*TEXTS, "end"], [*LABELS, 1], label=0)
    np.testing.assert_allclose(
        bigrams.log_odds(model, TEXTS), -bigrams.log_odds(other, TEXTS)
    )


@pytest.mark.parametrize("labels", [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0]])
def test_a_label_of_all_texts_or_of_none_is_refused(labels):
    with pytest.raises(ValueError, match="label 1: .* of 4 texts have it"):
        bigrams.fit(TEXTS, labels)
