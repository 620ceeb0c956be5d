import io

import pytest
import rich.console

from rlhf_jax.runtime import progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def _bar(total, *, clock, terminal=False):
    console = rich.console.Console(
        file=io.StringIO(), force_terminal=terminal, width=100, color_system=None
    )
    return progress.Progress(total, "ppo", console=console, clock=clock), console


def _run(total, seconds, clock):
    bar, console = _bar(total, clock=clock)
    with bar:
        for step in range(1, total + 1):
            clock.now += seconds
            bar.update(step, reward=step / total, kl=1.0)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("total", "seconds", "most"), [(1000, 0.001, 1), (1000, 0.1, 11), (100, 30.0, 51)]
)
def test_plain_lines_are_few(total, seconds, most):
    lines = _run(total, seconds, Clock())
    assert 1 <= len(lines) <= most
    assert lines[-1].startswith(f"ppo: {total}/{total}")
    assert "reward 1" in lines[-1]


def test_a_slow_run_is_heard_of_every_minute():
    lines = _run(4, 600.0, Clock())
    assert len(lines) == 4
    assert "20 min 00 s spent, 20 min 00 s left" in lines[1]


def test_the_time_left_leaves_out_compilation():
    clock = Clock()
    bar, console = _bar(10, clock=clock)
    with bar:
        assert bar.left() is None
        clock.now += 40.0  # the first step compiles, whether it is said or not
        bar.update(1)
        assert bar.left() is None
        clock.now += 3.0
        bar.update(2)
        with bar.phase("compiling the evaluation"):
            clock.now += 60.0
        with bar.phase("evaluating"):
            clock.now += 1.0
        bar.update(3)
        assert bar.left() == pytest.approx(7 * (3.0 + 1.0) / 2)
    assert "compiling the evaluation" in console.file.getvalue()


def test_the_time_left_counts_from_where_a_run_resumed():
    clock = Clock()
    bar, _ = _bar(100, clock=clock)
    with bar:
        bar.start_at(90)
        for step in (91, 92):
            clock.now += 5.0
            bar.update(step)
        assert bar.left() == pytest.approx(8 * 5.0)


def test_a_terminal_shows_the_bar_the_time_and_the_metrics():
    clock = Clock()
    bar, console = _bar(4, clock=clock, terminal=True)
    with bar:
        bar.update(1)
        clock.now += 2.0
        bar.update(2, reward=0.5, kl=2.0, drift=1.25)
        with bar.phase("evaluating"):
            pass
    text = console.file.getvalue()
    for part in ("ppo", "2/4", "4 s left", "reward 0.5  kl 2  drift 1.25"):
        assert part in text


def test_an_error_passes_through_and_adds_no_last_line():
    bar, console = _bar(10, clock=Clock())
    with pytest.raises(RuntimeError), bar:
        bar.update(3)
        raise RuntimeError
    assert console.file.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3600, "1 h 00 min")],
)
def test_durations_as_a_person_says_them(seconds, text):
    assert progress.duration(seconds) == text


def test_preparation_prints_lines_and_bars_and_then_nothing():
    console = rich.console.Console(file=io.StringIO(), width=100, color_system=None)
    with progress.Preparation(console) as report:
        report("loading 3 texts")
        for done in (1, 2):
            report("pretraining", done=done, total=2, nll=0.5)
        report("ready")
    report("training has a bar of its own")
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "loading 3 texts" and lines[-1] == "ready"
    assert lines[1].startswith("pretraining: 2/2") and "nll 0.5" in lines[1]
    assert len(lines) == 3
