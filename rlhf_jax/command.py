"""What every experiment's command does around its study.

Flags to a frozen config, a run folder, --resume, config.json, and errors that a person
can act on: one line, naming the value, the place and the fix.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys

import jax
import rich.console
import tyro

from rlhf_jax import loop
from rlhf_jax.reporting import metrics

# What says where or how, but not what: a run may be resumed with others.
PLACES = ("output", "resume", "cache", "devices", "log", "save_every", "keep")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "datasets", "numpy")


def parse(config, *, description):
    """The config that the command line asks for, `config` being the default."""
    return tyro.cli(
        type(config),
        default=config,
        description=description,
        config=(tyro.conf.FlagConversionOff,) if False else (),
    )


def main(run):
    """Runs `run()` and turns what a user can mend into one line and an exit status.

    0 when a signal stopped the run and its state is saved; 2 for a misuse.
    """
    console = rich.console.Console(stderr=True)
    try:
        run()
    except loop.Interrupted as stop:
        console.print(f"stopped by {stop}; continue with --resume", markup=False)
        sys.exit(0)
    except (ValueError, OSError, ImportError, loop.NotFinite) as error:
        if os.environ.get("RLHF_JAX_TRACEBACK"):
            raise
        console.print(f"[bold red]error:[/] {rich.markup.escape(str(error))}")
        sys.exit(2)


def digest(config):
    """12 hex digits of what a config asks for, places aside."""
    text = json.dumps(_asked(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _asked(config):
    found = dataclasses.asdict(config)
    return {k: v for k, v in found.items() if k not in PLACES}


def folder(config, name):
    """The folder of this run: new, or with --resume the one to go on in.

    Raises ValueError when there is nothing to resume, when the folder is in use, or
    when it holds a run of another configuration: then with the flags that differ.
    """
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
    written = place / "config.json"
    if written.exists():
        if not config.resume:
            raise ValueError(
                f"{place} holds a run already: pass --resume to continue it, or "
                "another --output"
            )
        _compare(json.loads(written.read_text())["config"], config, place)
    elif config.resume:
        raise ValueError(f"--resume: {place} holds no run (no config.json there)")
    return place


def _compare(before, config, place):
    now = json.loads(json.dumps(_asked(config), default=str))
    different = [
        f"{key}: {before.get(key)!r} there, {now.get(key)!r} asked for"
        for key in sorted({*_flat(before), *_flat(now)})
        if (before := _flat(before)).get(key) != (now := _flat(now)).get(key)
        and key.split(".")[0] not in PLACES
    ]
    if different:
        raise ValueError(
            f"{place} is a run of another configuration ({'; '.join(different)}); "
            "resume it with its own flags, or start over in another --output"
        )


def _flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix.rstrip("."): tree}
    return {
        k: v
        for name, value in tree.items()
        for k, v in _flat(value, f"{prefix}{name}.").items()
    }


def write_config(place, config, layout):
    """config.json: the resolved config and everything it ran on."""
    place.mkdir(parents=True, exist_ok=True)
    if (place / "config.json").exists():
        return
    facts = {
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "digest": digest(config),
        "command": command(),
        "versions": versions(),
        "devices": [str(device) for device in layout.devices],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": commit(),
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
    }
    metrics.write_json(place / "config.json", facts)


def versions():
    """Versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


def command():
    """The command line as a person would type it again."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    start = f"python -m {spec.name}" if spec else f"python {sys.argv[0]}"
    return " ".join([start, *sys.argv[1:]])


def commit():
    """The git commit of the sources, "+" when they differ from it, or "unknown"."""
    here = pathlib.Path(__file__).resolve().parent.parent
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


def prepare_devices(config, cache):
    """Settings that jax reads once: called before the first computation.

    Compiled programs are kept on disk. Several CPU devices run their steps one by one:
    on few cores, queued collectives wait for each other until they time out.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if config.devices and config.devices > 1 and platforms in ("", "cpu"):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", config.devices)
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_compilation_cache_dir", str(cache / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
