"""Several trials of a sweep as one study, so that a population can train them.

The trials of a sweep run the same steps on the same units and are measured as often;
they differ in their settings, which are traced.
"""

import dataclasses
import hashlib

from rlhf_jax.runtime import metrics_log


def merge(studies):
    """One study of all methods of several, which are alike but for their settings.

    Args: studies: {name: interfaces.Study}, each of whose methods becomes
    "<position>.<method>".
    """
    first, *_ = studies.values()
    methods = {
        _renamed(number, name): dataclasses.replace(
            row, source=row.source and _renamed(number, row.source)
        )
        for number, study in enumerate(studies.values())
        for name, row in study.methods.items()
    }
    told = hashlib.sha256("\n".join([first.digest, *studies]).encode())
    return dataclasses.replace(first, methods=methods, digest=told.hexdigest()[:12])


def share_out(records, folders):
    """Writes metrics.jsonl of every trial into its folder, methods named as its own.

    Args: records: of the merged study; folders: as many as there were studies, in that
    order.
    """
    for number, folder in enumerate(folders):
        mark = _renamed(number, "")
        with metrics_log.Lines(folder / "metrics.jsonl", resume_offset=0) as lines:
            for row in records:
                if row["method"].startswith(mark):
                    lines.append({**row, "method": row["method"].removeprefix(mark)})


def _renamed(number, name):
    return f"{number}.{name}"
