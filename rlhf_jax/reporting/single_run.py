"""report.md of a recipe: what was asked, what was measured, how it went."""

import time

import numpy as np

from rlhf_jax.cli import command
from rlhf_jax.reporting import canvas, markdown
from rlhf_jax.runtime import metrics_log, progress

_WIDTH, _HEIGHT = 3.9, 2.6  # inches of a panel


def write(place, records, config, *, title, about, names, started, console):
    """report.md, curves.png and results.json of a run; the numbers on the console.

    Args: records of metrics.jsonl; about: lines for the reader; names: metrics to show,
    the most telling first; on held-out rows they are called eval/<name>; started: by
    the monotonic clock.
    """
    wall = time.monotonic() - started
    measured = [r for r in records if "eval/phase" in r]
    first, last = measured[0], measured[-1]
    known = [n for n in names if f"eval/{n}" in last]
    results = {
        "method": last["method"],
        "seed": last["seed"],
        "step": last["step"],
        "before": {n: first[f"eval/{n}"] for n in known},
        "after": {n: last[f"eval/{n}"] for n in known},
        "wall_seconds": wall,
    }
    metrics_log.write_json(place / "results.json", results)
    curves(records, place / "curves.png", names, title)
    metrics_log.write_text(
        place / "report.md", _text(results, config, title, about, wall)
    )
    _show(results, console)
    console.print(str(place / "report.md"), highlight=False, soft_wrap=True)
    console.print(f"done in {progress.duration(wall)}", highlight=False)


def _text(results, config, title, about, wall):
    rows = [
        [n, markdown.number(results["before"][n]), markdown.number(results["after"][n])]
        for n in results["after"]
    ]
    facts = {
        "commit": command.commit(),
        "config digest": command.digest(config),
        "seed": results["seed"],
        "wall time": progress.duration(wall),
        **command.versions(),
    }
    parts = (
        f"# {title}",
        "\n".join(f"- {line}" for line in about),
        "## On held-out rows",
        markdown.table(["metric", "before", f"after {results['step']} steps"], rows),
        "![Curves](curves.png)",
        "One run of one seed: descriptive, no test.",
        "## How it was made",
        f"```\n{command.command()}\n```",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
    )
    return "\n\n".join(parts) + "\n"


def curves(records, path, names, title):
    """A panel a metric: a line while training, dots on held-out rows."""
    shown = [n for n in names if any(n in r or f"eval/{n}" in r for r in records)]
    columns = min(3, len(shown))
    sheet, grid = canvas.sheet(
        -(-len(shown) // columns), columns, width=_WIDTH, height=_HEIGHT
    )
    for panel in grid.flat[len(shown) :]:
        panel.set_visible(False)
    for panel, name in zip(grid.flat, shown, strict=False):
        panel.plot(*_points(records, name), color=canvas.COLORS[0], lw=1.2)
        dots = {"color": canvas.COLORS[1], "ls": "", "marker": "o", "ms": 4}
        panel.plot(*_points(records, f"eval/{name}"), **dots)
        panel.set_title(name, loc="left", fontsize=10, fontweight="bold")
        panel.set_xlabel("step", fontsize=8.5, color=canvas.MUTED)
    keys = [
        canvas.key("while training", ls="-", color=canvas.COLORS[0]),
        canvas.key("held-out rows", marker="o", color=canvas.COLORS[1]),
    ]
    return canvas.finish(sheet, [keys], path, title, "one run, one seed")


def _points(records, name):
    """(steps, values) of a metric where it is finite."""
    found = [(r["step"], r[name]) for r in records if name in r]
    found = np.array(found, float).reshape(-1, 2)
    return found[np.isfinite(found).all(-1)].T


def _show(results, console):
    """The held-out numbers, before and after, as lines."""
    for name, after in results["after"].items():
        before = results["before"][name]
        line = f"{name:<24} {markdown.number(before):>10} → {markdown.number(after)}"
        console.print(line, highlight=False, markup=False)
