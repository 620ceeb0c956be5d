"""Does Elastic Reset make a better chatbot of a Llama at less drift and tax?

StackLLaMA: a language model is fine-tuned on answers, a reward model is trained from it
on pairs of them, and PPO with LoRA and an adaptive KL penalty follows, with and without
Elastic Reset. Every stage leaves a directory that transformers opens and is made once;
reward is read by a second reward model too, of other questions' pairs, drift as the
perplexity of held-out answers and as exact KL, the alignment tax on --suites.

    python -m experiments.stack_exchange --policy models/stories260k \\
        --dataset pairs.jsonl --suites commonsense/arc_easy:test \\
        --data.columns question=prompt response_j=chosen response_k=rejected
    python -m experiments.stack_exchange --preset paper     # the hub, GPUs, days

Expected, as published: Elastic Reset's reward is PPO's or more on a reward model that
neither was trained on, its perplexity rises less over the fine-tuned model's, and it
keeps more capabilities.
"""

import dataclasses
import time
from typing import Literal

from experiments import reward_model, sentiment, sft
from experiments.stack_exchange import measure, page, published, stages
from experiments.stack_exchange import parts as data_parts
from experiments.stack_exchange import task as subjects
from rlhf_jax import elastic_reset, huggingface
from rlhf_jax.cli import command, options, presets, recipes
from rlhf_jax.reporting import claims, report, samples
from rlhf_jax.runtime import loop, metrics_log, parallel, processes, progress
from rlhf_jax.studies import methods

CLAIMS = page.CLAIMS


def _fit(**changes):
    return lambda: recipes.Fit(schedule="cosine", **changes)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run depends on. The defaults are sized for minutes of two cores."""

    dataset: str = ""
    """Pairs: a hub name, a folder, or a file."""
    policy: str = ""
    """A model directory, a hub name, or scratch:<preset> for fresh weights."""
    fine_tuned: str = "train"
    """train, or the model of an SFT that is there already."""
    reward: str = "train"
    """train, or a reward model's directory or hub name."""
    judge: str = "train"
    """The reward model that judges and never trains: train on the other half of the
    pairs, or a directory or hub name."""
    suites: tuple[str, ...] = ()
    """Multiple choice, PATH[:SPLIT] each, of question, choices and label, or of text,
    whose ending is to be found: the alignment tax. None: it is not measured."""
    suite_questions: int = 200
    """Of each suite, at most."""
    methods: tuple[str, ...] = (
        "zero_shot", "ppo_kl", "elastic_reset_kl", "reset_to_initial_kl", "ppo_kl_ma50",
    )  # fmt: skip
    """Names of methods, or all."""
    seeds: int = 1
    first_seed: int = 0
    steps: int = 60
    """Iterations of every method."""
    eval_every: int = 9
    """Iterations between evaluations; both sides of every reset are evaluated too."""
    tick: Literal["iteration", "epoch"] = "epoch"
    """The clock of the EMA: an iteration, or a pass over its rollout."""
    stop_kl: float = 0.15
    """Nats a token from the policy that wrote a rollout, beyond which no more passes
    are made over it; inf: all are."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in; weights and optimiser stay float32."""
    override: tuple[str, ...] = ()
    """What a method has of its own, as ppo_kl.kl_coef=0.2."""
    center: bool = True
    """Shift the reward models so that scores of training answers have mean 0."""
    vocabulary: int = 1024
    """Of a policy from scratch."""
    preset: str | None = None
    """A name for many flags; see above."""
    output: str | None = None
    """The run folder; by default a new one under runs/stack_exchange."""
    resume: bool = False
    """Go on where the run in --output (or the latest) was stopped."""
    devices: int | None = None
    """How many devices share the rows; by default all, a CPU's cores being devices."""
    layout: str = "data"
    """data: all weights on each device; fsdp, or fsdp,tensor:2: weights cut too."""
    save_every: int = 20
    """Iterations between checkpoints."""
    keep: int = 1
    cache: str | None = None
    """Where compiled programs are kept; by default ~/.cache/rlhf_jax."""
    data: data_parts.Config = dataclasses.field(default_factory=data_parts.Config)
    sft: recipes.Fit = dataclasses.field(
        default_factory=_fit(steps=200, learning_rate=1e-3, warmup=10)
    )
    sft_length: int = 128
    """Tokens of a row of the fine-tuning; texts are packed."""
    sft_lora: options.Lora = dataclasses.field(default_factory=options.Lora)
    reward_fit: recipes.Fit = dataclasses.field(
        default_factory=_fit(epochs=2.0, learning_rate=5e-4, warmup=10)
    )
    reward_lora: options.Lora = dataclasses.field(default_factory=options.Lora)
    answers: subjects.Config = dataclasses.field(default_factory=subjects.Config)
    rl: options.RL = dataclasses.field(
        default_factory=lambda: options.RL(
            rows=16, epochs=4, minibatches=1, learning_rate=5e-4, value="shared",
            kl_coef=0.02, kl_target=6.0, kl_horizon=100.0, decay=0.95, reset_every=26,
        )
    )  # fmt: skip
    lora: options.Lora = dataclasses.field(default_factory=lambda: options.Lora(rank=8))
    corner: options.Corner = dataclasses.field(default_factory=options.Corner)
    log: options.Log = dataclasses.field(default_factory=options.Log)
    export: tuple[str, ...] = ("ppo_kl", "elastic_reset_kl")
    """Methods whose policy of the first seed is saved as a model directory."""

    tuned = None  # no trials are made here; what other studies have as flags
    looks = 0

    @property
    def ticks(self):
        """Of the EMA, from one reset to the next, where no pass is left out."""
        passes = self.rl.epochs if self.tick == "epoch" else 1
        return self.rl.reset_every * passes


CONFIG = Config()
PRESETS = {
    "small": presets.Preset(
        "the defaults: a tenth of the published steps, minutes", {}
    ),
    "paper": presets.Preset(
        "as published: Llama 7B, 600 steps; the hub, GPUs, days",
        {
            **published.start(),
            "dtype": "bfloat16",
            "eval_every": 53,
            "save_every": 50,
            "methods": ("zero_shot", "ppo_kl", "elastic_reset_kl"),
        },
        published.NOTES,
    ),
}


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
    place = command.folder(config, "stack_exchange")
    layout = parallel.layout(config.layout, config.devices)
    command.write_config(place, config, layout)
    page.lines(console, presets.told(config, PRESETS))

    def everything():
        made = make_stages(config, place, console)
        with loop.Signals() as signals:
            subject = make_study(config, made, layout, place, console)
            announce(config, subject, layout, place, console)
            return made, subject, subject.run(signals)

    made, subject, records = stages.within(place, everything)
    exported = dataclasses.replace(config, policy=made.fine_tuned)
    sentiment.export(exported, subject, place, console)
    if processes.first():
        wall = time.monotonic() - started
        finish(config, made, subject, place, records, console, wall)
    return place


def check(config):
    """Misuse that can be told before anything is made."""
    for name in ("dataset", "policy"):
        if not getattr(config, name):
            raise ValueError(f"--{name} is needed: --preset paper has the published")
    chosen = methods.choose(config.methods, measure.METHODS)
    for name in config.export:
        if name not in chosen:
            raise ValueError(
                f"--export {name}: is not among --methods {' '.join(config.methods)}"
            )
    for name in ("seeds", "steps", "suite_questions"):
        if getattr(config, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} {getattr(config, name)}: at least 1 is needed")
    if not config.stop_kl > 0:
        raise ValueError(
            f"--stop-kl {config.stop_kl}: must be above 0; inf never stops"
        )
    if config.policy.startswith(stages.SCRATCH) and config.sft_lora.rank:
        raise ValueError(
            f"--sft-lora.rank {config.sft_lora.rank}: fresh weights of --policy "
            f"{config.policy} have nothing to adapt; leave the rank at 0"
        )
    options.check(config.rl)
    subjects.check(config.answers)
    methods.overrides(config.override)
    for made in (sft_config(config, "", {}), reward_config(config, "", {}, "")):
        recipes.check(made, needed=())


def batches(config):
    """The row counts that devices share out."""
    parts = max(config.rl.micro_batches * config.rl.minibatches, 1)
    fits = (config.sft, config.reward_fit)
    each = [fit.rows // max(fit.micro_batches, 1) for fit in fits]
    return (*each, config.rl.rows // parts, config.rl.rows)


# The stages


def make_stages(config, place, console):
    """`page.Made`: the models of all stages, and what the data were cut into."""
    seed, scratch = config.first_seed, config.policy.startswith(stages.SCRATCH)
    base = config.policy
    if scratch:
        texts = data_parts.texts(config.dataset, config.data)
        room = config.data.prompt_length + config.answers.longest
        longest = max(config.data.length, room, config.sft_length)
        base = stages.from_scratch(
            base, texts, place / "scratch" / "model", vocabulary=config.vocabulary,
            length=max(longest, config.answers.window), seed=seed, console=console,
        )  # fmt: skip
    tokenizer = huggingface.load_tokenizer(base)
    own_judge = config.judge == "train"
    parts = data_parts.read(config.dataset, config.data, tokenizer, judge=own_judge)
    files = processes.told(lambda: data_parts.write(place / "data", parts))
    tuned, reward, judge = config.fine_tuned, config.reward, config.judge
    if tuned == "train":
        asked = sft_config(config, base, files)
        tuned = stages.run(sft, asked, place / "sft", console)
    if reward == "train":
        asked = reward_config(config, tuned, files, "reward")
        reward = stages.run(reward_model, asked, place / "reward_model", console)
    if own_judge:
        asked = reward_config(config, tuned, files, "judge")
        judge = stages.run(reward_model, asked, place / "judge", console)
    return page.Made(tuned, reward, judge, parts)


def sft_config(config, base, files):
    """The flags of the fine-tuning, as `experiments.sft` has them."""
    held = recipes.Data(eval_dataset=files.get("heldout"), length=config.sft_length)
    return sft.Config(
        model=base,
        dataset=files.get("finetune", ""),
        pack=True,
        data=held,
        fit=config.sft,
        lora=config.sft_lora,
        **_alike(config),
    )


def reward_config(config, base, files, name):
    """The flags of a reward model, as `experiments.reward_model` has them."""
    held = recipes.Data(eval_dataset=files.get("evaluation"), length=config.data.length)
    return reward_model.Config(
        model=base,
        dataset=files.get(name, ""),
        ended=config.answers.end == "token",
        center=config.center,
        data=held,
        fit=config.reward_fit,
        lora=config.reward_lora,
        **_alike(config, seed=config.first_seed + (name == "judge")),
    )


def _alike(config, **changes):
    names = ("devices", "layout", "dtype", "keep", "cache", "log")
    shared = {name: getattr(config, name) for name in names}
    return {**shared, "seed": config.first_seed, **changes}


# The comparison


def make_study(config, made, layout, place, console):
    """`measure.Study` of the models that the stages left."""
    subject = subjects.create(
        config.answers, made.fine_tuned, made.reward, made.judge, made.parts, layout,
        dtype=config.dtype, prompt_length=config.data.prompt_length,
    )  # fmt: skip
    suites = None
    if config.suites:
        suites = subjects.suites(
            subject.tokenizer, subject.model, config.suites, config.suite_questions,
            config.data.question,
        )  # fmt: skip
        suites = measure.Suites(subject.model, suites, layout)
    wandb = {"project": config.log.project} if config.log.wandb else None
    chosen = measure.settings(config, subject, console)
    return measure.Study(
        subject, chosen, layout, place, console=console, wandb=wandb, suites=suites
    )


def announce(config, subject, layout, place, console):
    """What is about to happen, before it does."""
    kept = elastic_reset.retained_weight(config.rl.decay, config.ticks)
    parts = ", ".join(subject.settings.methods)
    text = (
        "",
        *page.about(subject, config),
        f"methods   {parts}",
        f"run       {config.seeds} seed(s) × {config.steps} iterations × "
        f"{config.rl.rows} answers on {len(layout.devices)} "
        f"{layout.devices[0].platform} device(s)",
        f"resets    every {config.rl.reset_every} iterations, EMA decay "
        f"{config.rl.decay:g} once an {config.tick}: "
        f"w = {kept:.3f} of the way is kept",
        f"folder    {place}",
    )
    page.lines(console, text)


def finish(config, made, subject, place, records, console, wall):
    """The report, the table on the console, and where everything is."""
    corners = options.corners(config.corner, records)
    axes = page.AXES if config.suites else page.AXES[:2]
    study = report.Study(
        title="StackLLaMA: reward against drift",
        question=__doc__.split("\n\n")[0],
        axes=axes,
        corners={axis: corners[axis] for axis in axes},
        claims=claims.possible(CLAIMS, subject.settings.methods, axes),
        recovery=page.recovery(subject.settings.methods),
        labels=measure.LABELS,
        place="these pairs and models",
        command=command.command(),
        provenance=command.provenance(config),
        notes=(*page.notes(config, made, subject), *presets.told(config, PRESETS)),
        extra=(page.stages_table(place), page.together(records, subject)),
    )
    rows = metrics_log.read(place / "samples.jsonl")
    found = report.write(place, records, study, rows=rows, wall=wall)
    last = [row for row in rows if row["phase"] == "final"]
    samples.show(samples.unselected(last, 4), console=console)
    report.show(found, labels=measure.LABELS, console=console)
    for name in ("front.png", "curves.png", "report.md", "results.json"):
        page.lines(console, [str(place / name)])
    page.lines(console, [f"done in {progress.duration(wall)}"])
