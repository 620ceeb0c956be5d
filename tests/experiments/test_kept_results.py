"""What is quoted: every kept result is recomputed, every marked text made again."""

import json
import re

import numpy as np
import pytest

from experiments import results
from experiments.results import instruct_tax, quotes
from rlhf_jax.evaluation import paired
from rlhf_jax.reporting import recorded

KEPT = [
    path
    for path in sorted(results.FOLDER.glob("*.json"))
    if '"runs"' in path.read_text()[:100_000]
]


@pytest.fixture(scope="module")
def made():
    return quotes.texts()


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_kept_summary_is_that_of_its_evaluation_points(path):
    kept = recorded.load(path)
    assert recorded.recompute(kept) == kept.summary


def comparisons():
    return results.report(instruct_tax.NAME)["comparisons"]


@pytest.mark.parametrize("alignment", comparisons())
def test_a_kept_comparison_is_that_of_its_items(alignment):
    kept = comparisons()[alignment]
    for point in kept["points"]:
        items = point["items"]
        scores = [items[suite] for suite in kept["lost"]]
        means = [np.mean(x) for x in scores]
        assert means == pytest.approx(list(point["scores"].values()), abs=1e-5)
        mean = np.concatenate(scores).mean()
        assert mean == pytest.approx(point["together"], abs=1e-5)
        assert np.mean(items["kl"]) == pytest.approx(point["kl"], abs=1e-4)
        nll = np.sum(items["text_nll"]) / np.sum(items["text_tokens"])
        assert nll == pytest.approx(point["text_nll"], abs=1e-5)
        if items["reward"] is not None:
            assert np.mean(items["reward"]) == pytest.approx(point["reward"], abs=1e-5)
    before, after = (point["items"] for point in kept["points"][:2])
    for suite, row in kept["lost"].items():
        found = paired.bootstrap(before[suite], after[suite])
        ends = found.low, found.high
        assert ends == pytest.approx((row["low"], row["high"]), abs=1e-4)


@pytest.mark.parametrize("path", results.READMES, ids=lambda p: p.parent.name)
def test_a_readme_quotes_what_the_files_say(path, made):
    text = path.read_text()
    assert results.renewed(text, made) == text
    assert path == results.READMES[1] or results.MARK.search(text)


def test_the_page_of_evidence_has_no_measured_number_outside_of_marks():
    text = results.MARK.sub("", results.READMES[-1].read_text())
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", text, flags=re.DOTALL)
    assert re.findall(r"\d*\.\d+|\[[\d.−-]+, ", text) == []


def test_every_file_is_quoted():
    text = results.READMES[-1].read_text()
    for path in results.FOLDER.glob("*.json"):
        if path.stem != "measured":
            assert f"({path.name})" in text, path.name


def test_a_number_of_a_table_is_that_of_the_file(made):
    kept = results.load("game_tuned")
    values = list(kept.methods["elastic_reset"]["eval/bleu_en"].values())
    row = next(x for x in made["game_tuned.finals"].splitlines() if "Elastic R" in x)
    mean, low, high = sum(values) / len(values), min(values), max(values)
    assert f"{mean:.3g} [{low:.3g}, {high:.3g}]" in row


def test_marks_are_filled_within_a_line_and_between_lines():
    made = {"a": "1.5", "b": "| x |"}
    line = "It is <!-- quoted: a -->9<!-- end --> long."
    assert results.renewed(line, made) == line.replace("9", "1.5")
    block = "<!-- quoted: b -->\nold\n<!-- end -->"
    new = "<!-- quoted: b -->\n\n| x |\n\n<!-- end -->"
    assert results.renewed(block, made) == results.renewed(new, made) == new
    with pytest.raises(KeyError, match="lost"):
        results.renewed("<!-- quoted: lost -->x<!-- end -->", made)


def test_kept_files_are_small():
    for path in results.FOLDER.glob("*.json"):
        assert path.stat().st_size < 4_000_000
        json.loads(path.read_text())
