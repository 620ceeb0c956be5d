"""What keeps runs from being ranked: another reward, policy or data."""

import json
import time

from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import markdown


def flags(folder):
    """The flags of a run; {} where its config.json is missing."""
    file = folder / "config.json"
    return json.loads(file.read_text())["config"] if file.is_file() else {}


_SAME = {
    "reward": ("reward",),
    "policy": ("policy", "model"),
    "data": ("dataset",),
}


def in_units(known, folders):
    """The axes, those of rewards in their own units where a run's are.

    By default a reward is scaled on samples of the initial policy.
    """
    own, units = {axis.key: axis for axis in axes.OWN_UNITS}, set()
    for file in (folder / "results.json" for folder in folders):
        made = json.loads(file.read_text()) if file.is_file() else {}
        units |= {(axis["key"], axis["unit"]) for axis in made.get("axes", ())}
    if not any((axis.key, axis.unit) in units for axis in own.values()):
        return tuple(known)
    return (*(axis for axis in known if axis.key not in own), *own.values())


def between(folders):
    """{what: {folder: flag}} of the reward, policy and data that runs do not share."""
    given = {str(folder): flags(folder) for folder in folders}
    result = {}
    for what, names in _SAME.items():
        values = {
            folder: next((str(x[n]) for n in names if x.get(n)), "unknown")
            for folder, x in given.items()
        }
        if len(set(values.values())) > 1:
            result[what] = values
    return result


def why_unranked(config, different):
    """Why nothing is ranked, in half a sentence; "" where it is.

    Raises ValueError where claims were to be judged all the same.
    """
    if not different or config.rank:
        return ""
    names = markdown.join(list(different))
    reason = f"the runs differ in {names} (--rank ranks them anyway)"
    if config.claims:
        raise ValueError(f"--claims {config.claims}: {reason}")
    return reason


def notes(folders, different, shown=()):
    """What a reader needs to know to judge the comparison.

    different: what `between` returned; shown: the methods selected from them, if any.
    """
    lines = [
        f"The runs differ in {what}: "
        + "; ".join(f"{folder}: {value}" for folder, value in values.items())
        + ("; rewards are not on one scale." if what == "reward" else ".")
        for what, values in different.items()
    ]
    now = time.strftime("%Y-%m-%d")
    if shown:
        lines.append(f"Of the runs' methods these alone are shown: {', '.join(shown)}.")
    return (f"Read on {now} from {', '.join(map(str, folders))}.", *lines)
