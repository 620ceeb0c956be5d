"""Multiple-choice suites: how they are read, and the accuracies they give a policy."""

import types

import numpy as np
import pytest
import small_recipes
import tiny_models

from rlhf_jax import logprobs
from rlhf_jax.benchmarks import suites
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.runtime import parallel

QUESTIONS = [
    {
        "question": f"Is {word} old?",
        "choices": [f" {w} yes" for w in small_recipes.WORDS[i : i + 2 + i % 2]],
        "label": i % 2,
    }
    for i, word in enumerate(small_recipes.WORDS[:7])
]
TEXTS = [f"the {w} cat sat on a {w} mat" for w in small_recipes.WORDS[:4]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_recipes.tokenizer(tmp_path_factory.mktemp("words"), template=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a suite of questions and one of texts."""
    home = tmp_path_factory.mktemp("suites")
    for name, rows in (
        ("quiz", QUESTIONS),
        ("stories", [{"text": text} for text in TEXTS]),
    ):
        (home / name).mkdir()
        small_recipes.lines(home / name / "test.jsonl", rows)
    return home


@pytest.fixture(scope="module")
def both(home, tokenizer):
    specs = (f"{home / 'quiz'}:test", str(home / "stories"))
    return suites.tokens(suites.read(specs, count=20), tokenizer, length=64)


@pytest.fixture(scope="module")
def policy(tokenizer):
    shape = model_config.llama(
        vocab_size=len(tokenizer), width=8, layers=1, heads=1, max_length=64
    )
    model = decoder.Decoder(shape)
    return model, tiny_models.draw(model)


def answers(policy, suite):
    """The options a policy picks, one option after another: [Q]."""
    model, params = policy
    apply, scores = tiny_models.compiled(model), []
    for tokens, mask, targets in zip(*suite.rows, strict=True):
        logits = apply(params, tokens[None], mask[None])[0]
        logps = np.asarray(logprobs.of_tokens(logits[:-1], tokens[1:]))
        scores.append(logps[targets[1:] != 0].sum())
    scores = np.array(scores) / suite.lengths
    return [
        int(np.argmax(scores[suite.questions == q])) for q in range(len(suite.labels))
    ]


def test_accuracies_are_those_of_the_options_scored_one_by_one(policy, both):
    layout = parallel.layout("data", 1)
    evaluate = suites.evaluator(policy[0], both)
    metrics, samples = evaluate(policy[1], types.SimpleNamespace(layout=layout))
    assert samples == []
    correct = {
        name: np.array(answers(policy, suite)) == suite.labels
        for name, suite in both.items()
    }
    together = np.concatenate([correct["quiz"], correct["stories"]])
    assert metrics == {
        "tax/quiz": pytest.approx(correct["quiz"].mean()),
        "tax/stories": pytest.approx(correct["stories"].mean()),
        "tax/skills": pytest.approx(together.mean()),
        "tax/skills_a": pytest.approx(together[::2].mean()),
        "tax/skills_b": pytest.approx(together[1::2].mean()),
    }


def test_accuracies_do_not_depend_on_the_devices(policy, both):
    model, params = policy
    one, four = (
        suites.evaluator(model, both, layout=parallel.layout("data", count))(params)
        for count in (1, 4)
    )
    assert one == four


def test_a_suite_is_called_by_the_end_of_its_path(both):
    assert list(both) == ["quiz", "stories"]
    assert suites.facts(both) == {
        "quiz": "7 questions, chance 0.43",
        "stories": "4 questions, chance 0.25",
    }


def test_questions_are_written_as_asked(home, tokenizer):
    specs = (str(home / "quiz"),)
    questions = suites.read(specs, count=20, question="Q: {question}")
    rows = suites.tokens(questions, tokenizer, length=64)["quiz"].rows
    text = tokenizer.decode(rows.tokens[0], skip_special_tokens=True)
    assert text == "Q: Is red old? red yes"


def test_a_split_may_name_its_rows(home):
    questions = suites.read((f"{home / 'quiz'}:test[:3]",), count=20)
    assert len(questions["quiz"].labels) == 3


def test_two_suites_of_one_name_are_refused(home):
    specs = (f"{home / 'quiz'}:test", f"{home / 'quiz'}:test[:3]")
    with pytest.raises(ValueError, match="two suites are called quiz"):
        suites.read(specs, count=20)
