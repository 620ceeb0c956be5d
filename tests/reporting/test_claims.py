"""Claims that were declared, and the findings about them."""

import dataclasses
import math

import numpy as np
import pytest
import reporting_records as records

from experiments import pivot_translation, sentiment, stack_exchange
from experiments.pivot_translation import sections as pivot_sections
from experiments.stack_exchange import methods as stack_methods
from rlhf_jax.evaluation import axes
from rlhf_jax.evaluation.units import Unit
from rlhf_jax.reporting import claims, evaluations

NLL = (dataclasses.replace(axes.TEXT_NLL, corner=5.0),)


def _claim(endpoint, *others, **options):
    return claims.Claim("near", others or ("far",), endpoint, **options)


def _judge(rows, *judged):
    return claims.judge(judged, evaluations.runs(rows), axes=NLL)


def test_a_difference_is_positive_when_the_first_method_is_better():
    less_drift, less_reward = _judge(
        records.two_methods(8),
        _claim("drift/text_nll", smallest_effect=0.1),
        _claim("reward"),
    )
    assert less_drift.verdict.mean == 3.0
    assert less_drift.verdict.word == "reproduced"
    assert less_reward.verdict.mean == -1.0
    assert less_reward.verdict.word == "contradicted"


def test_the_smallest_hypervolume_effect_is_a_share_of_the_other_method():
    (finding,) = _judge(records.two_methods(8), _claim("hypervolume/drift/text_nll"))
    others = [other for _, other in finding.pairs.values()]
    assert finding.smallest_effect == pytest.approx(0.05 * np.mean(others))


def test_seeds_of_a_world_are_averaged_before_anything_is_tested():
    rows = []
    for row in records.two_methods(8):
        better = row["method"] == "near" and row["step"] > 0
        rows += [{**row, "seed": 0}, {**row, "seed": 1}]
        rows[-1]["eval/reward"] += 4.0 * better
    (finding,) = _judge(rows, _claim("reward"))
    assert len(finding.pairs) == 16 and finding.verdict.worlds == 8
    assert finding.verdict.mean == (-1.0 + 3.0) / 2
    assert finding.verdict.p == 2 / 2**8
    # All variance lies within worlds: −MSW/(MSB + MSW) with MSB = 0 is −1.
    assert finding.intraclass == -1.0


def test_a_secondary_endpoint_counts_in_no_family():
    findings = _judge(
        records.two_methods(8),
        _claim("reward"),
        _claim("drift/text_nll", secondary=True),
    )
    assert findings[0].p_holm == findings[0].verdict.p
    assert math.isnan(findings[1].p_holm)


def test_p_values_are_adjusted_within_their_family():
    rows = records.two_methods(8)
    rows += [{**row, "method": "third"} for row in rows if row["method"] == "far"]
    findings = _judge(
        rows, _claim("reward", "far", "third"), _claim("reward", family="Alone")
    )
    assert [f.verdict.p for f in findings] == [2 / 2**8] * 3
    assert [f.p_holm for f in findings] == [4 / 2**8] * 2 + [2 / 2**8]


def test_a_diverged_unit_is_void_and_counted():
    rows = records.two_methods(9)
    rows[-1]["eval/reward"] = math.nan
    (finding,) = _judge(rows, _claim("reward"))
    assert finding.void == [Unit(8, 0)]
    assert finding.verdict.worlds == 8 and finding.verdict.mean == -1.0
    row = claims.row(finding)
    assert row["void"] == ["8/0"] and row["per_unit"]["0/0"] == [2.0, 3.0]


def test_a_method_that_diverged_everywhere_has_no_verdict():
    rows = records.two_methods(8)
    for row in rows:
        if row["method"] == "far" and row["step"] == 1:
            row["eval/reward"] = math.nan
    (finding,) = _judge(rows, _claim("reward"))
    assert finding.verdict is None and finding.reason == "diverged in every unit"


def test_unequally_many_looks_are_named():
    rows = records.two_methods(8)
    rows += [records.row("far", w, 3, "final", 3.0, 4.0) for w in range(8)]
    (finding,) = _judge(rows, _claim("hypervolume/drift/text_nll"))
    assert finding.reason == "2 looks and 3: measure both as often"


def test_an_early_stop_is_compared_by_reward_at_its_drift():
    rows = records.two_methods(8)
    rows += [records.row("stop", w, 1, "final", 0.5, 0.5) for w in range(8)]
    (finding,) = _judge(rows, _claim("hypervolume/drift/text_nll", "stop"))
    assert finding.at == "stop" and finding.smallest_effect == 0.1
    assert finding.pairs[Unit(0, 0)] == (1.0, 0.5)


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (_claim("gold"), "not measured"),
        (_claim("reward", "sft"), "sft was not run"),
        (claims.Claim("sft", ("far",), "reward"), "sft was not run"),
    ],
)
def test_what_was_not_run_or_measured_is_a_finding_without_a_verdict(claim, reason):
    findings = _judge(records.two_methods(8), claim, _claim("reward"))
    assert [f.reason for f in findings] == [reason, ""]
    assert findings[0].verdict is None
    assert findings[1].p_holm == findings[1].verdict.p


def test_a_claim_is_about_what_was_run():
    claim = _claim("reward", "far", "sft")
    assert claim.among(["near", "far"]) == _claim("reward", "far")
    assert claim.among(["near", "far", "sft"]) == claim
    assert claim.among(["near"]) is None and claim.among(["far", "sft"]) is None


def test_a_claim_about_an_axis_that_was_not_measured_is_left_out():
    declared = [_claim(e) for e in ("reward", "tax/skills", "gold_at/tax/skills")]
    assert claims.possible(declared, ["near", "far"], NLL) == tuple(declared[:2])
    assert claims.possible(declared, ["near"], NLL) == ()


def test_a_claim_without_a_smallest_effect_is_refused():
    bare = axes.Axis("drift/edits", "Edits", "", "less", corner=3.0)
    with pytest.raises(ValueError, match="smallest_effect"):
        claims.check([_claim("drift/edits")], [bare])
    claims.check([_claim("drift/edits", smallest_effect=1.0)], [bare])
    claims.check([_claim("hypervolume/drift/edits")], [bare])
    with pytest.raises(ValueError, match="kind"):
        _claim("reward", kind="less")


def test_a_study_has_one_primary_endpoint():
    with pytest.raises(ValueError, match="gold, reward are all primary"):
        claims.check([_claim("reward"), _claim("gold")], NLL)
    claims.check([_claim("reward"), _claim("gold", secondary=True)], NLL)


def test_a_family_that_so_few_worlds_cannot_decide_is_refused():
    seven = _claim("reward", *"abcdefg", family="Seven")
    with pytest.raises(ValueError, match="'Seven' has 7 comparisons, and 8 worlds"):
        claims.check([seven], NLL, 8)
    claims.check([seven], NLL, 9)
    claims.check([seven], NLL, 3)  # nothing is tested there


def test_the_smallest_effect_is_that_of_the_measure():
    endpoints = ("drift/text_nll", "reward_at/drift/text_nll", "reward")
    findings = _judge(records.two_methods(8), *map(_claim, endpoints))
    assert [f.smallest_effect for f in findings] == [0.05, 0.1, 0.1]


@pytest.mark.parametrize(
    ("experiment", "measured"),
    [
        (sentiment, sentiment.AXES),
        (pivot_translation, pivot_sections.MEASURED),
        (stack_exchange, stack_methods.AXES),
    ],
)
def test_declared_claims_can_be_judged(experiment, measured):
    claims.check(experiment.CLAIMS, measured, 15)
