"""The last measurements on the test split: reward and perplexity, as papers print them.

`test/*` is logged at the start and at the end of a run whose other measurements are on
a validation split.
"""

import numpy as np

from rlhf_jax.evaluation import units
from rlhf_jax.reporting import markdown, sections


def compute(evidence):
    """{method: {metric: {"mean", "error", "seeds"}}} of the last measurement of each
    seed on the test split; None where there was none. error: the standard error."""
    last = {}
    for record in evidence.records:
        if "test/reward" in record:
            last[record["method"], units.of(record)] = record
    result = {}
    for metric in ("reward", "perplexity"):
        for (method, _), record in last.items():
            values = result.setdefault(method, {}).setdefault(metric, [])
            if f"test/{metric}" in record:
                values.append(record[f"test/{metric}"])
    return {
        method: {metric: _estimate(values) for metric, values in metrics.items()}
        for method, metrics in result.items()
    } or None


def _estimate(values):
    n = len(values)
    error = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else None
    return {"mean": float(np.mean(values)) if n else None, "error": error, "seeds": n}


def render(methods, evidence):
    """Reward and perplexity on the test split, as the papers print them."""
    if not methods:
        return
    yield "## On the test split"
    yield "Final policies; mean ± standard error over seeds."
    yield markdown.table(
        ["method", "reward", "perplexity", "seeds"],
        [
            [
                evidence.report.name(method),
                *map(_text, metrics.values()),
                metrics["reward"]["seeds"],
            ]
            for method, metrics in methods.items()
        ],
    )


def _text(value):
    if value["mean"] is None:
        return "not measured"
    error = "" if value["error"] is None else f" ± {value['error']:.2g}"
    return f"{value['mean']:.4g}{error}"


SECTION = sections.Section("test_split", compute, render, after="results")
