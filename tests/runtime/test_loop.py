"""loop: the order of what happens, on fakes that write down what was asked of them."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.runtime import loop


class Fake:
    """Hooks over a state that is a list of what was done to it."""

    def __init__(
        self,
        skipped=(),
        signals=None,
        signal_at=None,
        name="optim/skipped",
        fails_at=None,
    ):
        self._fails_at = fails_at
        self._name = name
        self.events = []
        self.logged = []
        self._skipped = dict(enumerate(skipped))
        self._signals, self._signal_at = signals, signal_at
        self.hooks = loop.Hooks(
            advance=self._advance,
            log=self._log,
            evaluate=lambda state, step, phase: self._note("evaluate", step, phase),
            save=self._save,
            reset=self._reset,
        )

    def _note(self, *event):
        self.events.append(event)

    def _advance(self, state, iteration):
        self._note("advance", iteration)
        if iteration == self._fails_at:
            raise loop.Unscored("the reward r failed")
        if iteration == self._signal_at:
            self._signals.received = "SIGTERM"
        metrics = {
            "value": jnp.float32(iteration),
            self._name: jnp.float32(self._skipped.get(iteration, 0)),
        }
        return [*state, iteration], metrics, f"rows {iteration}"

    def _log(self, step, metrics, rows):
        self._note("log", step)
        self.logged.append((step, metrics, rows))

    def _save(self, state, step, final):
        self._note("save", step, "final" if final else "on the way")
        self.saved = state

    def _reset(self, state):
        self._note("reset")
        return [*state, "reset"]


def run(fake, *, start=0, signals=None, state=(), **plan):
    plan = loop.Plan(**{"steps": 3, **plan})
    return loop.run(
        list(state), start=start, plan=plan, hooks=fake.hooks, signals=signals
    )


def test_metrics_are_fetched_after_the_next_iteration_is_dispatched():
    fake = Fake()
    assert run(fake) == [0, 1, 2]
    assert fake.events == [
        ("advance", 0),
        ("advance", 1),
        ("log", 1),
        ("advance", 2),
        ("log", 2),
        ("log", 3),
        ("save", 3, "final"),
    ]


def test_what_is_logged_is_numbers_with_their_step_and_rows():
    fake = Fake()
    run(fake)
    assert [step for step, *_ in fake.logged] == [1, 2, 3]
    for step, metrics, rows in fake.logged:
        assert rows == f"rows {step - 1}"
        assert metrics["value"] == step - 1
        assert all(type(value) is float for value in metrics.values())
        assert metrics["time/iteration"] >= 0


def test_evaluations_come_after_the_log_and_before_the_save():
    fake = Fake()
    run(fake, evaluations=frozenset({0, 2, 3}), save_every=2)
    assert fake.events == [
        ("evaluate", 0, "start"),
        ("advance", 0),
        ("advance", 1),
        ("log", 1),
        ("log", 2),
        ("evaluate", 2, "train"),
        ("save", 2, "on the way"),
        ("advance", 2),
        ("log", 3),
        ("evaluate", 3, "final"),
        ("save", 3, "final"),
    ]


def test_both_sides_of_a_reset_are_evaluated():
    """Iteration 1 ends with a reset and is evaluated, before it and after."""
    fake = Fake()
    state = run(fake, evaluations=frozenset({2}), resets=frozenset({1}))
    assert state == [0, 1, "reset", 2]
    assert fake.events[1:7] == [
        ("advance", 1),
        ("log", 1),
        ("log", 2),
        ("evaluate", 2, "before_reset"),
        ("reset",),
        ("evaluate", 2, "after_reset"),
    ]
    assert [metrics["reset/reset"] for _, metrics, _ in fake.logged] == [0, 1, 0]


def test_a_reset_comes_after_its_iteration_whether_or_not_it_is_evaluated():
    fake = Fake()
    state = run(fake, evaluations=frozenset({3}), resets=frozenset({0, 1}))
    assert state == [0, "reset", 1, "reset", 2]
    phases = [event[2] for event in fake.events if event[0] == "evaluate"]
    assert phases == ["final"]


def test_runs_without_resets_log_none():
    fake = Fake()
    run(fake)
    assert all("reset/reset" not in metrics for _, metrics, _ in fake.logged)


def test_a_last_iteration_with_a_reset_is_evaluated_on_both_sides():
    fake = Fake()
    state = run(fake, evaluations=frozenset({3}), resets=frozenset({2}))
    assert state == [0, 1, 2, "reset"] == fake.saved
    phases = [event[2] for event in fake.events if event[0] == "evaluate"]
    assert phases == ["before_reset", "after_reset"]


def test_a_resumed_run_goes_on_where_it_stood():
    fake = Fake()
    state = run(fake, start=2, state=[0, 1], evaluations=frozenset({0, 2}))
    assert state == [0, 1, 2]
    assert fake.events == [("advance", 2), ("log", 3), ("save", 3, "final")]


def test_a_run_that_is_done_does_nothing():
    fake = Fake()
    assert run(fake, start=3, state=[0, 1, 2]) == [0, 1, 2]
    assert fake.events == []


def test_a_signal_saves_and_then_raises():
    signals = loop.Signals()
    fake = Fake(signals=signals, signal_at=1)
    with pytest.raises(loop.Interrupted, match="SIGTERM after step 2"):
        run(fake, signals=signals)
    assert fake.events[-3:] == [("log", 1), ("log", 2), ("save", 2, "on the way")]
    assert fake.saved == [0, 1]


def test_a_signal_in_the_last_iteration_lets_it_end():
    signals = loop.Signals()
    fake = Fake(signals=signals, signal_at=2)
    assert run(fake, signals=signals) == [0, 1, 2]
    assert fake.events[-1] == ("save", 3, "final")


def test_a_signal_at_a_reset_saves_what_is_after_it():
    signals = loop.Signals()
    fake = Fake(signals=signals, signal_at=1)
    with pytest.raises(loop.Interrupted):
        run(fake, signals=signals, evaluations=frozenset({2}), resets=frozenset({1}))
    assert fake.saved == [0, 1, "reset"]


def test_updates_skipped_in_a_row_end_the_run_with_finite_weights_saved():
    fake = Fake(skipped=(0, 3, 0, 0))
    with pytest.raises(loop.NotFinite, match="step 2: 3 updates in a row.*learning"):
        run(fake, steps=10)
    # Known when iteration 1 is fetched, which is after iteration 2 was dispatched.
    assert fake.events[-3:] == [("log", 2), ("log", 3), ("save", 3, "on the way")]


def test_skipped_updates_are_seen_in_the_last_iteration_too():
    fake = Fake(skipped=(0, 2, 3))
    with pytest.raises(loop.NotFinite, match="step 3: 3 updates"):
        run(fake)
    assert fake.events[-2:] == [("log", 3), ("save", 3, "on the way")]


@pytest.mark.parametrize("name", ["skipped", "sft/skipped"])
def test_skipped_updates_are_seen_under_any_prefix(name):
    with pytest.raises(loop.NotFinite):
        run(Fake(skipped=(3,), name=name))


def test_what_was_done_before_a_reward_failed_is_saved():
    fake = Fake(fails_at=2)
    with pytest.raises(loop.Unscored, match="r failed; step 2 is saved, --resume"):
        run(fake)
    assert fake.events[-3:] == [
        ("advance", 2),
        ("log", 2),
        ("save", 2, "on the way"),
    ]
    assert fake.saved == [0, 1]


def test_a_reward_that_fails_at_once_leaves_nothing_to_save():
    for start in (0, 1):
        fake = Fake(fails_at=start)
        with pytest.raises(loop.Unscored, match="r failed$"):
            run(fake, start=start)
        assert fake.events == [("advance", start)]


def test_what_is_saved_already_is_not_saved_again():
    fake = Fake(fails_at=2)
    with pytest.raises(loop.Unscored, match="step 2 is saved"):
        run(fake, save_every=2)
    assert fake.events.count(("save", 2, "on the way")) == 1


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("SIGINT after step 3", 130),
        ("SIGTERM", 143),
        ("a signal to another host before ppo-0-0", 143),
    ],
)
def test_an_interruption_knows_its_exit_status(text, status):
    assert loop.Interrupted(text).status == status


def test_a_few_skipped_updates_are_borne():
    assert run(Fake(skipped=(2, 0, 2))) == [0, 1, 2]
    with pytest.raises(loop.NotFinite):
        run(Fake(skipped=(2, 0, 2)), max_skipped=2)


def test_not_finite_at_a_reset_saves_what_is_after_it():
    """The checkpoint of a step holds the step's reset, whatever ended the run."""
    fake = Fake(skipped=(0, 5))
    with pytest.raises(loop.NotFinite):
        run(fake, evaluations=frozenset({2}), resets=frozenset({1}))
    assert fake.saved == [0, 1, "reset"]
    assert ("evaluate", 2, "before_reset") not in fake.events


def test_metrics_that_may_end_the_run_are_fetched_at_once():
    fake = Fake()
    run(fake, prompt=True)
    names = [event[0] for event in fake.events]
    assert names == ["advance", "log"] * 3 + ["save"]


@pytest.mark.parametrize("asked", ["log", "evaluate"])
def test_a_step_that_is_told_to_be_the_last_is_evaluated_and_saved_as_such(asked):
    fake = Fake()
    stopped = lambda: any(event[:2] == (asked, 2) for event in fake.events)  # noqa: E731
    fake.hooks = dataclasses.replace(fake.hooks, stopped=stopped)
    state = run(fake, steps=9, prompt=True, evaluations=frozenset({2, 9}))
    assert state == fake.saved == [0, 1]
    phase = {"log": "final", "evaluate": "train"}[asked]  # who evaluates renames it
    ends = [("log", 2), ("evaluate", 2, phase), ("save", 2, "final")]
    assert fake.events[-3:] == ends


def test_a_run_that_is_stopped_between_evaluations_is_evaluated_after_its_reset():
    fake = Fake()
    stopped = lambda: ("log", 2) in fake.events  # noqa: E731
    fake.hooks = dataclasses.replace(fake.hooks, stopped=stopped)
    assert run(fake, steps=9, prompt=True, resets=frozenset({1})) == [0, 1, "reset"]
    phases = [event[2] for event in fake.events if event[0] == "evaluate"]
    assert phases == ["before_reset", "after_reset"]


def test_a_failure_of_a_hook_is_raised_with_its_step_evaluated_and_saved():
    fake = Fake()
    problem = ValueError("the callback f raised")
    failed = lambda: problem if ("log", 2) in fake.events else None  # noqa: E731
    fake.hooks = dataclasses.replace(fake.hooks, failed=failed)
    with pytest.raises(ValueError, match="the callback f raised"):
        run(fake, prompt=True, evaluations=frozenset({2, 3}))
    assert fake.events[-2:] == [("evaluate", 2, "train"), ("save", 2, "on the way")]


def test_steps_may_be_named_to_be_saved_after():
    fake = Fake()
    run(fake, saves=frozenset({2}))
    assert [event[1] for event in fake.events if event[0] == "save"] == [2, 3]


def test_time_spent_on_evaluations_is_not_an_iterations(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    times = {}

    def advance(state, iteration):
        clock[0] += 1.0
        return state, {}, None

    def evaluate(state, step, phase):
        clock[0] += 100.0

    hooks = loop.Hooks(
        advance=advance,
        log=lambda step, metrics, rows: times.update({step: metrics["time/iteration"]}),
        evaluate=evaluate,
    )
    plan = loop.Plan(steps=3, evaluations=frozenset({0, 1, 2, 3}))
    loop.run(None, start=0, plan=plan, hooks=hooks)
    assert times == {1: 1.0, 2: 1.0, 3: 1.0}


# Signals.


@pytest.mark.parametrize("kind", ["SIGTERM", "SIGINT"])
def test_a_signal_is_a_flag_and_the_second_one_acts(kind):
    number = getattr(signal, kind)
    seen = []
    before = signal.signal(number, lambda *_: seen.append(kind))
    try:
        with loop.Signals() as signals:
            assert signals.received is None
            os.kill(os.getpid(), number)
            assert signals.received == kind and not seen
            os.kill(os.getpid(), number)
            assert seen == [kind]
        os.kill(os.getpid(), number)
        assert seen == [kind, kind]
    finally:
        signal.signal(number, before)


def test_metrics_may_come_from_a_compiled_program():
    step = jax.jit(lambda x: (x + 1, {"value": x * 2}))
    seen = []
    hooks = loop.Hooks(
        advance=lambda state, iteration: (*step(state), None),
        log=lambda step, metrics, rows: seen.append(metrics["value"]),
    )
    final = loop.run(jnp.float32(0), start=0, plan=loop.Plan(steps=3), hooks=hooks)
    assert final == 3 and seen == [0.0, 2.0, 4.0]
