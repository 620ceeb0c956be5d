"""The folder of a comparison: results.json, front.png, report.md, and a short summary.

Tables, picture and advice are made of results.json alone, which holds every item.
"""

import numpy as np

from experiments.alignment_tax.two_models import advice, front, merges
from experiments.alignment_tax.two_models import page as pages
from rlhf_jax.benchmarks import suites
from rlhf_jax.cli import experiment
from rlhf_jax.evaluation import paired
from rlhf_jax.runtime import files

RESULTS, FRONT, PAGE = "results.json", "front.png", "report.md"
_ENDS = {"before": 0.0, "after": 1.0}  # and their weights


def write(folder, config, points, readings, inputs, facts, about):
    """Writes the three files and returns what results.json holds.

    Args: points: of `merges`, in order; readings: {name: `Reading`}, "before" and
    "after" among them; inputs: of `measured`; facts: of `suites.facts`;
    about: what the page says of the run.
    """
    results = {
        "axis": axis(inputs),
        "scaled": bool(inputs.reward and inputs.reward.score is not None),
        **summarize(readings, points, pay=config.pay),
        "facts": facts,
        "about": about,
    }
    files.write_json(folder / RESULTS, results)
    front.draw(results, folder / FRONT)
    text = pages.page(results, config.before, config.after)
    files.write(folder / PAGE, text)
    return results


def axis(inputs):
    """What a front is drawn against: "reward", else "kl", else "weight"."""
    if inputs.task is None:
        return "weight"
    return "kl" if inputs.reward is None else "reward"


def summarize(readings, points, *, pay):
    """What was lost, what every point scores, returns and pays, and the advice."""
    before, after = readings["before"], readings["after"]
    changes = suites.compare(before.suites, after.suites)
    p_values, lost = advice.taxed(changes)
    scores = {name: x.scores(lost) for name, x in readings.items()} if lost else None
    rewards = None
    if before.reward is not None:
        rewards = {name: x.reward for name, x in readings.items()}
    return {
        "lost": {
            name: {**change._asdict(), "holm": p_values[name], "taxed": name in lost}
            for name, change in changes.items()
        },
        "together": paired.bootstrap(before.scores(), after.scores())._asdict(),
        "text": _text(before, after),
        "reward": _difference(before.reward, after.reward),
        "kl": None if after.kl is None else float(after.kl.mean()),
        "points": _rows(readings, points, scores, rewards),
        "advice": _advice(points, scores, rewards, pay),
    }


def show(results, folder, console):
    """A few lines on the terminal."""
    lines = [pages.change(name, row) for name, row in results["lost"].items()]
    lines += ["", pages.sentence(results), ""]
    lines += [str(folder / name) for name in (PAGE, FRONT, RESULTS)]
    experiment.say(console, lines)


def _rows(readings, points, scores, rewards):
    """A dictionary for each model, the two ends first."""
    names = [point.name for point in points]
    returned = _shares(scores, names)
    paid = _shares(rewards, names)
    rows = [_row(name, name, None, w, readings[name]) for name, w in _ENDS.items()]
    for point in points:
        row = _row(*point[:4], readings[point.name])
        row["returned"] = returned.get(point.name)
        row["paid"] = paid.get(point.name)
        rows.append(row)
    return rows


def _row(name, label, family, weight, reading):
    items = {k: list(suites.scores(x)) for k, x in reading.suites.items()}
    for key in ("reward", "kl"):
        values = getattr(reading, key)
        items[key] = None if values is None else list(values)
    if reading.text is not None:
        items["text_nll"], items["text_tokens"] = map(list, reading.text)
    return {
        "name": name,
        "label": label,
        "family": family,
        "weight": weight,
        "scores": {k: x.metrics[x.headline] for k, x in reading.suites.items()},
        "together": float(reading.scores().mean()),
        "reward": None if reading.reward is None else float(reading.reward.mean()),
        "kl": None if reading.kl is None else float(reading.kl.mean()),
        "text_nll": reading.text_nll,
        "items": items,
    }


def _shares(values, names):
    """{point: its share of the way back, as a dictionary}; {} without values."""
    if values is None:
        return {}
    every = [values[name] for name in names]
    found = advice.shares(values["before"], values["after"], every)
    return {name: x._asdict() for name, x in zip(names, found, strict=True)}


def _advice(points, scores, rewards, pay):
    if scores is None:
        return {"point": None, "reason": "No suite lost significantly.", "tax": False}
    kept = [p for p in points if merges.FAMILIES[p.family].advised]
    allowed = {"before", "after", *(p.name for p in kept)}
    lines = sorted(
        (p for p in kept if p.family in ("ma", "hma")), key=lambda p: -p.weight
    )
    found = advice.pick(
        {k: x for k, x in scores.items() if k in allowed},
        None if rewards is None else {k: x for k, x in rewards.items() if k in allowed},
        pay=pay,
        averages=[p.name for p in lines],
    )
    chosen = next((p for p in points if p.name == found.point), None)
    return {
        "point": found.point,
        "reason": found.reason,
        "tax": True,
        "label": None if chosen is None else chosen.label,
        "family": None if chosen is None else chosen.family,
        "weight": None if chosen is None else chosen.weight,
        "returned": None if found.returned is None else found.returned._asdict(),
        "paid": None if found.paid is None else found.paid._asdict(),
    }


def _difference(before, after):
    """{before, after, value, low, high, p} of paired items; None without them."""
    if before is None:
        return None
    found = paired.bootstrap(before, after)._asdict()
    return {"before": float(np.mean(before)), "after": float(np.mean(after)), **found}


def _text(before, after):
    """The same of the NLL a token of human text, resampled by texts."""
    if before.text is None:
        return None
    pairs = [np.stack([*reading.text], -1) for reading in (before, after)]
    found = paired.bootstrap(*pairs, statistic=lambda mean: mean[0] / mean[1])
    return {"before": before.text_nll, "after": after.text_nll, **found._asdict()}
