"""Groups of flags that experiments share, and what they make of a task."""

import dataclasses
import math
from typing import Literal

from rlhf_jax import elastic_reset, optim
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.cli import command
from rlhf_jax.models import lora
from rlhf_jax.studies import eval_steps, methods, runner, search


@dataclasses.dataclass(frozen=True)
class RL:
    """What every method shares."""

    rows: int = 64
    """Samples an iteration, over all devices."""
    candidates: int = 4
    """Samples a prompt, for rloo, grpo and rsf."""
    epochs: int = 1
    """Passes over a rollout."""
    minibatches: int = 4
    """Updates a pass."""
    minibatch_of: Literal["rows", "tokens"] = "rows"
    """tokens: the tokens of all rows are dealt out, as in RL4LMs; an update then costs
    a pass over all rows."""
    transitions: int = 0
    """With tokens: how many of a rollout are learned from, row after row; 0: all."""
    micro_batches: int = 1
    """Parts over which a minibatch is accumulated, when memory is short."""
    learning_rate: float = 5e-4
    schedule: str = "constant"
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    """Decoupled; never on biases and norms."""
    adam_eps: float = 1e-5
    kl_coef: float = 0.1
    """β of the methods with a KL penalty, on rewards of standard deviation 1."""
    # On the microworld's seeds 900 to 907 PPO then keeps at least 91% of its best gold.
    kl_target: float = 6.0
    """What an adaptive β aims at, in nats a sample; a token for the proportional one.
    """
    kl_controller: Literal["horizon", "proportional"] = "horizon"
    """proportional: β moves by a tenth of the error, 2% an iteration at most (RL4LMs).
    """
    kl_horizon: float = float("inf")
    """Samples over which β adapts; inf keeps it fixed."""
    value: str = "separate"
    """A separate value network, or a head on the shared trunk."""
    value_bias: bool = True
    """Of a separate network's head."""
    value_coef: float = 0.1
    """Of the value loss, which is half a squared error."""
    value_clip: float = 0.2
    """How far a value may gain from moving; inf: the plain squared error."""
    whiten_advantages: Literal["rollout", "minibatch", "none"] | None = None
    """By default over the rollout for PPO, and not for the others."""
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    missing_eos: str = "none"
    """none, replace or subtract: what a response without an end is worth."""
    missing_eos_penalty: float = 1.0
    decay: float = 0.93
    """Of the EMA, once an iteration; 0.93 over 14 iterations retains w = 0.64."""
    reset_every: int = 14
    """Iterations between resets."""
    reset_first: bool = False
    """Also reset at the end of iteration 0, as the authors' IMDB code does."""
    sft_learning_rate: float = 3e-4
    sft_updates: int = 1
    """Updates that a supervised method makes in an iteration."""
    mask_top_p: float = 0.9
    """NLPO draws from the masking policy's nucleus of this probability."""
    mask_least: int = 100
    """It holds at least so many tokens."""
    mask_every: int = 5
    """Iterations until the masking policy is the policy again."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """Adapters beside frozen weights: they alone are trained, averaged and reset."""

    rank: int = 0
    """Of an adapter; 0 trains all weights."""
    alpha: float | None = None
    """An update counts alpha / rank times; by default twice, as in StackLLaMA."""
    targets: tuple[str, ...] = ("attention/query", "attention/value")
    """Regular expressions, searched in the paths of linear layers."""
    rslora: bool = False
    """An update counts alpha / √rank times instead."""


@dataclasses.dataclass(frozen=True)
class Distributed:
    """The processes of one run, one a host; on SLURM and TPU pods nothing is needed."""

    coordinator: str | None = None
    """host:port of process 0, any free port."""
    process_id: int | None = None
    """Which process this is, from 0."""
    processes: int | None = None
    """How many there are; 1 runs on this host alone, wherever it stands."""


@dataclasses.dataclass(frozen=True)
class Log:
    """Where metrics go besides metrics.jsonl."""

    wandb: bool = False
    project: str = "rlhf_jax"


@dataclasses.dataclass(frozen=True)
class Corner:
    """The worst drift that counts in a hypervolume, above the initial policy's."""

    text_nll: float = 1.0
    """Nats a token of human text."""
    kl_initial: float = 30.0
    """Nats a sample."""
    skills: float = 0.5
    """Share of questions no longer answered."""


def check(rl):
    """Raises ValueError where the rows of an iteration cannot be shared out."""
    by_rows = rl.minibatch_of == "rows"
    parts = rl.micro_batches * (rl.minibatches if by_rows else 1)
    if parts > 0 and rl.rows % parts:
        raise ValueError(
            f"--rl.rows {rl.rows}: {rl.rows} rows do not divide into {rl.minibatches} "
            f"minibatches of {rl.micro_batches} micro-batches; change --rl.rows, "
            "--rl.minibatches or --rl.micro-batches"
        )
    if rl.transitions and by_rows:
        raise ValueError(
            f"--rl.transitions {rl.transitions}: tokens can be left out where they are "
            "dealt out; add --rl.minibatch-of tokens"
        )
    for name in ("sft_updates", "mask_least"):
        if getattr(rl, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--rl.{flag} {getattr(rl, name)}: at least 1 is needed")
    if not 0 < rl.mask_top_p <= 1:
        raise ValueError(f"--rl.mask-top-p {rl.mask_top_p}: a share above 0, up to 1")


def check_looks(config, tuned=None):
    """Raises ValueError where --looks are fewer than the resets of a method need.

    tuned: {method: tuning.Values}, by default what --tuned names.
    """
    if not config.looks:
        return
    tuned, rl = search.read(config.tuned) if tuned is None else tuned, config.rl
    calendars = {}
    for name in methods.choose(config.methods):
        every = tuned.get(name, search.Values()).every or rl.reset_every
        every *= methods.METHODS[name].resets
        calendars[name] = elastic_reset.calendar(
            config.steps, every, at_zero=rl.reset_first
        )
    eval_steps.check(config.steps, calendars, config.looks)


def notes(config):
    """What a reader must know of resets, looks and tuning, for the report."""
    found, rl = [], config.rl
    tuned, chosen = search.read(config.tuned), methods.choose(config.methods)
    if any(methods.METHODS[name].resets for name in chosen):
        weight = elastic_reset.retained_weight(rl.decay, rl.reset_every)
        found.append(
            f"Resets every {rl.reset_every} iterations, EMA decay {rl.decay:g}: the "
            f"retained weight w = 1 − decay^every is {weight:.2g}."
        )
        if not config.looks and math.gcd(config.eval_every, rl.reset_every) > 1:
            found.append(
                f"The evaluation interval {config.eval_every} and the reset interval "
                f"{rl.reset_every} share a factor: besides the two sides of resets, "
                "few points of a cycle are seen."
            )
    if tuned:
        found.append(
            search.told(
                config.tuned,
                tuned,
                chosen,
                lambda name: search.command(tuned[name], name, rl),
            )
        )
    return found


def algorithm(rl, **changes):
    """What is compiled in. changes: fields of `policy_gradient.Config`."""
    asked = {
        "epochs": rl.epochs,
        "minibatches": rl.minibatches,
        "minibatch_of": rl.minibatch_of,
        "transitions": rl.transitions,
        "micro_batches": rl.micro_batches,
        "value": rl.value,
        "value_bias": rl.value_bias,
        "whiten_advantages": rl.whiten_advantages,
        "missing_eos": rl.missing_eos,
        "mask_top_p": rl.mask_top_p,
        "mask_least": rl.mask_least,
        "optimizer": optim.Config(
            max_grad_norm=rl.max_grad_norm,
            schedule=rl.schedule,
            eps=rl.adam_eps,
            weight_decay=rl.weight_decay,
        ),
    }
    return policy_gradient.Config(**asked, **changes)


def hyper(rl, steps):
    """What is traced, of a run of `steps` iterations that never resets."""
    return policy_gradient.Hyper(
        learning_rate=rl.learning_rate,
        total_updates=steps * rl.epochs * rl.minibatches,
        kl_coef=rl.kl_coef,
        kl_target=rl.kl_target,
        kl_horizon=rl.kl_horizon,
        kl_proportional=rl.kl_controller == "proportional",
        clip=rl.clip,
        value_clip=rl.value_clip,
        value_coef=rl.value_coef,
        gamma=rl.gamma,
        lam=rl.lam,
        missing_eos=rl.missing_eos_penalty,
        reset_first=rl.reset_first,
        mask_every=rl.mask_every,
    )


def settings(config, task, console):
    """The study's settings from an experiment's flags."""
    rl, own = config.rl, methods.overrides(config.override)
    tuned, chosen = search.read(config.tuned), []
    for name in methods.choose(config.methods):
        control, twin = methods.METHODS[name].reward, methods.METHODS[name].twin
        if control is not None and control not in task.controls:
            console.print(f"{name} is left out: there is no {control} reward here")
        elif twin in chosen and all(
            named.get(name) == named.get(twin) for named in (own, tuned)
        ):
            console.print(
                f"{name} is left out: it is {twin}, unless --override or --tuned tells "
                "them apart",
                highlight=False,
            )
        else:
            chosen.append(name)
    return runner.Settings(
        algorithm=algorithm(
            rl,
            sampling=task.sampling,
            keep_initial_value=any(
                methods.METHODS[name].hyper.get("reset_value") for name in chosen
            ),
        ),
        hyper=hyper(rl, config.steps),
        methods=tuple(chosen),
        seeds=tuple(range(config.first_seed, config.first_seed + config.seeds)),
        steps=config.steps,
        rows=rl.rows,
        candidates=rl.candidates,
        decay=rl.decay,
        reset_every=rl.reset_every,
        eval_every=config.eval_every,
        save_every=config.save_every,
        keep=config.keep,
        sft_learning_rate=rl.sft_learning_rate,
        digest=search.digest(command.digest(config), tuned),
        adapter=adapter(config.lora, task.params),
        looks=config.looks,
        tuned=tuned,
        overrides=own,
        sft_updates=rl.sft_updates,
    )


def adapter(flags, params):
    """The `lora.Config` that --lora asks for, None for rank 0.

    Raises ValueError when the policy's `params` have no place for it.
    """
    if flags.rank == 0:
        return None
    alpha = 2.0 * flags.rank if flags.alpha is None else flags.alpha
    config = lora.Config(flags.rank, alpha, flags.targets, flags.rslora)
    try:
        lora.count(params, config)
    except ValueError as error:
        raise ValueError(f"--lora: {error}") from None
    return config


def corners(corner, records):
    """{axis: (drift, reward)}: the initial policy's means, moved by `Corner`."""
    start = [r for r in records if r.get("eval/phase") == "start"]

    def mean(name):
        found = [r[name] for r in start if name in r]
        return sum(found) / max(len(found), 1)

    reward = mean("eval/reward")
    return {
        "drift/text_nll": (mean("drift/text_nll") + corner.text_nll, reward),
        "drift/kl_initial": (corner.kl_initial, reward),
        "tax/skills": (corner.skills, reward),
    }
