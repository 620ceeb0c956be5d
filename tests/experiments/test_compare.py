"""One front of many runs: side by side, or pooled as one study, its claims judged."""

import json

import numpy as np
import pytest
import reporting_records

from experiments import compare, sentiment
from experiments.compare import differences
from experiments.pivot_translation import sections as game_sections
from rlhf_jax.evaluation import axes


def study(tmp_path, name, *, first, count):
    """A run folder of `count` worlds from `first` on, all looked at as often."""
    rows = reporting_records.make(1, worlds=first + count)
    extra = [{**r, "step": r["step"] - 0.5} for r in rows if _doubled(r)]
    rows = sorted([*rows, *extra], key=lambda r: (r["world"], r["method"], r["step"]))
    return folder(tmp_path / name, [row for row in rows if row["world"] >= first])


def _doubled(row):
    """Whether a look is repeated: Elastic Reset has twice as many as the others."""
    looked = row.get("eval/phase") in ("train", "final")
    return looked and row["method"] != "elastic_reset"


def game(tmp_path, name, *methods, seeds=3):
    """A run folder of a translation game: English is lost as drift grows."""
    rows = reporting_records.make(seeds, methods=methods, gold=False)
    for row in rows:
        if "eval/phase" in row:
            lost = row["drift/kl_initial"] / 3
            row["drift/bleu_en"], row["eval/bleu_en"] = lost, 16 - lost
            row["drift/message_nll"] = row["drift/text_nll"]
            row |= {f"eval/reward_{half}": row["eval/reward"] for half in "ab"}
    return folder(tmp_path / name, rows)


def folder(place, rows):
    """A run folder of records; no samples."""
    place.mkdir()
    lines = [json.dumps(row) for row in rows]
    (place / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (place / "samples.jsonl").write_text("")
    return str(place)


def page(runs, output, **flags):
    """(results, report) of a comparison."""
    config = compare.Config(runs=tuple(runs), output=str(output), **flags)
    place = compare.run(config)
    text = (place / "report.md").read_text()
    return json.loads((place / "results.json").read_text()), text


def test_compare_draws_one_front_of_many_runs(tmp_path):
    for name, reward in (("a", "x"), ("b", "y")):
        names = ("ppo", "ppo_kl") if name == "a" else ("ppo",)
        folder(tmp_path / name, reporting_records.make(1, methods=names))
        config = {"config": {"reward": reward, "policy": "p", "dataset": "d"}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    found, text = page(runs, tmp_path / "c")
    assert set(found["methods"]) == {"ppo a", "ppo b", "ppo_kl"}
    assert "PPO, a" in text and "rewards are not on one scale" in text
    assert (tmp_path / "c" / "front.png").stat().st_size > 10_000
    first = text.splitlines()[2]
    assert "nothing is ranked: the runs differ in reward" in first
    assert "leads" not in text and "--rank" in first
    with pytest.raises(ValueError, match="--claims sentiment: the runs differ in rew"):
        compare.run(compare.Config(runs=tuple(runs), claims="sentiment"))


def test_runs_that_differ_are_ranked_when_that_is_asked_for(tmp_path):
    runs = []
    for name, method in (("a", "ppo"), ("b", "ppo_kl")):
        runs.append(
            folder(tmp_path / name, reporting_records.make(1, methods=[method]))
        )
        config = {"config": {"reward": name, "policy": "p", "dataset": "d"}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    _, text = page(runs, tmp_path / "c", rank=True)
    assert "leads in the mean on" in text.splitlines()[2]


def test_a_model_and_a_policy_of_one_name_are_the_same(tmp_path):
    for name, flag in (("a", "policy"), ("b", "model")):
        (tmp_path / name).mkdir()
        config = {"config": {flag: "p", "dataset": f"{name}.jsonl"}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    found = differences.between([tmp_path / "a", tmp_path / "b"])
    assert list(found) == ["data"]
    assert list(found["data"].values()) == ["a.jsonl", "b.jsonl"]


def test_pooled_runs_are_one_study_with_verdicts(tmp_path):
    parts = [study(tmp_path, "a", first=0, count=4)]
    parts += [study(tmp_path, "b", first=4, count=5)]
    whole = study(tmp_path, "whole", first=0, count=9)
    asked = {"pool": True, "claims": "sentiment"}
    (pooled, text), (alone, _) = (
        page(runs, tmp_path / f"page-{len(runs)}", **asked) for runs in (parts, [whole])
    )
    assert pooled["worlds"] == 9 and pooled["interval"] == "t95"
    assert set(pooled["methods"]) == {"ppo", "ppo_kl", "elastic_reset"}
    for name, method in alone["methods"].items():
        for end in ("mean", "low", "high"):
            np.testing.assert_allclose(
                pooled["methods"][name]["reward"][end], method["reward"][end]
            )
    assert "reproduced" in text and "Elastic Reset" in text
    primary = {c.endpoint for c in sentiment.CLAIMS if not c.secondary}
    assert primary == {"hypervolume/drift/text_nll"}
    words = [[v["word"] for v in found["verdicts"]] for found in (pooled, alone)]
    assert words[0] == words[1] and "reproduced" in words[0]
    told = {v["other"] for v in pooled["verdicts"] if v["word"] != "none"}
    assert told == {"ppo", "ppo_kl"}


def test_the_accuracies_of_suites_are_drops_in_every_comparison(tmp_path):
    rows = reporting_records.make(1, methods=("ppo_kl", "elastic_reset_kl"))
    rows = [{**r, "tax/arc": r["tax/skills"]} if "tax/skills" in r else r for r in rows]
    run = folder(tmp_path / "a", rows)
    config = {"config": {"suites": ["commonsense/arc:test"]}}
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    found, _ = page([run], tmp_path / "page")
    other = found["methods"]["ppo_kl"]
    assert other["other"]["tax/arc"] == other["drift"]["tax/skills"]


def test_a_seed_in_two_pooled_runs_is_refused(tmp_path):
    runs = [study(tmp_path, n, first=0, count=f) for n, f in (("a", 2), ("b", 1))]
    with pytest.raises(ValueError, match=r"a and b both hold \w+, world/seed \d/0"):
        compare.run(compare.Config(runs=tuple(runs), pool=True))


def test_claims_of_no_experiment_are_refused(tmp_path):
    run = study(tmp_path, "a", first=0, count=2)
    with pytest.raises(ValueError, match="--claims nothing: no experiment"):
        compare.run(compare.Config(runs=(run,), claims="nothing"))


def test_a_game_whose_methods_were_shared_out_is_one_game(tmp_path):
    parts = [
        game(tmp_path, "a", "reinforce", "s2p_1"),
        game(tmp_path, "b", "elastic_reset", "sil"),
    ]
    names = ("reinforce", "s2p_1", "elastic_reset", "sil")
    whole = game(tmp_path, "whole", *names)
    asked = {"pool": True, "claims": "pivot_translation"}
    (shared, text), (alone, _) = (
        page(runs, tmp_path / f"page-{len(runs)}", **asked) for runs in (parts, [whole])
    )
    assert shared["methods"] == alone["methods"]
    assert shared["verdicts"] == alone["verdicts"]
    assert {v["other"] for v in shared["verdicts"]} == {"reinforce", "s2p_1", "sil"}
    assert set(shared["corners"]) == {axis.key for axis in game_sections.AXES}
    for part in ("BLEU-En lost", "## At the best BLEU-De", "REINFORCE, seed 2", "SIL"):
        assert part in text


def test_some_methods_of_many_are_shown_and_the_page_says_so(tmp_path):
    parts = [
        game(tmp_path, "a", "reinforce", "s2p_1"),
        game(tmp_path, "b", "elastic_reset"),
    ]
    every, _ = page(parts, tmp_path / "every", pool=True)
    found, text = page(parts, tmp_path / "some", pool=True, methods=("reinforce",))
    assert list(found["methods"]) == ["reinforce"]
    for name in ("reward", "drift", "hypervolume"):  # no place is matched in these
        there = every["methods"]["reinforce"][name]
        assert found["methods"]["reinforce"][name] == there
    assert "these alone are shown: reinforce" in text
    asked = {"runs": tuple(parts), "methods": ("ppo",)}
    with pytest.raises(ValueError, match="--methods ppo: the runs have elastic_reset"):
        compare.run(compare.Config(**asked))
    with pytest.raises(ValueError, match="--methods with --claims"):
        compare.run(compare.Config(**asked, claims="pivot_translation"))


def test_a_game_is_not_compared_with_another_kind_of_run(tmp_path):
    runs = game(tmp_path, "g", "reinforce"), study(tmp_path, "s", first=0, count=1)
    with pytest.raises(ValueError, match=r"g is a translation game.* and s is not"):
        compare.run(compare.Config(runs=runs))


def test_claims_are_about_what_was_run(tmp_path):
    run = game(tmp_path, "g", "reinforce", "elastic_reset")
    found, _ = page([run], tmp_path / "page", claims="pivot_translation")
    assert {v["other"] for v in found["verdicts"]} == {"reinforce"}


def test_runs_that_cannot_stand_on_a_front_are_named(tmp_path):
    with pytest.raises(ValueError, match="name run folders"):
        compare.run(compare.Config())
    with pytest.raises(ValueError, match="it has no metrics.jsonl"):
        compare.run(compare.Config(runs=(str(tmp_path),)))
    rows = [{"method": "sft", "seed": 0, "step": 1, "nll": 2.0}]
    run = folder(tmp_path / "sft", rows)
    with pytest.raises(ValueError, match="measured no reward"):
        compare.run(compare.Config(runs=(run,)))


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("ppo_kl", "PPO + KL"),
        ("grpo_kl", "GRPO + KL"),
        ("grpo_kl_elastic_reset", "GRPO + KL + Elastic Reset"),
        ("ppo_elastic_reset", "PPO + Elastic Reset"),
        ("elastic_reset", "Elastic Reset"),
        ("simpo", "SimPO"),
        ("kto", "KTO"),
    ],
)
def test_a_recipes_method_is_named_with_what_was_added(method, name):
    assert compare.named(method, compare.POLICY.labels) == name


def test_a_reward_in_its_own_units_is_not_called_deviations(tmp_path):
    runs = []
    for method in ("ppo", "ppo_kl"):
        runs.append(
            folder(tmp_path / method, reporting_records.make(1, methods=[method]))
        )
    own = [{"key": axis.key, "unit": axis.unit} for axis in axes.OWN_UNITS]
    (tmp_path / "ppo" / "results.json").write_text(json.dumps({"axes": own}))
    found, _ = page(runs, tmp_path / "c")
    units = {axis["key"]: axis["unit"] for axis in found["axes"]}
    assert units["eval/reward"] == "own units"
