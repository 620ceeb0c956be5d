"""Multiple choice: which option is picked, and how questions become arrays."""

import numpy as np
import pytest
import small_recipes

from rlhf_jax.data import choices
from rlhf_jax.evaluation import multiple_choice

TEXTS = [f"the {w} cat sat on a {w} mat" for w in ("red", "old", "odd", "new", "big")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_recipes.tokenizer(tmp_path_factory.mktemp("words"), template=False)


def test_the_pick_is_the_likeliest_for_its_length():
    totals = [-4.0, -9.0, -1.0, -2.0, -3.0]
    questions = [0, 0, 1, 1, 1]
    raw = multiple_choice.pick(totals, np.ones(5), questions)
    assert raw.tolist() == [0, 0]
    fair = multiple_choice.pick(totals, [1, 3, 1, 4, 3], questions)
    assert fair.tolist() == [1, 1]


def test_picks_are_the_loops(rng):
    counts = rng.integers(2, 6, 30)
    questions = np.repeat(np.arange(30), counts)
    totals = -rng.exponential(size=len(questions))
    lengths = rng.integers(1, 9, len(questions))
    expected = [int(np.argmax((totals / lengths)[questions == q])) for q in range(30)]
    result = multiple_choice.pick(totals, lengths, questions)
    assert result.tolist() == expected
    assert multiple_choice.chance(questions) == pytest.approx(np.mean(1 / counts))


def test_the_first_of_equals_is_picked_and_a_nan_never():
    totals = [np.nan, -2.0, -2.0, np.nan, np.nan]
    result = multiple_choice.pick(totals, np.ones(5), [0, 0, 0, 1, 1])
    assert result.tolist() == [1, 0]


def test_a_shift_of_a_whole_question_changes_no_pick():
    totals = np.array([-1.0, -3.0, -2.0, -2.5])
    questions = np.array([0, 0, 1, 1])
    moved = totals - 7.0 * questions
    picks = [multiple_choice.pick(t, np.ones(4), questions) for t in (totals, moved)]
    assert picks[0].tolist() == picks[1].tolist() == [0, 0]


def test_probabilities_by_hand():
    totals = np.log([0.1, 0.3, 0.2, 0.2, 0.4])
    found = multiple_choice.probabilities(totals, [0, 0, 1, 1, 1])
    np.testing.assert_allclose(found, [0.25, 0.75, 0.25, 0.25, 0.5])
    hopeless = [-np.inf, np.nan, -1e4, -np.inf]
    found = multiple_choice.probabilities(hopeless, [0, 0, 1, 1])
    assert found.tolist() == [0.5, 0.5, 1.0, 0.0]


def test_probabilities_are_the_loops(rng):
    questions = np.repeat(np.arange(20), rng.integers(2, 6, 20))
    totals = -50 * rng.exponential(size=len(questions))
    found = multiple_choice.probabilities(totals, questions)
    for q in range(20):
        each = np.exp(totals[questions == q] - totals[questions == q].max())
        np.testing.assert_allclose(found[questions == q], each / each.sum())
    moved = multiple_choice.probabilities(totals - 7.0 * questions, questions)
    np.testing.assert_allclose(moved, found, rtol=1e-10)


def test_a_blind_guess_of_2_and_4_options():
    assert multiple_choice.chance([0, 0, 1, 1, 1, 1]) == 0.375


def test_the_right_ending_is_at_the_label():
    result = choices.endings(TEXTS)
    assert len(result.prompts) == 5
    for text, prompt, options, label in zip(TEXTS, *result, strict=True):
        assert prompt + options[label] == text
        assert len(set(options)) == 4
    assert len(set(result.labels)) > 1


def test_targets_are_the_options_tokens_and_no_end(tokenizer):
    options = [[" a", " bb"], [" ccc", " é"]]
    result = choices.Questions(["one", "two"], options, [1, 0])
    options = choices.tokens(tokenizer, result, length=12)
    assert options.lengths.tolist() == [1, 2, 3, 1]
    assert options.byte_lengths.tolist() == [1, 2, 3, 2]
    assert options.questions.tolist() == [0, 0, 1, 1]
    for row, mask, text in zip(
        options.rows.tokens, options.rows.target_mask, (" a", " bb", " ccc", " é"),
        strict=True,
    ):  # fmt: skip
        assert tokenizer.decode(row[mask != 0]) == text


def test_an_option_that_does_not_fit_is_refused_and_a_prompt_is_cut(tokenizer):
    result = choices.Questions(["a long one"], [[" ab", " cdefghij"]], [0])
    options = choices.tokens(tokenizer, result, length=12)
    assert tokenizer.decode(options.rows.tokens[1]) == "one cdefghij"
    with pytest.raises(ValueError, match="row 1: ' cdefghij' adds 9 tokens.*for 8"):
        choices.tokens(tokenizer, result, length=9)


def test_files_of_questions_and_of_texts_are_read(tmp_path):
    rows = [{"question": f"q{i}", "choices": ["x", "y"], "label": i} for i in (0, 1)]
    file = small_recipes.lines(tmp_path / "asked.jsonl", rows)
    result = choices.read(file, split="train", count=9, question="Q: {question}\nA: ")
    assert result.prompts == ["Q: q0\nA: ", "Q: q1\nA: "] and result.labels == [0, 1]
    assert result.options == [["x", "y"]] * 2  # after the blank of the prompt
    result = choices.read(file, split="train", count=9)
    assert result.options == [[" x", " y"]] * 2
    file = small_recipes.lines(tmp_path / "texts.jsonl", [{"text": t} for t in TEXTS])
    assert choices.read(file, split="train", count=9) == choices.endings(TEXTS)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "q", "choices": ["x", "y"], "label": 2}, "label 2"),
        ({"question": "q", "choices": ["x"], "label": 0}, "at least two"),
        ({"prompt": "q", "completion": "x"}, "needs question, choices and label"),
        ({"text": "far too few texts here"}, "4 endings"),
    ],
)
def test_what_is_no_question_is_refused(tmp_path, row, says):
    file = small_recipes.lines(tmp_path / "rows.jsonl", [row] * 2)
    with pytest.raises(ValueError, match=says):
        choices.read(file, split="train", count=5)
