"""Callbacks: plain functions that watch a run, and may end it.

    def patience(step, metrics):
        if metrics.get("eval/nll", 9) < 1.5:
            return "stop"

A callback is called with the step and the line that metrics.jsonl gets, {name: value},
after every logged iteration and every evaluation; those of an evaluation have a key
`eval/phase`. It returns None, or "stop": this step then is the last one, as if no more
had been asked for. Callbacks keep nothing when a run is resumed.
"""

import traceback

from rlhf_jax.runtime import processes, provenance

STOP = "stop"


class Callbacks:
    """The callbacks of one run, and what came of them.

    `stopped` names the first one that ended the run, "" where none has; `failure` is a
    ValueError where one raised, or returned anything but None and "stop".
    """

    def __init__(self, functions):
        self._functions = tuple(functions)
        self.stopped, self.failure = "", None

    def tell(self, step, record):
        """Calls all of them, on the first host alone."""
        if not self._functions or self.failure is not None:
            return
        stopped, problem = processes.broadcast_from_first(
            lambda: ask(self._functions, step, record)
        )
        self.stopped = self.stopped or stopped
        if problem:
            self.failure = ValueError(problem)


def ask(functions, step, record):
    """[name of the first that says stop or "", the problem of the first that has one].

    Each is told a copy of the record.
    """
    stopped = ""
    for function in functions:
        name = provenance.name_of(function)
        try:
            answer = function(step, dict(record))
        except (Exception, SystemExit) as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raised = f"raised {type(error).__name__}: {error}"
            place = f"in {frame.filename}, line {frame.lineno}"
            said = f"{raised} ({place}), told step {step}"
            return stopped, f"the callback {name} {said}{_saved(step)}"
        if answer is not None and answer != STOP:
            wanted = f'None, or "{STOP}" to end the run'
            said = f"returned {answer!r} at step {step}: return {wanted}"
            return stopped, f"the callback {name} {said}{_saved(step)}"
        stopped = stopped or name * (answer == STOP)
    return stopped, ""


def _saved(step):
    return "; what was done is saved, and --resume goes on" * (step > 0)
