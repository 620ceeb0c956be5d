"""A peer's side of a comparison: a process that runs rounds on command.

Standard library only, because the peer's Python may lack this package's dependencies.
Commands come in and JSON answers go out, one per line.
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
        """The next command; exits once the input is closed."""
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        return line.strip()

    def answer(self, **facts):
        """Sends one answer."""
        self._answers.write(json.dumps(facts) + "\n")
        self._answers.flush()

    def rounds(self, calls, last):
        """Runs the requested rounds until `last`, which is left to the caller."""
        while (command := self.command()) != last:
            clock = Clock()
            calls[command]()
            self.answer(**clock.read(), peak_bytes=peak_bytes())


class Clock:
    """Wall-clock and processor seconds of this process since the clock was made."""

    def __init__(self):
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self):
        """{"seconds", "cpu_seconds"}: the latter exclude waiting."""
        cpu = time.process_time() - self._cpu
        return {"seconds": time.perf_counter() - self._wall, "cpu_seconds": cpu}


def versions(packages):
    """{package: installed version}."""
    import importlib.metadata

    return {package: importlib.metadata.version(package) for package in packages}


def peak_bytes():
    """Peak memory of this process."""
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(main):
    """Runs `main(channel, spec)` with the JSON file named in argv as the spec.

    A missing library or another error is answered before it is raised.
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
