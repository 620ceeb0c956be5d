"""What every experiment's command does around its study.

Flags to a frozen config, a run folder, --resume, config.json, and errors that a person
can act on: one line, naming the value, the place and the fix.
"""

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import textwrap
import traceback

import jax
import rich.console
import rich.markup
import tyro

from rlhf_jax.cli import presets as named
from rlhf_jax.runtime import files, loop, metrics_log, processes

# What says where or how, but not what: a run may be resumed with others. The name of a
# preset says nothing that its flags do not.
PLACES = (
    "output", "resume", "cache", "devices", "log", "save_every", "keep", "export",
    "profile", "layout", "distributed", "preset",
)  # fmt: skip
CONFIG = "config.json"
_MOST_CPU_DEVICES = 4  # more were never measured
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "datasets", "numpy")


def parse(config, *, description, presets=None):
    """The config that the command line asks for, `config` being the default.

    presets: {name: repeat.Preset} that `--preset NAME` chooses from; the config has a
    field `preset: str | None` then, which holds the name and reaches config.json.
    """
    try:
        config, words = named.default(config, sys.argv[1:], presets)
    except ValueError as error:
        _say(str(error), "[bold red]error:[/] ")
        sys.exit(2)
    # tyro joins lines, and nothing wraps them again, unless they begin with a blank.
    about = named.help_of(presets)
    shown = textwrap.indent(f"{description.rstrip()}\n\n{about}\n", "  ")
    with _read():
        return tyro.cli(
            type(config), prog=_program(), default=config, description=shown, args=words
        )


def main(run):
    """Runs `run()` and turns what a user can mend into one line and an exit status.

    0 when a signal stopped the run and its state is saved; 2 for a misuse. With
    RLHF_JAX_TRACEBACK set, a misuse shows where it was found.
    """
    try:
        run()
        processes.leave()
    except loop.Interrupted as stop:
        if processes.first():
            _say(f"stopped by {stop}; to go on: {_again(stop.folder)}")
        processes.leave()
        sys.exit(0)
    except KeyboardInterrupt:
        _say("stopped at once; with --resume a run goes on from its last checkpoint")
        sys.exit(130)
    except (ValueError, OSError, ImportError, loop.NotFinite) as error:
        if os.environ.get("RLHF_JAX_TRACEBACK"):
            raise
        _say(_readable(error), "[bold red]error:[/] ")
        sys.exit(2)


@contextlib.contextmanager
def _read():
    """Help that nobody reads to its end (`--help | head`) ends without a traceback.

    Standard output leads nowhere then, for Python writes there once more at its end.
    """
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # what a shell says of a process that SIGPIPE ended


def _say(text, label=""):
    """One line on stderr, however long."""
    console = rich.console.Console(stderr=True)
    text = label + rich.markup.escape(text)
    console.print(text, highlight=False, soft_wrap=True)


def _again(place):
    """The command that goes on with this one, in the run folder `place` if any."""
    if place is None:
        return command()
    flags = "" if "--resume" in sys.argv else " --resume"
    if not any(flag.split("=")[0] == "--output" for flag in sys.argv):
        flags += f" --output {shlex.quote(str(place))}"
    return command() + flags


def _readable(error):
    """What an error says, in one line; where others raised it, how to see more."""
    text = " ".join(str(error).split())
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        if "the disk is full" in text:
            return text
        return (
            f"the disk is full ({text}): free some space, then --resume goes on from "
            "the last checkpoint"
        )
    raised = traceback.extract_tb(error.__traceback__)[-1].filename
    ours = pathlib.Path(__file__).parents[1]
    if pathlib.Path(raised).is_relative_to(ours) or "experiments" in raised:
        return text
    return f"{text} ({type(error).__name__}; RLHF_JAX_TRACEBACK=1 shows where)"


def digest(config):
    """12 hex digits of what a config asks for, places aside."""
    text = json.dumps(_asked(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _asked(config):
    return {k: v for k, v in _plain(config).items() if k not in PLACES}


def _plain(config):
    """A config as JSON has it; inf and nan, which are not JSON, as flags spell them."""

    def spell(value):
        if isinstance(value, dict):
            return {k: spell(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [spell(v) for v in value]
        finite = not isinstance(value, float) or math.isfinite(value)
        return value if finite else str(value)

    return json.loads(json.dumps(spell(dataclasses.asdict(config)), default=str))


def console():
    """Where a run talks to a person: the first of many hosts does."""
    return rich.console.Console(quiet=not processes.first())


def folder(config, name):
    """The folder of this run: new, or with --resume the one to go on in.

    Raises ValueError when there is nothing to resume, when the folder is in use, or
    when it holds a run of another configuration: then with the flags that differ. A
    folder whose run saved nothing is as good as new. The first host chooses for all.
    """
    return pathlib.Path(processes.told(lambda: str(_choose(config, name))))


def _choose(config, name):
    home = pathlib.Path("runs") / name
    if config.output is not None:
        place = pathlib.Path(config.output)
    elif config.resume:
        runs = sorted(p.parent for p in home.glob("*/config.json"))
        if not runs:
            raise ValueError(f"--resume: there is no run in {home}; start one first")
        place = max(runs, key=lambda p: (p / "config.json").stat().st_mtime)
    else:
        now = datetime.datetime.now()
        place = home / now.strftime("%Y-%m-%d_%H-%M-%S")
    if config.resume:
        _compare(_written(place), config, place)
    elif _saved(place):
        raise ValueError(
            f"{place} holds a run already: pass --resume to continue it, or another "
            "--output"
        )
    elif place.exists() and not place.is_dir():
        raise ValueError(f"--output {place} is a file; name a folder")
    if place.exists():
        with files.alone(place):
            pass  # told before anything is made: the study asks again, and stays alone
    return place


def _saved(place):
    """Whether the run in a folder has saved anything to go on from."""
    return any((place / "checkpoints").glob("*/step_*"))


def _written(place):
    """The config in a folder's config.json, as JSON."""
    file = place / CONFIG
    if not file.exists():
        raise ValueError(
            f"--resume: {place} holds no run (no {CONFIG} there); leave --resume out "
            "to start one"
        )
    try:
        return json.loads(file.read_text())["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--resume: {file} is damaged ({error}); restore it, or start over in "
            "another --output"
        ) from None


def _compare(before, config, place):
    """Raises ValueError with the flags in which a run differs from what is asked."""
    before = _flat(before)
    now = _flat(_asked(config))
    names = [n for n in {**now, **before} if n.split(".")[0] not in PLACES]
    different = [
        f"--{name.replace('_', '-')} {_shown(before, name)} there, "
        f"{_shown(now, name)} here"
        for name in names
        if before.get(name) != now.get(name)
    ]
    if different:
        raise ValueError(
            f"{place} is a run of another configuration: {'; '.join(different)}; "
            "resume it with its own flags, or start over in another --output"
        )


def _shown(flags, name):
    value = flags.get(name, "(no such flag)")
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix.rstrip("."): tree}
    return {
        k: v
        for name, value in tree.items()
        for k, v in _flat(value, f"{prefix}{name}.").items()
    }


def write_config(place, config, layout):
    """config.json: the resolved config and everything it ran on, once a run."""
    if not processes.first():
        return
    place.mkdir(parents=True, exist_ok=True)
    if config.resume and (place / CONFIG).exists():
        return
    facts = {
        "config": _plain(config),
        "digest": digest(config),
        "command": command(),
        "versions": versions(),
        "devices": [str(device) for device in layout.devices],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": commit(),
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
    }
    metrics_log.write_json(place / CONFIG, facts)


def versions():
    """Versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


def provenance(config):
    """What a report says it was made from: {"commit", "config digest", versions}."""
    return {"commit": commit(), "config digest": digest(config), **versions()}


def command():
    """The command line as a person would type it again."""
    return " ".join([_program(), *map(shlex.quote, sys.argv[1:])])


def _program():
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return f"python {sys.argv[0]}"
    return f"python -m {spec.name.removesuffix('.__main__')}"


def commit():
    """The git commit of the sources, "+" when they differ from it, or "unknown"."""
    here = pathlib.Path(__file__).resolve().parents[2]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        run = {"cwd": here, "text": True, "stderr": subprocess.DEVNULL}
        head = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], **run)
        dirty = subprocess.check_output(["git", "status", "--porcelain"], **run)
        return head.strip() + ("+" if dirty.strip() else "")
    return "unknown"


def cache_folder(config):
    """Where pretrained weights and compiled programs are kept between runs."""
    if config.cache is not None:
        return pathlib.Path(config.cache)
    home = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
    return pathlib.Path(home) / "rlhf_jax"


def prepare_devices(config, cache, batches):
    """Settings that jax reads once: called before the first computation.

    Joins the hosts of the run, as --distributed says. Without --devices a CPU shares
    its cores out as devices, as far as `batches`, row counts, divide. Compiled programs
    are kept on disk. CPU devices run their steps one by one: on few cores, queued
    collectives wait for each other until they time out.
    """
    joined = 1
    if hasattr(config, "distributed"):
        joined = processes.join(**dataclasses.asdict(config.distributed))
    if os.environ.get("JAX_PLATFORMS", "") in ("", "cpu"):
        each = [max(rows // max(joined, 1), 1) for rows in batches]
        count = config.devices or cpu_devices(each)
        if "xla_force_host_platform_device_count" not in os.environ.get(
            "XLA_FLAGS", ""
        ):
            with contextlib.suppress(RuntimeError):
                jax.config.update("jax_num_cpu_devices", count)
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_compilation_cache_dir", str(cache / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def cpu_devices(batches, cores=None):
    """How many devices the cores of this machine become: the most that share evenly.

    Small models use one core each: two devices run an iteration 1.4 to 1.9 times as
    fast as one with two threads.
    """
    if cores is None:  # those this process may use, where the system can tell
        can_tell = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1
    fitting = [
        n
        for n in range(1, min(cores, _MOST_CPU_DEVICES) + 1)
        if all(rows % n == 0 for rows in batches)
    ]
    return max(fitting)
