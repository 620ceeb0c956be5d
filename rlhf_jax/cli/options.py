"""Groups of flags that experiments share.

Fields of an algorithm's `Config` or `Hyper` are declared there, with their range,
default and help; `fields.group` copies them.
"""

import dataclasses
import math
from typing import Annotated, Literal

from rlhf_jax import optim, ranges
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.cli import endings, fields
from rlhf_jax.models import lora

_RL = {
    policy_gradient.Config: (
        "epochs", "minibatches", "minibatch_of", "transitions", "micro_batches",
        "packed", "value", "value_bias", "whiten_advantages", "missing_eos",
        "mask_top_p", "mask_least", "importance_sampling_correction", "loss_type",
        "scale_rewards", "importance_sampling_level", "mask_truncated_completions",
        "dynamic_sampling", "kl_in", "use_bias_correction_kl", "rows_per_slot",
    ),
    policy_gradient.Hyper: (
        "learning_rate", "kl_coef", "kl_target", "kl_horizon", "value_coef",
        "value_clip", "gamma", "lam", "clip", ("missing_eos_penalty", "missing_eos"),
        "decay", "reset_first", "mask_every", "clip_high", "delta",
        "off_policy_mask_threshold", "entropy_coef", "soft_punish_cache",
        "sapo_temperature_pos", "sapo_temperature_neg",
        "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg",
    ),
    optim.Config: ("schedule", "max_grad_norm", "weight_decay", ("adam_eps", "eps")),
}  # fmt: skip
_FIT = {optim.Config: ("schedule", "warmup", "max_grad_norm", "weight_decay")}
Lora = lora.Config  # --lora.*


@dataclasses.dataclass(frozen=True)
class Log:
    """Where metrics go besides metrics.jsonl."""

    wandb: bool = False
    """Also to Weights & Biases."""
    project: ranges.Text = "rlhf_jax"
    """Its name there."""

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if self.project != Log.project and not self.wandb:
            yield ("project", "wandb"), "nothing is logged there without --log.wandb"


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run writes, whether it resumes, and what it runs on."""

    output: ranges.Text | None = None
    """The run folder; by default a new one under runs/."""
    resume: bool = False
    """Continue the run in --output, or the latest one, where it stopped."""
    devices: ranges.Count | None = None
    """Devices that share the rows; by default all of them, or a CPU's cores."""
    save_every: ranges.Natural = 100
    """Steps between checkpoints; 0: only at the end."""
    keep: ranges.Count = 1
    """Checkpoints kept, of each method and seed."""
    cache: ranges.Text | None = None
    """Folder for pretrained weights and compiled programs; by default
    ~/.cache/rlhf_jax."""


@dataclasses.dataclass(frozen=True)
class Study(Run):
    """What every comparison of methods depends on besides."""

    seeds: ranges.Count = 1
    """Seeds, of which each trains every method."""
    first_seed: ranges.Natural = 0
    """The first of --seeds; the others follow it."""
    preset: ranges.Text | None = None
    """A named set of flags; see above."""


@dataclasses.dataclass(frozen=True)
class Base(endings.Endings, Run):
    """What every recipe depends on."""

    seed: ranges.Natural = 0
    """Of row order, fresh weights and samples."""
    layout: ranges.Text = "data"
    """data, fsdp, or fsdp:2,tensor:2; see `parallel.layout`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; weights and optimiser state stay float32."""
    eval_every: ranges.Natural = 50
    """Steps between evaluations on held-out rows; 0: only before and after."""
    profile: ranges.Natural = 0
    """Steps to trace with jax.profiler, into profile/ of the run folder."""
    log: Log = dataclasses.field(default_factory=Log)
    push_to_hub: ranges.Text | None = None
    """NAME or USER/NAME on the hub that the model is uploaded to after the run."""
    hub_private: bool = False
    """A new repository there is private."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Which rows to read, and how."""

    split: ranges.Text = "train"
    """Split to train on."""
    eval_dataset: ranges.Text | None = None
    """Dataset of the held-out rows; by default --dataset."""
    eval_split: ranges.Text | None = None
    """Split of the held-out rows; by default they are split off the training rows."""
    eval_rows: ranges.Count = 256
    """Maximum number of held-out rows."""
    columns: tuple[ranges.Text, ...] = ()
    """Your column names, as in prompt=question completion=answer."""
    cue: str = ""
    """Appended to prompts that are texts, for instance '\\n\\nAssistant:'."""
    length: Annotated[ranges.Count | None, ranges.Was("max_length")] = None
    """Tokens per row; by default what the longest needs, at most the context."""
    streaming: bool = False
    """Read rows while training, for data that would not fit here; the first
    --data.eval-rows are held out. Only supervised fine-tuning."""
    buffer: ranges.Count = 1000
    """Rows of a stream that are read ahead; the next one is drawn from them."""

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if self.eval_dataset is None and self.eval_split == self.split:
            reason = "held-out rows would be training rows; leave --data.eval-split out"
            yield ("eval_split", "split"), reason


@dataclasses.dataclass(frozen=True)
class Fit(fields.group(_FIT, schedule="cosine")):
    """How to fit weights to rows."""

    epochs: ranges.Positive = 1.0
    """Passes over the training rows."""
    steps: ranges.Natural = 0
    """Updates; 0: as many as --fit.epochs take."""
    rows: ranges.Count = 16
    """Rows per update, over all devices."""
    micro_batches: ranges.Count = 1
    """Parts to accumulate an update over when memory is short."""
    learning_rate: ranges.Positive = 2e-5
    """Of AdamW, at the peak of its schedule."""

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if self.rows % self.micro_batches:
            reason = "the rows cannot be cut into so many parts; choose a divisor"
            yield ("rows", "micro_batches"), reason

    @property
    def optimizer(self):
        """The optimiser's static configuration."""
        return optim.Config(**fields.of(self, optim.Config), eps=1e-8)

    def updates(self, count):
        """The number of updates on `count` rows; None: of a stream, which has no end.

        Raises ValueError where that leaves the number open.
        """
        if count is None and not self.steps:
            raise ValueError(
                "--fit.steps is needed: how many rows a stream has is not known"
            )
        return self.steps or math.ceil(self.epochs * count / self.rows)


@dataclasses.dataclass(frozen=True)
class Supervised(Base):
    """What every supervised recipe depends on."""

    essential = (
        "model", "dataset", "data.columns", "data.length", "fit.learning_rate",
        "fit.epochs", "fit.steps", "fit.rows", "fit.micro_batches", "lora.rank",
        "dtype", "seed", "eval_every", "save_every", "output", "resume",
    )  # fmt: skip
    model: str = ""
    """A model directory, or a name on the hub."""
    dataset: str = ""
    """A hub name, a folder, or a file."""
    data: Data = dataclasses.field(default_factory=Data)
    fit: Fit = dataclasses.field(default_factory=Fit)
    lora: Lora = dataclasses.field(default_factory=Lora)
    eval_strategy: Literal["steps", "epoch", "no"] = "steps"
    """epoch: evaluate after every pass over the training rows; no: only before and
    after."""
    save_strategy: Literal["steps", "epoch", "no"] = "steps"
    """epoch: save after every pass over the training rows; no: only at the end."""

    def conflicts(self):
        """Flags that contradict each other, and why."""
        for what in ("eval", "save"):
            every, strategy = f"{what}_every", f"{what}_strategy"
            usual = getattr(self, every) in (0, getattr(type(self), every))
            if not usual and getattr(self, strategy) != "steps":
                yield (every, strategy), "it counts steps; leave one of them out"
        yield from evaluated_alike(self)
        yield from super().conflicts()


@dataclasses.dataclass(frozen=True)
class ElasticReset:
    """Noukhovitch et al. 2023: weights return to their EMA, the EMA to the start."""

    every: ranges.Natural = 0
    """Updates between resets; 0: never."""
    decay: ranges.Share = 0.995
    """Decay of the EMA per update."""

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if not self.every and self.decay != ElasticReset.decay:
            yield ("decay", "every"), "without resets no EMA is kept"


@dataclasses.dataclass(frozen=True)
class RL(fields.group(_RL)):
    """Hyperparameters that all methods share."""

    rows: ranges.Count = 64
    """Samples per iteration, over all devices."""
    candidates: Annotated[ranges.Count, ranges.Was("num_generations")] = 4
    """Samples per prompt, for methods that compare them; online DPO has 2."""
    kl_controller: Literal["horizon", "proportional"] = "horizon"
    """proportional: β moves by a tenth of the error, at most 2% a time (RL4LMs)."""
    reset_every: ranges.Natural = 14
    """Iterations between resets, for methods that reset."""
    sft_learning_rate: ranges.Positive = 3e-4
    """Learning rate of supervised methods."""
    sft_updates: ranges.Count = 1
    """Updates per iteration of supervised methods."""

    def conflicts(self):
        """Flags that contradict each other, and why."""
        names = ("rows", "micro_batches")
        names += ("minibatches",) * (self.minibatch_of == "rows")
        if self.rows % math.prod(getattr(self, name) for name in names[1:]):
            yield names, "the rows cannot be cut into so many parts; choose divisors"
        if self.rows_per_slot > self.rows:
            yield ("rows_per_slot", "rows"), "no slot would be left; choose fewer"
        if self.transitions and self.minibatch_of == "rows":
            reason = "only minibatches of tokens can leave some tokens out"
            yield ("transitions", "minibatch_of"), reason


@dataclasses.dataclass(frozen=True)
class Distributed:
    """The processes of one run, one per host; unnecessary on SLURM and TPU pods."""

    coordinator: ranges.Text | None = None
    """host:port of process 0, any free port."""
    process_id: ranges.Natural | None = None
    """Which process this is, from 0."""
    processes: ranges.Count | None = None
    """Number of processes; 1 runs on this host alone, even in a cluster."""


@dataclasses.dataclass(frozen=True)
class Corner:
    """The worst drift that counts in a hypervolume, above the initial policy's."""

    text_nll: ranges.Positive = 1.0
    """Nats per token of human text."""
    kl_initial: ranges.Positive = 30.0
    """Nats per sample."""
    skills: ranges.Positive = 0.5
    """Share of questions no longer answered."""


@dataclasses.dataclass(frozen=True)
class Language(Study):
    """What every comparison of methods on a language model depends on besides."""

    essential = (
        "dataset", "policy", "reward", "methods", "steps", "seeds", "num_evals",
        "eval_every", "rl.learning_rate", "rl.rows", "rl.kl_coef", "rl.reset_every",
        "rl.decay", "override", "lora.rank", "layout", "population", "export", "output",
        "resume",
    )  # fmt: skip
    methods: tuple[ranges.Text, ...] = ()
    """Names of methods, or all."""
    steps: ranges.Count = 50
    """Iterations of every method."""
    eval_every: ranges.Natural = 17
    """Iterations between evaluations; both sides of every reset are evaluated too."""
    num_evals: Annotated[ranges.Natural, ranges.Was("looks")] = 0
    """Evaluations after the start, as many of every method; replaces --eval-every."""
    override: tuple[ranges.Text, ...] = ()
    """Hyperparameters of single methods, as in ppo_kl.kl_coef=0.1."""
    layout: ranges.Text = "data"
    """data: every device has all weights; fsdp, or fsdp,tensor:2: weights sharded."""
    population: ranges.Count = 1
    """Runs that one program trains side by side; devices share them out."""
    rl: RL = dataclasses.field(default_factory=RL)
    lora: Lora = dataclasses.field(default_factory=Lora)
    corner: Corner = dataclasses.field(default_factory=Corner)
    log: Log = dataclasses.field(default_factory=Log)
    export: tuple[ranges.Text, ...] = ()
    """Methods whose policy of the first seed is saved as a model directory."""


_NEEDED = {
    "model": "a model directory or a name on the hub",
    "policy": "a model directory or a name on the hub",
    "dataset": "a hub name, a folder, or a .jsonl, .json, .csv or .parquet file",
    "reward": "a reward model's directory, module:function, or ai:LABELER",
}


def check(config, *, needed=()):
    """Raises ValueError for misuse that the flags alone reveal.

    needed: names of required flags.
    """
    for name in needed:
        if not getattr(config, name):
            raise ValueError(f"--{name.replace('_', '-')} is needed: {_NEEDED[name]}")
    ranges.check(config, flags=True)


def evaluated_alike(config):
    """A conflict where a recipe's held-out rows would be its training rows."""
    data = config.data
    if data.eval_dataset is not None and data.eval_dataset == config.dataset:
        if (data.eval_split or "train") == data.split:
            reason = "held-out rows would be training rows; give other ones"
            yield ("data.eval_dataset", "dataset"), reason


def algorithm(rl, **changes):
    """The static configuration. changes: fields of `policy_gradient.Config`."""
    optimizer = optim.Config(**fields.of(rl, optim.Config))
    statics = fields.of(rl, policy_gradient.Config)
    statics["entropy_bonus"] = rl.entropy_coef > 0
    return policy_gradient.Config(**statics, optimizer=optimizer, **changes)


def hyper(rl, steps):
    """The traced hyperparameters of a run of `steps` iterations without resets."""
    return policy_gradient.Hyper(
        **fields.of(rl, policy_gradient.Hyper),
        total_updates=steps * rl.epochs * rl.minibatches,
        kl_proportional=rl.kl_controller == "proportional",
    )
