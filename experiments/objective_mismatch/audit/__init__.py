"""Do proxy and gold part in a run that exists already, and what gave a warning?

    python -m experiments.objective_mismatch --run runs/sentiment/<time>
    python -m experiments.objective_mismatch --log trainer_state.json
    python -m experiments.objective_mismatch --log log.jsonl \\
        --columns step=iteration proxy=reward gold=human kl=kl length=tokens
    python -m experiments.objective_mismatch --log tensorboard/ --fail-on onset

A log is JSON lines, CSV, TRL's trainer_state.json, or TensorBoard's event files, as
they are or gzipped. Columns that are not named are those that trainers are known to
write; which were found is printed. What can be a role: step, run (to tell runs in one
file apart), proxy, gold, error (of gold), kl, length, entropy, duplicates, spread.

report.md says where gold begins to fall while the proxy rises, how the two correlate,
what choosing a checkpoint by the proxy costs, which form gold follows in √KL, what
length explains, and which monitors that see no gold gave an alarm; audit.png draws it;
results.json has the numbers. Without gold, only such alarms can be seen.

--fail-on onset, or alarm, exits with status 3 where there is one, for CI.
"""

import dataclasses
import pathlib
import sys
import time
from typing import Literal

from experiments.objective_mismatch.audit import (
    logs,
    measures,
    monitors,
    page,
    picture,
    runs,
    series,
    verdicts,
)
from rlhf_jax import ranges
from rlhf_jax.cli import command, experiment, options
from rlhf_jax.runtime import files, provenance

FAILED = 3  # the exit status
RESULTS, PAGE, PICTURE = "results.json", "report.md", "audit.png"


@dataclasses.dataclass(frozen=True)
class Config:
    """What to audit, and what counts as a decline or an alarm."""

    run: tuple[ranges.Text, ...] = ()
    """Folders of finished runs of this package."""
    log: tuple[ranges.Text, ...] = ()
    """Logs of any trainer: files, or folders of event files or checkpoints."""
    columns: tuple[ranges.Text, ...] = ()
    """ROLE=COLUMN each, in place of the columns that are known."""
    methods: tuple[ranges.Text, ...] = ()
    """Of --run, those to audit; all by default."""
    controls: tuple[ranges.Text, ...] = ()
    """Logs or run folders without hacking: thresholds are set so that at most a tenth
    of their series alarms."""
    gold_error: ranges.Positive | None = None
    """Standard error of gold at a step; by default the log's, or its scatter."""
    drop: ranges.Positive = measures.DROP
    """Standard errors below its best that gold falls, twice in a row, in a decline."""
    penalties: tuple[ranges.Positive, ...] = (0.25, 0.5)
    """Checkpoints are also chosen by proxy − β·KL, β so large that the penalty's range
    is this share of the proxy's."""
    threshold: ranges.Positive = monitors.THRESHOLD
    """Deviations that a monitor's CUSUM may reach, without controls."""
    fail_on: Literal["never", "onset", "alarm"] = "never"
    """Exit with status 3 where a series has one."""
    output: ranges.Text | None = None
    """The report's folder; by default a new one under runs/objective_mismatch."""


CONFIG = Config()


def main():
    """The command."""
    config = command.parse(CONFIG, description=__doc__)
    done = []
    command.main(lambda: done.append(run(config)))
    reason = failure(config, done[0]["series"])
    if reason:
        print(reason, file=sys.stderr)
        sys.exit(FAILED)


def run(config, *, console=None):
    """Reads, measures and reports; returns what results.json holds.

    Raises ValueError where nothing can be read, or where --fail-on asks for what these
    logs cannot show.
    """
    if not config.run and not config.log:
        raise ValueError("--run or --log is needed: what is to be audited")
    options.check(config)
    console = command.console() if console is None else console
    asked = series.parse(config.columns)
    found, notes = read(config, asked)
    experiment.say(console, page.announced(found, notes))
    calm = [one for path in config.controls for one in _any(path, asked)]
    measured = [
        measures.of(
            one,
            error=config.gold_error,
            drop=config.drop,
            penalties=config.penalties,
            threshold=config.threshold,
            controls=calm,
        )
        for one in found
    ]
    _check_failable(config, measured)
    results = {
        "series": measured,
        "notes": notes,
        "controls": len(calm),
        "about": _about(config),
    }
    folder = _folder(config)
    files.write_json(folder / RESULTS, results)
    picture.draw(found, measured, folder / PICTURE)
    files.write(folder / PAGE, page.page(results, PICTURE))
    experiment.say(console, page.said(results))
    experiment.say(console, [str(folder / x) for x in (PAGE, PICTURE, RESULTS)])
    return results


def read(config, asked):
    """(the series of --run and --log, notes on what was left out).

    asked: {role: column}, of `series.parse`.
    """
    found, notes = [], []
    for folder in config.run:
        own, said = runs.read(folder, config.methods, asked)
        found, notes = found + own, notes + said
    for path in config.log:
        found += _of_log(path, asked)
    return found, notes


def failure(config, measured):
    """The line that says why --fail-on fails, None where it does not.

    measured: the dictionaries of `measures.of`.
    """
    if config.fail_on == "onset":
        parted = [one["name"] for one in measured if one["onset"] is not None]
        said = "proxy and gold part in"
    elif config.fail_on == "alarm":
        parted = [one["name"] for one in measured if verdicts.first_alarm(one)]
        said = "a monitor gave an alarm in"
    else:
        return None
    if not parted:
        return None
    return f"--fail-on {config.fail_on}: {said} {', '.join(parted)}"


def _check_failable(config, measured):
    """Raises ValueError where --fail-on could not fail, whatever the run did."""
    if config.fail_on == "onset" and not any(one["gold"] for one in measured):
        raise ValueError(
            "--fail-on onset: no series has gold, so that no onset can be seen; name "
            "its column with --columns gold=COLUMN, or use --fail-on alarm"
        )
    if config.fail_on == "alarm" and not any(one["alarms"] for one in measured):
        raise ValueError(
            "--fail-on alarm: nothing that could give one was logged often enough; "
            f"name columns for {', '.join(('kl', *list(monitors.MONITORS)[:-1]))}"
        )


def _of_log(path, asked):
    """The series of a log, each named by where it stands."""
    tables = logs.read(path)
    root = pathlib.Path(path)
    found = []
    for table in tables:
        inside = pathlib.Path(table.source)
        name = root.name if len(tables) == 1 else str(inside.relative_to(root))
        found += series.build(table, asked, name)
    return found


def _any(path, asked):
    """The series of a control: a run folder of this package, or a log."""
    if (pathlib.Path(path) / "metrics.jsonl").exists():
        return runs.read(path, (), asked)[0]
    return _of_log(path, asked)


def _about(config):
    return {
        "command": provenance.command(),
        "config": provenance.to_json(config),
        "date": time.strftime("%Y-%m-%d"),
        "commit": provenance.commit(),
        **provenance.versions(),
    }


def _folder(config):
    """A folder for the report that holds none yet."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    folder = pathlib.Path(config.output or f"runs/objective_mismatch/{now}")
    if (folder / RESULTS).exists():
        raise ValueError(
            f"--output {folder} holds results already: name another folder"
        )
    return folder
