"""Objective mismatch: its rows, what is read of curves, what is said of them."""

import collections
import dataclasses

import mismatch_records
import numpy as np
import pytest

from experiments import objective_mismatch
from experiments.objective_mismatch import (
    alarms,
    comparisons,
    curves,
    links,
    measures,
    methods,
    numbers,
    ranking,
    sections,
)
from rlhf_jax.evaluation import statistics
from rlhf_jax.reporting import claims
from rlhf_jax.reporting.sections import Evidence

SUMMARY = {"interval": "t95", "worlds": 8, "seeds": 1}


@pytest.fixture(scope="module")
def records():
    return mismatch_records.study(np.random.default_rng(0))


@pytest.fixture(scope="module")
def rows(records):
    """Every statement about the records, judged once."""
    return links.judge(records)


@pytest.fixture(scope="module")
def judged(rows):
    return {(row["family"], row["text"]): row for row in rows}


@pytest.fixture(scope="module")
def made(records, rows):
    """{key: (a section of the report, what it computes)}."""

    def judge(given):
        assert given is records
        return rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, "judge", judge)
        found = sections.of_records(records)
        evidence = Evidence(records, [], SUMMARY, [], None)
        return {section.key: (section, section.compute(evidence)) for section in found}


def words(judged, family):
    return {text: row["word"] for (f, text), row in judged.items() if f == family}


# The table


def test_remedies_start_from_the_pairs_of_the_base_model():
    base, _ = methods.MODELS[methods.BASE]
    for name in ("kl", "chi2", "elastic_reset", "refresh", "early_stop", "ma50"):
        assert methods.reward_of(name) == base
    for spec, _ in methods.REWARDS.values():
        assert "size=medium,pairs=1000,labels=people" in spec


def test_second_runs_differ_in_their_key_alone():
    for name, again in methods.REPEATED.items():
        one, other = methods.METHODS[name], methods.METHODS[again]
        assert one.reward == other.reward
        assert dataclasses.replace(other.train, copy=0) == one.train
        assert other.train.copy == 1


def test_claims_are_about_rows_and_can_be_judged():
    for claim in objective_mismatch.CLAIMS:
        assert {claim.method, *claim.others} <= set(methods.METHODS)
    claims.check(objective_mismatch.CLAIMS, objective_mismatch.MEASURED, worlds=8)


@pytest.mark.parametrize("flag", ["dataset", "reward", "suites", "other_text"])
def test_another_subject_is_refused_with_what_to_use(flag):
    config = dataclasses.replace(objective_mismatch.CONFIG, **{flag: "gold"})
    with pytest.raises(ValueError, match=f"--{flag.replace('_', '-')} gold.*--run"):
        objective_mismatch.check(config)


def test_a_list_stands_for_its_rows_and_an_unknown_name_is_refused():
    config = dataclasses.replace(objective_mismatch.CONFIG, methods=("controls",))
    objective_mismatch.check(config)
    config = dataclasses.replace(objective_mismatch.CONFIG, methods=("modles",))
    with pytest.raises(ValueError, match="--methods modles"):
        objective_mismatch.check(config)


# What is said


def test_overoptimisation_that_is_there_is_found(judged):
    found = words(judged, links.PART)
    assert found["gold falls after its peak, PPO"] == "reproduced"
    assert found["proxy rises after gold's peak, PPO"] == "reproduced"
    assert found["gold falls after its peak, best-of-n"] == "reproduced"
    assert set(words(judged, links.FALLS).values()) == {"reproduced"}


def test_the_form_that_made_the_curves_predicts_them_better(judged):
    found = words(judged, links.FITS)
    assert found["d(α − β log d) predicts PPO better than d(α − βd)"] == "reproduced"
    quadratic = "d(α − βd) predicts best-of-n better than d(α − β log d)"
    assert found[quadratic] == "reproduced"


def test_controls_without_a_mismatch_show_none(judged):
    assert set(words(judged, links.CONTROLS).values()) == {"≈"}


def test_where_proxy_is_gold_nothing_falls_and_nothing_is_lost():
    rng = np.random.default_rng(1)
    found = links.judge(mismatch_records.study(rng, mismatch=False))
    falls = [r for r in found if r["family"] in (links.PART, links.COSTS)]
    falls = [r for r in falls if "falls" in r["text"] or "costs" in r["text"]]
    assert falls and {row["word"] for row in falls} == {"not reproduced"}


def test_accuracy_that_orders_policies_reaches_the_ceiling(records, judged):
    text = links.worse_than_ceiling("accuracy")
    assert judged[links.RANKING, text]["word"] == "not reproduced"
    rows = ranking.table(
        curves.of_records(records), curves.best_of(records), curves.models(records)
    )
    taus = ranking.taus(rows)
    assert np.mean(list(taus["accuracy"].values())) > 0.8
    assert np.mean(list(taus[ranking.CEILING].values())) > 0.8


def test_a_number_that_says_nothing_is_below_the_ceiling():
    rng = np.random.default_rng(2)
    records = mismatch_records.study(rng)
    for record in records:
        for name in methods.MODELS:
            key = f"mismatch/rm/{name}/accuracy"
            if key in record:
                record[key] = 0.6 + rng.normal(0, 0.02)
    found = {row["text"]: row["word"] for row in links.judge(records)}
    assert found[links.worse_than_ceiling("accuracy")] == "reproduced"


def test_too_few_worlds_are_not_tested():
    found = links.judge(mismatch_records.study(np.random.default_rng(0), worlds=3))
    assert {row["word"] for row in found} == {"no test"}


def test_runs_that_were_not_made_are_not_spoken_of(records):
    some = (links.INITIAL, "medium", "gold")
    found = links.judge([r for r in records if r["method"] in some])
    families = {row["family"] for row in found}
    assert links.RANKING not in families and links.PART in families
    assert not [row for row in found if "RSF" in row["text"]]


def test_no_family_is_too_large_for_eight_worlds(judged):
    sizes = collections.Counter(family for family, _ in judged)
    assert max(sizes.values()) <= statistics.largest_family(8)


# What is read


def test_the_start_of_a_run_is_what_its_own_reward_said_of_it(records):
    records = [dict(record) for record in records if record["world"] == 0]
    (initial,) = (r for r in records if r["method"] == links.INITIAL)
    spec, _ = methods.MODELS["large"]
    initial[f"mismatch/start/{spec}/proxy"] = -0.5
    before = curves.of_records([r for r in records if r["method"] != "x"])
    proxy = next(iter(before["large"].values())).proxy[""]
    assert proxy[0] == 0 and proxy[-1] > 0.5 + 0.7 * 22**0.5 - 0.2


def test_a_peak_is_read_on_prompts_that_did_not_choose_it():
    gold = {"": None, "_a": np.array([0, 5.0, 1]), "_b": np.array([0, 1.0, 3])}
    assert curves.chosen(gold, gold) == (1 + 1) / 2


def test_matched_readings_are_over_what_both_reach():
    x = np.linspace(0, 4, 9)
    assert curves.matched((x, 2 * x), (x / 2, x / 2)) == pytest.approx(
        np.mean(np.multiply(curves.fronts.LEVELS, 2))
    )
    assert np.isnan(curves.matched((0 * x, x), (x, x)))


def test_the_onset_is_near_the_peak_of_the_form(records):
    curve = curves.of_records(records)["clean"]
    peak = np.exp(1.05 / 0.6 - 1) ** 2  # KL at the peak
    steps = [numbers.onset(c) for c in curve.values()]
    after = np.interp(peak, mismatch_records._KL, mismatch_records.STEPS)
    assert all(step is None or abs(step - after) < 20 for step in steps)


def test_accuracy_is_weighted_to_the_margins_of_the_initial_policy():
    """Far pairs are ordered right and close ones wrong: what counts is how many of each
    π₀'s pairs have, not how many the policy's have."""
    reference = np.concatenate([np.full(50, 0.1), np.full(50, 5.0)])
    gold = np.concatenate([np.full(90, 0.1), np.full(10, 5.0)])
    proxy = np.where(gold > 1, 1.0, -1.0)
    found = measures._ordering(proxy, gold, reference)
    assert found[measures.ACCURACY.key] == pytest.approx(0.5)
    assert measures._ordering(proxy, 0 * gold, reference) == {}


# What is printed


def test_every_section_has_numbers_and_a_page(records, made):
    evidence = Evidence(records, [], SUMMARY, [], None)
    for section, found in made.values():
        page = "\n\n".join(section.render(found, evidence))
        assert found, section.key
        if section.key == "training":  # says what kept results hold, and nothing else
            assert page == ""
            continue
        assert page.startswith("## ") and "nan" not in page, (section.key, page)


def test_links_say_where_they_break(made):
    _, found = made["links"]
    assert found["L1"]["word"] == "breaks" and found["L1"]["at"] > 0
    assert found["L2"]["word"] == "holds" and found["L3"]["word"] == "breaks"


def test_detectors_are_judged_on_runs_that_did_not_set_them(records):
    found = alarms.measure(curves.of_records(records), records)
    assert found["eval/duplicates"]["clean"] == 8
    assert found["eval/duplicates"]["hacked"] > 0
    assert found["eval/length"]["false_alarms"]["mean"] <= 0.5


def test_an_alarm_of_training_that_comes_before_gold_falls_is_a_warning(records):
    """Length leaves its range in iteration 8 of runs that hack, and never on gold."""
    rng, logged = np.random.default_rng(3), []
    runs = curves.of_records(records)
    for method in ("medium", "gold"):
        for unit in runs[method]:
            for step in range(1, 61):
                longer = 20 + 10 * (method == "medium" and step >= 8)
                row = {"method": method, **unit._asdict(), "step": step}
                logged.append(row | {"response/length": longer + rng.normal(0, 0.2)})
    found = alarms.measure(runs, [*records, *logged])["response/length"]
    assert found["warned"]["mean"] == 1 and 5 < found["lead"] < 60
    assert found["clean"] == 8 and found["hacked"] == len(runs["medium"])


def test_remedies_are_compared_where_the_base_reward_is_the_same(records):
    found = comparisons.remedies(curves.of_records(records))
    assert abs(found["mean"]["at_proxy"]["mean"]) < 0.1
    assert found[methods.BASE]["at_proxy"]["mean"] == 0
