"""A peer's side of a comparison: a process that is told to run rounds.

Standard library only: the peer's Python need not have what this package needs. One
command a line comes in, one JSON answer a line goes out.
"""

import json
import os
import sys
import time


class Channel:
    """Commands in, answers out; what libraries print goes to the log."""

    def __init__(self):
        self._answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def command(self):
        """The next command; when there will be none any more, the process ends."""
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        return line.strip()

    def answer(self, **facts):
        """One answer."""
        self._answers.write(json.dumps(facts) + "\n")
        self._answers.flush()

    def rounds(self, calls, last):
        """Runs the rounds asked for, until `last` is: that one is the caller's."""
        while (command := self.command()) != last:
            clock = Clock()
            calls[command]()
            self.answer(**clock.read(), peak_bytes=peak_bytes())


class Clock:
    """Seconds since it was made, and processor seconds of all of our threads."""

    def __init__(self):
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self):
        """{"seconds", "cpu_seconds"}: the latter tell work from waiting."""
        cpu = time.process_time() - self._cpu
        return {"seconds": time.perf_counter() - self._wall, "cpu_seconds": cpu}


def versions(packages):
    """{package: version} of what is installed."""
    import importlib.metadata

    return {package: importlib.metadata.version(package) for package in packages}


def peak_bytes():
    """The most memory that this process ever held."""
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(main):
    """`main(channel, spec)`, the spec being the JSON file that argv names.

    A library that is missing, or refuses, is told in an answer.
    """
    channel = Channel()
    with open(sys.argv[1], encoding="utf-8") as file:
        spec = json.load(file)
    try:
        main(channel, spec)
    except ImportError as error:
        channel.answer(missing=error.name or str(error))
        raise
    except Exception as error:
        channel.answer(failed=f"{type(error).__name__}: {error}")
        raise
