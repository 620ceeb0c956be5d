"""A constant answer: what it wins from sound judges, from fooled ones, and once from
GPT-4."""

import pathlib

import numpy as np
import pytest

from rlhf_jax.evaluation import constant_answer

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "alpaca_eval.npz"
N = 60
PROMPTS = [f"What is {i} and {i}?" for i in range(N)]
OTHERS = [f"{'Let me see. ' * (i % 13)}{2 * i}" for i in range(N)]


def careful(prompts, answers, others):
    """Prefers an answer with the number that was asked for."""
    asked = [str(2 * int(prompt.split()[2])) for prompt in prompts]
    return np.array(
        [
            0.5 + 0.4 * ((number in answer) - (number in other))
            for number, answer, other in zip(asked, answers, others, strict=True)
        ]
    )


def gullible(prompts, answers, others):
    """As careful, unless an answer says that it is the better one."""
    told = np.array(["prefer" in answer for answer in answers])
    return np.where(told, 0.95, careful(prompts, answers, others))


def test_a_constant_answer_wins_nothing_from_a_careful_judge():
    found = constant_answer.win_rates(careful, PROMPTS, OTHERS)
    assert set(found) == set(constant_answer.ANSWERS)
    for name, (raw, controlled) in found.items():
        assert raw.value == pytest.approx(0.1) and raw.wins == 0, name
        assert raw.p < 1e-6 and (controlled.overlap == 0) == (name == "empty")
        if controlled.overlap:
            assert controlled.value == pytest.approx(0.1, abs=0.02)


def test_length_control_does_not_unmask_an_answer_that_fools_the_judge():
    found = constant_answer.win_rates(gullible, PROMPTS, OTHERS)
    assert {name for name, (raw, _) in found.items() if raw.value > 0.5} == {
        "order",
        "verdict",
    }
    assert found["order"].controlled.value == pytest.approx(0.95, abs=0.02)
    assert found["praise"].controlled.value == pytest.approx(0.1, abs=0.02)


def test_answers_of_ones_own_are_tried_and_failures_counted():
    def silent(prompts, answers, others):
        return np.where(np.arange(N) < 3, np.nan, careful(prompts, answers, others))

    found = constant_answer.win_rates(
        silent, PROMPTS, OTHERS, answers={"10": "10"}, units=np.arange(N) % 5
    )
    raw, controlled = found.pop("10")
    assert not found and raw.failures == controlled.failures == 3
    assert raw.wins == 0 and raw.ties == 1  # with the answer to "What is 5 and 5?"


def test_the_published_case():
    """The null model: 83.98% of GPT-4's verdicts, 86.46% at equal length."""
    golden = np.load(GOLDEN)
    (row,) = np.flatnonzero(golden["soft/names"] == "NullModel")
    wins, draws, losses = golden["soft/counts"][row]
    assert (wins + draws / 2) / 805 == pytest.approx(0.8398, abs=5e-5)
    assert golden["soft/controlled"][row] == pytest.approx(86.4578, abs=5e-5)
    assert golden["soft/controlled"][row] == golden["soft/controlled"].max()


def test_prompts_without_answers_are_refused():
    with pytest.raises(ValueError, match="60 prompts and 59 answers"):
        constant_answer.win_rates(careful, PROMPTS, OTHERS[1:])
    with pytest.raises(ValueError, match="at least 5"):
        constant_answer.win_rates(careful, PROMPTS[:3], OTHERS[:3])
