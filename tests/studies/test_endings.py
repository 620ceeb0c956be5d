"""How runs end: by callbacks, by patience, and which policy is their best.

On the bandit of test_bandit, whose runs take milliseconds.
"""

import dataclasses
import functools

import numpy as np
import pytest
import small_study
import test_bandit

from rlhf_jax.runtime import loop, metrics_log, provenance
from rlhf_jax.studies import best_model, callbacks, eval_steps, runner
from rlhf_jax.studies.interfaces import Patience, Schedule, Unit

REWARDS = {0: 0.0, 2: 1.0, 4: 3.0, 6: 2.0, 8: 2.5, 10: 2.9, 12: 4.0}


def study(table=None, method="climb", **changes):
    """A study of one method, which measures what a table says after so many steps."""
    calls = iter(sorted(table or {}))

    def scripted(logits, run):
        return {"eval/reward": table[next(calls)]}, [{"prompt": "", "completion": ""}]

    at_every = eval_steps.at_every(12, 2)
    schedule = Schedule(12, at_every, reset_every=5, save_every=2)
    return dataclasses.replace(
        test_bandit.STUDY,
        methods={method: test_bandit.STUDY.methods[method]},
        units=(Unit(0, 0),),
        schedule=changes.pop("schedule", schedule),
        evaluators=(scripted if table else test_bandit.measure,),
        **changes,
    )


def run(asked, folder, signals=None):
    """(records, how the run ended)."""
    records = runner.run(asked, folder, test_bandit.LAYOUT, signals=signals)
    (only,) = asked.runs()
    return records, runner.ending(asked, folder, test_bandit.LAYOUT, only)


def evaluated(records):
    return [(r["step"], r["eval/phase"]) for r in records if "eval/phase" in r]


def plain(records):
    return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in records]


# Callbacks


def test_a_callback_is_told_what_metrics_jsonl_gets(tmp_path):
    told = []
    watching = (lambda step, metrics: told.append((step, metrics)),)
    records, ending = run(study(callbacks=watching), tmp_path)
    assert [metrics for _, metrics in told] == records
    assert [step for step, _ in told] == [record["step"] for record in records]
    assert ending.step == 12 and ending.stopped == ""


@pytest.mark.parametrize(
    ("key", "phases"),
    [
        ("objective/scores", [(0, "start"), (2, "train"), (3, "final")]),
        ("eval/reward", [(0, "start"), (2, "train"), (4, "final")]),
    ],
)
def test_a_callback_that_says_stop_makes_the_step_the_last(key, phases, tmp_path):
    """By an iteration between evaluations; by an evaluation, which becomes final."""

    def watch(step, metrics):
        return "stop" if step >= 3 and key in metrics else None

    asked = study(callbacks=(watch,), at_end=(lambda *_: ({"test/once": 1.0}, []),))
    records, ending = run(asked, tmp_path)
    assert evaluated(records) == phases and ending.step == phases[-1][0]
    assert ending.stopped == f"the callback {provenance.name_of(watch)}"
    assert [r["step"] for r in records if "test/once" in r] == [ending.step]
    samples = metrics_log.read(tmp_path / "samples.jsonl")
    assert samples[-1]["phase"] == "final" and samples[-1]["step"] == ending.step
    again = runner.run(asked, tmp_path, test_bandit.LAYOUT)  # it is done
    assert again == records


def test_a_stop_on_an_evaluated_reset_lets_the_reset_happen(tmp_path):
    def watch(step, metrics):
        return "stop" if metrics.get("eval/phase") == "before_reset" else None

    records, ending = run(study(method="reset", callbacks=(watch,)), tmp_path)
    step = ending.step
    assert evaluated(records)[-2:] == [(step, "before_reset"), (step, "after_reset")]


def test_a_callback_that_raises_leaves_a_run_that_goes_on_the_same(tmp_path):
    whole, _ = run(study(), tmp_path / "whole")
    broken = [True]

    def watch(step, metrics):
        metrics.clear()  # its copy, nobody else's
        if step == 5 and broken:
            raise KeyError(broken.pop())

    asked = study(callbacks=(watch,), schedule=Schedule(12, eval_steps.at_every(12, 2)))
    said = (
        r"the callback .*watch raised KeyError: True \(in .*, line \d+\), told step 5"
    )
    with pytest.raises(ValueError, match=said):
        run(asked, tmp_path / "broken")
    records, _ = run(asked, tmp_path / "broken")
    assert plain(records) == plain(whole)


def test_a_failure_at_the_start_is_raised_before_any_step(tmp_path):
    def watch(step, metrics):
        raise SystemExit(3)

    with pytest.raises(ValueError, match="raised SystemExit: 3 .* told step 0"):
        run(study(callbacks=(watch,)), tmp_path)


def test_answers_of_callbacks():
    done = []
    stop, wrong = lambda *_: "stop", lambda *_: "halt"
    note = functools.partial(lambda done, *_: done.append(1), done)
    assert callbacks.ask((note,), 1, {}) == ("", "")
    name, problem = callbacks.ask((note, stop, note), 1, {})
    assert name.endswith("<lambda>") and not problem and len(done) == 3
    _, problem = callbacks.ask((wrong,), 7, {})
    assert "returned 'halt' at step 7: return None, or \"stop\"" in problem


# The best policy, and patience


def test_the_best_policy_is_kept_and_read_back(tmp_path):
    table = {**REWARDS, 12: 0.0}
    asked = study(table, select=best_model.selection("reward"))
    _, ending = run(asked, tmp_path / "b")
    assert ending.best == 4 and ending.step == 12
    place = asked, tmp_path / "b", test_bandit.LAYOUT, asked.runs()[0]
    kept, last = (runner.policy(*place, best=best) for best in (True, False))
    short = study(schedule=Schedule(4, eval_steps.at_every(4, 0)))
    run(short, tmp_path / "c")
    there = runner.policy(short, tmp_path / "c", *place[2:])
    np.testing.assert_array_equal(kept, there)
    assert np.any(np.asarray(kept) != np.asarray(last))


def test_patience_counts_evaluations_that_are_not_better(tmp_path):
    reward = best_model.selection("reward")
    asked = study(REWARDS, select=reward, patience=Patience(2))
    records, ending = run(asked, tmp_path / "two")
    assert ending.step == 8 and ending.best == 4
    assert evaluated(records)[-1] == (8, "final")
    assert ending.stopped.startswith("early stopping: 2 evaluations without a better")
    assert "eval/reward than at step 4" in ending.stopped
    assert run(study(REWARDS, select=reward, patience=Patience(4)), tmp_path / "four")[
        1
    ] == (12, "", 12)


def test_patience_wants_more_than_the_threshold(tmp_path):
    """A gain of 1 is not more than 1, but is the best to compare with from then on."""
    patience = Patience(1, threshold=1.0)
    asked = study(REWARDS, select=best_model.selection("reward"), patience=patience)
    assert run(asked, tmp_path)[1][0] == 2


def test_less_may_be_better(tmp_path):
    less = best_model.selection("eval_reward", greater_is_better=False)
    _, ending = run(study(REWARDS, select=less, patience=Patience(3)), tmp_path)
    assert (ending.step, ending.best) == (6, 0)


def test_both_sides_of_a_reset_are_one_evaluation(tmp_path):
    """Iterations 5 and 10 end with a reset. Evaluations: 0, 6, 6, 11, 11, 12."""
    table = dict(enumerate([0.0, 1.0, 0.5, 0.9, 0.1, 0.8]))
    asked = study(
        table,
        "reset",
        select=best_model.selection("reward"),
        patience=Patience(2),
        schedule=Schedule(12, eval_steps.at_every(12, 0), reset_every=5),
    )
    records, ending = run(asked, tmp_path)
    assert [step for step, _ in evaluated(records)] == [0, 6, 6, 11, 11, 12]
    assert ending.step == 12 and ending.best == 6


def test_a_resumed_run_has_not_forgotten_how_long_it_waited(tmp_path):
    flags = {"select": best_model.selection("reward"), "patience": Patience(3)}
    whole = run(study(REWARDS, **flags), tmp_path / "whole")
    assert whole[1].step == 10
    with pytest.raises(loop.Interrupted):
        run(study(REWARDS, **flags), tmp_path / "cut", small_study.StopAfter(8))
    seen = evaluated(metrics_log.read(tmp_path / "cut" / "metrics.jsonl"))
    rest = {step: value for step, value in REWARDS.items() if step > seen[-1][0]}
    assert 4 <= seen[-1][0] < 10
    records, ending = run(study(rest, **flags), tmp_path / "cut")
    assert ending == whole[1] and plain(records) == plain(whole[0])


def test_a_metric_that_is_not_measured_is_named(tmp_path):
    asked = study(select=best_model.selection("nll"))
    with pytest.raises(ValueError, match="by eval/nll, which is not measured; .*eval/"):
        run(asked, tmp_path)


@pytest.mark.parametrize("name", ["nll", "eval_nll", "eval/nll"])
def test_metrics_are_named_as_people_do(name):
    assert best_model.selection(name).metrics == ("eval/nll",)
    assert best_model.selection(name).worth({"eval/nll": 1}, {"eval/nll": 3}) == 2


def test_which_way_is_better_is_known_or_asked_for():
    worth = best_model.selection("drift/text_nll").worth
    assert worth({"drift/text_nll": 2.0}, {"drift/text_nll": 1.0}) == -1
    assert best_model.selection("rewards/margins").metrics == ("eval/rewards/margins",)
    with pytest.raises(ValueError, match="--metric-for-best-model length.*--greater"):
        best_model.selection("length")


def test_the_best_record_is_the_first_of_ties_and_never_a_nan():
    select = best_model.selection("nll")
    rows = [{"eval/nll": v, "at": i} for i, v in enumerate([3.0, np.nan, 2.0, 2.0])]
    assert best_model.best(select, rows)["at"] == 2
    assert best_model.best(None, rows)["at"] == 3
