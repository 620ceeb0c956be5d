"""The page of the four papers: what stands on it is what the kept results say."""

import ast
import math
import pathlib
import shutil

import mismatch_records
import pytest

from experiments import (
    alignment_tax,
    objective_mismatch,
    results,
    rlaif,
    sentiment,
    verdicts,
)
from experiments.objective_mismatch import links
from experiments.verdicts import evidence, page, picture, shelves, studies
from experiments.verdicts.evidence import Claimed, Ended, Row
from rlhf_jax.evaluation import statistics
from rlhf_jax.reporting import claims, evaluations, recorded

ROOT = pathlib.Path(__file__).parents[2]
ITEMS = [
    (name, item) for name, paper in verdicts.PAPERS.items() for item in paper.items
]
PLACES = [place for _, item in ITEMS for place in item.evidence]
STUDIES = {
    "elastic_reset": sentiment.CLAIMS,
    "elastic_reset_tuned": sentiment.CLAIMS,
    "alignment_tax": alignment_tax.CLAIMS,
    "rlaif": rlaif.CLAIMS,
    "objective_mismatch": objective_mismatch.CLAIMS,
}


@pytest.fixture(scope="module")
def shelf():
    return shelves.create()


@pytest.fixture(scope="module")
def found(shelf):
    return verdicts.collect(shelf)


def rows(found):
    return [row for _, items in found for _, rows in items for row in rows]


# The page that is committed


def test_the_page_is_what_the_kept_results_give(found, shelf):
    committed = (results.FOLDER / verdicts.PAGE).read_text()
    assert committed == page.text(found, shelf), "run python -m experiments.verdicts"


def assert_shown_once(name, found, shelf):
    """Primary comparisons and statements of a study are on the page, each once."""
    declared = [r for r in shelf.kept(name).summary["verdicts"] if not r["secondary"]]
    expected = [(r["word"], r["mean"], r["smallest_effect"]) for r in declared]
    expected += [(r["word"], r["mean"], r["smallest"]) for r in shelf.stated(name)]
    shown = [
        (row.word, row.mean, row.smallest)
        for row in rows(found)
        if row.source == name and row.word != evidence.NOT_JUDGED
    ]
    assert sorted(shown) == sorted(expected)


def test_what_a_kept_study_declared_is_there_once_with_its_word(found, shelf):
    for name in STUDIES:
        if shelf.kept(name) is not None:
            assert_shown_once(name, found, shelf)


def test_what_was_not_declared_as_primary_has_no_word(found):
    for row in rows(found):
        judged = row.word in evidence.JUDGED
        assert row.word in evidence.WORDS
        assert judged == (row.p_holm is not None)
        assert not judged or None not in (row.mean, row.low, row.high, row.smallest)


def test_nothing_is_missing_of_a_study_that_is_kept(found):
    for row in rows(found):
        if row.word == evidence.NOT_RUN:
            assert not (results.FOLDER / f"{row.source}.json").exists(), row


# The checklists


@pytest.mark.parametrize("name", verdicts.PAPERS)
def test_items_are_numbered_and_each_has_evidence_or_a_reason(name):
    items = verdicts.PAPERS[name].items
    own = [item.number for item in items if not item.number.startswith("+")]
    assert own == [str(i + 1) for i in range(len(own))]
    assert all(item.evidence and item.claim.endswith(".") for item in items)


@pytest.mark.parametrize("name", STUDIES)
def test_every_claim_that_was_declared_has_a_place(name):
    for claim in STUDIES[name]:
        for other in () if claim.secondary else claim.others:
            row = {"method": claim.method, "other": other, "secondary": False}
            asked = [p for p in PLACES if isinstance(p, Claimed) and p.kept == name]
            assert sum(place.asks(row) for place in asked) == 1, row


def test_every_test_that_is_named_exists():
    known = {}
    for place in PLACES:
        if isinstance(place, evidence.Shown):
            file, _, name = place.test.partition("::")
            if file not in known:
                tree = ast.parse((ROOT / file).read_text())
                known[file] = {
                    node.name for node in tree.body if isinstance(node, ast.FunctionDef)
                }
            assert name in known[file], place.test


def test_every_kept_result_that_is_named_is_described():
    names = {p.kept for p in PLACES if hasattr(p, "kept")}
    assert names <= set(studies.STUDIES)


# Without files, and when they come


def test_a_study_lights_up_when_its_file_arrives(tmp_path, monkeypatch):
    kept = results.FOLDER / "rlaif.json"
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    empty = shelves.create()
    before = verdicts.collect(empty, ("rlaif",))
    words = page.tally(before[0][1])
    assert words[evidence.NOT_RUN] and not set(words) & set(evidence.JUDGED)
    text = page.text(before, empty)
    assert "rlaif.json, to come" in text and "## Commands" not in text
    shutil.copy(kept, tmp_path)
    after = verdicts.collect(shelves.create(), ("rlaif",))
    words = page.tally(after[0][1])
    assert not words[evidence.NOT_RUN] and set(words) & set(evidence.JUDGED)


def test_the_whole_chain_has_a_place_for_all_that_it_states(rng):
    records = list(mismatch_records.study(rng))
    judged = claims.judge(
        objective_mismatch.CLAIMS,
        evaluations.runs(records),
        axes=objective_mismatch.MEASURED,
    )
    summary = {"worlds": 8, "seeds": 1, "verdicts": [claims.row(f) for f in judged]}
    about = {"commands": ["python"]}
    kept = recorded.Recorded(about, objective_mismatch.MEASURED, records, summary)
    stated = links.judge(records)
    shelf = shelves.Shelf(
        {"objective_mismatch": kept, "worlds": results.report("worlds")}.get,
        lambda name: stated,
    )
    found = verdicts.collect(shelf, ("objective_mismatch",))
    assert_shown_once("objective_mismatch", found, shelf)
    assert evidence.NOT_RUN not in page.tally(found[0][1])


def test_final_values_that_alone_were_kept_are_paired_by_seed(shelf):
    kept = results.load("game_tuned")
    ends = [kept.methods[m]["drift/bleu_en"] for m in ("elastic_reset", "reinforce")]
    gaps = [ends[1][unit] - ends[0][unit] for unit in ends[0]]  # English lost: less
    place = Ended("game_tuned", "drift/bleu_en", "elastic_reset", "reinforce")
    (row,) = place.rows(shelf)
    assert row.mean == pytest.approx(sum(gaps) / len(gaps))
    assert (row.low, row.high) == pytest.approx((min(gaps), max(gaps)))
    assert row.word == evidence.NO_TEST and row.units == "5 seeds of one world, tuned"


def test_against_the_start_a_change_keeps_its_sign(shelf):
    kept = results.load("game_tuned")
    lost = kept.methods["reinforce"]["drift/bleu_en"]
    (row,) = Ended("game_tuned", "drift/bleu_en", "reinforce").rows(shelf)
    assert row.mean == pytest.approx(sum(lost.values()) / len(lost)) and row.mean > 0
    assert row.what == "REINFORCE against π₀"


# Cells


def row(**fields):
    return Row(**{"what": "A is better than B", "word": "undecided", **fields})


def test_a_difference_is_printed_with_its_interval_and_unit():
    one = row(mean=0.05, low=-0.01, high=0.11, scale=100.0, unit="points")
    assert page.difference(one) == "5 [-1, 11] points"
    assert page.difference(row(mean=0.05)) == "0.05"
    assert page.difference(row()) == ""


def test_a_verdict_names_what_would_decide_and_holms_p():
    one = row(p_holm=0.314, needed=" (about 20 worlds would decide)")
    assert page.verdict(one) == (
        "**undecided**, Holm p 0.314 (about 20 worlds would decide)"
    )
    assert page.verdict(row(word=evidence.UNTESTED)) == evidence.UNTESTED


def test_every_word_that_a_verdict_can_be_is_explained_and_has_a_look(found, shelf):
    said = {
        statistics.verdict([mean + spread * (-1) ** w for w in range(16)], 1.0).word
        for mean in (-2.0, -0.5, 0.0, 0.5, 2.0)
        for spread in (0.1, 5.0)
    }
    said.add(statistics.verdict([0.1, -0.1] * 8, 1.0, kind="equal").word)
    assert said == set(evidence.JUDGED) == set(picture.LOOKS)
    text = page.text(found, shelf)
    assert all(f"- **{word}**: " in text for word in evidence.WORDS)


# The picture and the command


def test_papers_stay_whole_and_columns_are_as_long_as_each_other():
    papers = [[i] * n for i, n in enumerate((20, 17, 18, 50))]
    assert list(map(len, picture._columns(papers))) == [55, 50]
    assert picture._columns(papers[:1]) == papers[:1]


def test_what_lies_beyond_the_picture_is_told_in_figures(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        picture.figure_style, "finish", lambda sheet, *_: drawn.append(sheet)
    )
    judged = {"low": -0.1, "high": 0.5, "smallest": 0.1, "p_holm": 0.2}
    rows = [
        row(mean=0.2, **judged),
        row(mean=3.2, **{**judged, "high": 4.0}, word="reproduced"),
    ]
    item = evidence.Item("1", "A claim.", ())
    paper = evidence.Paper("A paper", "", (item,))
    picture.draw([(paper, [(item, rows)])], tmp_path / "x.png")
    (panel,) = drawn[0].axes
    texts = [text.get_text() for text in panel.texts]
    assert {"A paper", "1. A claim.", "32"} <= set(texts)
    places = [line.get_xdata() for line in panel.lines if line.get_marker() == "s"]
    assert [float(x) for (x,) in places] == [pytest.approx(2.0)]


def test_the_command_prints_a_paper_and_writes_only_where_asked(tmp_path, capsys):
    kept = [results.FOLDER / name for name in (verdicts.PAGE, verdicts.PICTURE)]
    before = [path.stat().st_mtime_ns for path in kept]
    assert verdicts.run(verdicts.Config(paper="rlaif")) == []
    said = " ".join(capsys.readouterr().out.split())
    assert "RLAIF is better than SFT" in said and "not tested" in said
    config = verdicts.Config(paper="rlaif", output=str(tmp_path / "new"))
    written, drawn = verdicts.run(config)
    assert written.read_text().startswith("# AI feedback, claim by claim")
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert before == [path.stat().st_mtime_ns for path in kept]


def test_a_number_that_is_spelled_is_none():
    values = (1, "nan", "-inf", None, math.inf)
    assert [evidence._finite(x) for x in values] == [1.0, None, None, None, None]
