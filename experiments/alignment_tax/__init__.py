"""What did alignment make the model forget, and what gives it back for least reward?

Rejection sampling, PPO and DPO start from one model. Every mitigation of Lin et al.
2023 (arXiv:2309.06256) is drawn over its grid, from early stopping and penalties to
plain and heterogeneous averaging of weights, and each is read as one front: reward
against every capability. `--methods` takes families (rsf_ma, l2, lora, ...), single
rows, controls, or all.

    python -m experiments.alignment_tax                 # microworld, minutes, offline
    python -m experiments.alignment_tax --methods all --worlds 15 --seeds 2

Two models that exist already are compared and averaged without training:

    python -m experiments.alignment_tax --before DIR --after DIR --suites PATH ...

(`python -m experiments.alignment_tax.two_models --help` has its flags.)

Expected on the microworld: reward goes up and skills go down beyond what as many
updates on the model's own samples cost; an average that keeps a fifth of the starting
weights returns part of the skills for little reward.
"""

import dataclasses
import sys

from experiments import sentiment
from experiments.alignment_tax import methods, pictures, sections
from rlhf_jax import ranges
from rlhf_jax.cli import experiment, language, options
from rlhf_jax.evaluation import axes
from rlhf_jax.microworld import skills
from rlhf_jax.reporting import claims, families
from rlhf_jax.reporting.claims import Claim
from rlhf_jax.studies import evaluators, forgetting, tables

KINDS = tuple(
    axes.accuracy(f"tax/{kind}", f"{kind.capitalize()}s lost", corner=0.25)
    for kind in skills.KINDS
)
CORNER = options.Corner(skills=0.15)  # about twice what PPO loses
MEASURED = axes.with_corners(
    (axes.SKILLS, axes.TEXT_NLL, *KINDS, *forgetting.PREDICTORS),
    dataclasses.asdict(CORNER),
)
# Declared before any run. The primary endpoint is the reward at matched capability,
# over the range of skills lost that both fronts of a pair reach.
PRIMARY = f"reward_at/{axes.SKILLS.key}"
ORDERINGS = {
    "MA above what trains on the same texts": (
        "distilled_ma",
        ("distilled_early", "l1", "l2", "kd", "lora", "replay"),
    ),
    "MA above early stopping and SMA, RSF": ("rsf_ma", ("rsf_early", "rsf_sma")),
    "MA above the KL penalty, early stopping and SMA, PPO": (
        "ppo_ma",
        ("ppo_kl", "ppo_early", "ppo_sma"),
    ),
    "HMA above MA, RSF": ("rsf_hma", ("rsf_ma",)),
    "HMA above MA, PPO": ("ppo_hma", ("ppo_ma",)),
    "HMA above MA, DPO": ("dpo_hma", ("dpo_ma",)),
    "K = 3 above K = 2": ("rsf_hma", ("rsf_hma_2",)),
    "The input third above the output third, RSF": (
        "rsf_ma_input",
        ("rsf_ma_output",),
    ),
    "The input third above the output third, DPO": (
        "dpo_ma_input",
        ("dpo_ma_output",),
    ),
}
_SECONDARY = (
    *(f"reward_at/{axis.key}" for axis in KINDS),
    f"gold_at/{axes.SKILLS.key}",
    f"hypervolume/{axes.SKILLS.key}",
    f"reward_at/{axes.TEXT_NLL.key}",
)
CLAIMS = (
    *(Claim(m, others, PRIMARY, family=f) for f, (m, others) in ORDERINGS.items()),
    *(
        Claim(m, others, endpoint, secondary=True)
        for m, others in ORDERINGS.values()
        for endpoint in _SECONDARY
    ),
)


@dataclasses.dataclass(frozen=True)
class Config(sentiment.Config):
    """Everything a run depends on."""

    policy: ranges.Text = "scratch:thin"
    """scratch:<preset> to pretrain one here, a model directory, or a hub name."""
    methods: tuple[ranges.Text, ...] = methods.DEFAULT
    """Families of settings, single methods, controls, hma_controls, or all."""
    num_evals: ranges.Natural = 4
    """Looks at every run that is read along its way, as many as a knob has settings."""


CONFIG = Config(rl=options.RL(candidates=8), corner=CORNER)


def check(config):
    """Raises ValueError for misuse that the flags alone reveal."""
    sentiment.check_worlds(config)
    language.check(_expanded(config), methods.METHODS)


def _expanded(config):
    """The flags with families written out as their rows."""
    names = tables.choose(config.methods, methods.METHODS, methods.LISTS)
    return dataclasses.replace(config, methods=names)


def make_study(config, setting):
    """The study of all settings, measured with what is said to predict forgetting."""
    config = _expanded(config)
    tasks = sentiment.make_tasks(config, setting)
    study = language.study(config, tasks, methods.METHODS, say=setting.report)
    measured = axes.with_corners(MEASURED, dataclasses.asdict(config.corner))
    predictors = evaluators.ByWorld(
        {world: forgetting.evaluator(task) for world, task in tasks.items()}
    )
    return dataclasses.replace(
        study, axes=measured, evaluators=(*study.evaluators, predictors)
    )


def as_reported(records, axes=MEASURED):
    """(records of families, what a `Report` of them has) of the records of settings.

    A family is read where all of its settings were run.
    """
    ran = {record["method"] for record in records}
    found = {
        name: family
        for name, family in methods.FAMILIES.items()
        if ran.issuperset(family.members)
    }
    about = {
        "title": "The alignment tax: capability against reward",
        "question": __doc__.split("\n\n")[0],
        "axes": axes,
        "labels": {name: family.label for name, family in found.items()},
        "claims": claims.possible(CLAIMS, found, axes),
        "sections": (
            families.section(found),
            *sections.of_settings(records, axes),
        ),
        "pictures": pictures.of_settings(records, axes),
        "final_policies": False,
    }
    return families.records(records, found), about


def finish(config, done):
    """Writes the report about families; returns the run folder."""
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
    "A family is the settings of one knob, read from the strongest to none as the "
    "looks of a run; an early stop is read along its run.",
    "Mitigations that train (penalties, replay, distillation, LoRA) learn from π₀ the "
    "texts that RSF selected, as in the paper: their end point is SFT on these texts.",
    "Weights are on the aligned policy: 0.8 keeps 20% of the starting weights. MA and "
    "HMA of one aligner average norms and embeddings too, at the mean ratio.",
    "The grids of strengths were set on worlds 900 and 901.",
)

EXPERIMENT = experiment.Experiment(
    name="alignment_tax",
    check=check,
    study=make_study,
    announce=sentiment.announce,
    finish=finish,
    batches=sentiment.batches,
    export=language.export,
)
_study, run = experiment.entry_points(EXPERIMENT, CONFIG, __doc__)


def main():
    """The command: a study, or the comparison of --before and --after."""
    given = {word.partition("=")[0] for word in sys.argv[1:]}
    if given & {"--before", "--after"}:
        from experiments.alignment_tax import two_models

        two_models.main()
    else:
        _study()
