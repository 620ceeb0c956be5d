"""A config of an experiment, at its smallest."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    horizon: float = math.inf


@dataclasses.dataclass(frozen=True)
class Config:
    output: str | None = None
    resume: bool = False
    cache: str | None = None
    devices: int | None = None
    save_every: int = 20
    keep: int = 1
    steps: int = 8
    methods: tuple[str, ...] = ("ppo", "sft")
    rl: Inner = dataclasses.field(default_factory=Inner)
