"""Does Elastic Reset get more reward at less drift?

Reinforcement learning trains a language model to continue texts as a reward model
prefers. Methods share prompts, rewards, seeds and compiled programs, and are compared
on three drift axes at once: NLL of human text, exact KL to the initial model, skills.

    python -m experiments.sentiment                      # microworld, minutes, offline
    python -m experiments.sentiment --methods all --worlds 15 --seeds 2 --num-evals 14
    python -m experiments.sentiment --preset paper       # IMDB as published, on a GPU
    python -m experiments.sentiment --preset smollm2 \\
        --policy path/to/smollm2 --dataset path/to/imdb  # an instruct model
    python -m experiments.sentiment --policy lvwerra/gpt2-imdb \\
        --reward lvwerra/distilbert-imdb --dataset stanfordnlp/imdb

Expected on the microworld: PPO without a penalty drives the learned reward up and
the gold reward down again, Elastic Reset traces a saw-tooth below it, and PPO + KL
stays near the initial policy.
"""

import dataclasses

from experiments.sentiment import ablations, controls, imdb, instruct
from rlhf_jax import elastic_reset, ranges, trees
from rlhf_jax.cli import experiment, language, options, presets
from rlhf_jax.evaluation import axes
from rlhf_jax.feedback import function
from rlhf_jax.microworld import skills
from rlhf_jax.models import lora
from rlhf_jax.reporting import best_of_n, claims, contrasts, held_out, recoveries
from rlhf_jax.reporting import controls as negative_controls
from rlhf_jax.reporting.claims import Claim
from rlhf_jax.studies import methods, tables
from rlhf_jax.tasks import judges, reward_ensembles, reward_specs
from rlhf_jax.tasks import microworld as small_world
from rlhf_jax.tasks import text as text_task

AXES = (axes.TEXT_NLL, axes.KL_INITIAL, axes.SKILLS)
KINDS = tuple(axes.accuracy(f"tax/{kind}") for kind in skills.KINDS)
# Declared before any run. The primary endpoint is the hypervolume on human-text NLL;
# every family is one item of the paper's checklist.
PRIMARY = f"hypervolume/{axes.TEXT_NLL.key}"
FAMILIES = {
    "Better than PPO, with and without KL": ("ppo", "ppo_kl", "ppo_early_stop"),
    "Resets help: better than averages of PPO and than resets to π₀": (
        "ppo_ma25",
        "ppo_ma50",
        "ppo_ma75",
        "ppo_average",
        "reset_to_initial",
    ),
    "Better than its parts": ("kl_average", "reset_to_interpolation"),
}
_SECONDARY = (
    *(f"hypervolume/{axis.key}" for axis in AXES[1:]),
    *(f"{reading}_at/{axis.key}" for axis in AXES for reading in ("reward", "gold")),
    "reward",
    "gold",
    *(axis.key for axis in AXES),
)
_RIVALS = tuple(rival for family in FAMILIES.values() for rival in family)
CLAIMS = (
    *(Claim("elastic_reset", o, PRIMARY, family=f) for f, o in FAMILIES.items()),
    *(Claim("elastic_reset", _RIVALS, e, secondary=True) for e in _SECONDARY),
)
COMPARISONS = (
    contrasts.section(ablations.CONTRASTS),
    recoveries.section("elastic_reset", "reset_to_initial"),
)
SECTIONS = (
    held_out.SECTION,
    best_of_n.SECTION,
    *COMPARISONS,
    negative_controls.section(controls.judge),
)


@dataclasses.dataclass(frozen=True)
class Config(options.Language):
    """Everything a run depends on."""

    dataset: ranges.Text = "microworld"
    """microworld, a hub name, or a local folder or file."""
    policy: ranges.Text = "scratch:micro"
    """scratch:<preset> to pretrain one here, a model directory, or a hub name."""
    reward: ranges.Text = "train"
    """train, gold, random, a model directory or hub name, module:function, or a labeler
    that rates texts, ai:WHERE[,template=NAME]..., or an ensemble, worst:DIR+DIR, as in
    experiments.rl; on the microworld rm:, odin:, mean:, worst:, uncertainty:, warm:,
    entropic:, length_penalized:, heavy_tailed: or light_tailed:, each with
    name=value,...: see rlhf_jax/tasks/reward_specs.py."""
    methods: tuple[ranges.Text, ...] = methods.DEFAULT
    worlds: ranges.Count = 1
    """Microworlds, from --microworld.world on: each has a language, films and an
    initial policy of its own. Intervals and tests are over worlds."""
    seeds: ranges.Count = 3
    """Of every world: each has a reward model and samples of its own."""
    tuned: ranges.Text | None = None
    """results.json of experiments.sweep; methods run with the settings it chose."""
    save_every: ranges.Natural = 25
    microworld: small_world.Config = dataclasses.field(
        default_factory=small_world.Config
    )
    text: text_task.Config = dataclasses.field(default_factory=text_task.Config)
    suites: tuple[ranges.Text, ...] = ()
    """Questions with right answers to measure the tax by: PATH or PATH:SPLIT each."""
    suite_questions: ranges.Count = 200
    """Of each suite, at most."""
    other_text: ranges.Text | None = None
    """PATH or PATH:SPLIT of human text of another kind, whose NLL is measured too."""
    distributed: options.Distributed = dataclasses.field(
        default_factory=options.Distributed
    )


CONFIG = Config()
PRESETS = imdb.PRESETS | instruct.PRESETS


def check(config):
    """Raises ValueError for misuse that the flags alone reveal."""
    check_worlds(config)
    language.check(config, methods.table(config.methods))
    check_labeler(config)
    if combined(config):
        families_of(config).parse(config.reward)


def check_worlds(config):
    """Raises ValueError for worlds asked of what has one."""
    if config.worlds > 1 and config.dataset != "microworld":
        raise ValueError(
            f"--worlds {config.worlds}: --dataset {config.dataset} is one world; leave "
            "the flag out, and use --seeds"
        )


def check_labeler(config):
    """Raises ValueError for a labeler that cannot be, or that has no text to read."""
    if not judges.named(config.reward):
        return
    judges.of_reward(config.reward)
    if config.dataset == "microworld":
        raise ValueError(
            f"--reward {config.reward}: labelers of the microworld are those of "
            "experiments.rlaif; name texts with --dataset"
        )


def families_of(config):
    """What reads --reward where it names a family of reward models: the microworld's
    own, or ensembles of directories."""
    return reward_specs if config.dataset == "microworld" else reward_ensembles


def combined(config):
    """Whether --reward names a family of reward models."""
    return families_of(config).named(config.reward)


def batches(config):
    """The row counts that the number of devices must divide."""
    rl, small, text = config.rl, config.microworld, config.text
    parts = rl.micro_batches * (rl.minibatches if rl.minibatch_of == "rows" else 1)
    parts = max(parts, 1)  # 0 is refused later, by name
    scratch = (text.pretrain_rows, text.classifier_rows)
    world = (small.pretrain_rows, small.reward_rows)
    return (
        rl.rows // parts,
        rl.rows // max(rl.candidates, 1),
        *(world if config.dataset == "microworld" else scratch),
    )


def make_tasks(config, setting, make=None):
    """{world: the task that --dataset, --policy and --reward describe}.

    make: (config of a world, setting) -> its task, by default `make_task`.
    """
    make = make_task if make is None else make
    if config.dataset != "microworld":
        return {0: make(config, setting)}
    first, result = config.microworld.world, {}
    for world in range(first, first + config.worlds):
        settings = dataclasses.replace(config.microworld, world=world)
        settings = dataclasses.replace(config, microworld=settings)
        result[world] = make(settings, setting)
    return result


def make_task(config, setting):
    """The task of one world."""
    reward = config.reward
    if judges.named(reward):
        reward = judges.of_reward(reward, setting.folder)
    elif ":" in reward and not reward.startswith("scratch:") and not combined(config):
        reward = function.load(reward)
    rest = setting.of_tasks
    if config.dataset == "microworld":
        preset = config.policy.removeprefix("scratch:")
        return small_world.create(config.microworld, preset, reward, **rest)
    return text_task.create(config.text, config.dataset, config.policy, reward, **rest)


def make_study(config, setting):
    """The study of that task, and what its report lists."""
    tasks, table = make_tasks(config, setting), methods.table(config.methods)
    study = language.study(config, tasks, table, say=setting.report)
    measured = axes_of(config, study.task)
    study = instruct.extend(config, dataclasses.replace(study, axes=measured))
    asked = declared(study.task.facts["own units"])
    return dataclasses.replace(
        study,
        claims=claims.possible(asked, study.methods, study.axes),
        sections=SECTIONS,
    )


def declared(own_units):
    """The claims about a run: a smallest effect on a reward is in deviations of π₀'s
    samples, and says nothing about one in its own units."""
    return tuple(
        c for c in CLAIMS if not (own_units and c.endpoint.startswith("reward"))
    )


def axes_of(config, task):
    """What is measured of runs of a task, with the corners of the flags."""
    measured = (*AXES, *KINDS) if task.skills is not None else AXES[:2]
    if task.facts["own units"]:
        measured = (*measured, *axes.OWN_UNITS)
    return axes.with_corners(measured, dataclasses.asdict(config.corner))


def announce(config, study, layout):
    """Lines that describe the run before it starts."""
    task, adapter, rl = study.task, study.settings.adapter, config.rl
    model, parameters = task.model.config, trees.size(task.params)
    prompts, width = task.prompts.tokens.shape
    weight = elastic_reset.retained_weight(rl.decay, rl.reset_every)
    trained = "all weights are trained"
    if adapter is not None:
        count = lora.count(task.params, adapter)
        trained = (
            f"adapters of rank {adapter.rank} are trained: {count / 1e6:.3f}M "
            f"parameters, scale {adapter.scale:g}"
        )
    return (
        f"policy    {task.facts['policy']}: {model.layers} layers × {model.width}, "
        f"{parameters / 1e6:.2f}M parameters, vocabulary {model.vocab_size}",
        f"learning  {trained}",
        f"data      {task.facts['dataset']}: {prompts} prompts of up to {width} "
        f"tokens, responses of up to {task.sampling.max_new_tokens}",
        f"reward    {config.reward}",
        *judged(task),
        f"methods   {', '.join(tables.listed(study.methods))}",
        f"run       {config.worlds} world(s) × {config.seeds} seeds × {config.steps} "
        f"iterations × {rl.rows} samples on {len(layout.devices)} "
        f"{layout.devices[0].platform} device(s)",
        f"resets    every {rl.reset_every} iterations, EMA decay {rl.decay:g}: "
        f"w = {weight:.2f} of the way is kept",
        *(f"layout    {line}" for line in layout.describe(task.params)),
        *(f"preset    {line}" for line in presets.describe(config, PRESETS)),
    )


def judged(task):
    """Who judges, where a labeler pays."""
    return [f"labeler   {task.facts['judge']}"] if "judge" in task.facts else []


def finish(config, done):
    """Writes the report and prints its table; returns the run folder."""
    small = config.dataset == "microworld"
    experiment.report(
        config,
        done,
        title="Sentiment: reward against drift",
        question=__doc__.split("\n\n")[0],
        scope="this microworld and these models" if small else "these texts and models",
        notes=notes(config, done.study, small),
        pictures=best_of_n.pictures(done.study.methods),
    )
    return done.folder


def notes(config, study, small):
    """What a reader needs to know to judge the run."""
    lines = [
        "Hypervolume corners are fixed in the configuration, beyond the initial "
        f"policy: {dataclasses.asdict(config.corner)}.",
        "A world has a language, films, an initial policy, prompts and questions of "
        "its own, which its seeds share; a seed has preference pairs, a reward model "
        "and samples of its own."
        if small
        else "Seeds are few and share the data: read them as descriptive.",
        *language.notes(config, study),
        *(f"Preset {line}" for line in presets.describe(config, PRESETS)),
    ]
    if config.lora.rank:
        lines.append(
            f"LoRA of rank {config.lora.rank}: adapters alone are trained, averaged "
            "and reset. The EMA averages A and B apart, as the authors' code does, and "
            "is not the average of the merged weights; averages of PPO and the initial "
            "policy are of weights, exactly."
        )
    if config.policy.endswith("stories260k"):
        lines.append(
            "The policy may have been trained on the held-out stories: only "
            "differences between policies are readable."
        )
    return tuple(lines)


EXPERIMENT = experiment.Experiment(
    name="sentiment",
    check=check,
    study=make_study,
    announce=announce,
    finish=finish,
    batches=batches,
    export=language.export,
)
main, run = experiment.entry_points(EXPERIMENT, CONFIG, __doc__, PRESETS)
