"""report.md of a recipe: what was asked, what was measured, how it went."""

import numpy as np

from rlhf_jax.reporting import figure_style, markdown
from rlhf_jax.runtime import files, progress

_WIDTH, _HEIGHT = 3.9, 2.6  # inches of a panel


def write(
    run_dir, records, *, title, about, names, command, provenance, wall, console,
    notes=(), exported=None, sections=(), results=None,
):  # fmt: skip
    """report.md, curves.png and results.json of a run; the numbers on the console.

    Args:
      records: of metrics.jsonl, of one seed or several.
      about: lines for the reader; notes: others, on how it ended.
      names: metrics to show, the most important first; on held-out rows they are
        logged as eval/<name>, drift as drift/<name>.
      command, provenance: the command line, and {name: fact} of what it ran with.
      wall: seconds that the run took.
      exported: {seed: the evaluation record of the model}; by default the last ones.
      sections: paragraphs of the report after the held-out rows; results: {name:
        numbers} of results.json besides.
    """
    results = {
        **(results or {}),
        **summary(records, names, exported or {}),
        "wall_seconds": wall,
    }
    seeds = ", ".join(map(str, results["seeds"]))
    facts = {"seed": seeds, "wall time": progress.duration(wall)}
    files.write_json(run_dir / "results.json", results)
    curves(records, run_dir / "curves.png", names, title)
    files.write(
        run_dir / "report.md",
        _text(results, title, about, command, {**provenance, **facts}, sections, notes),
    )
    _show(results, notes, console)
    console.print(str(run_dir / "report.md"), highlight=False, soft_wrap=True)
    console.print(f"done in {progress.duration(wall)}", highlight=False)


def summary(records, names, exported):
    """{"before", "after", "last": {name: value}, ...}: means over seeds, and of several
    seeds each seed's own under "of_seeds".

    "after" is of the exported policies, "last" of the last ones. Args: as of `write`.
    """
    seeds, found = sorted({record["seed"] for record in records}), {}
    for seed in seeds:
        measured = [r for r in records if r["seed"] == seed and "eval/phase" in r]
        first, last = measured[0], measured[-1]
        kept = exported.get(seed, last)
        known = [n for n in names if _key(n) in last]
        columns = {"before": first, "after": kept, "last": last}
        found[seed] = {
            "step": kept["step"],
            "last_step": last["step"],
            **{k: {n: r[_key(n)] for n in known} for k, r in columns.items()},
        }
    first = found[seeds[0]]
    results = {"method": records[0]["method"], "seed": seeds[0], "seeds": seeds}
    results |= {name: first[name] for name in ("step", "last_step")}
    for column in ("before", "after", "last"):
        each = [found[seed][column] for seed in seeds]
        results[column] = {n: float(np.mean([x[n] for x in each])) for n in each[0]}
    return {**results, "of_seeds": found} if len(seeds) > 1 else results


def _text(results, title, about, command, facts, sections, notes):
    header, *rows = _table(results)
    parts = (
        f"# {title}",
        "\n".join(f"- {line}" for line in (*about, *notes)),
        "## On held-out rows",
        markdown.table(header, rows),
        "![Curves](curves.png)",
        _scope(results),
        *sections,
        "## How it was made",
        f"```\n{command}\n```",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _scope(results):
    count = len(results["seeds"])
    if count == 1:
        return "One run of one seed: descriptive, no test."
    return f"{count} seeds: mean [least, largest]; descriptive, no test."


def _table(results):
    """The header, then a row for each metric."""
    each = results.get("of_seeds", {results["seed"]: results}).values()
    chosen = any(x["step"] != x["last_step"] for x in each)

    def span(key):
        at = sorted({x[key] for x in each})
        return f"{at[0]}" if len(at) == 1 else f"{at[0]} to {at[-1]}"

    columns = {"before": "before", "after": f"after {span('step')} steps"}
    if chosen:
        columns["after"] = f"exported, step {span('step')}"
        columns["last"] = f"last, step {span('last_step')}"
    rows = [
        [name, *(_value(results, column, name) for column in columns)]
        for name in results["after"]
    ]
    return ["metric", *columns.values()], *rows


def _value(results, column, name):
    """A number; of several seeds their mean [least, largest]."""
    if "of_seeds" not in results:
        return markdown.number(results[column][name])
    each = [found[column][name] for found in results["of_seeds"].values()]
    ends = {"low": min(each), "high": max(each)}
    return markdown.interval({"mean": results[column][name], **ends})


def curves(records, path, names, title):
    """One panel per metric: a line while training, dots on held-out rows."""
    shown = [n for n in names if any(n in r or _key(n) in r for r in records)]
    training = [record for record in records if "eval/phase" not in record]
    columns = min(3, len(shown))
    sheet, grid = figure_style.sheet(
        -(-len(shown) // columns), columns, width=_WIDTH, height=_HEIGHT
    )
    for panel in grid.flat[len(shown) :]:
        panel.set_visible(False)
    seeds = sorted({record["seed"] for record in records})
    for panel, name in zip(grid.flat, shown, strict=False):
        for seed in seeds:
            of_seed = [record for record in training if record["seed"] == seed]
            color, thick = figure_style.COLORS[0], 1.2 if seed == seeds[0] else 0.6
            panel.plot(*_points(of_seed, name), color=color, lw=thick)
        dots = {"color": figure_style.COLORS[1], "ls": "", "marker": "o", "ms": 4}
        panel.plot(*_points(records, _key(name)), **dots)
        panel.set_title(name, loc="left", fontsize=10, fontweight="bold")
        panel.set_xlabel("step", fontsize=8.5, color=figure_style.MUTED)
    keys = [
        figure_style.key("while training", ls="-", color=figure_style.COLORS[0]),
        figure_style.key("held-out rows", marker="o", color=figure_style.COLORS[1]),
    ]
    note = "one run, one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return figure_style.finish(sheet, [keys], path, title, note)


def _key(name):
    """Where a metric of held-out rows is logged."""
    return name if name.startswith("drift/") else f"eval/{name}"


def _points(records, name):
    """(steps, values) of a metric where it is finite."""
    points = [(r["step"], r[name]) for r in records if name in r]
    points = np.array(points, float).reshape(-1, 2)
    return points[np.isfinite(points).all(-1)].T


def _show(results, notes, console):
    """The held-out numbers, before and after, as lines."""
    _, *rows = _table(results)
    for name, before, *after in rows:
        line = f"{name:<24} {before:>10} → {after[0]}"
        line += f"   (last: {after[1]})" if len(after) > 1 else ""
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
