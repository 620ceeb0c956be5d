"""samples.jsonl: what a policy wrote, and the same as a table to look at."""

import pathlib
import random

import rich.console
import rich.table
import rich.text

from rlhf_jax.runtime import metrics_log


class Samples(metrics_log.Lines):
    """The samples of a run folder, one line a sample.

    Each line: {"method", "seed", "step", "prompt", "completion", "score", ...}.
    `resume_offset` as in `metrics.Lines`.
    """

    def __init__(self, folder, *, resume_offset=None):
        path = pathlib.Path(folder) / "samples.jsonl"
        super().__init__(path, resume_offset=resume_offset)

    def write(self, rows, *, method, seed, step):
        """rows: dictionaries with "prompt", "completion", "score", and what is more."""
        for row in rows:
            if "prompt" not in row or "completion" not in row:
                raise ValueError(
                    f'a sample needs "prompt" and "completion", got {sorted(row)}'
                )
            place = {"method": method, "seed": int(seed), "step": int(step)}
            self.append({**place, **row})


def table(rows, *, title="Samples", limit=8, width=400):
    """A rich table of samples; texts longer than `width` letters are cut in the middle.

    rows: dictionaries as in samples.jsonl; at most `limit` of them are shown.
    """
    result = rich.table.Table(title=title, show_lines=True, title_justify="left")
    result.add_column("prompt", ratio=2, overflow="fold", style="dim")
    result.add_column("completion", ratio=3, overflow="fold")
    result.add_column("score", justify="right", no_wrap=True)
    for row in rows[:limit]:
        score = row.get("score")
        result.add_row(
            rich.text.Text(shorten(row["prompt"], width)),
            rich.text.Text(shorten(row["completion"], width)),
            "" if score is None else f"{score:.3f}",
        )
    return result


def show(rows, *, console=None, **options):
    """Prints `table(rows, **options)`."""
    (console or rich.console.Console()).print(table(rows, **options))


def unselected(rows, count, *, seed=0):
    """`count` rows drawn blindly, the same ones each time; all when there are fewer."""
    rows = list(rows)
    return random.Random(seed).sample(rows, min(count, len(rows)))


def shorten(text, width):
    """At most `width` letters: the start and the end, " … " for what is left out."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    head = (width - 3) * 2 // 3
    return f"{text[:head]} … {text[len(text) - (width - 3 - head) :]}"
