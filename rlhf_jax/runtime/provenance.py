"""What made a result: configuration digest, command line, versions and git commit."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import pathlib
import platform
import shlex
import subprocess
import sys

# Flags that say where or how a run happens but not what it computes: a run may be
# resumed with other values. A preset's name adds nothing to the flags that it sets.
OPERATIONAL = (
    "output", "resume", "cache", "devices", "log", "save_every", "keep", "export",
    "profile", "layout", "distributed", "preset", "ledger", "limits", "test",
    "test_rows", "reward_timeout", "callbacks", "save_strategy", "push_to_hub",
    "hub_private", "population",
)  # fmt: skip
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "datasets", "numpy")


def summary(config):
    """What a report says it was made from: {"commit", "config digest", versions}."""
    return {"commit": commit(), "config digest": digest(config), **versions()}


def digest(config):
    """The first 12 hex digits of the SHA-256 of what a config computes."""
    text = json.dumps(computed(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def computed(config):
    """A config as JSON without its `OPERATIONAL` flags."""
    return {k: v for k, v in to_json(config).items() if k not in OPERATIONAL}


def to_json(config):
    """A config as JSON; inf and nan, which JSON lacks, are spelled as on flags."""

    def spell(value):
        if isinstance(value, dict):
            return {k: spell(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [spell(v) for v in value]
        finite = not isinstance(value, float) or math.isfinite(value)
        return value if finite else str(value)

    return json.loads(json.dumps(spell(dataclasses.asdict(config)), default=str))


def name_of(function):
    """What a function given in Python is called: its module and its name."""
    named = getattr(function, "func", function)  # of a functools.partial
    if not hasattr(named, "__qualname__"):
        named = type(named)
    return f"{named.__module__}:{named.__qualname__}"


def versions():
    """Versions of Python and of the packages that numerical results depend on."""
    packages = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **packages}


def command():
    """The command line as a person would type it again."""
    return " ".join([program(), *map(shlex.quote, sys.argv[1:])])


def program():
    """How this program was started: "python -m experiments.rl", "python x.py"."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return f"python {sys.argv[0]}"
    return f"python -m {spec.name.removesuffix('.__main__')}"


def commit():
    """The git commit of the sources, "+" after local changes, or "unknown"."""
    here = pathlib.Path(__file__).resolve().parents[2]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        run = {"cwd": here, "text": True, "stderr": subprocess.DEVNULL}
        head = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], **run)
        dirty = subprocess.check_output(["git", "status", "--porcelain"], **run)
        return head.strip() + ("+" if dirty.strip() else "")
    return "unknown"
