"""Every command of the repository, with its configuration, for tests of all of them."""

import functools
import importlib
import sys

NAMES = (
    "sft", "reward_model", "preference", "rl", "generate", "label", "compare", "worlds",
    "sentiment", "alignment_tax", "alignment_tax.two_models", "objective_mismatch",
    "objective_mismatch.audit", "rlaif", "rlaif.spent", "stack_exchange",
    "pivot_translation", "sweep.sentiment", "sweep.pivot_translation",
    "throughput.benchmark", "verdicts", "results.__main__",
)  # fmt: skip
# What a command needs before anything else of it is read.
GIVEN = {
    "sft": "--model m --dataset d",
    "reward_model": "--model m --dataset d",
    "preference": "--model m --dataset d",
    "rl": "--policy m --dataset d --reward r",
    "generate": "--model m --prompts a",
    "label": "--labeler m --dataset d",
    "alignment_tax.two_models": "--before m --after n --suites s",
    "stack_exchange": "--policy m --dataset d",
    "objective_mismatch.audit": "--log l",
    "rlaif.spent": "--ledger l",
    "compare": "a b",
}


@functools.cache
def module(name):
    """The module of a command."""
    return importlib.import_module(f"experiments.{name}")


def config(name):
    """Its configuration as it is without flags."""
    found = module(name)
    return found.CONFIG if hasattr(found, "CONFIG") else found.Config()


def call(name, words, monkeypatch):
    """Runs a command in this process, as with `words` on its command line."""
    if name.startswith("sweep."):
        words, name = [name.removeprefix("sweep."), *words], "sweep"
    monkeypatch.setattr(sys, "argv", [name, *words])
    module(name).main()
