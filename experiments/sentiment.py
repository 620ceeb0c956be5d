"""Does Elastic Reset get more reward at less drift?

A language model is trained by reinforcement to continue texts the way a reward model
likes. Methods share prompts, rewards, seeds and compiled programs, and are compared on
three drift axes at once: NLL of human text, exact KL to the initial model, and skills.

    python -m experiments.sentiment                      # microworld, minutes, offline
    python -m experiments.sentiment --methods all --seeds 10
    python -m experiments.sentiment --policy lvwerra/gpt2-imdb \\
        --reward lvwerra/distilbert-imdb --dataset stanfordnlp/imdb

Expected on the microworld: PPO without a penalty drives the reward model up and the
gold reward down again, Elastic Reset draws a saw-tooth under it, PPO + KL stays near.
"""

import dataclasses
import time

import rich.console

from rlhf_jax import command, loop, methods, optim, parallel, study
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.feedback import function
from rlhf_jax.reporting import metrics, progress, report, samples
from rlhf_jax.reporting.claims import Claim
from rlhf_jax.tasks import microworld as small_world
from rlhf_jax.tasks import text as own_text


@dataclasses.dataclass(frozen=True)
class RL:
    """What every method shares."""

    rows: int = 64
    """Samples an iteration, over all devices."""
    candidates: int = 4
    """Samples a prompt, for rloo and grpo."""
    epochs: int = 2
    minibatches: int = 2
    micro_batches: int = 1
    """Parts over which a minibatch is accumulated, when memory is short."""
    learning_rate: float = 5e-4
    schedule: str = "constant"
    max_grad_norm: float = 1.0
    kl_coef: float = 0.05
    """β of the methods with a KL penalty, on rewards of standard deviation 1."""
    kl_target: float = 6.0
    """Nats a sample that an adaptive β aims at."""
    kl_horizon: float = float("inf")
    """Samples over which β adapts; inf keeps it fixed."""
    value: str = "separate"
    """A separate value network, or a head on the shared trunk."""
    value_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    missing_eos: str = "none"
    """none, replace or subtract: what a response without an end is worth."""
    missing_eos_penalty: float = 1.0
    decay: float = 0.95
    """Of the EMA, once an iteration; 0.95 over 20 iterations retains w = 0.64."""
    reset_every: int = 20
    reset_first: bool = False
    """Also reset at the end of iteration 0, as the authors' IMDB code does."""
    sft_learning_rate: float = 3e-4


@dataclasses.dataclass(frozen=True)
class Log:
    """Where metrics go besides metrics.jsonl."""

    wandb: bool = False
    project: str = "rlhf_jax"


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    dataset: str = "microworld"
    """microworld, a hub name, or a local folder or file."""
    policy: str = "scratch:micro"
    """scratch:<preset> to pretrain one here, a model directory, or a hub name."""
    reward: str = "train"
    """train, gold, random, a model directory or hub name, or module:function."""
    methods: tuple[str, ...] = methods.DEFAULT
    """Names of methods, or all."""
    seeds: int = 3
    first_seed: int = 0
    steps: int = 80
    """Iterations of every method."""
    eval_every: int = 7
    output: str | None = None
    """The run folder; by default a new one under runs/sentiment."""
    resume: bool = False
    """Go on where the run in --output (or the latest) was stopped."""
    devices: int | None = None
    """How many devices share the rows; all by default."""
    save_every: int = 20
    """Iterations between checkpoints."""
    keep: int = 1
    """Checkpoints kept a method and seed."""
    cache: str | None = None
    """Where pretrained weights are kept; by default ~/.cache/rlhf_jax."""
    rl: RL = dataclasses.field(default_factory=RL)
    microworld: small_world.Config = dataclasses.field(
        default_factory=small_world.Config
    )
    text: own_text.Config = dataclasses.field(default_factory=own_text.Config)
    log: Log = dataclasses.field(default_factory=Log)


CONFIG = Config()

AXES = ("drift/text_nll", "drift/kl_initial", "tax/skills")
CLAIMS = (
    Claim("elastic_reset", ("ppo", "ppo_kl"), "hypervolume/drift/text_nll"),
    Claim(
        "elastic_reset",
        ("ppo_ma25", "ppo_ma50", "ppo_ma75", "reset_to_initial"),
        "hypervolume/drift/text_nll",
    ),
)


def settings(config, task):
    """The study's settings from the experiment's flags."""
    rl = config.rl
    chosen = methods.choose(config.methods)
    algorithm = policy_gradient.Config(
        sampling=task.sampling,
        epochs=rl.epochs,
        minibatches=rl.minibatches,
        micro_batches=rl.micro_batches,
        value=rl.value,
        missing_eos=rl.missing_eos,
        keep_initial_value="elastic_reset_value" in chosen,
        optimizer=optim.Config(
            max_grad_norm=rl.max_grad_norm, schedule=rl.schedule, eps=1e-5
        ),
    )
    hyper = policy_gradient.Hyper(
        learning_rate=rl.learning_rate,
        total_updates=config.steps * rl.epochs * rl.minibatches,
        kl_coef=rl.kl_coef,
        kl_target=rl.kl_target,
        kl_horizon=rl.kl_horizon,
        clip=rl.clip,
        value_coef=rl.value_coef,
        gamma=rl.gamma,
        lam=rl.lam,
        missing_eos=rl.missing_eos_penalty,
        reset_first=rl.reset_first,
    )
    return study.Settings(
        algorithm=algorithm,
        hyper=hyper,
        methods=chosen,
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
        digest=command.digest(config),
    )


def make_task(config, layout, cache, console, signals):
    """The task that --dataset, --policy and --reward describe."""
    reward = config.reward
    if ":" in reward and not reward.startswith("scratch:"):
        reward = function.load(reward)
    with Pretraining(console) as report:
        rest = {"layout": layout, "cache": cache, "report": report, "signals": signals}
        if config.dataset == "microworld":
            preset = config.policy.removeprefix("scratch:")
            return small_world.create(config.microworld, preset, reward, **rest)
        return own_text.create(
            config.text, config.dataset, config.policy, reward, **rest
        )


class Pretraining:
    """Shows what happens before the first cell: a line, or a bar with the time left."""

    def __init__(self, console):
        self._console, self._bar = console, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.__exit__(*error)

    def __call__(self, text, *, done=None, total=None, **metrics):
        if done is None:
            self._console.print(f"{text} ...", highlight=False)
            return
        if self._bar is None:
            self._bar = progress.Progress(total, text, console=self._console)
            self._bar.__enter__()
        self._bar.update(done, **metrics)


def main():
    config = command.parse(CONFIG, description=__doc__)
    command.main(lambda: run(config))


def run(config):
    """The whole experiment; returns the folder of the run."""
    started = time.monotonic()
    console = rich.console.Console()
    methods.choose(config.methods)
    place = command.folder(config, "sentiment")
    cache = command.cache_folder(config)
    command.prepare_devices(config, cache)
    layout = parallel.data(config.devices)
    with loop.Signals() as signals:
        task = make_task(config, layout, cache, console, signals)
        chosen = settings(config, task)
        command.write_config(place, config, layout)
        console.print(
            f"{task.facts['dataset']}: {task.facts['policy']} on {layout.size} "
            f"device(s); {len(chosen.methods)} methods × {len(chosen.seeds)} seeds × "
            f"{config.steps} iterations of {config.rl.rows} samples → {place}",
            highlight=False,
        )
        wandb = {"project": config.log.project} if config.log.wandb else None
        subject = study.Study(task, chosen, layout, place, console=console, wandb=wandb)
        records = subject.run(signals)
    finish(config, place, records, console, time.monotonic() - started)
    return place


def finish(config, place, records, console, wall):
    """The report, the table on the console, and where everything is."""
    rows = metrics.read(place / "samples.jsonl")
    about = report.Study(
        title="Sentiment: reward against drift",
        question=__doc__.split("\n\n")[0],
        axes=AXES,
        claims=tuple(c for c in CLAIMS if c.method in config.methods),
        command=command.command(),
        provenance={
            "commit": command.commit(),
            "config digest": command.digest(config),
            **command.versions(),
        },
    )
    results = report.write(place, records, about, rows=rows, wall=wall)
    last = [row for row in rows if row["phase"] == "final"]
    samples.show(samples.unselected(last, 4), console=console)
    report.show(results, console=console)
    for name in ("front.png", "curves.png", "report.md", "results.json"):
        console.print(str(place / name), highlight=False, soft_wrap=True)
    console.print(f"done in {progress.duration(wall)}", highlight=False)


if __name__ == "__main__":
    main()
