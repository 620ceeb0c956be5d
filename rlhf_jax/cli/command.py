"""The command line of every experiment, around what it runs.

Flags become a frozen config; a run gets a folder with its config.json, or resumes one;
errors that a user can fix are one line that names the value, where it is and the fix.
"""

import contextlib
import dataclasses
import datetime
import errno
import io
import json
import os
import pathlib
import platform
import shlex
import signal
import sys
import textwrap
import traceback

import jax
import rich.markup
import tyro
from flax import traverse_util

from rlhf_jax.cli import help as help_lib
from rlhf_jax.cli import presets as presets_lib
from rlhf_jax.runtime import (
    files,
    interruption,
    loop,
    processes,
    provenance,
    terminal,
)

CONFIG = "config.json"
_MAX_CPU_DEVICES = 4  # more were never measured


def parse(config, *, description, presets=None, subcommand=None):
    """The config that the command line asks for.

    Args:
      config: the default, a frozen dataclass.
      description: what --help says about the experiment.
      presets: {name: presets.Preset}, the choices of `--preset NAME`; the config then
        has a field `preset: str | None` for the name.
      subcommand: the first word of the command line, if it has been read already.
    """
    words = sys.argv[1:] if subcommand is None else sys.argv[2:]
    program = " ".join(filter(None, [provenance.program(), subcommand]))
    try:
        config, words = presets_lib.default(config, words, presets)
    except ValueError as error:
        _print_error(str(error))
        sys.exit(2)
    words = help_lib.renamed(config, words)
    wanted = help_lib.asked(config, words)
    with _exit_on_broken_pipe():
        if wanted == "short":
            about = {"program": program, "description": description, "presets": presets}
            print(help_lib.short(config, **about), flush=True)
            sys.exit(0)
        words = ["--help"] if wanted == "all" else words
        fault = None if wanted else help_lib.refusal(config, words)
        if fault is not None:
            _print_error(fault)
            sys.exit(2)
        # tyro joins lines without wrapping them again unless they start with a blank.
        text = f"{description.rstrip()}\n\n{presets_lib.help_of(presets)}\n"
        text = textwrap.indent(text, "  ")
        return _read(config, words, prog=program, description=text)


def _read(config, words, **about):
    """The config that words of the command line make of `config`.

    Exits with one line where they cannot be read. about: prog and description.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(type(config), default=config, args=words, **about)
    except SystemExit as stop:
        if stop.code == 2:
            _print_error(_plain(said.getvalue()))
        raise


def _plain(box):
    """What stands in the frames of tyro, as one line."""
    return " ".join("".join(" " if c in "╭╮╰╯│─" else c for c in box).split())


def main(run):
    """Runs `run()`; errors that a user can fix become one line and an exit status.

    The status is 130 or 143 if SIGINT or SIGTERM stopped the run, so that a shell goes
    on to nothing that needs its result, and 2 for misuse. If RLHF_JAX_TRACEBACK is set,
    misuse raises with its traceback.
    """
    terminal.without_word_of_torch()
    try:
        run()
        processes.leave()
    except loop.Interrupted as stop:
        if processes.first():
            _print(f"stopped by {stop}; to go on: {_resume_command(stop.folder)}")
        processes.leave()
        sys.exit(stop.status)
    except KeyboardInterrupt:
        _print(interruption.AT_ONCE)
        sys.exit(128 + signal.SIGINT)
    except (ValueError, OSError, ImportError, loop.NotFinite) as error:
        if os.environ.get("RLHF_JAX_TRACEBACK"):
            raise
        _print_error(_readable(error))
        sys.exit(2)


@contextlib.contextmanager
def _exit_on_broken_pipe():
    """Exits without a traceback when the reader has gone, as in `--help | head`.

    Standard output then leads nowhere, because Python flushes it once more at exit.
    """
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # a shell's status for a process that SIGPIPE ended


def _print(text, label=""):
    """Prints one line to stderr, however long."""
    console = terminal.console(stderr=True)
    text = label + rich.markup.escape(text)
    console.print(text, highlight=False, soft_wrap=True)


def _print_error(text):
    _print(text, "[bold red]error:[/] ")


def _resume_command(path):
    """The command that continues this one in `path`; None: that starts it again."""
    if path is None:
        return provenance.command()
    flags = "" if "--resume" in sys.argv else " --resume"
    if not any(flag.split("=")[0] == "--output" for flag in sys.argv):
        flags += f" --output {shlex.quote(str(path))}"
    return provenance.command() + flags


def _readable(error):
    """An error as one line of text; if other packages raised it, how to see more."""
    text = " ".join(str(error).split())
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        if "the disk is full" in text:
            return text
        return (
            f"the disk is full ({text}): free some space, then continue from the last "
            "checkpoint with --resume"
        )
    raised = traceback.extract_tb(error.__traceback__)[-1].filename
    ours = pathlib.Path(__file__).parents[1]
    if pathlib.Path(raised).is_relative_to(ours) or "experiments" in raised:
        return text
    return f"{text} ({type(error).__name__}; RLHF_JAX_TRACEBACK=1 shows where)"


def console():
    """The console of a run; with several hosts only the first one prints."""
    return terminal.console(quiet=not processes.first())


def run_dir(config, name):
    """The folder of this run: a new one, or with --resume an existing one.

    A folder whose run has no checkpoint counts as new. The first host chooses for all.
    Raises ValueError if there is nothing to resume, if the folder is in use, or if it
    has a run of another configuration, listing the flags that differ.
    """
    choose = lambda: str(_choose_run_dir(config, name))  # noqa: E731
    return pathlib.Path(processes.broadcast_from_first(choose))


def _choose_run_dir(config, name):
    parent = pathlib.Path("runs") / name
    if config.output is not None:
        path = pathlib.Path(config.output)
    elif config.resume:
        runs = sorted(p.parent for p in parent.glob(f"*/{CONFIG}"))
        if not runs:
            raise ValueError(f"--resume: there is no run in {parent}; start one first")
        path = max(runs, key=lambda p: (p / CONFIG).stat().st_mtime)
    else:
        path = parent / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if config.resume:
        _check_same(_read_config(path), config, path)
    elif any((path / "checkpoints").glob("*/step_*")):
        raise ValueError(
            f"{path} holds a run already: pass --resume to continue it, or another "
            "--output"
        )
    elif path.exists() and not path.is_dir():
        raise ValueError(f"--output {path} is a file; name a folder")
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(
            f"--output {path}: nothing can be written in {nearest}; name another folder"
        )
    if path.exists():
        with files.lock(path):
            pass  # fails early if the folder is in use; the run itself locks it later
    return path


def _read_config(path):
    """The config in a folder's config.json, as JSON."""
    file = path / CONFIG
    if not file.exists():
        raise ValueError(
            f"--resume: {path} holds no run (no {CONFIG} there); leave --resume out "
            "to start one"
        )
    try:
        return json.loads(file.read_text())["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--resume: {file} is damaged ({error}); restore it, or start over in "
            "another --output"
        ) from None


def _check_same(saved, config, path):
    """Raises ValueError, listing the flags that differ, unless a run can be resumed."""
    saved = traverse_util.flatten_dict(saved, sep=".")
    now = traverse_util.flatten_dict(provenance.computed(config), sep=".")
    names = [
        name
        for name in {**now, **saved}
        if name.split(".")[0] not in provenance.OPERATIONAL
    ]
    different = [
        f"--{name.replace('_', '-')} {_format(saved, name)} there, "
        f"{_format(now, name)} here"
        for name in names
        if saved.get(name) != now.get(name)
    ]
    if different:
        raise ValueError(
            f"{path} is a run of another configuration: {'; '.join(different)}; "
            "resume it with its own flags, or start over in another --output"
        )


def _format(flags, name):
    value = flags.get(name, "(no such flag)")
    return " ".join(map(str, value)) if isinstance(value, list) else value


def write_config(path, config, layout):
    """Writes config.json: the resolved config and what the run started on.

    A run that is resumed keeps the one it has.
    """
    if not processes.first():
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--output {path} cannot be made ({error.strerror}): name another folder"
        ) from None
    if config.resume and (path / CONFIG).exists():
        return
    record = {
        "config": provenance.to_json(config),
        "digest": provenance.digest(config),
        "command": provenance.command(),
        "versions": provenance.versions(),
        "devices": [str(device) for device in layout.devices],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": provenance.commit(),
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
    }
    files.write_json(path / CONFIG, record)


def cache_folder(config):
    """The folder of pretrained weights and compiled programs, shared by runs."""
    if config.cache is not None:
        if pathlib.Path(config.cache).is_file():
            raise ValueError(f"--cache {config.cache} is a file; name a folder")
        return pathlib.Path(config.cache)
    caches = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
    return pathlib.Path(caches) / "rlhf_jax"


def prepare_devices(config, cache, batches):
    """Sets what jax reads only once. Call it before the first computation.

    Connects the hosts of the run, as --distributed says. On a CPU without --devices the
    cores become devices, as many as divide each of the batch sizes `batches`. Compiled
    programs are cached in the folder `cache`. CPU devices run their steps one by one,
    because collectives queued on few cores wait for each other until they time out.
    """
    hosts = 1
    if hasattr(config, "distributed"):
        hosts = processes.join(**dataclasses.asdict(config.distributed))
    if os.environ.get("JAX_PLATFORMS", "") in ("", "cpu"):
        local_batches = [max(rows // max(hosts, 1), 1) for rows in batches]
        count = config.devices or cpu_devices(local_batches)
        if "xla_force_host_platform_device_count" not in os.environ.get(
            "XLA_FLAGS", ""
        ):
            with contextlib.suppress(RuntimeError):
                jax.config.update("jax_num_cpu_devices", count)
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_compilation_cache_dir", str(cache / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def cpu_devices(batches, cores=None):
    """How many devices to make of the cores: the most that divide every batch.

    Small models run best on one core each: two devices run an iteration 1.4 to 1.9
    times as fast as one device with two threads.

    Args: batches: numbers of rows; cores: None means those that this process may use.
    """
    if cores is None:
        known = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    counts = range(1, min(cores, _MAX_CPU_DEVICES) + 1)
    return max(n for n in counts if all(rows % n == 0 for rows in batches))
