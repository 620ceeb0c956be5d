"""Sweeps: which setting does each method deserve, searched as finely for all?

    python -m experiments.sweep                     # of experiments.sentiment
    python -m experiments.sweep pivot_translation   # of the translation game

Each is a module here with its flags, CONFIG, and `run(config)`.
"""

import importlib
import sys

from rlhf_jax.cli import command

SUBJECTS = ("sentiment", "pivot_translation")  # of the command's first word


def main():
    asked = next((word for word in sys.argv[1:2] if word in SUBJECTS), None)
    subject = importlib.import_module(f"{__name__}.{asked or SUBJECTS[0]}")
    config = command.parse(
        subject.CONFIG,
        description=subject.__doc__,
        presets=subject.PRESETS,
        subcommand=asked,
    )
    command.main(lambda: subject.run(config))
