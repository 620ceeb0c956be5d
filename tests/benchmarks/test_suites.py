"""Suites: how they are read, what a policy scores on them, what changed."""

import types

import numpy as np
import pytest
import small_recipes
import tiny_models

from rlhf_jax import logprobs
from rlhf_jax.benchmarks import suites
from rlhf_jax.evaluation import calibration, multiple_choice
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
SUMS = [{"question": f"1 + {i}?", "answer": f"#### {i + 1}"} for i in range(5)]
PAIRS = [{"translation": {"fr": f"un {w}", "en": f"a {w}"}} for w in "abc"]
TEXTS = [f"the {w} cat sat on a {w} mat" for w in small_recipes.WORDS[:4]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_recipes.tokenizer(tmp_path_factory.mktemp("words"), template=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with suites of several kinds."""
    home = tmp_path_factory.mktemp("suites")
    for name, rows in (
        ("quiz", QUESTIONS),
        ("stories", [{"text": text} for text in TEXTS]),
        ("sums", SUMS),
        ("pairs", PAIRS),
        ("unanswered", [{"context": "It sat.", "question": "Who?"}]),
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


@pytest.fixture(scope="module")
def written(home, tokenizer):
    specs = (str(home / "quiz"), str(home / "sums"), str(home / "pairs"))
    return suites.tokens(suites.read(specs, count=20), tokenizer, length=64)


@pytest.fixture(scope="module")
def measured(policy, written):
    return suites.measure(*policy, written, layout=parallel.layout("data", 1))


def log_likelihoods(policy, suite):
    """Of all options of a suite, one after another: [R]."""
    model, params = policy
    apply, scores = tiny_models.compiled(model), []
    for tokens, mask, targets in zip(*suite.rows, strict=True):
        logits = apply(params, tokens[None], mask[None])[0]
        logps = np.asarray(logprobs.of_tokens(logits[:-1], tokens[1:]))
        scores.append(logps[targets[1:] != 0].sum())
    return np.array(scores)


def answers(policy, suite, lengths):
    """The options a policy picks: [Q]."""
    scores = log_likelihoods(policy, suite) / lengths
    return [
        int(np.argmax(scores[suite.questions == q])) for q in range(len(suite.labels))
    ]


def test_accuracies_are_those_of_the_options_scored_one_by_one(policy, both):
    layout = parallel.layout("data", 1)
    evaluate = suites.evaluator(policy[0], both)
    metrics, samples = evaluate(policy[1], types.SimpleNamespace(layout=layout))
    assert samples == []
    correct = {
        name: np.array(answers(policy, suite, suite.lengths)) == suite.labels
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


def test_all_metrics_of_multiple_choice_are_kept_with_their_items(policy, both):
    found = suites.measure(*policy, both, layout=parallel.layout("data", 1))["quiz"]
    suite, totals = both["quiz"], log_likelihoods(policy, both["quiz"])
    np.testing.assert_allclose(found.outputs, totals, rtol=1e-5)
    lengths = {"acc": 1, "acc_norm": suite.lengths, "acc_bytes": suite.byte_lengths}
    for name, length in lengths.items():
        right = np.array(answers(policy, suite, length)) == suite.labels
        assert found.items[name].tolist() == right.tolist()
        assert found.metrics[name] == right.mean()
    likely = multiple_choice.probabilities(totals, suite.questions)
    sure = [max(likely[suite.questions == q]) for q in range(7)]
    expected = calibration.expected_calibration_error(sure, found.items["acc"])
    assert found.metrics["ece"] == pytest.approx(expected, rel=1e-4)
    assert set(found.metrics) == {*lengths, "ece"}


def test_one_of_the_metrics_is_the_headline(policy, both):
    layout = parallel.layout("data", 1)
    found = {
        normalize: suites.measure(*policy, both, layout=layout, normalize=normalize)
        for normalize in suites.NORMALIZE
    }
    for normalize, name in suites.NORMALIZE.items():
        one = found[normalize]["quiz"]
        assert one.headline == name and one.metrics == found["raw"]["quiz"].metrics
        evaluate = suites.evaluator(policy[0], both, layout=layout, normalize=normalize)
        assert evaluate(policy[1])[0]["tax/quiz"] == one.metrics[name]
    with pytest.raises(ValueError, match="'words': choose raw, characters, bytes"):
        suites.measure(*policy, both, layout=layout, normalize="words")


def test_written_answers_are_measured_beside_multiple_choice(policy, written, measured):
    assert {name: x.headline for name, x in measured.items()} == {
        "quiz": "acc_norm",
        "sums": "number",
        "pairs": "bleu",
    }
    assert [len(x.outputs) for x in measured.values()] == [17, 5, 3]
    layout = parallel.layout("data", 1)
    metrics, _ = suites.evaluator(policy[0], written, layout=layout)(policy[1])
    for name, found in measured.items():
        assert metrics[f"tax/{name}"] == found.metrics[found.headline]
    right = [*measured["quiz"].items["acc_norm"], *measured["sums"].items["number"]]
    bleu = 15 * metrics["tax/skills"] - sum(right)  # of three sentences
    assert -1e-9 < bleu < 3
    assert suites.facts(written)["sums"] == "5 questions, number"


def test_what_changed_is_told_item_by_item(measured):
    items = dict(measured["quiz"].items)
    items["acc_norm"] = np.array([1.0, 0, 0, 0, 0, 0, 1])
    before = measured["quiz"]._replace(
        items=items, metrics=measured["quiz"].metrics | {"acc_norm": 2 / 7}
    )
    items = items | {"acc_norm": np.array([0.0, 1, 1, 1, 0, 0, 1])}
    after = before._replace(items=items, metrics=before.metrics | {"acc_norm": 4 / 7})
    found = suites.compare({"quiz": before}, {"quiz": after})["quiz"]
    assert (found.metric, found.before, found.after) == ("acc_norm", 2 / 7, 4 / 7)
    assert (found.lost, found.gained) == (1, 3)
    assert found.p == pytest.approx(0.625)  # 2 · (1 + 4)/2⁴
    assert found.low < 2 / 7 < found.high


def test_a_change_of_bleu_is_of_the_corpus(measured):
    same = suites.compare(measured, measured)
    assert all(x.low == x.high == 0.0 and x.p == 1.0 for x in same.values())
    assert same["pairs"].metric == "bleu" and same["pairs"].lost is None
    perfect = np.array([[5, 4, 3, 2, 5, 4, 3, 2, 5, 5]] * 3)
    after = measured["pairs"]._replace(items={"bleu": perfect}, metrics={"bleu": 1.0})
    wrong = perfect * ([0] * 4 + [1] * 6)
    before = after._replace(items={"bleu": wrong}, metrics={"bleu": 0.0})
    found = suites.compare({"pairs": before}, {"pairs": after})["pairs"]
    assert found.low == pytest.approx(1.0) and found.high == pytest.approx(1.0)


def test_other_suites_are_not_compared(measured):
    with pytest.raises(ValueError, match="measure both models on the same"):
        suites.compare(measured, {"quiz": measured["quiz"]})


def test_a_suite_may_be_asked_as_a_chat(home, tmp_path):
    chatty = small_recipes.tokenizer(tmp_path)
    asked = suites.read([str(home / "quiz"), str(home / "sums")], count=2)
    found = suites.chat(asked, chatty)
    start, end = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    assert found["quiz"].prompts[0] == f"{start}{asked['quiz'].prompts[0]}{end}"
    assert found["quiz"].options[0][0] == asked["quiz"].options[0][0].lstrip()
    assert asked["sums"].kind.stops and not found["sums"].kind.stops
    assert found["sums"].prompts[0] == f"{start}{asked['sums'].prompts[0]}{end}"


def test_a_suite_without_right_answers_is_one_clear_error(home):
    with pytest.raises(ValueError, match="columns context, question, none of them wi"):
        suites.read((str(home / "unanswered"),), count=20)


@pytest.mark.data
def test_real_data_of_every_kind_are_read(data_folder):
    specs = (
        "commonsense/arc_easy:test",
        "mmlu:val",
        "gsm8k:test",
        "instructgpt_eval_samples:squadv2",
        "wmt_newstest2012_fr_en:test",
    )
    found = suites.read([f"{data_folder}/{spec}" for spec in specs], count=50)
    assert [len(suite.prompts) for suite in found.values()] == [50] * 5
    assert "Not in background." in sum(found["instructgpt_eval_samples"].answers, [])
    assert all("####" in texts[0] for texts in found["gsm8k"].answers)
    assert found["wmt_newstest2012_fr_en"].prompts[0].startswith("French: ")
    with pytest.raises(ValueError, match="squad_nqg.*context_sentence, question, none"):
        suites.read([f"{data_folder}/squad_nqg:test"], count=50)


def test_two_suites_of_one_name_are_refused(home):
    specs = (f"{home / 'quiz'}:test", f"{home / 'quiz'}:test[:3]")
    with pytest.raises(ValueError, match="two suites are called quiz"):
        suites.read(specs, count=20)
