"""interruption: a signal is answered at once in words, whatever is being done."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import rich.console

from rlhf_jax.runtime import interruption, progress, terminal

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What main() does meanwhile: Python, a wait in C, and C that hears no signal.
BUSY = {
    "python": "while True: pass",
    "wait": "time.sleep(60)",
    "deaf": "[ctypes.CDLL(None).pthread_mutex_lock(lock) for _ in range(2)]",
}
PROGRAM = """
import ctypes, signal, sys, time
from rlhf_jax.runtime import interruption

signal.signal(signal.SIGINT, signal.default_int_handler)
lock = ctypes.create_string_buffer(64)
try:
    with interruption.Signals():
        print("ready", flush=True)
        {busy}
except KeyboardInterrupt:
    sys.exit(130)
"""


def wait_for(line, stream):
    for said in stream:
        if line in said:
            return said
    raise AssertionError(f"{line!r} was never said")


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM"])
@pytest.mark.slow
def test_the_first_is_answered_and_the_second_ends_the_process(busy, kind):
    check_two_signals(busy, kind)


def test_a_call_that_hears_no_signal_is_ended_too():
    check_two_signals("deaf", "SIGTERM")


def check_two_signals(busy, kind):
    number = getattr(signal, kind)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(busy=BUSY[busy])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_for("ready", process.stdout)
            time.sleep(0.2)
            os.kill(process.pid, number)
            said = wait_for(kind, process.stderr)
            assert said == f"{kind}: stopping after this step; once more to stop now\n"
            assert process.poll() is None
            os.kill(process.pid, number)
            status = process.wait(timeout=30)
        finally:
            process.kill()
    assert status in (-number, 128 + number)


def test_handlers_and_the_wakeup_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before[1])
    for _ in range(3):
        with interruption.Signals() as signals:
            assert signals.received is None
    assert (signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(before[1])) == before


def test_a_run_inside_a_run_stops_both_and_the_second_signal_acts(capfd):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        with interruption.Signals() as outer, interruption.Signals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert (outer.received, inner.received, seen) == ("SIGTERM", "SIGTERM", [])
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def screen():
    return rich.console.Console(file=io.StringIO(), force_terminal=True, width=80)


def test_live_lines_stay_below_what_is_said(capfd):
    console = screen()
    with progress.Progress(3, "training", console=console) as bar:
        bar.update(1)
        bar._live.refresh()  # as four times a second
        terminal.say("SIGINT: [stopping]")
        bar.update(2)
    terminal.say("after")
    shown = console.file.getvalue()
    assert shown.count("SIGINT: [stopping]\n") == 1 and "after" not in shown
    # The live lines are erased first: the words begin their line.
    before = shown[: shown.index("SIGINT")].rpartition("\n")[2]
    assert before.endswith("\x1b[2K")
    assert capfd.readouterr().err == "after\n"


def test_a_quiet_console_leaves_words_to_stderr(capfd):
    console = screen()
    console.quiet = True
    with progress.Progress(3, "training", console=console):
        terminal.say("SIGTERM: stopping")
    assert capfd.readouterr().err == "SIGTERM: stopping\n"
