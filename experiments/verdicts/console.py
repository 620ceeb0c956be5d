"""The summary on the screen."""

import rich.table
import rich.text

from experiments.verdicts import evidence, page, picture

_STYLES = {word: look.color for word, look in picture.LOOKS.items()}


def counts(screen, found):
    """Prints how often each word fell, a line a word. found: of `verdicts.collect`."""
    table = rich.table.Table(box=None)
    table.add_column("verdict")
    for paper, _ in found:
        table.add_column(paper.title, justify="right")
    tallies = [page.tally(items) for _, items in found]
    for word in evidence.WORDS:
        if any(by[word] for by in tallies):
            cells = (str(by[word] or "") for by in tallies)
            table.add_row(word, *cells, style=_STYLES.get(word, ""))
    screen.print(table)


def claims(screen, paper, items):
    """Prints a paper's claims one by one."""
    screen.print(f"[bold]{paper.title}[/bold]: {paper.source}\n", highlight=False)
    table = rich.table.Table(box=None, show_header=False, pad_edge=False)
    for item, rows in items:
        table.add_row(item.number, "", rich.text.Text(item.claim, style="bold"))
        for row in rows:
            parts = [row.what, row.endpoint, page.difference(row), row.units]
            style = _STYLES.get(row.word, "dim")
            table.add_row(
                "", rich.text.Text(row.word, style), "; ".join(filter(None, parts))
            )
    screen.print(table, highlight=False)
    screen.print()
