"""Endpoints of runs and of pairs of runs, worked by hand."""

import math

import pytest
import reporting_records as records

from rlhf_jax.evaluation import axes
from rlhf_jax.evaluation.units import Unit
from rlhf_jax.reporting import endpoints, evaluations

NLL = (axes.Axis("drift/text_nll", "NLL", "", "less", corner=5.0, smallest=0.05),)
FIRST = Unit(0, 0)


def _pair(rows, name, measured=NLL):
    one, other = evaluations.runs(rows)
    return endpoints.pair(one, other, name, measured)


def _one(rows, method, measured=NLL):
    table = endpoints.table(evaluations.runs(rows), axes=measured)[method]
    return {name: by_unit[FIRST] for name, by_unit in table.items()}


def test_endpoints_of_single_runs_worked_by_hand():
    rows = records.two_methods()
    far, near = _one(rows, "far"), _one(rows, "near")
    assert (far["reward"], far["drift/text_nll"]) == (3.0, 4.0)
    # Below (0, 0) – (2, 1) – (4, 3), then flat to 5: 1 + 4 + 3.
    assert far["hypervolume/drift/text_nll"] == pytest.approx(8, rel=1e-3)
    assert near["hypervolume/drift/text_nll"] == pytest.approx(1 + 8, rel=1e-3)
    assert "end/reward" not in far  # it has no resets


def test_a_pair_is_matched_at_four_levels_of_the_drift_that_both_reach():
    far, near = _pair(records.two_methods(), "reward_at/drift/text_nll")
    levels = (0.25 + 0.5 + 0.75 + 0.9) / 4  # of drift 1
    assert (far, near) == (pytest.approx(levels / 2), pytest.approx(2 * levels))


def test_gold_at_matched_drift_is_of_the_policies_that_the_proxy_picks():
    rows = records.two_methods()
    for row in rows:
        row["eval/gold"] = 0.5 - row["eval/reward"] / 10  # falls as the proxy rises
    far, near = _pair(rows, "gold_at/drift/text_nll")
    assert far == pytest.approx(-0.6 / 2 / 10) and near == pytest.approx(-0.6 * 2 / 10)


def test_hypervolumes_of_unequally_many_looks_are_not_compared():
    rows = records.two_methods()
    more = records.row("far", 0, 3, "final", 3.0, 4.0)
    name = "hypervolume/drift/text_nll"
    assert _pair(rows, name) is not None
    assert _pair([*rows, more], name) is None
    assert _pair([*rows, more], "reward_at/drift/text_nll") is not None


def test_a_single_look_is_compared_by_reward_at_its_own_drift():
    rows = records.two_methods()[:3] + [records.row("stop", 0, 1, "final", 2.5, 3.0)]
    for name in ("hypervolume/drift/text_nll", "reward_at/drift/text_nll"):
        assert _pair(rows, name) == (2.0, 2.5)  # far is read between drifts 2 and 4


def test_a_single_look_was_picked_on_half_a_and_is_read_on_half_b():
    far = records.halved(
        "far", 0, [[(0, 0), (0, 0)], [(2, 2), (2, 4)], [(4, 3), (4, 5)]]
    )
    stop = records.halved("stop", 0, [[(0, 0), (0, 0)], [(1, 9), (3, 3)]])
    # Its drift on half A is 1, half way to far's first look, worth 4 on half B.
    assert _pair(far + stop, "reward_at/drift/text_nll") == (2.0, 3.0)


def test_two_single_looks_are_compared_as_they_are():
    rows = [records.row("start", 0, 0, "start", 0.0, 0.0)]
    rows += [records.row(n, 0, 1, "final", r, r) for n, r in (("a", 1.0), ("b", 2.0))]
    one, other = evaluations.runs(rows)[-2:]
    found = endpoints.pair(one, other, "reward_at/drift/text_nll", NLL)
    assert found == (1.0, 2.0)


def test_a_run_that_diverged_makes_every_endpoint_of_its_unit_void():
    rows = records.two_methods()
    rows[1]["drift/text_nll"] = math.nan
    for name in ("reward", "reward_at/drift/text_nll", "hypervolume/drift/text_nll"):
        assert all(map(math.isnan, _pair(rows, name)))
    assert all(map(math.isnan, _one(rows, "far").values()))
    assert _one(rows, "near")["reward"] == 2.0


def test_a_tax_is_the_drop_against_the_start_of_the_same_unit():
    rows = [
        records.row("ppo", 0, 0, "start", 0, 0, **{"tax/skills": 0.9, "tax/sums": 0.5}),
        records.row("ppo", 0, 1, "final", 1, 1, **{"tax/skills": 0.6, "tax/sums": 0.6}),
    ]
    found = _one(rows, "ppo", (axes.SKILLS, axes.accuracy("tax/sums")))
    assert found["tax/skills"] == pytest.approx(0.3)
    assert found["tax/sums"] == pytest.approx(-0.1)


def test_a_method_with_resets_has_its_end_beside_its_mean():
    found = _one(records.make(1), "elastic_reset", records.AXES)
    last = evaluations.runs(records.make(1))[-1].rows[-1]
    assert found["end/reward"] == last["eval/reward"] != found["reward"]
    assert {"end/gold", "end/tax/skills", "end/drift/kl_initial"} <= set(found)


def test_early_stopping_at_the_start_is_a_final_policy_all_the_same():
    rows = records.two_methods() + [records.row("stopped", 0, 0, "final", 0.0, 0.0)]
    assert _one(rows, "stopped")["reward"] == 0.0


def test_a_number_without_an_axis_is_read_as_it_is():
    rows = [
        records.row("ppo", 0, 0, "start", 0.0, 0.0, **{"tax/sums": 0.5}),
        records.row("ppo", 0, 1, "final", 1.0, 1.0, **{"tax/sums": 0.6}),
    ]
    assert _one(rows, "ppo")["tax/sums"] == 0.6
    assert "eval/reward_a" not in _one(rows, "ppo")


@pytest.mark.parametrize(
    ("name", "title", "scale"),
    [
        ("reward", "reward", 1.0),
        ("tax/skills", "Skills lost", 100.0),
        ("end/tax/skills", "at the end, Skills lost", 100.0),
        ("end/gold", "at the end, gold", 1.0),
        ("hypervolume/tax/skills", "hypervolume, Skills lost", 100.0),
        ("reward_at/tax/skills", "reward at matched drift, Skills lost", 1.0),
        ("eval/unheard_of", "eval/unheard_of", 1.0),
    ],
)
def test_endpoints_are_printed_in_words_and_points(name, title, scale):
    endpoint = endpoints.parse(name, (axes.SKILLS,))
    assert (endpoint.title, endpoint.scale) == (title, scale)


def test_an_experiment_has_its_own_words_for_a_key():
    bleu = axes.Axis("eval/reward", "BLEU of the pipeline", short="BLEU")
    assert endpoints.parse("reward", (bleu,)).title == "BLEU"


def test_a_policy_that_never_left_its_start_covers_nothing():
    """One half of the prompts is easier than the other, which is no gain."""
    halves = {"eval/reward_a": 3.0, "eval/reward_b": -1.0, "drift/kl_initial_a": 0.0}
    row = {"method": "ppo", "seed": 0, "eval/reward": 1.0, "drift/kl_initial": 0.0}
    row |= {**halves, "drift/kl_initial_b": 0.0}
    rows = [
        {**row, "step": step, "eval/phase": phase}
        for step, phase in ((0, "start"), (5, "train"), (9, "final"))
    ]
    found = _one(rows, "ppo", (axes.KL_INITIAL,))
    assert found["hypervolume/drift/kl_initial"] == 0.0
