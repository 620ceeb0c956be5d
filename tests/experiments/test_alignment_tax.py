"""The alignment tax: its table, what is said of settings, and a run of it."""

import dataclasses
import itertools
import json
import sys

import numpy as np
import pytest
import rich.console
import small_study
import tyro

from experiments import alignment_tax, compare, sentiment
from experiments.alignment_tax import methods, sections, settings
from rlhf_jax.evaluation import statistics
from rlhf_jax.reporting import claims
from rlhf_jax.runtime import metrics_log
from rlhf_jax.studies import forgetting, tables

ASKED = (
    *("rsf_early", "ppo_sma", "rsf_ma", "rsf_graft", "dpo_early", "l2", "replay"),
    "controls",
)
FEW = {**small_study.FLAGS, "methods": ASKED, "steps": 4, "rl.reset-every": 2}
FEW |= {"rl.candidates": 2, "policy": "scratch:micro", "num-evals": 4}
FEW |= {"eval-every": 0}


def words(changes):
    found = []
    for name, value in changes.items():
        values = value if isinstance(value, tuple) else (value,)
        found += [f"--{name}", *map(str, values)]
    return found


def config(**changes):
    flags = words({**FEW, **changes})
    return tyro.cli(alignment_tax.Config, default=alignment_tax.CONFIG, args=flags)


# The table


def test_every_family_ends_at_the_policy_that_its_knob_leaves_alone():
    for name, family in methods.FAMILIES.items():
        assert set(family.members) <= set(methods.METHODS), name
        if len(family.members) > 1 and name != "lora":
            end = methods.METHODS[family.members[-1]]
            assert not end.at_end and end.train is not None
    sizes = {len(f.members) for f in methods.FAMILIES.values()}
    assert sizes == {1, alignment_tax.CONFIG.num_evals}


def test_knobs_are_listed_from_the_strongest_setting_to_the_weakest():
    for name, strengths in methods.STRENGTHS.items():
        rising = name == "sma"  # the share of the way that is kept
        assert list(strengths) == sorted(strengths, reverse=not rising)
    assert list(methods.WEIGHTS) == sorted(methods.WEIGHTS)
    assert list(methods.RANKS) == sorted(methods.RANKS)


def test_what_is_claimed_is_about_families_and_can_be_judged():
    for first, others in alignment_tax.ORDERINGS.values():
        assert {first, *others} <= set(methods.FAMILIES)
    claims.check(alignment_tax.CLAIMS, alignment_tax.MEASURED, worlds=15)
    assert {c.endpoint for c in alignment_tax.CLAIMS if not c.secondary} == {
        alignment_tax.PRIMARY
    }


def test_the_controls_of_hma_are_its_other_orders_and_random_ratios():
    orders = [n for n in methods.LISTS["hma_controls"] if "_order_" in n]
    assert len(orders) == len(list(itertools.permutations(range(3)))) - 1
    assert "rsf_hma_order_012" not in orders
    assert len(methods.LISTS["hma_controls"]) == len(orders) + 3


def test_families_are_asked_for_by_name_and_sources_come_with_them():
    names = tables.choose(("l2",), methods.METHODS, methods.LISTS)
    assert names[0] == "rsf" and {"distilled", "l2_0"} <= set(names)
    with pytest.raises(ValueError, match="--methods l3: unknown; .* rsf_ma"):
        tables.choose(("l3",), methods.METHODS, methods.LISTS)


# What is said of settings, on records that are made up


def planted(worlds=10, seeds=2):
    """The aligner gains 2 and loses 10 points; an average pays 10% and returns half."""
    rng, rows = np.random.default_rng(0), []
    ends = {"rsf": (2.0, 0.8), "rsf_ma_80": (1.8, 0.85), "sft_placebo": (0.0, 0.89)}
    for world, seed in itertools.product(range(worlds), range(seeds)):
        unit = {"world": world, "seed": seed}
        start = {"step": 0, "eval/phase": "start", "eval/reward": 0.0}
        rows.append({"method": "rsf", **unit, **start, "tax/skills": 0.9})
        for method, (reward, skills) in ends.items():
            noise = rng.normal(size=2) * 0.002
            end = {"step": 50, "eval/phase": "final", "eval/reward": reward + noise[0]}
            end["tax/skills"] = skills + noise[1]
            rows.append({"method": method, **unit, **end})
    return rows


def test_shares_say_what_was_returned_and_what_it_cost():
    found = settings.changes(planted(), ("eval/reward", "tax/skills"))
    shares = settings.shares(found, "rsf_ma_80", "rsf")
    for name, truth in {"returned": 0.5, "paid": 0.1}.items():
        one = shares[name]
        assert one["low"] < truth < one["high"] and one["high"] - one["low"] < 0.1
    gap = settings.difference(found, "rsf", "sft_placebo", ("tax/skills",))
    assert gap["tax/skills"]["mean"] == pytest.approx(-0.09, abs=0.005)
    assert len(gap["tax/skills"]["per_unit"]) == 20


def test_where_nothing_was_lost_nothing_can_be_returned():
    rows = planted()
    for row in rows:
        row["tax/skills"] = 0.9 + 0.1 * (row["method"] != "rsf_ma_80")
    found = settings.changes(rows, ("eval/reward", "tax/skills"))
    assert settings.shares(found, "rsf_ma_80", "rsf") is None
    said = sections._bought({"shares": None})
    assert "no skill to give back" in said


@pytest.mark.parametrize("driver", ["forgetting/forward_kl", "forgetting/distance"])
def test_the_predictor_that_drives_forgetting_is_found_at_matched_reward(driver):
    rng, rows = np.random.default_rng(1), []
    keys = ("forgetting/forward_kl", "forgetting/distance")
    for world in range(10):
        unit = {"method": "rsf", "world": world, "seed": 0}
        start = {"eval/phase": "start", "eval/reward": 0.0, "tax/skills": 0.9}
        rows.append({**unit, **start, **dict.fromkeys(keys, 0.0), "step": 0})
        for step in range(1, 13):
            reward = rng.normal()
            # Both go with the reward; one of them costs skills besides.
            numbers = {key: reward + rng.normal() for key in keys}
            lost = 0.05 * (numbers[driver] + reward) + 0.01 * rng.normal()
            phase = {"eval/phase": "train", "step": step, "eval/reward": reward}
            rows.append({**unit, **phase, **numbers, "tax/skills": 0.9 - lost})
    found = {
        key: np.mean(list(settings.partial(rows, {"rsf"}, key).values()))
        for key in keys
    }
    other = next(key for key in keys if key != driver)
    assert found[driver] > 0.8 and abs(found[other]) < 0.3


def test_the_way_has_a_trend_from_eight_worlds_on():
    rows = []
    for world in range(statistics.MIN_WORLDS):
        for step, reward in enumerate((0.0, 1.0, 2.0)):
            phase = ("start", "train", "final")[step]
            unit = {"method": "rsf", "world": world, "seed": 0, "step": step}
            rows.append({**unit, "eval/phase": phase, "eval/reward": reward + world})
    way = settings.path(rows, "rsf", ("eval/reward",))
    assert way["eval/reward"]["mean"] == [0.0, 1.0, 2.0]
    assert way["eval/reward"]["trend"]["slope"].mean == pytest.approx(1.0)
    fewer = [row for row in rows if row["world"]]
    assert settings.path(fewer, "rsf", ("eval/reward",))["eval/reward"]["trend"] is None


# A run


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tax")
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_study.share(monkeypatch)
        console = rich.console.Console(quiet=True)
        alignment_tax.run(config(output=folder), console=console)
    return folder


def test_every_setting_is_measured_and_every_family_reported(done):
    rows = metrics_log.read(done / "metrics.jsonl")
    ran = tables.choose(ASKED, methods.METHODS, methods.LISTS)
    assert {row["method"] for row in rows} == set(ran)
    for name in ran:
        measured = [r for r in rows if r["method"] == name and "eval/reward" in r]
        assert len(measured) == 1 or not methods.METHODS[name].at_end
        assert measured[-1]["step"] == 4 and forgetting.RANK.key in measured[-1]
    results = json.loads((done / "results.json").read_text())
    assert set(results["methods"]) == {
        name
        for name, family in methods.FAMILIES.items()
        if set(family.members) <= set(ran)
    }
    for name, m in results["methods"].items():
        assert m["checkpoints"] == alignment_tax.CONFIG.num_evals, name


def test_the_report_says_what_was_lost_and_what_came_back(done):
    text = (done / "report.md").read_text()
    for heading in (
        "## What alignment cost",
        "## What keeping 20% of the starting weights gives back",
        "## Every setting",
    ):
        assert heading in text
    assert "Final policies; mean" not in text  # families end at the same ones
    for picture in ("front.png", "forgetting.png"):
        assert (done / picture).read_bytes().startswith(b"\x89PNG")
        assert f"]({picture})" in text


def test_numbers_of_a_setting_are_those_of_its_last_evaluation(done):
    rows = metrics_log.read(done / "metrics.jsonl")
    results = json.loads((done / "results.json").read_text())
    start = next(r for r in rows if r.get("eval/phase") == "start")
    (end,) = [r for r in rows if r["method"] == "l2_0" and "eval/reward" in r]
    change = results["settings"]["l2_0"]["eval/reward"]["per_unit"]["0/0"]
    assert change == pytest.approx(end["eval/reward"] - start["eval/reward"], abs=1e-9)
    assert start["forgetting/forward_kl"] == pytest.approx(0, abs=1e-5)
    assert start["forgetting/distance"] == 0 and start["forgetting/rank"] == 0
    assert end["forgetting/distance"] > 0


def test_what_a_task_lacks_is_left_out_and_said(tmp_path, monkeypatch):
    small_study.share(monkeypatch)
    make, heard = small_study._task, []

    def without(config, setting):
        return dataclasses.replace(make(config, setting), pairs=None, replay=None)

    monkeypatch.setattr(sentiment, "make_task", without)
    from rlhf_jax.runtime import parallel

    setting = small_study.setting_of(tmp_path, parallel.data(1))
    setting = setting._replace(report=lambda text, **_: heard.append(text))
    study = alignment_tax.make_study(config(), setting)
    assert "dpo" not in study.methods and "replay_0" not in study.methods
    assert "l2_0" in study.methods
    assert any(text.startswith("dpo is left out: there are no pairs") for text in heard)


# Misuse, and the other command


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"methods": ("hma",)}, "--methods hma: unknown"),
        ({"num-evals": 9}, "--num-evals 9"),
        ({"rl.candidates": 3}, "--rl.candidates 3, --rl.rows 8: rsf draws"),
    ],
)
def test_misuse_is_refused_before_anything_is_made(changes, error):
    with pytest.raises(ValueError, match=error):
        alignment_tax.check(config(**changes))


def test_before_and_after_ask_for_the_other_command(monkeypatch):
    asked = []
    fake = type(sys)("two_models")
    fake.main = lambda: asked.append("two models")
    monkeypatch.setitem(sys.modules, "experiments.alignment_tax.two_models", fake)
    monkeypatch.setattr(alignment_tax, "two_models", fake, raising=False)
    monkeypatch.setattr(alignment_tax, "_study", lambda: asked.append("study"))
    for words in (["--before=a", "--after", "b"], ["--steps", "2"]):
        monkeypatch.setattr(sys, "argv", ["alignment_tax", *words])
        alignment_tax.main()
    assert asked == ["two models", "study"]


def test_what_averages_with_ratios_say_of_themselves():
    rows = planted()
    for row in list(rows):
        if row["method"] == "rsf_ma_80":
            ratios = {f"average/ratio_{k}": x for k, x in enumerate((1.0, 0.6, 0.8))}
            other = {**row, "method": "rsf_hma_80", **ratios, "average/moved": 0.2}
            other["eval/reward"] += 0.1
            rows.append(other)
    keys = ("eval/reward", "tax/skills")
    about = {"records": rows, "found": settings.changes(rows, keys)}
    found = sections._hma(about)["rsf_hma_80"]
    assert found["minus_ma"]["eval/reward"]["mean"] == pytest.approx(0.1)
    assert found["ratios"]["ratio_1"]["mean"] == pytest.approx(0.6)
    assert found["ratios"]["moved"]["mean"] == pytest.approx(0.2)


def test_runs_of_some_worlds_each_are_pooled_into_one_report(tmp_path):
    more = {"drift/text_nll": 1.3, "drift/kl_initial": 1.0, "eval/distinct_2": 0.3}
    rows = [{**row, **more} for row in planted()]
    for name, worlds in {"a": range(5), "b": range(5, 10)}.items():
        (tmp_path / name).mkdir()
        lines = [json.dumps(row) + "\n" for row in rows if row["world"] in worlds]
        (tmp_path / name / "metrics.jsonl").write_text("".join(lines))
        (tmp_path / name / "samples.jsonl").write_text("")
    asked = dataclasses.replace(
        compare.CONFIG,
        runs=(str(tmp_path / "a"), str(tmp_path / "b")),
        pool=True,
        claims="alignment_tax",
        output=str(tmp_path / "both"),
    )
    text = (compare.run(asked) / "report.md").read_text()
    assert text.startswith("# The alignment tax") and "over 10 worlds" in text
    assert "returned 4" in text or "returned 5" in text
    results = json.loads((tmp_path / "both" / "results.json").read_text())
    assert results["families"] == {"rsf_early": ["rsf"]}
    # Read up to the corner that a run of the experiment has.
    assert results["corners"]["tax/skills"] == alignment_tax.CONFIG.corner.skills
