"""Model cards: what the hub reads of them, and where a licence is taken from."""

import json
import pathlib
import subprocess
import sys

import huggingface_hub
import pytest

from rlhf_jax.huggingface import model_card

ROOT = pathlib.Path(__file__).resolve().parents[2]
FACTS = model_card.Facts(
    name="mine",
    base="lab/base",
    data="lab/rows",
    reward=None,
    method="dpo, β 0.1",
    scores=False,
    end=None,
    settings={"seed": 0},
    numbers={"loss": (0.693147, 0.5)},
    steps=10,
    command="python -m experiments.preference --model base",
    versions={"jax": "1"},
    tags=("dpo",),
)


def written(folder, **changes):
    file = model_card.write(folder, FACTS._replace(**changes))
    assert file == folder / "README.md"
    return huggingface_hub.ModelCard.load(file)


def test_a_card_says_what_was_made_how_and_of_what(tmp_path):
    card = written(tmp_path)
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "base_model": "lab/base",
        "datasets": ["lab/rows"],
        "pipeline_tag": "text-generation",
        "tags": ["rlhf_jax", "dpo"],
    }
    for words in (
        "# mine",
        "`lab/base`, licence not stated",
        "data: `lab/rows`",
        "method: dpo, β 0.1; steps: 10",
        "| loss | 0.69315 | 0.5 |",
        "| `--seed` | `0` |",
        FACTS.command,
        "jax 1",
        "AutoModelForCausalLM",
    ):
        assert words in card.text, words
    assert "reward:" not in card.text


def test_a_reward_model_says_how_it_is_asked(tmp_path):
    card = written(tmp_path, scores=True, end="<|im_end|>")
    assert card.data.pipeline_tag == "text-classification"
    assert "AutoModelForSequenceClassification" in card.text
    assert "prompt + answer + '<|im_end|>'" in card.text


def test_folders_of_a_machine_are_not_published(tmp_path):
    base, rows = tmp_path / "base", tmp_path / "rows.jsonl"
    base.mkdir()
    rows.write_text("{}")
    given = {"base": str(base), "data": str(rows), "reward": str(base)}
    card = written(tmp_path, **given)
    assert str(tmp_path) not in str(card)
    assert "`base`, licence" in card.text and "reward: `base`" in card.text
    assert card.data.base_model is None and card.data.datasets is None


@pytest.mark.parametrize(
    "name", ["10 rows given in Python (abc)", "/tmp/rows.jsonl", "a/b/c", "x" * 400]
)
def test_what_is_no_name_on_the_hub_is_no_metadata(name, tmp_path):
    card = written(tmp_path, data=name)
    assert card.data.datasets is None and f"data: `{name}`" in card.text


def test_the_licence_and_origin_are_those_the_base_states(tmp_path, caplog):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"license": "mit"}))
    assert written(tmp_path, base=str(base)).data.license == "mit"
    head = "---\nlicense: apache-2.0\nbase_model: lab/origin\n---\n"
    (base / "README.md").write_text(head)
    card = written(tmp_path, base=str(base))
    assert card.data.license == "apache-2.0" and "licence apache-2.0" in card.text
    assert card.data.base_model == "lab/origin"
    (base / "README.md").write_text("# A model whose card has no metadata\n")
    assert written(tmp_path, base=str(base)).data.license == "mit"
    assert not caplog.records
    (base / "README.md").write_text("---\n[broken\n---\n")
    assert written(tmp_path, base=str(base)).data.license == "mit"


def test_a_base_given_in_python_has_no_name(tmp_path):
    card = written(tmp_path, base=None)
    assert card.data.base_model is None
    assert "base model: `a model given in Python`" not in card.text
    assert "base model: a model given in Python, licence not stated" in card.text


def test_names_are_judged_in_a_process_that_loaded_nothing_of_the_hub():
    asked = "print(model_card.name_fault('a b'), model_card.name_fault('lab/model'))"
    program = f"from rlhf_jax.huggingface import model_card; {asked}"
    run = {"capture_output": True, "text": True, "cwd": ROOT}
    done = subprocess.run([sys.executable, "-c", program], **run, check=True)
    assert done.stdout.startswith("Repo id must use") and done.stdout.endswith(
        " None\n"
    )
