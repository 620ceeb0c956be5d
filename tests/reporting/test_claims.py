"""Claims that were declared, and the findings about them."""

import math

import pytest
import reporting_records as records

from experiments import pivot_translation, sentiment, stack_exchange
from experiments.pivot_translation import sections as pivot_sections
from experiments.stack_exchange import methods as stack_methods
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import claims, evaluations

NLL = (axes.TEXT_NLL,)


def _claim(endpoint, *others, **options):
    return claims.Claim("near", others or ("far",), endpoint, **options)


def _judge(rows, *judged):
    return claims.judge(
        judged,
        evaluations.runs(rows),
        axes=NLL,
        corners={"drift/text_nll": (5.0, 0.0)},
    )


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
    assert finding.smallest_effect == pytest.approx(0.05 * 5.0)


def test_p_values_are_adjusted_over_all_findings():
    findings = _judge(
        records.two_methods(8), _claim("reward"), _claim("hypervolume/drift/text_nll")
    )
    assert [f.verdict.p for f in findings] == [2 / 2**8] * 2
    assert [f.p_holm for f in findings] == [4 / 2**8] * 2


def test_p_values_are_adjusted_within_their_family():
    findings = _judge(
        records.two_methods(8),
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
    rows = records.two_methods(8)
    rows[-1]["eval/reward"] = math.nan
    (finding,) = _judge(rows, _claim("reward"))
    assert finding.verdict is None
    assert finding.reason == "not finite in seed 7"


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
    for endpoint in ("drift/edits", "drift_at/drift/edits"):
        with pytest.raises(ValueError, match="smallest_effect"):
            claims.check([_claim(endpoint)], [bare])
        claims.check([_claim(endpoint, smallest_effect=1.0)], [bare])
    claims.check([_claim("hypervolume/drift/edits"), _claim("reward")], [bare])
    with pytest.raises(ValueError, match="kind"):
        _claim("reward", kind="less")


def test_the_smallest_effect_is_that_of_the_measure():
    endpoints = (
        "drift/text_nll",
        "drift_at/drift/text_nll",
        "reward_at/drift/text_nll",
    )
    findings = _judge(records.two_methods(8), *map(_claim, endpoints))
    assert [f.smallest_effect for f in findings] == [0.05, 0.05, 0.1]


@pytest.mark.parametrize(
    ("experiment", "measured"),
    [
        (sentiment, sentiment.AXES),
        (pivot_translation, pivot_sections.MEASURED),
        (stack_exchange, stack_methods.AXES),
    ],
)
def test_declared_claims_have_a_smallest_effect(experiment, measured):
    claims.check(experiment.CLAIMS, measured)
