"""report.md and its pictures: what they hold, and what they say of poor records."""

import dataclasses
import io
import json
import threading
import warnings

import matplotlib.image
import numpy as np
import pytest
import reporting_records
import rich.console

from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import (
    claims,
    controls,
    evaluations,
    figure_style,
    markdown,
    plots,
    report,
    results,
    sections,
)

AXES = reporting_records.AXES
LABELS = {"elastic_reset": "Elastic Reset", "ppo_kl": "PPO + KL"}
REPORT = report.Report(
    title="Sentiment",
    question="Does Elastic Reset get more reward at less drift?",
    axes=AXES,
    labels=LABELS,
    command="python -m experiments.sentiment",
    provenance={"config digest": "0123abcd", "jax": "0.10"},
    claims=(
        claims.Claim("elastic_reset", ("ppo", "ppo_kl"), "reward"),
        claims.Claim("elastic_reset", ("ppo",), "tax/skills", secondary=True),
    ),
    sections=(
        controls.section(lambda _: [("random reward", "gold stays", "it fell", False)]),
    ),
)
ROWS = [
    {"method": "ppo", "seed": seed, "step": step, "prompt": "a | b", "score": 0.5}
    | {"completion": f"<i>{step}-{i}</i>\nnew line"}
    for seed in range(2)
    for step in (3, 12)
    for i in range(15)
]


@pytest.fixture(scope="module")
def few():
    return reporting_records.make(3)


@pytest.fixture(scope="module")
def many():
    return reporting_records.make(2, worlds=8)


@pytest.fixture(scope="module")
def written(few, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    report.write(folder, few, REPORT, rows=ROWS, wall=9.0)
    return folder


def _judged(records):
    summary = results.summarize(records, axes=AXES)
    runs = evaluations.runs(records)
    findings = claims.judge(REPORT.claims, runs, axes=AXES)
    return sections.Evidence(records, [], summary, findings, REPORT)


def _ink(path):
    """The shape of a picture and the colours in it, as "#RRGGBB"."""
    image = matplotlib.image.imread(path)[..., :3]
    bytes_ = np.round(255 * image).astype(np.int64).reshape(-1, 3)
    numbers = np.unique(bytes_ @ [1 << 16, 1 << 8, 1])
    return image.shape, {f"#{number:06X}" for number in numbers}


def test_a_run_leaves_its_four_files_and_nothing_half_done(written):
    names = {path.name for path in written.iterdir()}
    pictures = {"front.png", "curves.png", "differences.png"}
    assert names == {*pictures, "results.json", "report.md"}


@pytest.mark.parametrize("name", ["front.png", "curves.png"])
def test_pictures_hold_every_method_in_its_colour(written, name):
    (height, width, _), ink = _ink(written / name)
    assert width > 1200 and height > 500
    for color in figure_style.COLORS[:3]:
        assert color in ink
    assert figure_style.COLORS[3] not in ink


def test_results_json_is_json_and_holds_the_verdicts(written):
    found = json.loads((written / "results.json").read_text())
    assert set(found["methods"]) == set(reporting_records.SPEED)
    assert {v["word"] for v in found["verdicts"]} == {"no test"}
    # 3 seeds of 12 iterations: half a second and 100 tokens each.
    assert found["budget"]["ppo"] == {"tokens": 3600.0, "wall_seconds": 18.0}


def test_the_page_says_that_three_seeds_are_no_test(written):
    text = (written / "report.md").read_text()
    assert "over 3 seeds of one world and so without a test" in text
    assert "3 seeds of one world: shown as dots, no test." in text
    assert "reproduced" not in text


def test_the_page_holds_every_section(written):
    text = (written / "report.md").read_text()
    assert text.startswith("# Sentiment\n\n**On this microworld and these models, ")
    for part in (
        "![Reward against drift](front.png)",
        "![Training curves](curves.png)",
        "## Results",
        "## Where the axes disagree",
        "## Verdicts",
        "## Seeds, one by one",
        "## Budget",
        "## Negative controls",
        "## Samples, unselected",
        "python -m experiments.sentiment",
        "config digest: 0123abcd",
        "Elastic Reset",
    ):
        assert part in text, part


def test_samples_are_twenty_of_the_last_evaluation_and_do_not_break_the_table(written):
    text = (written / "report.md").read_text()
    lines = [line for line in text.splitlines() if "&lt;i>" in line]
    assert len(lines) == 20
    assert all("| 12 |" in line and r"a \| b" in line for line in lines)


def test_eight_worlds_are_judged(many):
    judged = _judged(many)
    text = report.render(judged)
    assert "no test" not in text
    assert "| Elastic Reset is better than PPO + KL | reward |" in text
    assert text.count("**contradicted**") == 2
    assert "better than all of PPO and PPO + KL: **contradicted**" in text
    first = judged.findings[0].verdict
    assert f"is judged {first.word} (reward: {markdown.number(first.mean)}" in text


def test_a_secondary_endpoint_has_an_interval_in_points_and_no_verdict(many):
    judged = _judged(many)
    tax = judged.findings[2]
    text = report.render(judged).split("### Secondary endpoints")[1]
    lines = text.splitlines()
    header = next(i for i, line in enumerate(lines) if "| Skills lost |" in line)
    row = lines[header + 2]
    assert row.startswith("| Elastic Reset − PPO |")
    assert markdown.interval(tax.verdict._asdict(), 100.0) in row
    assert tax.verdict.word not in row


def test_disagreeing_axes_are_in_the_headline(few):
    judged = _judged(few)
    area = {"mean": 99.0, "low": 98.0, "high": 100.0}
    for method in judged.summary["methods"].values():
        method["checkpoints"] = 4
    for method, axis in zip(("ppo", "ppo_kl"), AXES[:2], strict=True):
        judged.summary["methods"][method]["hypervolume"][axis.key] = area
    text = report.answer(judged._replace(findings=[]))
    assert "PPO leads in the mean on Human-text NLL" in text
    assert "PPO + KL leads in the mean on KL from the initial policy" in text
    assert text.endswith("so the axes disagree.")


def test_one_method_leads_no_one():
    records = reporting_records.make(1, methods=("ppo",))
    about = report.Report("alone", axes=AXES)
    summary = results.summarize(records, axes=AXES)
    evidence = report.Evidence(records, (), summary, (), about)
    said = report.answer(evidence)
    assert "leads" not in said and "the axes" not in report.render(evidence)
    assert "PPO takes proxy reward from" in said and said.endswith("initial samples).")


def test_a_run_that_did_not_move_covers_nothing():
    records = reporting_records.make(1, methods=("ppo",))
    fixed = ("eval/reward", "drift/text_nll", "drift/kl_initial", "tax/skills")
    still = [row | {k: 0.3 for k in fixed if k in row} for row in records]
    area = results.summarize(still, axes=AXES)["methods"]["ppo"]["hypervolume"]
    assert len(area) == 3 and all(x["mean"] == 0.0 for x in area.values())


def test_fronts_of_unequally_many_looks_are_not_ranked(few):
    judged = _judged(few)._replace(findings=[])
    assert report.answer(judged).endswith("so without a test, no fronts can be ranked.")
    assert "so none is ranked." in report.render(judged)


def test_a_final_policy_after_a_reset_is_said_so():
    records = reporting_records.make(3, steps=10)
    records = [r for r in records if r.get("eval/phase") != "final"]
    judged = _judged(records)
    assert "the final policy is the one after it: Elastic Reset (step 10)" in (
        report.render(judged)
    )


def test_an_axis_that_was_not_measured_is_named(few, tmp_path):
    bare = [{k: v for k, v in row.items() if k != "tax/skills"} for row in few]
    found = report.write(tmp_path, bare, report.Report("Text"))
    assert list(found["methods"]["ppo"]["drift"]) == [axis.key for axis in AXES[:2]]
    assert "Not measured: tax/skills." in (tmp_path / "report.md").read_text()


def test_a_run_that_diverged_is_reported(few, tmp_path):
    broken = [dict(row) for row in few]
    for row in broken:
        diverged = row["method"] == "ppo" and row["seed"] == 1 and row["step"] >= 9
        if diverged and "eval/reward" in row:
            row |= {"eval/reward": np.nan, "drift/text_nll": np.nan}
    report.write(tmp_path, broken, REPORT)
    text = (tmp_path / "report.md").read_text()
    assert "1 not finite" in text
    assert "(world/seed): PPO in 0/1." in text
    assert "; 1 unit void" in text


@pytest.mark.parametrize("seeds", [1, 3])
def test_pictures_of_poor_records_raise_no_warning(seeds, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = reporting_records.make(seeds, steps=3, methods=["sft"], gold=False)
        plots.front(records, AXES, tmp_path / "front.png")
        plots.curves(records, tmp_path / "curves.png")
        two = [r for r in records if r.get("eval/phase") in ("start", "final")]
        plots.curves(two, tmp_path / "curves.pdf")
        training = [r for r in records if "eval/reward" not in r]
        plots.curves(training, tmp_path / "training.png")
        plots.curves([], tmp_path / "empty.png")


def test_a_front_on_one_axis_is_refused(few, tmp_path):
    with pytest.raises(ValueError, match="two drift axes"):
        plots.front(few, AXES[:1], tmp_path / "front.png")


def test_a_panel_shows_the_first_of_its_axes_that_was_measured(few, tmp_path):
    panels = ((axes.Axis("eval/none", "None"), axes.SCORES), (axes.Axis("none", ""),))
    plots.curves(few, tmp_path / "first.png", panels=panels)
    plots.curves(few, tmp_path / "second.png", panels=((axes.SCORES,),))
    first, second = ((tmp_path / f"{n}.png").read_bytes() for n in ("first", "second"))
    assert first == second


def test_an_axis_of_the_report_replaces_the_standard_one(few, monkeypatch):
    drawn = {}
    for name in ("front", "curves"):
        monkeypatch.setattr(
            plots, name, lambda *_, n=name, **named: drawn.update({n: named})
        )
    report.draw("", few, report.Report("Raw", axes=(*AXES, *axes.OWN_UNITS)))
    assert [axis.unit for axis in drawn["front"]["rewards"]] == ["own units", ""]
    assert [axis.unit for axis in drawn["curves"]["panels"][0]] == ["own units"] * 2


def test_sections_are_computed_in_order_and_stand_where_they_say(few, tmp_path):
    def compute(evidence):
        return {"methods": len(evidence.summary["methods"]), "rows": len(evidence.rows)}

    def render(computed, evidence):
        yield f"## Own words on {computed} of {evidence.report.title}"

    own = sections.Section("own", compute, render, after="results")
    double = sections.Section(
        "double",
        lambda e: 2 * e.summary["own"]["methods"],
        lambda n, _: [f"Twice: {n}"],
    )
    silent = sections.Section("silent", None, lambda computed, _: [str(computed)])
    about = report.Report("Parts", sections=(own, double, silent))
    found = report.write(tmp_path, few, about, rows=ROWS)
    assert found["own"] == {"methods": 3, "rows": len(ROWS)} and found["double"] == 6
    assert "silent" not in found
    text = (tmp_path / "report.md").read_text()
    parts = ("## Results", "## Own words on", "## Verdicts", "Twice: 6", "## Seeds")
    order = [text.index(part) for part in parts]
    assert order == sorted(order)


def test_a_section_after_nothing_known_is_refused():
    lost = sections.Section("lost", None, lambda *_: [], after="samples")
    with pytest.raises(ValueError, match="section 'lost' stands after 'samples'"):
        report.Report("Parts", sections=(lost,))


def test_pictures_can_be_drawn_in_a_thread(few, tmp_path):
    path = tmp_path / "front.png"
    thread = threading.Thread(target=plots.front, args=(few, AXES, path))
    thread.start()
    thread.join()
    assert path.stat().st_size > 10_000


def test_a_light_copy_shows_the_same_in_less(written, tmp_path):
    whole = written / "front.png"
    (tmp_path / "light.png").write_bytes(figure_style.light(whole, width=800))
    (height, width, _), ink = _ink(tmp_path / "light.png")
    assert width == 800
    assert set(figure_style.COLORS[:3]) <= ink and figure_style.COLORS[3] not in ink
    assert (tmp_path / "light.png").stat().st_size < whole.stat().st_size / 2
    before, after = _shares(whole), _shares(tmp_path / "light.png")
    np.testing.assert_allclose(after, before, atol=0.01)


def _shares(path):
    """Mean red, green and blue of a picture."""
    return matplotlib.image.imread(path)[..., :3].mean((0, 1))


def test_no_two_methods_look_alike():
    styles = {tuple(style.values()) for style in figure_style.styles()}
    assert len(styles) == len(figure_style.COLORS) * len(figure_style.MARKERS)


def test_the_console_table_fits_eighty_columns_and_hides_nothing(few):
    console = rich.console.Console(width=80, file=io.StringIO(), record=True)
    report.show(_judged(few).summary, REPORT, console=console)
    text = console.export_text()
    assert "PPO + KL" in text and "Skills lost" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("elastic_reset_kl", "Elastic reset KL"),
        ("ppo_ma50", "PPO MA50"),
        ("reset_to_initial", "Reset to initial"),
        ("ppo_kl", "PPO + KL"),
    ],
)
def test_methods_are_named_for_readers(method, name):
    assert figure_style.method_name(method, LABELS) == name


def test_the_page_says_how_fronts_are_read_and_how_often_runs_were_looked_at(few):
    text = report.render(_judged(few))
    assert "integrated up to a corner that the config fixes: Human-text NLL 1;" in text
    assert "4: PPO and PPO + KL; " in text  # looks: fewer than Elastic Reset has


def test_a_method_with_resets_has_its_last_cycle_and_its_end(few):
    text = report.render(_judged(few))
    assert "Of Elastic Reset these are means over the last full cycle" in text
    assert "| method | at the end, reward | at the end, gold |" in text


def test_claims_of_a_family_stand_under_its_name(many):
    second = claims.Claim("ppo_kl", ("ppo",), "reward", family="Second thoughts")
    declared, runs = (*REPORT.claims, second), evaluations.runs(many)
    findings = claims.judge(declared, runs, axes=AXES)
    text = report.render(_judged(many)._replace(findings=findings))
    first, rest = text.split("### Second thoughts")
    assert "| Elastic Reset is better than PPO | reward |" in first
    row = next(line for line in rest.splitlines() if "| reward |" in line)
    p = markdown.number(findings[-1].verdict.p)
    assert f"| {p} | {p} |" in row  # alone in its family


def test_methods_without_a_budget_cost_what_averaging_costs(few):
    judged = _judged(few)
    judged.summary["budget"] = {"ppo": {"tokens": 5, "wall_seconds": 2}}
    text = report.render(judged)
    assert "PPO + KL and Elastic Reset: read off the runs of other methods" in text


def test_a_report_may_have_pictures_of_its_own_and_no_final_policies(few, tmp_path):
    def draw(records, path, about):
        path.write_text(f"{about.title}: {len(records)}")

    own = report.Picture("A picture", "own.svg", draw)
    about = dataclasses.replace(REPORT, pictures=(own,), final_policies=False)
    summary = report.write(tmp_path, few, about)
    assert (tmp_path / "own.svg").read_text() == f"Sentiment: {len(few)}"
    assert not (tmp_path / "front.png").exists()
    text = (tmp_path / "report.md").read_text()
    assert "![A picture](own.svg)" in text and "Final policies; mean" not in text
    assert report.written(tmp_path, about.pictures)[0].endswith("own.svg")
    shown = io.StringIO()
    report.show(summary, about, console=rich.console.Console(file=shown, width=120))
    area = summary["methods"]["ppo"]["hypervolume"]["drift/text_nll"]["mean"]
    assert f"{area:.3g}" in shown.getvalue()
