import math

import numpy as np
import pytest
import reporting_records

from rlhf_jax.evaluation import pareto, statistics
from rlhf_jax.reporting import claims, results

AXES, CORNERS = reporting_records.AXES, reporting_records.CORNERS
OPTIONS = {"axes": AXES, "corners": CORNERS}


def _row(method, seed, step, phase, reward, nll, **more):
    row = {"method": method, "seed": seed, "step": step, "eval/phase": phase}
    return {**row, "eval/reward": reward, "drift/text_nll": nll, **more}


def _two_methods(seeds=1):
    """Worked by hand: `far` reaches reward 3 at drift 4, `near` 2 at drift 1."""
    rows = []
    for seed in range(seeds):
        rows += [
            _row("far", seed, 0, "start", 0.0, 0.0),
            _row("far", seed, 1, "train", 1.0, 2.0),
            _row("far", seed, 2, "final", 3.0, 4.0),
            _row("near", seed, 0, "start", 0.0, 0.0),
            _row("near", seed, 2, "final", 2.0, 1.0),
        ]
    return rows


def test_endpoints_worked_by_hand():
    table = results.endpoints(
        results.runs(_two_methods()),
        axes=["drift/text_nll"],
        corners={"drift/text_nll": (5.0, 0.0)},
    )
    far, near = ({k: v[0] for k, v in table[m].items()} for m in ("far", "near"))
    assert (far["reward"], far["drift/text_nll"]) == (3.0, 4.0)
    assert far["hypervolume/drift/text_nll"] == 2 * 1 + 1 * 3
    assert near["hypervolume/drift/text_nll"] == 4 * 2
    # Matched at drift 1 (near's best) and at reward 2 (near's best).
    assert far["reward_at/drift/text_nll"] == 0.0
    assert near["reward_at/drift/text_nll"] == 2.0
    assert far["drift_at/drift/text_nll"] == 4.0
    assert near["drift_at/drift/text_nll"] == 1.0


def test_a_tax_is_the_drop_against_the_start_of_the_same_seed():
    rows = [
        _row("ppo", 0, 0, "start", 0.0, 0.0, **{"tax/skills": 0.9, "tax/sums": 0.5}),
        _row("ppo", 0, 1, "final", 1.0, 1.0, **{"tax/skills": 0.6, "tax/sums": 0.6}),
    ]
    table = results.endpoints(results.runs(rows), axes=["tax/skills"])["ppo"]
    assert table["tax/skills"][0] == pytest.approx(0.3)
    assert table["tax/sums"][0] == pytest.approx(-0.1)


def test_a_method_that_was_only_evaluated_at_its_end_starts_where_the_others_do():
    rows = _two_methods() + [_row("averaged", 0, 2, "final", 1.5, 0.5)]
    run = next(r for r in results.runs(rows) if r.method == "averaged")
    assert run.start["method"] == "far"
    np.testing.assert_array_equal(run.points("drift/text_nll"), [(0, 0), (0.5, 1.5)])


def test_both_sides_of_a_reset_are_points_and_the_last_row_is_final():
    rows = [
        _row("er", 0, 0, "start", 0.0, 0.0),
        _row("er", 0, 5, "before_reset", 2.0, 3.0),
        _row("er", 0, 5, "after_reset", 1.0, 1.0),
    ]
    (run,) = results.runs(rows)
    assert len(run.points("drift/text_nll")) == 3
    assert run.final["eval/phase"] == "after_reset"
    final = results.summarize(rows, axes=["drift/text_nll"])["methods"]["er"]["final"]
    assert final == {"step": 5, "phase": "after_reset"}


def test_training_records_are_no_evaluations():
    records = reporting_records.make(1)
    for run in results.runs(records):
        assert all("eval/reward" in row for row in run.rows)
        assert [row["step"] for row in run.rows] == sorted(
            row["step"] for row in run.rows
        )


def test_gold_at_matched_drift_is_of_the_checkpoint_that_the_proxy_picks():
    rows = [
        _row("ppo", 0, 0, "start", 0.0, 0.0, **{"eval/gold": 0.4}),
        _row("ppo", 0, 1, "train", 1.0, 1.0, **{"eval/gold": 0.9}),
        _row("ppo", 0, 2, "final", 2.0, 2.0, **{"eval/gold": 0.1}),
    ]
    table = results.endpoints(results.runs(rows), axes=["drift/text_nll"])["ppo"]
    assert table["gold_at/drift/text_nll"][0] == 0.1


def test_hypervolumes_are_split_half_when_halves_were_measured(rng):
    rows, halves = [], rng.uniform(size=(6, 2, 2))
    for step, ((drift_a, reward_a), (drift_b, reward_b)) in enumerate(halves):
        both = {"eval/reward_a": reward_a, "eval/reward_b": reward_b}
        both |= {"drift/text_nll_a": drift_a, "drift/text_nll_b": drift_b}
        mean = (reward_a + reward_b) / 2, (drift_a + drift_b) / 2
        phase = "start" if step == 0 else "train"
        rows.append(_row("ppo", 0, step, phase, *mean, **both))
    table = results.endpoints(
        results.runs(rows),
        axes=["drift/text_nll"],
        corners={"drift/text_nll": (1.0, 0.0)},
    )
    expected = pareto.split_half(
        lambda p: pareto.hypervolume(p, (1.0, 0.0)), halves[:, 0], halves[:, 1]
    )
    found = table["ppo"]["hypervolume/drift/text_nll"][0]
    assert found == pytest.approx(expected)
    assert "eval/reward_a" not in table["ppo"]


def _halved(method, seed, points):
    """Evaluations of ((drift, reward) on half A, and on half B), start first."""
    rows = []
    for step, ((drift_a, reward_a), (drift_b, reward_b)) in enumerate(points):
        both = {"eval/reward_a": reward_a, "eval/reward_b": reward_b}
        both |= {"drift/text_nll_a": drift_a, "drift/text_nll_b": drift_b}
        mean = (reward_a + reward_b) / 2, (drift_a + drift_b) / 2
        phase = "start" if step == 0 else "train"
        rows.append(_row(method, seed, step, phase, *mean, **both))
    return rows


def test_checkpoints_at_matched_places_are_chosen_on_one_half_and_read_on_the_other():
    one = [[(0, 0), (0, 0)], [(1, 2), (1, 1)], [(1, 1), (1, 4)]]
    two = [[(0, 0), (0, 0)], [(2, 5), (2, 5)]]
    rows = _halved("one", 0, one) + _halved("two", 0, two)
    table = results.endpoints(results.runs(rows), axes=["drift/text_nll"])
    found = {k: v[0] for k, v in table["one"].items()}
    # Matched at drift 1 on both halves; A chooses the second, B the third checkpoint.
    assert found["reward_at/drift/text_nll"] == (1 + 1) / 2
    # Matched at reward 2 on half A and at 4 on half B; both choose drift 1.
    assert found["drift_at/drift/text_nll"] == 1.0
    other = {k: v[0] for k, v in table["two"].items()}
    assert other["reward_at/drift/text_nll"] == 0.0  # its start, at drift 1
    assert other["drift_at/drift/text_nll"] == 2.0


def test_a_half_with_harder_texts_has_not_drifted():
    points = [[(2.0, 0.0), (3.0, 0.0)], [(2.5, 1.0), (3.5, 1.0)]]
    (run,) = results.runs(_halved("ppo", 0, points))
    for side in run.sides("drift/text_nll"):
        np.testing.assert_array_equal(side, [2.5, 3.0])
    np.testing.assert_array_equal(
        run.picked("eval/reward", "drift/text_nll", [2.4, 2.5, 3.0]), [np.nan, 0, 1]
    )


def test_claims_methods_decide_where_fronts_are_matched_and_others_are_read_there():
    rows = _two_methods() + [
        _row("short", 0, 0, "start", 0.0, 0.0),
        _row("short", 0, 1, "final", 0.5, 0.25),
    ]
    options = {"axes": ["drift/text_nll"]}
    everyone = results.summarize(rows, **options)["matched"]["drift/text_nll"]
    assert (everyone["drift"]["mean"], everyone["reward"]["mean"]) == (0.25, 0.5)
    assert everyone["methods"] == ["far", "near", "short"]
    found = results.summarize(rows, **options, among=["far", "near"])
    place = found["matched"]["drift/text_nll"]
    assert (place["drift"]["mean"], place["reward"]["mean"]) == (1.0, 2.0)
    assert place["methods"] == ["far", "near"]
    short = found["methods"]["short"]
    assert short["reward_at"]["drift/text_nll"]["mean"] == 0.5
    assert short["drift_at"]["drift/text_nll"] == {
        **{"mean": None, "low": None, "high": None},
        "missing": 1,
    }


def test_attainment_is_a_curve_above_the_start_of_each_seed():
    rows = _two_methods() + [
        {**row, "seed": 1, "drift/text_nll": row["drift/text_nll"] + 10.0}
        for row in _two_methods()
    ]
    corners = {"drift/text_nll": (5.0 + 12.0, 0.0)}  # 12 above the mean start
    found = results.summarize(rows, axes=["drift/text_nll"], corners=corners)
    curve = found["attainment"]["drift/text_nll"]
    np.testing.assert_array_equal(curve["above_start"], np.arange(13.0))
    best = [at["mean"] for at in curve["methods"]["far"]]
    np.testing.assert_array_equal(best, [0, 0, 1, 1, *[3] * 9])
    assert all(a["low"] == a["high"] for a in curve["methods"]["near"])


def test_summary_has_the_layout_of_results_json():
    found = results.summarize(reporting_records.make(3), **OPTIONS, wall_seconds=1.5)
    assert found["seeds"] == 3
    assert found["wall_seconds"] == 1.5
    assert list(found["methods"]) == ["ppo", "ppo_kl", "elastic_reset"]
    for method in found["methods"].values():
        assert set(method["drift"]) == set(method["hypervolume"]) == set(AXES)
        for spread in (method["reward"], method["gold"], *method["drift"].values()):
            assert spread["low"] <= spread["mean"] <= spread["high"]
        assert method["checkpoints"] in (4, 8)
        assert set(method["reward_at"]) == set(method["drift_at"]) == set(AXES)
    assert found["initial"]["drift"]["tax/skills"]["mean"] == 0.0
    assert set(found["matched"]) == set(found["attainment"]) == set(AXES)


def test_few_seeds_show_their_range_and_many_an_interval():
    few = results.summarize(reporting_records.make(3), **OPTIONS)
    rewards = few["methods"]["ppo"]["per_seed"]["reward"].values()
    assert few["interval"] == "range"
    assert few["methods"]["ppo"]["reward"]["low"] == min(rewards)
    many = results.summarize(reporting_records.make(8), **OPTIONS)
    rewards = many["methods"]["ppo"]["per_seed"]["reward"].values()
    assert many["interval"] == "t95"
    expected = statistics.t_interval(list(rewards))
    assert many["methods"]["ppo"]["reward"] == expected._asdict()


def test_a_diverged_seed_is_counted_not_hidden():
    assert results.spread([1.0, math.nan, 3.0]) == {
        **{"mean": 2.0, "low": 1.0, "high": 3.0},
        "missing": 1,
    }
    assert results.spread([math.inf])["mean"] is None


def _claim(endpoint, *others, **options):
    return claims.Claim("near", others or ("far",), endpoint, **options)


def _judge(rows, *judged):
    return claims.judge(
        judged,
        results.runs(rows),
        axes=["drift/text_nll"],
        corners={"drift/text_nll": (5.0, 0.0)},
    )


def test_a_difference_is_positive_when_the_first_method_is_better():
    less_drift, less_reward = _judge(
        _two_methods(8), _claim("drift/text_nll", smallest_effect=0.1), _claim("reward")
    )
    assert less_drift.verdict.mean == 3.0
    assert less_drift.verdict.word == "reproduced"
    assert less_reward.verdict.mean == -1.0
    assert less_reward.verdict.word == "contradicted"


def test_the_smallest_hypervolume_effect_is_a_share_of_the_other_method():
    (finding,) = _judge(_two_methods(8), _claim("hypervolume/drift/text_nll"))
    assert finding.smallest_effect == pytest.approx(0.05 * 5.0)


def test_p_values_are_adjusted_over_all_findings():
    findings = _judge(
        _two_methods(8), _claim("reward"), _claim("hypervolume/drift/text_nll")
    )
    assert [f.verdict.p for f in findings] == [2 / 2**8] * 2
    assert [f.p_holm for f in findings] == [4 / 2**8] * 2


def test_p_values_are_adjusted_within_their_family():
    findings = _judge(
        _two_methods(8),
        _claim("reward"),
        _claim("reward_at/drift/text_nll", family="Read at one place"),
        _claim("drift_at/drift/text_nll", smallest_effect=0.1, family="Read at one"),
    )
    assert [f.p_holm for f in findings] == [2 / 2**8] * 3
    assert findings[2].verdict.mean == 3.0  # less drift is better
    assert [f.claim.family for f in findings][1:] == [
        "Read at one place",
        "Read at one",
    ]


def test_a_diverged_seed_takes_the_verdict_away():
    rows = _two_methods(8)
    rows[-1]["eval/reward"] = math.nan
    (finding,) = _judge(rows, _claim("reward"))
    assert finding.verdict is None
    assert finding.reason == "not finite in seed 7"


@pytest.mark.parametrize(
    ("endpoint", "word"),
    [
        ("reward", "not finite"),
        ("hypervolume/drift/text_nll", "not finite"),
        ("reward_at/drift/text_nll", "not reached"),
        ("drift_at/drift/text_nll", "not reached"),
    ],
)
def test_no_checkpoint_at_the_matched_place_is_no_divergence(endpoint, word):
    assert results.absent(endpoint) == word


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (_claim("gold"), "not measured"),
        (_claim("reward", "sft"), "sft was not run"),
        (claims.Claim("sft", ("far",), "reward"), "sft was not run"),
    ],
)
def test_what_was_not_run_or_measured_is_a_finding_without_a_verdict(claim, reason):
    findings = _judge(_two_methods(8), claim, _claim("reward"))
    assert [f.reason for f in findings] == [reason, ""]
    assert findings[0].verdict is None
    assert findings[1].p_holm == findings[1].verdict.p


def test_a_claim_is_about_what_was_run():
    claim = _claim("reward", "far", "sft")
    assert claim.among(["near", "far"]) == _claim("reward", "far")
    assert claim.among(["near", "far", "sft"]) == claim
    assert claim.among(["near"]) is None and claim.among(["far", "sft"]) is None
    assert (claim.group, claim.axis) == ("reward", "")
    assert _claim("gold_at/tax/skills").axis == "tax/skills"


def test_a_claim_without_a_smallest_effect_is_refused_when_it_is_declared():
    with pytest.raises(ValueError, match="smallest_effect"):
        _claim("drift/text_nll")
    with pytest.raises(ValueError, match="kind"):
        _claim("reward", kind="less")


def test_early_stopping_at_the_start_is_a_final_policy_all_the_same():
    rows = _two_methods() + [_row("stopped", 0, 0, "final", 0.0, 0.0)]
    table = results.endpoints(results.runs(rows), axes=["drift/text_nll"])
    assert table["stopped"]["reward"] == {0: 0.0}


def test_an_axis_that_was_measured_of_the_start_alone_is_no_front():
    """The best of n has a divergence and no likelihood of human text."""
    rows = reporting_records.make(1)
    best = {"method": "best_of_4", "seed": 0, "step": 12, "eval/phase": "final"}
    best |= {"eval/reward": 2.0, "drift/kl_initial": 0.6}
    options = {"axes": AXES, "corners": CORNERS}
    before = results.summarize(rows, **options)["methods"]["ppo"]
    found = results.summarize([*rows, best], **options)["methods"]
    assert found["best_of_4"]["hypervolume"]["drift/kl_initial"]["mean"] > 0
    for group in ("hypervolume", "reward_at", "drift_at"):
        assert "drift/text_nll" not in found["best_of_4"][group]
    assert found["best_of_4"]["drift"]["drift/text_nll"]["mean"] is None
    for group in ("reward_at", "drift_at"):  # nor does it match the others' fronts
        assert found["ppo"][group]["drift/text_nll"] == before[group]["drift/text_nll"]
