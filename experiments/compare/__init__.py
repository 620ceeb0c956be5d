"""One front from many runs: which of them gets more reward at less drift?

    python -m experiments.compare runs/rl/a runs/rl/b runs/sentiment/c
    python -m experiments.compare world-0 world-1 --pool --claims sentiment
    python -m experiments.compare game-a game-b --pool --claims pivot_translation
    python -m experiments.compare tax-a tax-b --pool --claims alignment_tax

Reads metrics.jsonl of each run folder and draws a reward–drift front on every drift
axis that all runs measured: front.png, curves.png, results.json and report.md in
--output. Methods of the same name are labelled with their run; with --pool they are one
method, with the seeds of all runs: for a study in several worlds, or one whose seeds
and methods were split over runs. Runs that differ in their reward, policy or data are
drawn but not ranked, and the report begins with the difference; --rank ranks them all
the same. --methods selects the methods to show. Translation games can only be compared
with each other.
"""

import dataclasses
import importlib
import pathlib
import time
from typing import Annotated, NamedTuple

import tyro

from experiments import sentiment
from experiments.compare import differences
from experiments.pivot_translation import methods as game_methods
from experiments.pivot_translation import options as game_flags
from experiments.pivot_translation import sections as game_sections
from experiments.stack_exchange import methods as chat_methods
from rlhf_jax import ranges
from rlhf_jax.benchmarks import suites as benchmarks
from rlhf_jax.cli import command, options
from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.reporting import (
    claims,
    evaluations,
    figure_style,
    plots,
    report,
)
from rlhf_jax.reporting.sections import Section
from rlhf_jax.runtime import metrics_log, provenance, terminal
from rlhf_jax.studies import methods


class Kind(NamedTuple):
    """What runs of one kind measure, and how a report presents it."""

    title: str
    axes: tuple[Axis, ...]
    labels: dict[str, str]
    corner: str  # the flags of `Config` that hold the corners
    sections: tuple[Section, ...]
    panels: tuple = plots.PANELS


POLICY = Kind(
    title="Runs compared: reward against drift",
    axes=(*sentiment.AXES, *sentiment.KINDS),
    labels=methods.LABELS,
    corner="corner",
    sections=sentiment.COMPARISONS,
)
GAME = Kind(
    title="Games compared: German against English",
    axes=game_sections.MEASURED,
    labels=game_methods.LABELS,
    corner="game_corner",
    sections=game_sections.SECTIONS,
    panels=game_sections.PANELS,
)
_GAMES = game_sections.BLEU_EN.key  # measured by games only


@dataclasses.dataclass(frozen=True)
class Config:
    """What to compare, and where to write the report."""

    runs: Annotated[tuple[ranges.Text, ...], tyro.conf.Positional] = ()
    """Run folders."""
    pool: bool = False
    """Treat methods of one name as one method; no two runs may share a seed of it."""
    claims: ranges.Text | None = None
    """Judge the claims that this experiment declared, for instance sentiment."""
    methods: tuple[ranges.Text, ...] = ()
    """Names of the methods to show; by default all. Claims are judged over all."""
    rank: bool = False
    """Say which method leads although the runs differ in reward, policy or data."""
    output: ranges.Text | None = None
    """The report's folder; by default a new one under runs/compare."""
    corner: options.Corner = dataclasses.field(default_factory=options.Corner)
    game_corner: game_flags.Corner = dataclasses.field(
        default_factory=game_flags.Corner
    )


CONFIG = Config()


def main():
    config = command.parse(CONFIG, description=__doc__)
    command.main(lambda: run(config))


def run(config):
    """Compares the runs; returns the folder of the report."""
    console = terminal.console()
    folders = [pathlib.Path(run) for run in config.runs]
    if not folders:
        raise ValueError("name run folders, for instance runs/rl/a runs/rl/b")
    by_run = dict(zip(names(folders), map(read, folders), strict=True))
    if config.pool:
        check_seeds(by_run)
    by_run = selected(by_run, config)
    different = differences.between(folders)
    unranked = differences.why_unranked(config, different)
    kind, reread = kind_of(by_run), reporting(config.claims)
    declarations = () if reread else declared(config.claims)
    records, labels = joined(by_run, pool=config.pool, labels=kind.labels)
    measured = differences.in_units((*kind.axes, *suites(folders)), folders)
    axes = shared_axes(by_run, measured)
    output = made_output(config, folders)
    rows = [
        {**row, "method": _name(name, row["method"], by_run, config.pool)}
        for name, folder in zip(names(folders), folders, strict=True)
        for row in metrics_log.read(folder / "samples.jsonl")
        if not config.methods or row["method"] in config.methods
    ]
    corners = dataclasses.asdict(getattr(config, kind.corner))
    about = report.Report(
        title=kind.title,
        question=__doc__.split("\n\n")[0],
        axes=axes_.with_corners(axes, corners),
        claims=claims.possible(declarations, labels, axes),
        sections=kind.sections,
        labels=labels,
        scope="these runs",
        command=provenance.command(),
        provenance={"commit": provenance.commit(), **provenance.versions()},
        notes=differences.notes(folders, different, config.methods),
        panels=kind.panels,
        unranked=unranked,
    )
    if reread:
        records, changes = reread(records)
        about = dataclasses.replace(about, **changes)
    summary = report.write(output, records, about, rows=rows)
    report.show(summary, about, console=console)
    for path in report.written(output, about.pictures):
        console.print(path, highlight=False, soft_wrap=True)
    return output


def made_output(config, folders):
    """The folder of the report, made. Raises ValueError where it is one of the runs."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    output = pathlib.Path(config.output or f"runs/compare/{now}")
    if output.absolute() in [folder.absolute() for folder in folders]:
        raise ValueError(f"--output {output} is one of the runs: name another folder")
    output.mkdir(parents=True, exist_ok=True)
    return output


def read(folder):
    """The records of a run folder; ValueError if they make no front."""
    if not (folder / "metrics.jsonl").is_file():
        raise ValueError(f"{folder} holds no run: it has no metrics.jsonl")
    records = metrics_log.read(folder / "metrics.jsonl")
    if not evaluations.runs(records):
        raise ValueError(
            f"{folder} measured no reward (eval/reward) after its start: a front shows "
            "reward against drift; compare runs of experiments.rl or .sentiment"
        )
    return records


def selected(by_run, config):
    """The runs with only the chosen methods; runs that have none of them are dropped.

    Raises ValueError for a name that no run has, or if claims are to be judged, because
    leaving methods out could decide them.
    """
    if not config.methods:
        return by_run
    if config.claims:
        raise ValueError(
            "--methods with --claims: a claim is judged over every method that was "
            "run; leave one of the two out"
        )
    known = {row["method"] for rows in by_run.values() for row in rows}
    for name in config.methods:
        if name not in known:
            raise ValueError(
                f"--methods {name}: the runs have {', '.join(sorted(known))}"
            )
    kept = {
        run: [row for row in rows if row["method"] in config.methods]
        for run, rows in by_run.items()
    }
    return {run: rows for run, rows in kept.items() if rows}


def kind_of(by_run):
    """The Kind of all runs. Raises ValueError for games beside runs of one policy."""
    games = [name for name, rows in by_run.items() if any(_GAMES in r for r in rows)]
    others = [name for name in by_run if name not in games]
    if games and others:
        raise ValueError(
            f"{games[0]} is a translation game, whose reward is BLEU, and {others[0]} "
            "is not: compare games with games"
        )
    return GAME if games else POLICY


def names(folders):
    """A name for each folder: the shortest end of its path that no other shares."""
    paths = [folder.absolute() for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError("a run folder is named twice: name each once")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        short = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(short)) == len(short):
            return short
    return short


def check_seeds(by_run):
    """Raises ValueError where two runs hold the same method and unit."""
    owner = {}
    for name, rows in by_run.items():
        for run in {(row["method"], units.of(row)) for row in rows}:
            if owner.setdefault(run, name) != name:
                raise ValueError(
                    f"--pool: {owner[run]} and {name} both hold {run[0]}, world/seed "
                    f"{run[1]}; run one of them with another --first-seed, or world"
                )


def declared(experiment):
    """The claims that an experiment declared before its runs."""
    return getattr(declaring(experiment), "CLAIMS", ())


def reporting(experiment):
    """`as_reported(records) -> (records, fields of a Report)` of an experiment whose
    report is one of its own; None for the others."""
    return getattr(declaring(experiment), "as_reported", None)


def declaring(experiment):
    """The module of an experiment that declares claims, None for None."""
    if experiment is None:
        return None
    try:
        module = importlib.import_module(f"experiments.{experiment}")
    except ImportError:
        module = None
    if not hasattr(module, "CLAIMS"):
        raise ValueError(
            f"--claims {experiment}: no experiment of that name declares claims; "
            "sentiment, alignment_tax, rlaif, pivot_translation and stack_exchange do"
        )
    return module


def joined(by_run, *, pool, labels):
    """(records of all runs, {method: label}).

    Unless pooled, a method that several runs have carries the name of its run.
    """
    records, printed = [], {}
    for run, rows in by_run.items():
        for row in rows:
            method = _name(run, row["method"], by_run, pool)
            records.append({**row, "method": method})
            label = named(row["method"], labels)
            printed[method] = label if method == row["method"] else f"{label}, {run}"
    return records, printed


def named(method, labels):
    """A method's printed name; of a recipe's run also its additions: "grpo_kl"."""
    additions = ""
    for ending, words in (("_elastic_reset", "Elastic Reset"), ("_kl", "KL")):
        if method not in labels and method.endswith(ending):
            method = method.removesuffix(ending)
            additions = f" + {words}{additions}"
    name = figure_style.method_name(method, labels)
    return name + additions.removeprefix(" + KL" * name.endswith(" + KL"))


def _name(run, method, by_run, pool):
    """A method's name in the comparison, with its run's if several runs have it."""
    if pool:
        return method
    owners = [r for r, rows in by_run.items() if method in {x["method"] for x in rows}]
    return method if len(owners) == 1 else f"{method} {run}"


def shared_axes(by_run, known):
    """The known axes without the drift axes that some run did not measure.

    Raises ValueError if fewer than two drift axes are left, because axes can disagree.
    """
    every = [evaluations.runs(rows) for rows in by_run.values()]
    drifts = axes_.drifts(known)
    kept = [a for a in drifts if all(any(r.has(a) for r in rs) for rs in every)]
    if len(kept) < 2:
        keys = ", ".join(axis.key for axis in drifts)
        raise ValueError(
            f"the runs share {len(kept)} drift axes of {keys}, and two are needed: "
            "compare runs that measured the same"
        )
    return tuple(axis for axis in known if axis in kept or axis not in drifts)


def suites(folders):
    """The axes of the --suites that runs of experiments.stack_exchange measured."""
    flags = [flag for f in folders for flag in differences.flags(f).get("suites", ())]
    names = dict.fromkeys(map(benchmarks.suite_name, flags))
    return chat_methods.suite_axes(names)
