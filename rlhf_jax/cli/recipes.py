"""Groups of flags of the plain recipes, and what does not depend on a model."""

import dataclasses
import math
from typing import Literal

import numpy as np

from rlhf_jax import optim
from rlhf_jax.cli import command, options
from rlhf_jax.data import sources
from rlhf_jax.runtime import parallel


@dataclasses.dataclass(frozen=True)
class Base:
    """Where a run writes, how it goes on, and on what it runs."""

    output: str | None = None
    """The run folder; by default a new one under runs/."""
    resume: bool = False
    """Go on where the run in --output (or the latest) was stopped."""
    seed: int = 0
    devices: int | None = None
    """How many devices share the rows; by default all, a CPU's cores being devices."""
    layout: str = "data"
    """data, fsdp, or fsdp:2,tensor:2, as `parallel.layout` has them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in; weights and optimiser stay float32."""
    eval_every: int = 50
    """Steps between measurements on held-out rows; 0: before and after alone."""
    save_every: int = 100
    """Steps between checkpoints."""
    keep: int = 1
    cache: str | None = None
    """Where compiled programs are kept; by default ~/.cache/rlhf_jax."""
    profile: int = 0
    """Steps to trace with jax.profiler, into profile/ of the run folder."""
    log: options.Log = dataclasses.field(default_factory=options.Log)


@dataclasses.dataclass(frozen=True)
class Data:
    """Which rows are read, and how."""

    split: str = "train"
    eval_dataset: str | None = None
    """Held-out rows; by default --dataset."""
    eval_split: str | None = None
    """Of the held-out rows; by default they are drawn from the training rows, which
    then do without them."""
    eval_rows: int = 256
    columns: tuple[str, ...] = ()
    """Your names of columns, as prompt=question completion=answer."""
    cue: str = ""
    """Appended to prompts that are texts, for instance '\\n\\nAssistant:'."""
    length: int | None = None
    """Tokens of a row; by default what the longest needs, at most the context."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """How weights are fitted to rows."""

    epochs: float = 1.0
    steps: int = 0
    """Updates; 0: what --fit.epochs take."""
    rows: int = 16
    """Of an update, over all devices."""
    micro_batches: int = 1
    """Parts over which an update is accumulated, when memory is short."""
    learning_rate: float = 2e-5
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: int = 0
    """Updates of linear warm-up."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this global norm."""
    weight_decay: float = 0.0

    @property
    def optimizer(self):
        """The static part, as `optim` has it."""
        return optim.Config(
            max_grad_norm=self.max_grad_norm,
            schedule=self.schedule,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            eps=1e-8,
        )

    def updates(self, count):
        """How many updates are made on `count` rows."""
        return self.steps or math.ceil(self.epochs * count / self.rows)


@dataclasses.dataclass(frozen=True)
class ElasticReset:
    """Noukhovitch et al. 2023: weights return to their EMA, the EMA to the start."""

    every: int = 0
    """Updates between resets; 0: never."""
    decay: float = 0.995
    """Of the EMA, once an update."""


def check(config, *, needed):
    """Raises ValueError for what can be told before anything is read.

    needed: names of flags that must be given.
    """
    for name in needed:
        if not getattr(config, name):
            raise ValueError(f"--{name.replace('_', '-')} is needed: {_HINTS[name]}")
    for name in ("eval_every", "save_every", "profile"):
        if getattr(config, name, 0) < 0:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} {getattr(config, name)}: 0 or more is needed")
    fit = getattr(config, "fit", None)
    if fit is not None:
        _check_fit(fit)


_HINTS = {
    "model": "a model directory or a name on the hub",
    "policy": "a model directory or a name on the hub",
    "dataset": "a hub name, a folder, or a .jsonl, .json, .csv or .parquet file",
    "reward": "a reward model's directory, or module:function",
}


def _check_fit(fit):
    for name in ("rows", "micro_batches"):
        if getattr(fit, name) < 1:
            flag = f"--fit.{name.replace('_', '-')}"
            raise ValueError(f"{flag} {getattr(fit, name)}: at least 1 is needed")
    if fit.rows % fit.micro_batches:
        raise ValueError(
            f"--fit.rows {fit.rows} cannot be cut into --fit.micro-batches "
            f"{fit.micro_batches}; choose a divisor"
        )
    if fit.steps < 0 or fit.epochs <= 0 or fit.learning_rate <= 0:
        raise ValueError(
            f"--fit.steps {fit.steps} --fit.epochs {fit.epochs:g} --fit.learning-rate "
            f"{fit.learning_rate:g}: steps may be 0, the others must be positive"
        )


def begin(config, name, batches):
    """(run folder, layout) of a run called `name`; jax is made ready.

    batches: the row counts that devices share out.
    """
    place = command.folder(config, name)
    command.prepare_devices(config, command.cache_folder(config), batches)
    return place, parallel.layout(config.layout, config.devices)


def rows(config, *, needed=()):
    """(training rows, held-out rows) as `datasets`, with columns renamed.

    needed: columns that both must have; none: those of a known kind.
    """
    data = config.data
    renames = _renames(data.columns)
    wanted = {**{name: name for name in needed}, **renames} or None
    found = sources.load(config.dataset, split=data.split, columns=wanted)
    if data.eval_split is None and data.eval_dataset is None:
        return hold_out(found, data.eval_rows)
    name = data.eval_dataset or config.dataset
    split = data.eval_split or "train"
    held = sources.load(name, split=split, columns=wanted)
    order = np.random.default_rng(0).permutation(len(held))[: data.eval_rows]
    return found, held.select(np.sort(order))


def hold_out(found, count):
    """(training rows, at most `count` and a tenth of them held out), drawn blindly."""
    count = min(count, max(len(found) // 10, 1))
    if len(found) < 2:
        raise ValueError(
            f"{len(found)} row(s), of which one would be held out: give more rows, or "
            "--data.eval-dataset or --data.eval-split"
        )
    order = np.random.default_rng(0).permutation(len(found))
    return found.select(np.sort(order[count:])), found.select(np.sort(order[:count]))


def _renames(columns):
    found = {}
    for text in columns:
        needed, equals, present = text.partition("=")
        if not (needed and equals and present):
            raise ValueError(
                f"--data.columns {text}: write needed=yours, as prompt=question"
            )
        found[needed] = present
    return found
