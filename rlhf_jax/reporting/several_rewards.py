"""The section of a report on several rewards: what each of them was, before and after.

Their sum may rise while one of them falls.
"""

from rlhf_jax.reporting import markdown
from rlhf_jax.reporting.sections import Section


def section(names, weights, *, normalized=False):
    """The `Section` of rewards with these names and weights.

    normalized: each was normalised by its prompt's completions before the sum.
    """

    def compute(evidence):
        return read(evidence.records, names, weights)

    def render(rows, evidence):
        del evidence
        yield "### Rewards, one by one"
        what = "each normalised among a prompt's completions" if normalized else ""
        yield (
            "Means over the samples of held-out prompts that each applies to, in its "
            f"own units. Learned from: their sum by weight, {what or 'as they are'}."
        )
        yield markdown.table(
            ["reward", "weight", "before", "after", "std after"],
            [_line(name, row) for name, row in rows.items()],
        )

    return Section("rewards", compute, render, after="results")


def read(records, names, weights):
    """{name: {"weight", "before", "after", "std"}}: None where one never applied."""
    measured = [record for record in records if "eval/phase" in record]
    first, last = measured[0], measured[-1]
    return {
        name: {
            "weight": weight,
            "before": first.get(f"eval/rewards/{name}/mean"),
            "after": last.get(f"eval/rewards/{name}/mean"),
            "std": last.get(f"eval/rewards/{name}/std"),
        }
        for name, weight in zip(names, weights, strict=True)
    }


def _line(name, row):
    numbers = [markdown.number(row[key]) for key in ("before", "after", "std")]
    return [name, f"{row['weight']:g}", *numbers]
