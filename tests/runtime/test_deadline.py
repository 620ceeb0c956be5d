"""deadline: a call that may take so long and no longer."""

import sys
import threading
import time

import pytest

from rlhf_jax.runtime import deadline


@pytest.mark.parametrize("seconds", [0, 60])
def test_what_a_call_returns_or_raises_is_passed_on(seconds):
    assert deadline.within(seconds, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        deadline.within(seconds, lambda: 1 / 0)
    with pytest.raises(SystemExit):
        deadline.within(seconds, sys.exit)


def test_a_call_that_is_late_is_left_alone_and_its_answer_dropped():
    ended = threading.Event()

    def late():
        time.sleep(0.3)
        ended.set()

    with pytest.raises(deadline.Expired):
        deadline.within(0.01, late)
    assert not ended.is_set() and ended.wait(30)


def test_without_a_limit_a_call_stays_in_its_thread():
    here = threading.current_thread()
    assert deadline.within(0, threading.current_thread) is here
    assert deadline.within(60, threading.current_thread) is not here
