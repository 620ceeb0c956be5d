"""One front from many runs: which of them gets more reward at less drift?

    python -m experiments.compare runs/rl/a runs/rl/b runs/sentiment/c
    python -m experiments.compare world-0 world-1 --pool --claims sentiment
    python -m experiments.compare game-a game-b --pool --claims pivot_translation

Reads the metrics.jsonl of each run folder and draws one reward–drift front on every
drift axis that all of them measured: front.png, curves.png, results.json and report.md
in --output. Methods of the same name are told apart by their run; with --pool they are
one method, whose seeds are those of all runs: a study in several worlds, or one whose
seeds and methods were shared out. Rewards of different reward models are not on one
scale: then the page says so. --methods shows some of many. Translation games are
compared with each other.
"""

import dataclasses
import importlib
import json
import pathlib
import time
from collections.abc import Callable
from typing import Annotated, NamedTuple

import rich.console
import tyro

from experiments.pivot_translation import methods as game_methods
from experiments.pivot_translation import options as game_flags
from experiments.pivot_translation import page as game_page
from experiments.sentiment import ablations
from rlhf_jax.cli import command, options
from rlhf_jax.reporting import canvas, claims, report, results
from rlhf_jax.runtime import metrics_log
from rlhf_jax.studies import methods


class Kind(NamedTuple):
    """What runs of one kind measure, and how a page says it."""

    axes: tuple[str, ...]
    labels: dict[str, str]
    corners: Callable  # (Config, records) -> {axis: (drift, reward)}
    names: dict[str, tuple] = {}  # of metrics, as in canvas.LABELS
    page: dict = {}  # fields of report.Study
    paragraphs: Callable = lambda records, rows, labels: ()
    gates: Callable = lambda records: ()  # controls, as in `report.write`


POLICY = Kind(
    axes=("drift/text_nll", "drift/kl_initial", "tax/skills"),
    labels=methods.LABELS,
    corners=lambda config, records: options.corners(config.corner, records),
    page={
        "title": "Runs compared: reward against drift",
        "contrasts": ablations.CONTRASTS,
        "recovery": ("elastic_reset", "reset_to_initial"),
    },
)
GAME = Kind(
    axes=game_page.AXES,
    labels=game_methods.LABELS,
    corners=lambda config, records: game_flags.corners(config.game_corner, records),
    names=game_page.NAMES,
    page={
        "title": "Games compared: German against English",
        "panels": game_page.PANELS,
    },
    paragraphs=game_page.paragraphs,
    gates=game_page.gates,
)
_GAMES = "drift/bleu_en"  # what no other kind of run measures


@dataclasses.dataclass(frozen=True)
class Config:
    """What is compared, and where the page goes."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Run folders."""
    pool: bool = False
    """Methods of one name are one method; no two runs may share a seed of it."""
    claims: str | None = None
    """The experiment whose declared claims are judged, for instance sentiment."""
    methods: tuple[str, ...] = ()
    """Names of the methods to show; by default all. Claims are judged over all."""
    output: str | None = None
    """A folder for the page; by default a new one under runs/compare."""
    corner: options.Corner = dataclasses.field(default_factory=options.Corner)
    game_corner: game_flags.Corner = dataclasses.field(
        default_factory=game_flags.Corner
    )


CONFIG = Config()


def main():
    config = command.parse(CONFIG, description=__doc__)
    command.main(lambda: run(config))


def run(config):
    """The whole comparison; returns the folder of the page."""
    console = rich.console.Console()
    folders = [pathlib.Path(run) for run in config.runs]
    if not folders:
        raise ValueError("name run folders, for instance runs/rl/a runs/rl/b")
    found = {name: read(folder) for name, folder in zip(
        names(folders), folders, strict=True
    )}  # fmt: skip
    if config.pool:
        check_seeds(found)
    found = selected(found, config)
    kind, declarations = kind_of(found), declared(config.claims)
    records, labels = joined(found, pool=config.pool, labels=kind.labels)
    axes = shared_axes(found, kind.axes)
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    place = pathlib.Path(config.output or f"runs/compare/{now}")
    if place.absolute() in [folder.absolute() for folder in folders]:
        raise ValueError(f"--output {place} is one of the runs: name another folder")
    place.mkdir(parents=True, exist_ok=True)
    rows = [
        {**row, "method": _name(name, row["method"], found, config.pool)}
        for name, folder in zip(names(folders), folders, strict=True)
        for row in metrics_log.read(folder / "samples.jsonl")
        if not config.methods or row["method"] in config.methods
    ]
    corners = kind.corners(config, records)
    with canvas.naming(kind.names):
        about = report.Study(
            question=__doc__.split("\n\n")[0],
            axes=axes,
            corners={axis: corners[axis] for axis in axes if axis in corners},
            claims=claims.possible(declarations, labels, axes),
            labels=labels,
            place="these runs",
            command=command.command(),
            provenance={"commit": command.commit(), **command.versions()},
            notes=notes(folders, config.methods),
            extra=kind.paragraphs(records, rows, labels),
            **kind.page,
        )
        summary = report.write(
            place, records, about, rows=rows, controls=kind.gates(records)
        )
        report.show(summary, labels=labels, console=console)
    for name in ("front.png", "curves.png", "report.md", "results.json"):
        console.print(str(place / name), highlight=False, soft_wrap=True)
    return place


def read(folder):
    """The records of a run folder that can stand on a front."""
    if not (folder / "metrics.jsonl").is_file():
        raise ValueError(f"{folder} holds no run: it has no metrics.jsonl")
    records = metrics_log.read(folder / "metrics.jsonl")
    if not results.runs(records):
        raise ValueError(
            f"{folder} measured no reward (eval/reward) after its start: a front is of "
            "reward against drift; compare runs of experiments.rl or .sentiment"
        )
    return records


def selected(found, config):
    """The runs with the methods asked for alone, those that have any.

    Raises ValueError for a name that no run has, and where claims are to be judged:
    which methods are left out would decide them.
    """
    if not config.methods:
        return found
    if config.claims:
        raise ValueError(
            "--methods with --claims: a claim is judged over every method that was "
            "run; leave one of the two out"
        )
    known = {row["method"] for rows in found.values() for row in rows}
    for name in config.methods:
        if name not in known:
            raise ValueError(
                f"--methods {name}: the runs have {', '.join(sorted(known))}"
            )
    kept = {
        run: [row for row in rows if row["method"] in config.methods]
        for run, rows in found.items()
    }
    return {run: rows for run, rows in kept.items() if rows}


def kind_of(found):
    """The Kind of all runs. Raises ValueError for games beside runs of one policy."""
    games = [name for name, rows in found.items() if any(_GAMES in r for r in rows)]
    others = [name for name in found if name not in games]
    if games and others:
        raise ValueError(
            f"{games[0]} is a translation game, whose reward is BLEU, and {others[0]} "
            "is not: compare games with games"
        )
    return GAME if games else POLICY


def names(folders):
    """A name for each folder: as much of its end as tells it from the others."""
    paths = [folder.absolute() for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError("a run folder is named twice: name each once")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        short = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(short)) == len(short):
            return short
    return short


def check_seeds(found):
    """Raises ValueError where two runs hold the same method and seed."""
    owner = {}
    for name, rows in found.items():
        for method, seed in {(row["method"], row["seed"]) for row in rows}:
            if owner.setdefault((method, seed), name) != name:
                raise ValueError(
                    f"--pool: {owner[method, seed]} and {name} both hold {method}, "
                    f"seed {seed}; run one of them with another --first-seed"
                )


def declared(experiment):
    """The claims that an experiment declared before its runs."""
    if experiment is None:
        return ()
    try:
        return importlib.import_module(f"experiments.{experiment}").CLAIMS
    except (ImportError, AttributeError):
        raise ValueError(
            f"--claims {experiment}: no experiment of that name declares claims; "
            "sentiment, pivot_translation and stack_exchange do"
        ) from None


def joined(found, *, pool, labels):
    """(records of all runs, {method: label}); equal methods bear their run's name,
    unless they are pooled."""
    records, told = [], {}
    for run, rows in found.items():
        for row in rows:
            method = _name(run, row["method"], found, pool)
            records.append({**row, "method": method})
            label = canvas.method_name(row["method"], labels)
            told[method] = label if method == row["method"] else f"{label}, {run}"
    return records, told


def _name(run, method, found, pool):
    """A method's name in the comparison: with its run where others have one too."""
    if pool:
        return method
    having = [
        r for r, rows in found.items() if any(x["method"] == method for x in rows)
    ]
    return method if len(having) == 1 else f"{method} {run}"


def shared_axes(found, known):
    """The drift axes that every run measured; two at least, for axes can disagree."""
    every = [results.runs(rows) for rows in found.values()]
    axes = tuple(a for a in known if all(any(r.has(a) for r in rs) for rs in every))
    if len(axes) < 2:
        raise ValueError(
            f"the runs share {len(axes)} drift axes of {', '.join(known)}, and two "
            "are needed: compare runs that measured the same"
        )
    return axes


def notes(folders, shown=()):
    """What a reader must know to disbelieve the comparison.

    shown: the methods that were picked out of the runs, if any were.
    """
    asked = {}
    for folder in folders:
        file = folder / "config.json"
        said = json.loads(file.read_text())["config"] if file.is_file() else {}
        for name in ("reward", "policy", "dataset"):
            asked.setdefault(name, {})[str(folder)] = said.get(name, "unknown")
    lines = [
        f"The runs differ in {name}: "
        + "; ".join(f"{folder}: {value}" for folder, value in by_run.items())
        + ("; rewards are not on one scale." if name == "reward" else ".")
        for name, by_run in asked.items()
        if len(set(by_run.values())) > 1
    ]
    now = time.strftime("%Y-%m-%d")
    if shown:
        lines.append(f"Of the runs' methods these alone are shown: {', '.join(shown)}.")
    return (f"Read on {now} from {', '.join(map(str, folders))}.", *lines)


if __name__ == "__main__":
    main()
