"""Can a language model's feedback take the place of people's?

Lee et al. 2023, "RLAIF vs. RLHF" (arXiv:2309.00267). All policies start from one model
and are trained by REINFORCE with a learned baseline for as long; they differ in whose
feedback pays: people's (RLHF), a larger language model's (RLAIF), that of the initial
policy itself (same-size RLAIF), or its ratings without a reward model (d-RLAIF).
People who are no labelers judge who wins.

    python -m experiments.rlaif                       # microworld, minutes, offline
    python -m experiments.rlaif --methods all --worlds 15

What a labeler was asked, what that cost and how much it looks at positions is read from
its ledger:

    python -m experiments.rlaif --ledger runs/label/<time>/ledger.sqlite

Expected on the microworld: every kind of feedback beats the initial policy, the
labelers' win rates by people's verdict stay below RLHF's, since critics like other
things than people do.
"""

import dataclasses
import sys
from typing import Literal

from experiments import sentiment
from experiments.rlaif import measures, methods, orderings, pictures, sections
from rlhf_jax import ranges
from rlhf_jax.cli import experiment, language, options
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import claims
from rlhf_jax.reporting.claims import Claim
from rlhf_jax.studies import evaluators, tables
from rlhf_jax.tasks import ai_feedback, labelers

# Rewards differ between methods: that of people's labels is drawn for all of them.
REWARD = dataclasses.replace(axes.REWARD, title="Reward of people's labels")
MEASURED = (
    REWARD,
    *sentiment.AXES,
    *sentiment.KINDS,
    *measures.POLICY,
    *orderings.AXES,
)
# Declared before any run. The primary endpoint is the final win rate against the
# initial policy, by the people's verdict; every family is an item of the checklist.
PRIMARY = measures.PRIMARY_KEY
FAMILIES = {
    "AI feedback is as good as people's": (("rlaif", ("rlhf",), "equal"),),
    "Feedback beats supervised fine-tuning": (
        ("rlhf", ("sft",), "greater"),
        ("rlaif", ("sft",), "greater"),
        ("rlaif_same", ("sft",), "greater"),
        ("d_rlaif", ("sft",), "greater"),
    ),
    "Direct feedback beats a reward model of the same labeler": (
        ("d_rlaif", ("rlaif_same",), "greater"),
    ),
    "Better labels make better policies": (
        ("rlaif", ("rlaif_same", "rlaif_one_order"), "greater"),
    ),
    "A labeler's labels add nothing to people's": (("rlhf_rlaif", ("rlhf",), "equal"),),
}
_SECONDARY = (
    *(axis.key for axis in measures.POLICY if axis.key != PRIMARY),
    "gold",
    "reward",
    *(axis.key for axis in sentiment.AXES),
)
_PAIRS = (
    ("rlaif", ("rlhf", "rlaif_same", "rlaif_one_order", "rlhf_many")),
    ("d_rlaif", ("rlaif_same", "rlhf", "d_rlaif_large")),
    ("online_dpo", ("rlaif_same", "d_rlaif")),
)
CLAIMS = (
    *(
        Claim(one, others, PRIMARY, kind=kind, family=family)
        for family, items in FAMILIES.items()
        for one, others, kind in items
    ),
    *(
        Claim(one, others, endpoint, secondary=True)
        for one, others in _PAIRS
        for endpoint in _SECONDARY
    ),
)


@dataclasses.dataclass(frozen=True)
class Config(sentiment.Config):
    """Everything a run depends on."""

    methods: tuple[ranges.Text, ...] = methods.DEFAULT
    algorithm: Literal["reinforce", "ppo", "grpo"] = "reinforce"
    """What trains the policies; REINFORCE with a learned baseline is the paper's."""
    seeds: ranges.Count = 1
    steps: ranges.Count = 60
    """Iterations of every run."""
    num_evals: ranges.Natural = 6
    """Evaluations of every method after its start."""
    judging: labelers.Config = dataclasses.field(default_factory=labelers.Config)


CONFIG = Config(rl=options.RL(learning_rate=5e-4))


def check(config):
    """Raises ValueError for misuse that the flags alone reveal."""
    for flag in ("dataset", "reward", "suites", "other_text"):
        value = getattr(config, flag)
        if value != getattr(CONFIG, flag):
            raise ValueError(
                f"--{flag.replace('_', '-')} {value}: this study is of the microworld, "
                "and its arms are rewards; to train on a labeler's ratings of your own "
                "texts, use experiments.rl --reward ai:..."
            )
    language.check(config, methods.table(config.algorithm))


def make_task(config, setting):
    """The task of one world, with labelers, their rewards and judges."""
    preset, small = config.policy.removeprefix("scratch:"), config.microworld
    return ai_feedback.create(small, preset, config.judging, **setting.of_tasks)


def make_study(config, setting):
    """The study of whose feedback pays."""
    tasks = sentiment.make_tasks(config, setting, make_task)
    table = methods.table(config.algorithm)
    study = language.study(config, tasks, table, say=setting.report)
    measured = axes.with_corners(MEASURED, dataclasses.asdict(config.corner))

    def by_world(make):
        return evaluators.ByWorld({world: make(task) for world, task in tasks.items()})

    models = by_world(lambda task: measures.learned_from(task, table))
    return dataclasses.replace(
        study,
        axes=measured,
        at_start=(*study.at_start, by_world(measures.labelers)),
        at_end=(*study.at_end, models),
        claims=claims.possible(CLAIMS, study.methods, measured),
    )


def as_reported(records, axes=MEASURED):
    """(records, what a `Report` of them has) of one run, or of several together."""
    rows = methods.table()
    ran = {record["method"] for record in records}
    return records, {
        "title": "AI feedback: reward against drift, and who wins",
        "question": __doc__.split("\n\n")[0],
        "axes": axes,
        "labels": tables.labels(rows),
        "claims": claims.possible(CLAIMS, ran, axes),
        "sections": sections.SECTIONS,
        "pictures": pictures.OF_REPORT,
    }


def finish(config, done):
    """Writes the report and prints its table; returns the run folder."""
    matches = sections.of_matches(sections.matches(done))
    _, about = as_reported(done.records, done.study.axes)
    experiment.report(
        config,
        done,
        scope="this microworld and these models",
        **(about | {"sections": (matches, *about["sections"])}),
        notes=(*NOTES, *language.notes(config, done.study)),
    )
    return done.folder


NOTES = (
    "Labelers and the judge are language models that read a prompt; they learned from "
    "critics whose weights and biases are not those of the people who judge.",
    "The labeler of the policy's size is the initial policy itself.",
    "Final win rates are by the people's verdict without its noise, beside those of a "
    "second population and of a language model that labeled nothing.",
    "The objective is the paper's, (1 − β)·r − β·KL with β = 0.05, up to its scale; "
    "all rewards have mean 0 and deviation 1 on samples of the initial policy.",
    "The reward that is drawn is that of the model of people's labels, whoever paid.",
)

EXPERIMENT = experiment.Experiment(
    name="rlaif",
    check=check,
    study=make_study,
    announce=sentiment.announce,
    finish=finish,
    batches=sentiment.batches,
    export=language.export,
)
_study, run = experiment.entry_points(EXPERIMENT, CONFIG, __doc__)


def main():
    """The command: a study, or what a --ledger says."""
    if "--ledger" in {word.partition("=")[0] for word in sys.argv[1:]}:
        from experiments.rlaif import spent

        spent.main()
    else:
        _study()
