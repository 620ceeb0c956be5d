"""Which evaluation of a run was its best: by one metric, and which way that is better.

The names are those of `transformers`' TrainingArguments.
"""

from rlhf_jax.evaluation import axes
from rlhf_jax.studies.interfaces import Selection

_FAMILIES = ("eval/", "drift/", "tax/", "truth/", "win/")


def selection(metric, greater_is_better=None):
    """The `Selection` of the evaluation with the best value of one metric.

    Args: metric: a key of metrics.jsonl; of those that start with eval/ that may be
    left out, or spelled eval_; greater_is_better: by default what is known of it.
    Raises ValueError where that is needed and not given.
    """
    key = key_of(metric)
    if greater_is_better is None:
        better = axes.find(key, axes.HELD_OUT).better
        if better is None:
            raise ValueError(
                f"--metric-for-best-model {metric}: it is not known whether more of it "
                "is better; give --greater-is-better True or False"
            )
        greater_is_better = better == "more"
    sign = 1.0 if greater_is_better else -1.0
    return Selection((key,), lambda now, start: sign * (now[key] - start[key]))


def key_of(metric):
    """The key in metrics.jsonl: "nll", "eval_nll" and "eval/nll" are one."""
    if metric.startswith(_FAMILIES):
        return metric
    return f"eval/{metric.removeprefix('eval_')}"


def best(select, records):
    """The evaluation record that is worth most, the first of ties; the first record is
    the start. Select None: the last."""
    if select is None:
        return records[-1]
    return max(records, key=lambda record: select.worth(record, records[0]))
