"""SIGINT and SIGTERM: answered at once, acted upon between iterations."""

import os
import signal
import sys
import threading

from rlhf_jax.runtime import terminal

AT_ONCE = "stopped at once; --resume continues from the last checkpoint"
_PATIENCE = 2.0  # seconds for what a second signal interrupts to end in good order
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)  # they end the process


class Signals:
    """Turns SIGTERM and SIGINT into a flag that the loop reads between iterations.

    The first one is answered in words as it comes, by a thread that the interpreter
    wakes (`signal.set_wakeup_fd`): also while the main thread compiles, or is inside a
    long call of a user's reward. A second one of the same kind acts as if this class
    were not there; where that would end the process and a call that hears no signal
    keeps it alive, the thread ends it. Only code that keeps the interpreter's lock
    holds up both.
    """

    kinds = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.received = None
        self._before, self._left = {}, threading.Event()
        self._pipe = self._woken = self._thread = None

    def __enter__(self):
        self._pipe = os.pipe()
        self._left.clear()
        os.set_blocking(self._pipe[1], False)
        for kind in self.kinds:
            self._before[kind] = signal.signal(kind, self._note)
        self._woken = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._left.set()
        signal.set_wakeup_fd(self._woken)
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
        os.close(self._pipe[1])  # the thread reads the end, and closes the other one
        self._thread.join(timeout=1.0)

    def _note(self, kind, frame):
        self.received = signal.Signals(kind).name
        signal.signal(kind, self._before[kind])
        if self._outer(kind) is not None:  # a run inside a run: both stop
            self._outer(kind)._note(kind, frame)

    def _outer(self, kind):
        """The Signals that this one is inside of, or None."""
        around = getattr(self._before[kind], "__self__", None)
        return around if isinstance(around, Signals) else None

    def _is_final(self, kind):
        """Whether a second signal is the end of the process."""
        if self._outer(kind) is not None:
            return self._outer(kind)._is_final(kind)
        return self._before[kind] in _DEFAULTS

    def _answer(self):
        """Runs in a thread: answers signals, whose numbers arrive as bytes."""
        reader, came = self._pipe[0], set()
        while number := os.read(reader, 1):
            kind = number[0]
            if kind not in self.kinds:
                continue
            if kind in came:
                self._end(kind)
            else:
                name = signal.Signals(kind).name
                terminal.say(f"{name}: stopping after this step; once more to stop now")
            came.add(kind)
        os.close(reader)

    def _end(self, kind):
        """Ends the process, if a second signal should have and has not."""
        if not self._is_final(kind) or hasattr(sys, "ps1"):
            return  # in a notebook the process is not ours to end
        if kind == signal.SIGINT and self.received is not None:
            self._left.wait(_PATIENCE)  # for what KeyboardInterrupt may end
        if not self._left.is_set():
            terminal.say(AT_ONCE)
            terminal.restore()
            os._exit(128 + kind)
