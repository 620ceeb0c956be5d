"""Endpoints of a run, worked by hand: finals, fronts, matched fronts, halves."""

import pytest
import reporting_records as records

from rlhf_jax.evaluation import axes, pareto
from rlhf_jax.reporting import endpoints, evaluations

NLL = (axes.TEXT_NLL,)


def test_endpoints_worked_by_hand():
    table = endpoints.table(
        evaluations.runs(records.two_methods()),
        axes=NLL,
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
        records.row(
            "ppo", 0, 0, "start", 0.0, 0.0, **{"tax/skills": 0.9, "tax/sums": 0.5}
        ),
        records.row(
            "ppo", 0, 1, "final", 1.0, 1.0, **{"tax/skills": 0.6, "tax/sums": 0.6}
        ),
    ]
    table = endpoints.table(
        evaluations.runs(rows), axes=(axes.SKILLS, axes.accuracy("tax/sums"))
    )["ppo"]
    assert table["tax/skills"][0] == pytest.approx(0.3)
    assert table["tax/sums"][0] == pytest.approx(-0.1)


def test_gold_at_matched_drift_is_of_the_checkpoint_that_the_proxy_picks():
    rows = [
        records.row("ppo", 0, 0, "start", 0.0, 0.0, **{"eval/gold": 0.4}),
        records.row("ppo", 0, 1, "train", 1.0, 1.0, **{"eval/gold": 0.9}),
        records.row("ppo", 0, 2, "final", 2.0, 2.0, **{"eval/gold": 0.1}),
    ]
    table = endpoints.table(evaluations.runs(rows), axes=NLL)["ppo"]
    assert table["gold_at/drift/text_nll"][0] == 0.1


def test_hypervolumes_are_split_half_when_halves_were_measured(rng):
    rows, halves = [], rng.uniform(size=(6, 2, 2))
    for step, ((drift_a, reward_a), (drift_b, reward_b)) in enumerate(halves):
        both = {"eval/reward_a": reward_a, "eval/reward_b": reward_b}
        both |= {"drift/text_nll_a": drift_a, "drift/text_nll_b": drift_b}
        mean = (reward_a + reward_b) / 2, (drift_a + drift_b) / 2
        phase = "start" if step == 0 else "train"
        rows.append(records.row("ppo", 0, step, phase, *mean, **both))
    table = endpoints.table(
        evaluations.runs(rows),
        axes=NLL,
        corners={"drift/text_nll": (1.0, 0.0)},
    )
    expected = pareto.split_half(
        lambda p: pareto.hypervolume(p, (1.0, 0.0)), halves[:, 0], halves[:, 1]
    )
    found = table["ppo"]["hypervolume/drift/text_nll"][0]
    assert found == pytest.approx(expected)
    assert "eval/reward_a" not in table["ppo"]


def test_checkpoints_at_matched_places_are_chosen_on_one_half_and_read_on_the_other():
    one = [[(0, 0), (0, 0)], [(1, 2), (1, 1)], [(1, 1), (1, 4)]]
    two = [[(0, 0), (0, 0)], [(2, 5), (2, 5)]]
    rows = records.halved("one", 0, one) + records.halved("two", 0, two)
    table = endpoints.table(evaluations.runs(rows), axes=NLL)
    found = {k: v[0] for k, v in table["one"].items()}
    # Matched at drift 1 on both halves; A chooses the second, B the third checkpoint.
    assert found["reward_at/drift/text_nll"] == (1 + 1) / 2
    # Matched at reward 2 on half A and at 4 on half B; both choose drift 1.
    assert found["drift_at/drift/text_nll"] == 1.0
    other = {k: v[0] for k, v in table["two"].items()}
    assert other["reward_at/drift/text_nll"] == 0.0  # its start, at drift 1
    assert other["drift_at/drift/text_nll"] == 2.0


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
    assert endpoints.parse(endpoint, NLL).absent == word


def test_early_stopping_at_the_start_is_a_final_policy_all_the_same():
    rows = records.two_methods() + [records.row("stopped", 0, 0, "final", 0.0, 0.0)]
    table = endpoints.table(evaluations.runs(rows), axes=NLL)
    assert table["stopped"]["reward"] == {0: 0.0}


def test_a_number_without_an_axis_is_read_as_it_is():
    rows = [
        records.row("ppo", 0, 0, "start", 0.0, 0.0, **{"tax/sums": 0.5}),
        records.row("ppo", 0, 1, "final", 1.0, 1.0, **{"tax/sums": 0.6}),
    ]
    table = endpoints.table(evaluations.runs(rows), axes=NLL)["ppo"]
    assert table["tax/sums"][0] == 0.6


@pytest.mark.parametrize(
    ("name", "title", "scale"),
    [
        ("reward", "reward", 1.0),
        ("tax/skills", "Skills lost", 100.0),
        ("hypervolume/tax/skills", "hypervolume, Skills lost", 100.0),
        ("reward_at/tax/skills", "reward at matched drift, Skills lost", 1.0),
        ("drift_at/tax/skills", "drift at matched reward, Skills lost", 100.0),
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
    records = [
        {**row, "step": step, "eval/phase": phase}
        for step, phase in ((0, "start"), (5, "train"), (9, "final"))
    ]
    table = endpoints.table(
        evaluations.runs(records),
        axes=(axes.KL_INITIAL,),
        corners={axes.KL_INITIAL.key: (30.0, 1.0)},
    )
    assert table["ppo"]["hypervolume/drift/kl_initial"] == {0: 0.0}
