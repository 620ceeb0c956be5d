"""Does Elastic Reset get more reward at less drift?

A language model is trained by reinforcement to continue texts the way a reward model
likes. Methods share prompts, rewards, seeds and compiled programs, and are compared on
three drift axes at once: NLL of human text, exact KL to the initial model, and skills.

    python -m experiments.sentiment                      # microworld, minutes, offline
    python -m experiments.sentiment --methods all --seeds 10
    python -m experiments.sentiment --preset paper       # IMDB as published, on a GPU
    python -m experiments.sentiment --policy lvwerra/gpt2-imdb \\
        --reward lvwerra/distilbert-imdb --dataset stanfordnlp/imdb

Expected on the microworld: PPO without a penalty drives the reward model up and the
gold reward down again, Elastic Reset draws a saw-tooth under it, PPO + KL stays near.
"""

import dataclasses
import time

from experiments.sentiment import ablations, controls, imdb
from rlhf_jax import elastic_reset, huggingface, trees
from rlhf_jax.cli import command, options, presets
from rlhf_jax.feedback import function
from rlhf_jax.huggingface import adapters as hf_adapters
from rlhf_jax.models import lora
from rlhf_jax.reporting import claims, ends, report, samples
from rlhf_jax.reporting.claims import Claim
from rlhf_jax.runtime import (
    loop,
    metrics_log,
    parallel,
    preparation,
    processes,
    progress,
)
from rlhf_jax.studies import cells, methods, runner
from rlhf_jax.tasks import microworld as small_world
from rlhf_jax.tasks import text as own_text

AXES = ("drift/text_nll", "drift/kl_initial", "tax/skills")
# Declared before any run: more reward at less drift than PPO with and without KL, and
# than the nulls: averaging PPO, at every checkpoint; resetting to the initial model;
# and what has an EMA, resets or a mixture of weights, but not all three.
RIVALS = ("ppo", "ppo_kl")
NULLS = ("ppo_ma25", "ppo_ma50", "ppo_ma75", "ppo_early_stop", "reset_to_initial")
PARTS = ("ppo_average", "kl_average", "reset_to_interpolation")
# The least difference of interest at matched reward: a twentieth of the way to the
# corner; of accuracy, 3 points.
LEAST_DRIFT = {"drift/text_nll": 0.05, "drift/kl_initial": 1.5, "tax/skills": 0.03}


def _claims(group, family="", smallest=None):
    return tuple(
        Claim("elastic_reset", others, f"{group}/{axis}", least, family=family)
        for others in (RIVALS, NULLS, PARTS)
        for axis, least in (smallest or dict.fromkeys(AXES)).items()
    )


CLAIMS = (
    *_claims("hypervolume"),
    *_claims("reward_at", "More reward at matched drift"),
    *_claims("drift_at", "Less drift at matched reward", LEAST_DRIFT),
)


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
    steps: int = 50
    """Iterations of every method."""
    eval_every: int = 17
    """Iterations between evaluations; both sides of every reset are evaluated too."""
    looks: int = 0
    """Measurements of every method after its start, in place of --eval-every: then no
    front is made of more checkpoints than another."""
    override: tuple[str, ...] = ()
    """What a method has of its own, as ppo_kl.kl_coef=0.1."""
    tuned: str | None = None
    """results.json of experiments.sweep: methods run with what it chose for them."""
    preset: str | None = None
    """A name for many flags; see above."""
    output: str | None = None
    """The run folder; by default a new one under runs/sentiment."""
    resume: bool = False
    """Go on where the run in --output (or the latest) was stopped."""
    devices: int | None = None
    """How many devices share the rows; by default all, a CPU's cores being devices."""
    layout: str = "data"
    """data: all weights on each device; fsdp, or fsdp,tensor:2: weights cut too."""
    save_every: int = 25
    """Iterations between checkpoints."""
    keep: int = 1
    """Checkpoints kept a method and seed."""
    cache: str | None = None
    """Where pretrained weights are kept; by default ~/.cache/rlhf_jax."""
    rl: options.RL = dataclasses.field(default_factory=options.RL)
    lora: options.Lora = dataclasses.field(default_factory=options.Lora)
    microworld: small_world.Config = dataclasses.field(
        default_factory=small_world.Config
    )
    text: own_text.Config = dataclasses.field(default_factory=own_text.Config)
    corner: options.Corner = dataclasses.field(default_factory=options.Corner)
    log: options.Log = dataclasses.field(default_factory=options.Log)
    distributed: options.Distributed = dataclasses.field(
        default_factory=options.Distributed
    )
    export: tuple[str, ...] = ()
    """Methods whose policy of the first seed is saved as a model directory."""


CONFIG = Config()
PRESETS = imdb.PRESETS


def make_task(config, layout, cache, console, signals):
    """The task that --dataset, --policy and --reward describe."""
    reward = config.reward
    if ":" in reward and not reward.startswith("scratch:"):
        reward = function.load(reward)
    with preparation.Preparation(console) as report:
        rest = {"layout": layout, "cache": cache, "report": report, "signals": signals}
        if config.dataset == "microworld":
            preset = config.policy.removeprefix("scratch:")
            return small_world.create(config.microworld, preset, reward, **rest)
        return own_text.create(
            config.text, config.dataset, config.policy, reward, **rest
        )


def main():
    config = command.parse(CONFIG, description=__doc__, presets=PRESETS)
    command.main(lambda: run(config))


def run(config):
    """The whole experiment; returns the folder of the run."""
    started = time.monotonic()
    check(config)
    cache = command.cache_folder(config)
    command.prepare_devices(config, cache, batches(config))
    console = command.console()
    place = command.folder(config, "sentiment")
    layout = parallel.layout(config.layout, config.devices)
    with loop.Signals() as signals:
        task = make_task(config, layout, cache, console, signals)
        chosen = options.settings(config, task, console)
        command.write_config(place, config, layout)
        announce(config, task, chosen, layout, place, console)
        wandb = {"project": config.log.project} if config.log.wandb else None
        subject = runner.Study(
            task, chosen, layout, place, console=console, wandb=wandb
        )
        records = subject.run(signals)
    export(config, subject, place, console)
    if processes.first():
        finish(config, place, records, console, time.monotonic() - started)
    return place


def check(config):
    """Misuse that can be told before anything is made."""
    methods.choose(config.methods)
    methods.choose(config.export)
    for name in config.export:
        if name not in methods.choose(config.methods):
            raise ValueError(
                f"--export {name}: is not among --methods {' '.join(config.methods)}"
            )
        if methods.METHODS[name].best_of:
            raise ValueError(f"--export {name}: it has no weights of its own")
    for name in ("seeds", "steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name} {getattr(config, name)}: at least 1 is needed")
    options.check(config.rl)
    methods.overrides(config.override)
    options.check_looks(config)


def batches(config):
    """The row counts that devices share out."""
    rl, small, text = config.rl, config.microworld, config.text
    parts = rl.micro_batches * (rl.minibatches if rl.minibatch_of == "rows" else 1)
    parts = max(parts, 1)  # 0 is refused later, by name
    own = (text.pretrain_rows, text.classifier_rows)
    world = (small.pretrain_rows, small.reward_rows)
    return (
        rl.rows // parts,
        rl.rows // max(rl.candidates, 1),
        *(world if config.dataset == "microworld" else own),
    )


def announce(config, task, chosen, layout, place, console):
    """What is about to happen, before it does."""
    model, rl = task.model.config, config.rl
    parameters = trees.size(task.params)
    prompts, width = task.prompts.tokens.shape
    weight = elastic_reset.retained_weight(rl.decay, rl.reset_every)
    trained = "all weights are trained"
    if chosen.adapter is not None:
        count = lora.count(task.params, chosen.adapter)
        trained = (
            f"adapters of rank {chosen.adapter.rank} are trained: {count / 1e6:.3f}M "
            f"parameters, scale {chosen.adapter.scale:g}"
        )
    lines = (
        f"policy    {task.facts['policy']}: {model.layers} layers × {model.width}, "
        f"{parameters / 1e6:.2f}M parameters, vocabulary {model.vocab_size}",
        f"learning  {trained}",
        f"data      {task.facts['dataset']}: {prompts} prompts of up to {width} "
        f"tokens, responses of up to {task.sampling.max_new_tokens}",
        f"reward    {config.reward}",
        f"methods   {', '.join(chosen.methods)}",
        f"run       {len(chosen.seeds)} seeds × {chosen.steps} iterations × {rl.rows} "
        f"samples on {len(layout.devices)} {layout.devices[0].platform} device(s)",
        f"resets    every {rl.reset_every} iterations, EMA decay {rl.decay:g}: "
        f"w = {weight:.2f} of the way is kept",
        *(f"layout    {line}" for line in layout.describe(task.params)),
        *(f"preset    {line}" for line in presets.told(config, PRESETS)),
        f"folder    {place}",
    )
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def export(config, subject, place, console):
    """Model directories of the methods that --export names; of adapters besides."""
    task, adapter = subject.task, subject.settings.adapter
    initial = processes.values(task.params) if config.export else None
    for name in config.export:
        policy = processes.values(subject.policy(cells.Cell(name, config.first_seed)))
        if not processes.first():
            continue
        folder = place / "models" / name
        if adapter is not None:
            beside = folder.with_name(f"{name}-adapters")
            base = None if config.policy.startswith("scratch:") else config.policy
            hf_adapters.save(beside, task.model, policy, adapter, base=base)
            console.print(f"saved {beside}", highlight=False, soft_wrap=True)
            policy = lora.merge(initial, policy, scale=adapter.scale)
        huggingface.save(folder, task.model, policy, task.tokenizer)
        console.print(f"saved {folder}", highlight=False, soft_wrap=True)


def finish(config, place, records, console, wall):
    """The report, the table on the console, and where everything is."""
    rows = metrics_log.read(place / "samples.jsonl")
    chosen = methods.choose(config.methods)
    small = config.dataset == "microworld"
    about = report.Study(
        title="Sentiment: reward against drift",
        question=__doc__.split("\n\n")[0],
        axes=AXES if small else AXES[:2],
        corners=options.corners(config.corner, records),
        claims=claims.possible(CLAIMS, chosen, AXES if small else AXES[:2]),
        contrasts=ablations.CONTRASTS,
        recovery=("elastic_reset", "reset_to_initial"),
        labels=methods.LABELS,
        place="this microworld and these models" if small else "these texts and models",
        command=command.command(),
        provenance=command.provenance(config),
        notes=(*ends.lines(records, methods.LABELS), *notes(config, small)),
    )
    negative = controls.judge(records)
    results = report.write(
        place, records, about, rows=rows, controls=negative, wall=wall
    )
    last = [row for row in rows if row["phase"] == "final"]
    samples.show(samples.unselected(last, 4), console=console)
    report.show(results, labels=methods.LABELS, console=console)
    for name in ("front.png", "curves.png", "report.md", "results.json"):
        console.print(str(place / name), highlight=False, soft_wrap=True)
    console.print(f"done in {progress.duration(wall)}", highlight=False)


def notes(config, small):
    """What a reader must know to disbelieve the run."""
    found = [
        "Hypervolume corners are fixed in the configuration, above the initial policy: "
        f"{dataclasses.asdict(config.corner)}.",
        "Pretraining is shared by all seeds; each seed draws its own preference pairs, "
        "reward model and sampling key."
        if small
        else "Seeds are few and share the data: read them as descriptive.",
        *options.notes(config),
        *(f"Preset {line}" for line in presets.told(config, PRESETS)),
    ]
    if config.lora.rank:
        found.append(
            f"LoRA of rank {config.lora.rank}: adapters alone are trained, averaged "
            "and reset. The EMA averages A and B apart, as the authors' code does, and "
            "is not the average of the merged weights; averages of PPO and the initial "
            "policy are of weights, exactly."
        )
    if config.policy.endswith("stories260k"):
        found.append(
            "The policy may have been trained on the held-out stories: only "
            "differences between policies are readable."
        )
    return tuple(found)
