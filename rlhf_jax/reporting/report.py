"""report.md: the results of a run, with what a sceptical reader needs to check them.

It says what was asked, what came out on every axis, where the axes disagree, what was
declared beforehand, what each run did and what it cost, and shows unselected samples.
"""

import dataclasses
import pathlib
import textwrap
from collections.abc import Callable, Mapping
from typing import NamedTuple

import rich.box
import rich.table
import rich.text

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.reporting import (
    claims,
    dots,
    endpoints,
    evaluations,
    figure_style,
    markdown,
    plots,
    ranking,
    results,
    sections,
    verdicts,
)
from rlhf_jax.reporting.claims import Claim
from rlhf_jax.reporting.sections import Evidence, Section
from rlhf_jax.runtime import files, terminal

AXES = (axes_.TEXT_NLL, axes_.KL_INITIAL, axes_.SKILLS)


class Picture(NamedTuple):
    """A picture of a report."""

    title: str
    file: str
    draw: Callable  # (records, path, report): writes the file


def _front(records, path, report):
    shown = {"rewards": report.rewards, "labels": report.labels}
    plots.front(records, report.drifts, path, **shown)


def _curves(records, path, report):
    known = axes_.by_key(report.axes)
    panels = [[known.get(axis.key, axis) for axis in axes] for axes in report.panels]
    plots.curves(records, path, labels=report.labels, panels=panels)


PICTURES = (
    Picture("Reward against drift", "front.png", _front),
    Picture("Training curves", "curves.png", _curves),
)


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report says besides its numbers. Claims are declared before the run."""

    title: str
    question: str = ""
    axes: tuple[Axis, ...] = AXES  # those with a corner are drift axes
    claims: tuple[Claim, ...] = ()
    sections: tuple[Section, ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    scope: str = "this microworld and these models"  # what the numbers hold for
    command: str = ""
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()  # deviations, cut trials, shared pretraining
    panels: tuple[tuple[Axis, ...], ...] = plots.PANELS  # of curves.png, as `axes` say
    pictures: tuple[Picture, ...] = PICTURES
    final_policies: bool = True  # False: methods do not differ in them
    unranked: str = ""  # why no method is said to lead, where none is

    def __post_init__(self):
        axes_.by_key(self.axes)
        claims.check(self.claims, self.axes)
        for section in self.sections:
            if section.after not in sections.AFTER:
                raise ValueError(
                    f"section {section.key!r} stands after {section.after!r}: choose "
                    f"from {', '.join(sections.AFTER)}"
                )

    @property
    def drifts(self):
        """The axes that reward is plotted against."""
        return axes_.drifts(self.axes)

    @property
    def rewards(self):
        """The axes of the proxy reward and of the gold reward."""
        return axes_.rewards(self.axes)

    def axis(self, key):
        """The Axis of a key."""
        return axes_.find(key, self.axes)

    def endpoint(self, name):
        """The `endpoints.Endpoint` of a name."""
        return endpoints.parse(name, self.axes)

    def name(self, method):
        """The printed name of a method."""
        return figure_style.method_name(method, self.labels)


def write(run_dir, records, report, *, rows=(), budget=None, wall=None):
    """Writes the pictures, results.json and report.md; returns the results.

    Pictures are those of the report and, where claims were judged, differences.png.

    Args:
      run_dir: the run folder; each file is written atomically.
      records: dictionaries as in metrics.jsonl.
      rows: dictionaries as in samples.jsonl.
      budget: {method: {"tokens", "gradient_steps", "reward_calls", "wall_seconds"}},
        of all units; from `budget/*` and `time/iteration` of the records when None.
      wall: seconds the whole run took.
    """
    run_dir, runs = pathlib.Path(run_dir), evaluations.runs(records)
    report = _measured(report, runs)
    claims.check(report.claims, report.axes, len({run.unit.world for run in runs}))
    summary = results.summarize(records, axes=report.axes, wall_seconds=wall)
    findings = claims.judge(report.claims, runs, axes=report.axes)
    summary["axes"] = [dataclasses.asdict(axis) for axis in report.axes]
    summary["verdicts"] = [claims.row(finding) for finding in findings]
    evidence = Evidence(records, rows, summary, findings, report)
    for section in report.sections:
        if section.compute is not None:
            summary[section.key] = section.compute(evidence)
    summary["budget"] = spent(records) if budget is None else budget
    files.write_json(run_dir / "results.json", summary)
    draw(run_dir, records, report)
    dots.differences(findings, run_dir / "differences.png", report)
    files.write(run_dir / "report.md", render(evidence))
    return summary


def written(run_dir, pictures=PICTURES):
    """What `write` left there for a reader: pictures, the page, the numbers."""
    names = [picture.file for picture in pictures]
    names += ["differences.png", "report.md", "results.json"]
    paths = (pathlib.Path(run_dir) / name for name in names)
    return [str(path) for path in paths if path.exists()]


def draw(run_dir, records, report):
    """Writes the pictures of the report."""
    for picture in report.pictures:
        picture.draw(records, pathlib.Path(run_dir) / picture.file, report)


def render(evidence):
    """The text of report.md."""
    _, rows, summary, findings, report = evidence
    parts = [
        f"# {report.title}",
        f"**{answer(evidence)}**",
        report.question,
        *(f"![{picture.title}]({picture.file})" for picture in report.pictures),
        *sections.outcome(summary, report),
        *_after("results", evidence),
        *ranking.section(summary, report),
        *verdicts.paragraphs(summary, findings, report),
        *_after("verdicts", evidence),
        *sections.one_by_one(summary, report),
        *sections.budget(summary, report),
        *_after("budget", evidence),
        *sections.unselected(rows, report),
        *sections.provenance(summary, report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _after(name, evidence):
    """The paragraphs of the report's sections that are placed after `name`."""
    for section in evidence.report.sections:
        if section.after == name:
            yield from section.render(evidence.summary.get(section.key), evidence)


def answer(evidence):
    """One sentence: where, over how many worlds, what, on which axis."""
    _, _, summary, findings, report = evidence
    leaders = ranking.headline(summary, report)
    tested = [
        f
        for f in findings
        if f.verdict and f.verdict.word != "no test" and not f.claim.secondary
    ]
    start = f"On {report.scope}, over {markdown.units(summary)}"
    if not tested:
        return f"{start} and so without a test, {leaders}."
    return f"{start}, {verdicts.answer(tested[0], report)}; {leaders}."


def spent(records):
    """{method: budget} over all units, from what the records hold.

    `budget/*` counts up within a run, so its largest value is taken; `time/iteration`
    is summed.
    """
    counters, result = {}, {}
    for record in records:
        run = record["method"], units.of(record)
        for name in ("tokens", "gradient_steps", "reward_calls"):
            value = record.get(f"budget/{name}")
            if value is not None:
                key = (*run, name)
                counters[key] = max(counters.get(key, 0), value)
        if "time/iteration" in record:
            key = (*run, "wall_seconds")
            counters[key] = counters.get(key, 0.0) + record["time/iteration"]
    for (method, _, name), value in counters.items():
        budget = result.setdefault(method, {})
        budget[name] = budget.get(name, 0) + value
    return result


def show(summary, report, *, console=None):
    """Prints the results as a table: means, with their intervals below.

    The final policies, or what fronts cover where these are not what methods differ in.
    """
    what = sections.overview if report.final_policies else sections.areas
    table = rich.table.Table(
        title=f"{markdown.units(summary)}, {markdown.brackets(summary)}",
        box=rich.box.SIMPLE_HEAD,
        show_edge=False,
        title_justify="left",
        padding=(0, 0, 0, 1),
    )
    header, body = what(summary, report)
    for i, column in enumerate(header):
        justify = "left" if i == 0 else "right"
        table.add_column(textwrap.fill(column, 12), justify=justify)
    for row in body:
        texts = (text.replace(" [", "\n[") for text in row)
        table.add_row(*map(rich.text.Text, texts))
    (console or terminal.console()).print(table)


def _measured(report, runs):
    """The report without the drift axes that no run measured, and a note on them."""
    missing = [a for a in report.drifts if not any(run.has(a) for run in runs)]
    if not missing:
        return report
    names = ", ".join(axis.key for axis in missing)
    return dataclasses.replace(
        report,
        axes=tuple(axis for axis in report.axes if axis not in missing),
        notes=(*report.notes, f"Not measured: {names}."),
    )
