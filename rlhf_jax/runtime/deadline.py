"""A call that may take so long and no longer."""

import queue
import threading


class Expired(Exception):
    """A call took longer than it may."""


def within(seconds, call):
    """What `call()` returns or raises, SystemExit included; 0 seconds: no limit.

    With a limit the call runs in a thread. Python cannot end a thread: one that takes
    too long is abandoned, and goes on in the background until it returns or the process
    ends. Two things follow. Code that never lets other threads run (a C extension that
    keeps the interpreter's lock) is not noticed to be late before it returns; and the
    call is not in the main thread, where alone `signal.alarm` works.

    Raises Expired when the time is over.
    """
    if not seconds:
        return call()
    answers = queue.SimpleQueue()
    threading.Thread(target=_answer, args=(call, answers), daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise Expired from None
    if error is not None:
        raise error
    return value


def _answer(call, answers):
    try:
        answers.put((call(), None))
    except BaseException as error:  # raised where the answer is waited for
        answers.put((None, error))
