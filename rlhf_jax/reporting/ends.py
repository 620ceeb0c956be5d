"""What stands on the test split at the end: the papers' own table, as lines."""

import numpy as np

from rlhf_jax.reporting import wording

REWARD, PERPLEXITY = "test/reward", "test/perplexity"


def lines(records, labels):
    """A line a method: reward and perplexity, mean ± standard error over seeds.

    records: of metrics.jsonl; of each method and seed the last measurement on test
    prompts counts. labels: {method: printed name}. Nothing where none was made. With
    one seed there is no error to state.
    """
    last = {}
    for record in records:
        if REWARD in record:
            last[record["method"], record["seed"]] = record
    by_method = {}
    for (method, _), record in last.items():
        by_method.setdefault(method, []).append(record)
    found = []
    for method, rows in by_method.items():
        numbers = [
            _spread([row[key] for row in rows if key in row])
            for key in (REWARD, PERPLEXITY)
        ]
        found.append(
            f"Test split, {labels.get(method, method)}: reward {numbers[0]}, "
            f"perplexity {numbers[1]} ({wording.count(len(rows), 'seed')})."
        )
    return found


def _spread(values):
    if not values:
        return "not measured"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.4g} ± {error:.2g}"
