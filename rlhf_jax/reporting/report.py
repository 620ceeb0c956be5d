"""report.md: a page a person can read, and disbelieve.

It says what was asked, what came out on every axis, where the axes disagree, what was
declared beforehand, what each seed did, what it cost, and shows samples that nobody
selected.
"""

import dataclasses
import pathlib
import textwrap
from collections.abc import Mapping

import rich.box
import rich.console
import rich.table
import rich.text

from rlhf_jax.reporting import (
    canvas,
    claims,
    contrasts,
    markdown,
    plots,
    recoveries,
    results,
    sections,
    wording,
)
from rlhf_jax.reporting.claims import Claim
from rlhf_jax.reporting.contrasts import Contrast
from rlhf_jax.runtime import metrics_log


@dataclasses.dataclass(frozen=True)
class Study:
    """What a report says besides its numbers. Claims are declared before the run."""

    title: str
    question: str = ""
    axes: tuple[str, ...] = ("drift/text_nll", "drift/kl_initial", "tax/skills")
    corners: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    contrasts: tuple[Contrast, ...] = ()  # the ablation table
    recovery: tuple[str, str] | None = None  # two methods reset at the same iterations
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    place: str = "this microworld and these models"
    command: str = ""
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()  # deviations, cut trials, shared pretraining
    extra: tuple[str, ...] = ()  # paragraphs of the experiment's own, after the results
    panels: tuple | None = None  # of curves.png; None: `plots.PANELS`

    def name(self, method):
        """The printed name of a method."""
        return canvas.method_name(method, self.labels)


def write(folder, records, study, *, rows=(), budget=None, controls=(), wall=None):
    """Writes front.png, curves.png, results.json and report.md; returns the results.

    Args:
      folder: the run folder; each file is written whole or not at all.
      records: dictionaries as in metrics.jsonl.
      rows: dictionaries as in samples.jsonl.
      budget: {method: {"tokens", "gradient_steps", "reward_calls", "wall_seconds"}},
        of all seeds; from `budget/*` and `time/iteration` of the records when None.
      controls: (name, what should happen, what happened, passed) of each negative
        control. wall: seconds the whole run took.
    """
    folder, found = pathlib.Path(folder), results.runs(records)
    study = _measured(study, found)
    options = {"axes": study.axes, "corners": study.corners}
    among = _among(study, found)
    summary = results.summarize(records, **options, among=among, wall_seconds=wall)
    findings = claims.judge(study.claims, found, **options)
    summary["verdicts"] = [_verdict_row(f) for f in findings]
    summary["contrasts"] = contrasts.table(summary, study.contrasts, study.axes)
    if study.recovery is not None:
        summary["recovery"] = recoveries.compare(records, *study.recovery)
    summary["budget"] = spent(records) if budget is None else budget
    metrics_log.write_json(folder / "results.json", summary)
    plots.front(records, study.axes, folder / "front.png", labels=study.labels)
    panels = study.panels or plots.PANELS
    plots.curves(records, folder / "curves.png", labels=study.labels, panels=panels)
    text = render(summary, findings, study, rows=rows, controls=controls)
    metrics_log.write_text(folder / "report.md", text)
    return summary


def render(summary, findings, study, *, rows=(), controls=()):
    """The text of report.md."""
    parts = [
        f"# {study.title}",
        f"**{answer(summary, findings, study)}**",
        study.question,
        "![Reward against drift](front.png)",
        "![Training curves](curves.png)",
        *sections.outcome(summary, study),
        *sections.matched(summary, study),
        *study.extra,
        "## Where the axes disagree",
        sections.disagreement(summary, study),
        *sections.verdicts(summary, findings, study),
        *contrasts.section(summary, study),
        *recoveries.section(summary, study),
        *sections.seeds_one_by_one(summary, study),
        *sections.budget(summary, study),
        *sections.negative_controls(controls),
        *sections.unselected(rows, study),
        *sections.provenance(summary, study),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def answer(summary, findings, study):
    """One sentence: where, over how many seeds, what, on which axis."""
    start = f"On {study.place}, over {wording.count(summary['seeds'], 'seed')}"
    leaders = sections.headline(summary, study)
    tested = [f for f in findings if f.verdict and f.verdict.word != "no test"]
    if not tested:
        return f"{start} and so without a test, {leaders}."
    verdict, claim = tested[0].verdict, wording.claim(tested[0], study)
    where = wording.endpoint(tested[0].claim.endpoint)
    gap = markdown.interval(verdict._asdict(), wording.scale(tested[0].claim.endpoint))
    return f"{start}, “{claim}” is {verdict.word} ({where}: {gap}); {leaders}."


def spent(records):
    """{method: budget} over all seeds, from what the records hold.

    `budget/*` counts up within a seed: its largest value is taken, `time/iteration` is
    summed.
    """
    counters, result = {}, {}
    for record in records:
        place = record["method"], record["seed"]
        for name in ("tokens", "gradient_steps", "reward_calls"):
            value = record.get(f"budget/{name}")
            if value is not None:
                key = (*place, name)
                counters[key] = max(counters.get(key, 0), value)
        if "time/iteration" in record:
            key = (*place, "wall_seconds")
            counters[key] = counters.get(key, 0.0) + record["time/iteration"]
    for (method, _, name), value in counters.items():
        budget = result.setdefault(method, {})
        budget[name] = budget.get(name, 0) + value
    return result


def show(summary, *, labels=None, console=None):
    """Prints the results as a table: means, and below them what brackets them."""
    seeds = wording.count(summary["seeds"], "seed")
    table = rich.table.Table(
        title=f"{seeds}, {wording.brackets(summary)}",
        box=rich.box.SIMPLE_HEAD,
        show_edge=False,
        title_justify="left",
        padding=(0, 0, 0, 1),
    )
    header, body = sections.overview(summary, labels or {})
    for i, column in enumerate(header):
        justify = "left" if i == 0 else "right"
        table.add_column(textwrap.fill(column, 12), justify=justify)
    for row in body:
        cells = (cell.replace(" [", "\n[") for cell in row)
        table.add_row(*map(rich.text.Text, cells))
    (console or rich.console.Console()).print(table)


def _among(study, found):
    """The methods that decide where fronts are matched: those that claims are about.

    Others may be no rivals: supervised steps end where the rest has hardly begun, and
    a control that learns nothing would match all fronts at the start.
    """
    named = {m for claim in study.claims for m in (claim.method, *claim.others)}
    run = list(dict.fromkeys(r.method for r in found if r.method in named))
    return run if len(run) > 1 else None


def _measured(study, found):
    """The study without the axes that no run measured, and a note of them."""
    missing = [a for a in study.axes if not any(run.has(a) for run in found)]
    if not missing:
        return study
    return dataclasses.replace(
        study,
        axes=tuple(axis for axis in study.axes if axis not in missing),
        corners={a: c for a, c in study.corners.items() if a not in missing},
        notes=(*study.notes, f"Not measured: {', '.join(missing)}."),
    )


def _verdict_row(finding):
    row = {
        "method": finding.claim.method,
        "other": finding.other,
        "endpoint": finding.claim.endpoint,
        "kind": finding.claim.kind,
        "family": finding.claim.family,
        "smallest_effect": finding.smallest_effect,
        "p_holm": finding.p_holm,
        "reason": finding.reason,
    }
    verdict = finding.verdict
    return {**row, **(verdict._asdict() if verdict else {"word": "none"})}
