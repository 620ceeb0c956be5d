"""Does a better reward model make a better policy, and is more reward a better model?

Lambert & Calandra 2023, "The Alignment Ceiling" (arXiv:2311.00168), say that reward
models, policies and evaluations are tied by assumptions. This is the measurement: PPO
climbs reward models of many sizes, data and labels, best-of-n selects by them, and the
truth of a small world watches. Where do proxy and gold part, which number of a reward
model would have told, and which remedy keeps them together?

    python -m experiments.objective_mismatch             # microworld, minutes, offline
    python -m experiments.objective_mismatch --methods all --worlds 8

A finished run, or a log of anybody's trainer, is audited without training:

    python -m experiments.objective_mismatch --run runs/rl/<time>
    python -m experiments.objective_mismatch --log trainer_state.json --fail-on onset

(`python -m experiments.objective_mismatch.audit --help` has its flags.)

Expected on the microworld: every learned reward goes on rising while gold rises, peaks
and falls; on the truth itself nothing parts.
"""

import dataclasses
import sys

from experiments import sentiment
from experiments.objective_mismatch import links, measures, methods, pictures, sections
from rlhf_jax import ranges
from rlhf_jax.cli import experiment, language, options
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import claims
from rlhf_jax.reporting.claims import Claim
from rlhf_jax.studies import evaluators, tables
from rlhf_jax.studies.interfaces import Method
from rlhf_jax.tasks import microworld as small_world
from rlhf_jax.tasks import reward_families

# The reward that is drawn of every method is the base model's.
REWARD = dataclasses.replace(axes.REWARD, title="Base reward")
MEASURED = (REWARD, *sentiment.AXES, *sentiment.KINDS, *measures.POLICY)
# Declared before any run. The primary endpoint of remedies is the final gold reward;
# what is said of reward models and of curves stands in `links.STATEMENTS`.
PRIMARY = "gold"
FAMILIES = {
    "Ensembles: conservative above mean above one": (
        ("mean", (methods.BASE,), "greater"),
        ("worst", (methods.BASE, "mean"), "greater"),
        ("uncertainty", (methods.BASE, "mean"), "greater"),
    ),
    "Another reward of the same pairs above one model": tuple(
        (name, (methods.BASE,), "greater")
        for name in ("warm", "odin", "length_penalized", "refresh")
    ),
    "A penalty, a reset, a stop or an average above none": tuple(
        (name, (methods.BASE,), "greater")
        for name in ("kl", "chi2", "elastic_reset", "early_stop", "ma50")
    ),
}
_SECONDARY = (
    f"gold_at/{axes.KL_INITIAL.key}",
    f"gold_at/{axes.TEXT_NLL.key}",
    f"hypervolume/{axes.TEXT_NLL.key}",
    *(axis.key for axis in sentiment.AXES),
)
CLAIMS = (
    *(
        Claim(one, others, PRIMARY, kind=kind, family=family)
        for family, items in FAMILIES.items()
        for one, others, kind in items
    ),
    *(
        Claim(name, (methods.BASE,), endpoint, secondary=True)
        for name in methods.REMEDIES
        for endpoint in _SECONDARY
    ),
)


@dataclasses.dataclass(frozen=True)
class Config(sentiment.Config):
    """Everything a run depends on."""

    methods: tuple[ranges.Text, ...] = methods.DEFAULT
    """Rows, or lists of them: models, remedies, algorithms, controls, all."""
    seeds: ranges.Count = 1
    steps: ranges.Count = 60
    """Iterations of every run."""
    num_evals: ranges.Natural = 10
    """Looks at every run after its start."""


CONFIG = Config(rl=options.RL(learning_rate=5e-4, reset_every=20))


def check(config):
    """Raises ValueError for misuse that the flags alone reveal."""
    for flag in ("dataset", "reward", "suites", "other_text"):
        value = getattr(config, flag)
        if value != getattr(CONFIG, flag):
            raise ValueError(
                f"--{flag.replace('_', '-')} {value}: this study is of the microworld, "
                "whose truth is known, and its rows are rewards; to audit a run on "
                "your own texts, give its folder as --run"
            )
    language.check(_expanded(config), methods.METHODS)


def _expanded(config):
    """The flags with lists written out as their rows."""
    names = tables.choose(config.methods, methods.METHODS, methods.LISTS)
    return dataclasses.replace(config, methods=names)


def make_task(config, setting):
    """The task of one world, with a family of reward models."""
    small, layout = config.microworld, setting.layout
    preset = config.policy.removeprefix("scratch:")
    task = small_world.create(small, preset, "train", **setting.of_tasks)
    family = reward_families.create(task, small, layout, methods.specs())
    base, _ = methods.MODELS[methods.BASE]
    given = {"proxy": family[base], "length": measures.length_reward(task, layout)}
    return dataclasses.replace(task, rewards={**task.rewards, **family, **given})


def make_study(config, setting):
    """The study of the chain."""
    config = _expanded(config)
    tasks = sentiment.make_tasks(config, setting, make_task)
    table = methods.METHODS
    study = language.study(config, tasks, table, say=setting.report)
    measured = axes.with_corners(MEASURED, dataclasses.asdict(config.corner))
    chain = evaluators.ByWorld(
        {world: measures.chain(task, table) for world, task in tasks.items()}
    )
    initial = Method("π₀", "the initial policy, and what rewards say of it")
    initial = dataclasses.replace(initial, measure=measures.Rewards(), at_end=True)
    return dataclasses.replace(
        study,
        methods={links.INITIAL: initial, **study.methods},
        evaluators=(*study.evaluators, chain),
        axes=measured,
        claims=claims.possible(CLAIMS, study.methods, measured),
    )


def as_reported(records, axes=MEASURED):
    """(records, what a `Report` of them has) of one run, or of several together.

    Fronts are of the remedies; sections and pictures read every row.
    """
    ran = {record["method"] for record in records}
    shown = set(methods.LISTS["remedies"]) & ran or ran
    about = {
        "title": "Objective mismatch: proxy, gold and what lies between",
        "question": __doc__.split("\n\n")[0],
        "axes": axes,
        "labels": methods.LABELS,
        "claims": claims.possible(CLAIMS, ran, axes),
        "sections": sections.of_records(records),
        "pictures": pictures.of_records(records),
    }
    return [record for record in records if record["method"] in shown], about


def finish(config, done):
    """Writes the report and prints its table; returns the run folder."""
    records, about = as_reported(done.records, done.study.axes)
    experiment.report(
        config,
        done._replace(records=records),
        scope="this microworld and these models",
        notes=(*NOTES, *language.notes(config, done.study)),
        **about,
    )
    return done.folder


NOTES = (
    "The position paper has no experiments and no numbers: nothing here replicates it. "
    "The orderings are those of Gao et al. 2022 (arXiv:2210.10760) and Coste et al. "
    "2023 (arXiv:2310.02743), at another scale.",
    "A unit is a world, with a reward model of each kind; the second run on each model "
    "differs in its sampling key alone. Gold and rewards are in deviations of the "
    "initial policy's samples, gold in tables of endpoints in its own units.",
    "The base reward is that of the medium reward model, whichever one a method "
    "climbed.",
    "The microworld's language has no refusals: over-refusal has no counterpart here.",
)

EXPERIMENT = experiment.Experiment(
    name="objective_mismatch",
    check=check,
    study=make_study,
    announce=sentiment.announce,
    finish=finish,
    batches=sentiment.batches,
    export=language.export,
)
_study, run = experiment.entry_points(EXPERIMENT, CONFIG, __doc__)


def main():
    """The command: a study, or the audit of a --run or a --log."""
    given = {word.partition("=")[0] for word in sys.argv[1:]}
    if given & {"--run", "--log"}:
        from experiments.objective_mismatch import audit

        audit.main()
    else:
        _study()
