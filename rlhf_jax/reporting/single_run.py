"""report.md of a recipe: what was asked, what was measured, how it went."""

import numpy as np

from rlhf_jax.reporting import figure_style, markdown
from rlhf_jax.runtime import files, progress

_WIDTH, _HEIGHT = 3.9, 2.6  # inches of a panel


def write(
    run_dir, records, *, title, about, names, command, provenance, wall, console,
    sections=(), results=None,
):  # fmt: skip
    """report.md, curves.png and results.json of a run; the numbers on the console.

    Args:
      records: of metrics.jsonl.
      about: lines for the reader.
      names: metrics to show, the most important first; on held-out rows they are
        logged as eval/<name>.
      command, provenance: the command line, and {name: fact} of what it ran with.
      wall: seconds that the run took.
      sections: paragraphs of the report after the held-out rows; results: {name:
        numbers} of results.json besides.
    """
    measured = [r for r in records if "eval/phase" in r]
    first, last = measured[0], measured[-1]
    known = [n for n in names if f"eval/{n}" in last]
    results = {
        **(results or {}),
        "method": last["method"],
        "seed": last["seed"],
        "step": last["step"],
        "before": {n: first[f"eval/{n}"] for n in known},
        "after": {n: last[f"eval/{n}"] for n in known},
        "wall_seconds": wall,
    }
    facts = {"seed": results["seed"], "wall time": progress.duration(wall)}
    files.write_json(run_dir / "results.json", results)
    curves(records, run_dir / "curves.png", names, title)
    files.write(
        run_dir / "report.md",
        _text(results, title, about, command, {**provenance, **facts}, sections),
    )
    _show(results, console)
    console.print(str(run_dir / "report.md"), highlight=False, soft_wrap=True)
    console.print(f"done in {progress.duration(wall)}", highlight=False)


def _text(results, title, about, command, facts, sections):
    rows = [
        [n, markdown.number(results["before"][n]), markdown.number(results["after"][n])]
        for n in results["after"]
    ]
    parts = (
        f"# {title}",
        "\n".join(f"- {line}" for line in about),
        "## On held-out rows",
        markdown.table(["metric", "before", f"after {results['step']} steps"], rows),
        "![Curves](curves.png)",
        "One run of one seed: descriptive, no test.",
        *sections,
        "## How it was made",
        f"```\n{command}\n```",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
    )
    return "\n\n".join(parts) + "\n"


def curves(records, path, names, title):
    """One panel per metric: a line while training, dots on held-out rows."""
    shown = [n for n in names if any(n in r or f"eval/{n}" in r for r in records)]
    columns = min(3, len(shown))
    sheet, grid = figure_style.sheet(
        -(-len(shown) // columns), columns, width=_WIDTH, height=_HEIGHT
    )
    for panel in grid.flat[len(shown) :]:
        panel.set_visible(False)
    for panel, name in zip(grid.flat, shown, strict=False):
        panel.plot(*_points(records, name), color=figure_style.COLORS[0], lw=1.2)
        dots = {"color": figure_style.COLORS[1], "ls": "", "marker": "o", "ms": 4}
        panel.plot(*_points(records, f"eval/{name}"), **dots)
        panel.set_title(name, loc="left", fontsize=10, fontweight="bold")
        panel.set_xlabel("step", fontsize=8.5, color=figure_style.MUTED)
    keys = [
        figure_style.key("while training", ls="-", color=figure_style.COLORS[0]),
        figure_style.key("held-out rows", marker="o", color=figure_style.COLORS[1]),
    ]
    return figure_style.finish(sheet, [keys], path, title, "one run, one seed")


def _points(records, name):
    """(steps, values) of a metric where it is finite."""
    points = [(r["step"], r[name]) for r in records if name in r]
    points = np.array(points, float).reshape(-1, 2)
    return points[np.isfinite(points).all(-1)].T


def _show(results, console):
    """The held-out numbers, before and after, as lines."""
    for name, after in results["after"].items():
        before = results["before"][name]
        line = f"{name:<24} {markdown.number(before):>10} → {markdown.number(after)}"
        console.print(line, highlight=False, markup=False)
