"""python -m rlhf_jax.benchmarks: what it prints, writes and refuses."""

import importlib.util
import json

import pytest
import small_recipes

from rlhf_jax import huggingface
from rlhf_jax.benchmarks import __main__ as command
from rlhf_jax.benchmarks import suites

QUIZ = [
    {"question": f"Is the {w} cat old?", "choices": ["yes", "no"], "label": i % 2}
    for i, w in enumerate(small_recipes.WORDS[:5])
]
PAIRS = [{"translation": {"fr": f"un {w}", "en": f"a {w}"}} for w in "abc"]
TASK = """
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("command")
    small_recipes.model(home, template=False)
    small_recipes.lines(home / "quiz.jsonl", QUIZ)
    small_recipes.lines(home / "pairs.jsonl", PAIRS)
    small_recipes.lines(home / "unanswered.jsonl", [{"question": "Who?"}])
    return home


def test_what_is_measured_is_printed_and_written(home, capsys, tmp_path):
    specs = [str(home / "quiz.jsonl"), str(home / "pairs.jsonl")]
    output = tmp_path / "found.json"
    flags = ["--model", str(home / "model"), "--normalize", "raw"]
    command.main([*flags, "--suites", *specs, "--output", str(output)])
    found = json.loads(output.read_text())["suites"]
    model, params, tokenizer = huggingface.load(home / "model")
    rows = suites.tokens(
        suites.read(specs, count=9), tokenizer, length=model.config.max_length
    )
    for name, expected in suites.measure(model, params, rows).items():
        for metric, value in expected.metrics.items():
            assert found[name][metric] == pytest.approx(value, abs=1e-6)
    assert found["quiz.jsonl"]["headline"] == "acc"
    printed = capsys.readouterr().out
    assert "quiz.jsonl: acc 0" in printed and "5 questions, chance 0.50" in printed


@pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="no lm_eval: pip install 'rlhf_jax[eval]'",
)
def test_tasks_of_ones_own_are_run_by_the_harness(home, capsys, tmp_path):
    (tmp_path / "own.yaml").write_text(TASK.replace("FILE", f"{home / 'quiz.jsonl'}"))
    flags = ["--model", str(home / "model"), "--include", str(tmp_path)]
    options = command.parse([*flags, "--tasks", "own"])
    found = command.run(options)["tasks"]["own"]
    own = command.run(command.parse([*flags, "--suites", f"{home / 'quiz.jsonl'}"]))
    assert found["acc,none"] == own["suites"]["quiz.jsonl"]["acc"]
    assert "own: sample_len 5  acc,none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "give --suites or --tasks"),
        (["--suites", "{home}/unanswered.jsonl"], "none of them with right answers"),
        (["--suites", "{home}/quiz.jsonl", "--chat"], "has no chat template"),
        (["--suites", "{home}/none.jsonl"], "neither a folder, nor a file"),
    ],
)
def test_misuse_is_refused_in_one_line(home, flags, says):
    flags = [flag.format(home=home) for flag in flags]
    with pytest.raises(SystemExit) as stopped:
        command.main(["--model", str(home / "model"), *flags])
    assert says in str(stopped.value) and "\n" not in str(stopped.value)
