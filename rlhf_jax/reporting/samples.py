"""Samples of a policy, as in samples.jsonl: picked at random, shortened, as a table."""

import random

import rich.table
import rich.text

from rlhf_jax.runtime import terminal


def table(rows, *, title="Samples", limit=8, width=400):
    """A rich table of samples; texts beyond `width` characters are cut in the middle.

    rows: dictionaries as in samples.jsonl; at most `limit` of them are shown.
    """
    result = rich.table.Table(title=title, show_lines=True, title_justify="left")
    result.add_column("prompt", ratio=2, overflow="fold", style="dim")
    result.add_column("completion", ratio=3, overflow="fold")
    scored = any("score" in row for row in rows)
    if scored:
        result.add_column("score", justify="right", no_wrap=True)
    for row in rows[:limit]:
        texts = (row["prompt"], row["completion"])
        columns = [rich.text.Text(shorten(text, width)) for text in texts]
        score = row.get("score")
        if scored:
            columns.append("" if score is None else f"{score:.3f}")
        result.add_row(*columns)
    return result


def show(rows, *, console=None, **options):
    """Prints `table(rows, **options)`."""
    (console or terminal.console()).print(table(rows, **options))


def unselected(rows, count, *, seed=0):
    """`count` rows picked at random, the same every time; all if there are fewer."""
    rows = list(rows)
    return random.Random(seed).sample(rows, min(count, len(rows)))


def shorten(text, width):
    """At most `width` characters: the start and the end, " … " for what is left out."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    head = (width - 3) * 2 // 3
    return f"{text[:head]} … {text[len(text) - (width - 3 - head) :]}"
