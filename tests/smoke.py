"""Whether the package works with what a Python has installed: a few minutes.

    path/to/python -m tests.smoke

Run it in a fresh environment before the versions in pyproject.toml are raised. It
imports every module, runs the tests below on four simulated devices, and the sentiment
study at its smallest as a user would. The last line says what was tried, and the exit
status is 0 if all of it went well.
"""

import importlib
import importlib.metadata
import pathlib
import platform
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "numpy")
TESTS = (
    "tests/test_losses.py",
    "tests/test_advantages.py",
    "tests/test_sampling.py",
    "tests/test_elastic_reset.py",
    "tests/algorithms/test_policy_gradient.py",
    "tests/models/test_decoder.py",
    "tests/runtime/test_layouts.py",
    "tests/runtime/test_layouts_mesh.py",
    "tests/runtime/test_checkpoint.py",
    "tests/experiments/test_accelerator.py",
)
EXTRA = "pip install 'rlhf_jax["  # what a module says that needs an optional package


def modules():
    """The names of all modules of the package and of the experiments."""
    paths = [p for f in ("rlhf_jax", "experiments") for p in (ROOT / f).rglob("*.py")]
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths}
    return sorted(n.removesuffix(".__init__") for n in names if "__main__" not in n)


def import_all():
    """{module: why it cannot be imported}, but for want of an extra that it names."""
    problems = {}
    for name in modules():
        try:
            importlib.import_module(name)
        except Exception as error:
            if not (isinstance(error, ImportError) and EXTRA in str(error)):
                problems[name] = f"{type(error).__name__}: {error}"
    return problems


def study(folder):
    """The words that run the sentiment study at its smallest, pictures included."""
    sys.path.insert(0, str(ROOT / "tests"))
    import small_study

    small = {"methods": ("ppo", "elastic_reset"), "devices": 2}
    return small_study.flags(output=f"{folder}/run", cache=f"{folder}/cache", **small)


def main():
    problems = import_all()
    for name, why in problems.items():
        print(f"{name}: {why}")
    run = {"cwd": ROOT, "check": False}
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    tested = subprocess.run(pytest, **run).returncode == 0
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "experiments.sentiment", *study(folder)]
        ran = subprocess.run(words, **run).returncode == 0
        ran = ran and pathlib.Path(folder, "run", "report.md").exists()
    said = {"imports": not problems, "tests": tested, "study": ran}
    versions = [f"{name} {importlib.metadata.version(name)}" for name in VERSIONS]
    results = [f"{name} {'ok' if good else 'FAILED'}" for name, good in said.items()]
    print(f"Python {platform.python_version()}, {', '.join(versions + results)}")
    sys.exit(not all(said.values()))


if __name__ == "__main__":
    main()
