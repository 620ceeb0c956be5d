"""lm-evaluation-harness with our models: the same numbers as ours, and as its own."""

import importlib.util
import json

import jax
import numpy as np
import pytest
import small_recipes
import tiny_models

from rlhf_jax import huggingface
from rlhf_jax.benchmarks import suites
from rlhf_jax.data import tokenization
from rlhf_jax.runtime import parallel


def installed(name):
    return importlib.util.find_spec(name) is not None


needs_harness = pytest.mark.skipif(
    not installed("lm_eval"), reason="no lm_eval: pip install 'rlhf_jax[eval]'"
)
needs_torch = pytest.mark.skipif(
    not all(map(installed, ("lm_eval", "torch", "accelerate"))),
    reason="its own models need lm_eval[hf]: torch and accelerate",
)
CLOSE = 1e-3  # nats: what log-likelihoods of an item may differ by
QUIZ = [
    {
        "question": f"Is the {w} cat old{'?' * (i % 3)}",
        "choices": [f"{v} yes" for v in small_recipes.WORDS[i : i + 2 + i % 2]],
        "label": i % 2,
    }
    for i, w in enumerate(small_recipes.WORDS[:6])
]
STORIES = [{"text": "the red cat " * n} for n in (1, 4, 9)]  # the last of two windows
TASKS = {
    "quiz": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in ("acc", "acc_norm", "acc_bytes")
        ],
    },
    "stories": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "say": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "yes",
        "generation_kwargs": {"until": ["e"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    },
}
FILES = {"quiz": QUIZ, "stories": STORIES, "say": QUIZ}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model that chats, files and the YAML tasks that read them."""
    home = tmp_path_factory.mktemp("harness")
    small_recipes.model(home)
    for name, task in TASKS.items():
        file = small_recipes.lines(home / f"{name}.jsonl", FILES[name])
        task = task | {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": file}},
            "test_split": "test",
        }
        (home / "tasks").mkdir(exist_ok=True)
        # JSON is YAML.
        (home / "tasks" / f"{name}.yaml").write_text(json.dumps(task))
    return home


@pytest.fixture(scope="module")
def loaded(home):
    return huggingface.load(home / "model")


@pytest.fixture(scope="module")
def results(home, loaded):
    """What the harness says of our model, on all three tasks."""
    from rlhf_jax.benchmarks import harness

    layout = parallel.layout("data", 1)
    return harness.evaluate(
        *loaded, list(TASKS), include=str(home / "tasks"), layout=layout,
        bootstrap_iters=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def answers(home, loaded):
    """What our own suites say of it."""
    model, params, tokenizer = loaded
    asked = suites.read([f"{home / 'quiz.jsonl'}"], count=99)
    rows = suites.tokens(asked, tokenizer, length=model.config.max_length)
    layout = parallel.layout("data", 1)
    return suites.measure(model, params, rows, layout=layout)["quiz.jsonl"]


def responses(results, task):
    """What was answered to all requests of a task, in the order of the file."""
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [each[0] for sample in samples for each in sample["resps"]]


@needs_harness
def test_log_likelihoods_are_those_of_our_suites(results, answers):
    found = [float(total) for total, _ in responses(results, "quiz")]
    np.testing.assert_allclose(found, answers.outputs, rtol=1e-5)
    for name in ("acc", "acc_norm", "acc_bytes"):
        assert results["results"]["quiz"][f"{name},none"] == answers.metrics[name]


@needs_harness
def test_texts_longer_than_the_context_are_read_in_windows(results, loaded):
    model, params, tokenizer = loaded
    context, first = model.config.max_length, tokenization.prefix_id(tokenizer)
    apply, expected = tiny_models.compiled(model), []
    for row in STORIES:
        ids, total = tokenizer(row["text"])["input_ids"], 0.0
        for start in range(0, len(ids), context):
            end = min(start + context, len(ids))
            # The first window begins with the prefix, a later one where it is full.
            seen = ids[end - context - 1 : end] if start else [first, *ids[:end]]
            read = np.zeros((1, context), np.int32)
            read[0, : len(seen) - 1] = seen[:-1]
            mask = (np.arange(context) < len(seen) - 1)[None].astype(np.int32)
            logps = jax.nn.log_softmax(apply(params, read, mask)[0])
            places = np.arange(len(seen) - 1)[-(end - start) :]
            total += float(sum(logps[t, seen[t + 1]] for t in places))
        expected.append(total)
    assert len(tokenizer(STORIES[-1]["text"])["input_ids"]) > context
    found = [float(total) for total in responses(results, "stories")]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@needs_harness
def test_generations_end_before_a_stop_string(results):
    found = responses(results, "say")
    assert len(found) == len(QUIZ) and not any("e" in text for text in found)
    assert any(found)


@needs_harness
def test_a_chat_is_written_with_the_template(home, loaded):
    from rlhf_jax.benchmarks import harness

    found = harness.evaluate(
        *loaded, ["quiz"], include=str(home / "tasks"), chat=True, limit=2,
        layout=parallel.layout("data", 1), bootstrap_iters=0,
    )  # fmt: skip
    context, _ = found["samples"]["quiz"][0]["arguments"][0]
    assert context.startswith("<|im_start|>user\nIs the red cat old<|im_end|>")
    plain = small_recipes.tokenizer(home / "plain", template=False)
    with pytest.raises(ValueError, match="no chat template"):
        harness.evaluate(*loaded[:2], plain, ["quiz"], chat=True)


@needs_harness
@pytest.mark.slow  # it lists all tasks there are
def test_a_task_of_no_such_name_is_refused(home, loaded):
    from rlhf_jax.benchmarks import harness

    with pytest.raises(ValueError, match="quizz: neither tasks of the harness nor of"):
        harness.evaluate(*loaded, ["quiz", "quizz"], include=str(home / "tasks"))


@needs_torch
def test_its_own_models_say_the_same(home, results, answers):
    import lm_eval
    from lm_eval import tasks

    folder = str(home / "tasks")
    manager = tasks.TaskManager(include_path=folder, include_defaults=False)
    theirs = lm_eval.simple_evaluate(
        "hf", f"pretrained={home / 'model'},dtype=float32,device=cpu",
        tasks=list(TASKS), batch_size=4, task_manager=manager, bootstrap_iters=0,
    )  # fmt: skip
    ours, found = (responses(x, "quiz") for x in (results, theirs))
    assert [greedy for _, greedy in found] == [greedy for _, greedy in ours]
    totals = np.array([float(total) for total, _ in found])
    np.testing.assert_allclose(totals, answers.outputs, rtol=0, atol=CLOSE)
    ours, found = (
        [float(x) for x in responses(one, "stories")] for one in (results, theirs)
    )
    np.testing.assert_allclose(found, ours, rtol=0, atol=CLOSE)
    assert responses(theirs, "say") == responses(results, "say")


@pytest.mark.skipif(installed("lm_eval"), reason="lm_eval is installed")
def test_without_the_harness_the_extra_is_named():
    with pytest.raises(ImportError, match=r"pip install 'rlhf_jax\[eval\]'"):
        importlib.import_module("rlhf_jax.benchmarks.harness")
