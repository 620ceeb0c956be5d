"""What a report of the alignment tax says besides fronts and verdicts."""

import functools

import numpy as np

from experiments.alignment_tax import methods, pictures, settings
from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation.axes import REWARD, SKILLS
from rlhf_jax.evaluation.units import Unit, of
from rlhf_jax.reporting import markdown, results
from rlhf_jax.reporting.sections import Section
from rlhf_jax.studies import forgetting, tables

_PLACEBO = "sft_placebo"
_KEEP = 0.8  # the weight that keeps 20% of the start
_DIVERSITY = axes_.Axis("eval/distinct_2", "Distinct bigrams")


def of_settings(records, axes):
    """The sections of a report about these records, of settings and not of families."""
    axes = (
        REWARD,
        *(axis for axis in axes if axis.from_start),
        axes_.find(axes_.TEXT_NLL.key, axes),
        _DIVERSITY,
    )
    found = settings.changes(records, [axis.key for axis in axes])
    about = {"found": found, "axes": axes, "labels": tables.labels(methods.METHODS)}
    parts = (
        ("tax", _tax, _render_tax, "results"),
        ("way", _way, _render_way, "results"),
        ("kept", _kept, _render_kept, "results"),
        ("hma", _hma, _render_hma, "verdicts"),
        ("adaptive", _adaptive, _render_adaptive, "verdicts"),
        ("forgetting", _forgetting, _render_forgetting, "verdicts"),
        ("settings", _settings, _render_settings, "budget"),
    )
    about["records"] = records
    return tuple(
        Section(
            key,
            functools.partial(_computed, compute, about),
            functools.partial(_rendered, render, about),
            after,
        )
        for key, compute, render, after in parts
    )


def _computed(compute, about, evidence):
    del evidence
    return compute(about) or None


def _rendered(render, about, value, evidence):
    return render(value, about, evidence) if value else ()


def _keys(about):
    return [axis.key for axis in about["axes"]]


def _table(first, changes, about):
    """A line a method, a column an axis. changes: {method: {key: estimate}}."""
    axes, labels = about["axes"], about["labels"]
    rows = [
        [
            labels.get(name, name),
            *(markdown.interval(one.get(a.key), a.scale) for a in axes),
        ]
        for name, one in changes.items()
    ]
    return markdown.table([first, *map(_title, axes)], rows)


def _title(axis):
    return axis.title.replace(" lost", "") + (" (points)" if axis.percent else "")


# What alignment cost


def _tax(about):
    found, keys = about["found"], _keys(about)
    names = (*methods.ENDS, "rsf_random", _PLACEBO)
    return {
        name: {
            "change": settings.estimates(found[name]),
            "beyond_placebo": settings.difference(found, name, _PLACEBO, keys),
        }
        for name in names
        if name in found
    }


def _render_tax(tax, about, evidence):
    yield "## What alignment cost"
    yield (
        "Change from the initial policy to the end of each run; "
        f"{markdown.brackets(evidence.summary)}. Skills in points of accuracy."
    )
    yield _table("method", {k: one["change"] for k, one in tax.items()}, about)
    beyond = {k: one["beyond_placebo"] for k, one in tax.items() if k != _PLACEBO}
    beyond = {k: one for k, one in beyond.items() if one}
    if not beyond:
        return
    yield "Beyond the same updates on the initial policy's own samples:"
    yield _table("method − SFT on own samples", beyond, about)
    yield "\n".join(
        f"- {about['labels'][name]}: {_taxed(one, about)}"
        for name, one in beyond.items()
        if name in methods.ENDS
    )


def _taxed(one, about):
    """Which capabilities fell beyond the placebo, their whole interval below 0."""
    groups = [a for a in about["axes"] if a.from_start and a.key != SKILLS.key]
    down = [a for a in groups if a.key in one and _below(one[a.key])]
    up = [a for a in groups if a.key in one and _above(one[a.key])]
    gain = "reward up" if _above(one[REWARD.key]) else "no gain in reward"
    text = f"{gain}; {len(down)} of {len(groups)} skills down"
    text += f" ({_listed(down)})" if down else ""
    return text + (f"; up: {_listed(up)}." if up else ".")


def _listed(axes):
    return markdown.join(axis.title.removesuffix(" lost").lower() for axis in axes)


def _below(estimate):
    return estimate["high"] is not None and estimate["high"] < 0


def _above(estimate):
    return estimate["low"] is not None and estimate["low"] > 0


# Along the way of the aligners


def _way(about):
    keys = [axis.key for axis in about["axes"] if axis.key != _DIVERSITY.key]
    paths = {m: settings.path(about["records"], m, keys) for m in methods.ALIGNERS}
    return {name: path for name, path in paths.items() if path}


def _render_way(paths, about, evidence):
    del evidence
    yield "### Along the way"
    yield (
        "Mean change since the start at every look, and whether it keeps its direction "
        "throughout (↑, ↓, or ~ where it turns)."
    )
    axes = [a for a in about["axes"] if a.key != _DIVERSITY.key]
    rows = []
    for name, path in paths.items():
        for axis in axes:
            if axis.key in path:
                mean = np.array(path[axis.key]["mean"]) * axis.scale
                steps = np.diff(mean)
                sign = "↑" if (steps >= 0).all() else "↓" if (steps <= 0).all() else "~"
                numbers = ", ".join(markdown.number(x) for x in mean[1:])
                rows.append([about["labels"][name], _title(axis), numbers, sign])
    yield markdown.table(["aligner", "capability", "at each look", ""], rows)


# What averages give back


def _kept(about):
    """Averages that keep 20% of the starting weights, against their aligner."""
    found, keys = about["found"], _keys(about)
    result = {}
    for source in methods.ENDS:
        for kind in ("ma", "hma"):
            name = methods.row_of(source, kind, _KEEP)
            given = settings.shares(found, name, source)
            difference = settings.difference(found, name, source, keys)
            if difference:
                result[name] = {"difference": difference, "shares": given}
    return result


def _render_kept(kept, about, evidence):
    yield "## What keeping 20% of the starting weights gives back"
    yield (
        "Averages at weight 0.8 minus the aligned policy; "
        f"{markdown.brackets(evidence.summary)}."
    )
    labels = about["labels"]
    yield _table("average", {k: one["difference"] for k, one in kept.items()}, about)
    yield "\n".join(f"- {labels[k]}: {_bought(one)}" for k, one in kept.items())


def _bought(one):
    """What an average returned, and what for, in a sentence."""
    if not one["shares"]:
        return "the aligned policy lost no skill to give back."
    returned, paid = one["shares"]["returned"], one["shares"]["paid"]
    return (
        f"returned {markdown.interval(returned, 100)}% of the skills lost for "
        f"{markdown.interval(paid, 100)}% of the reward."
    )


def _hma(about):
    """HMA − MA at equal mean, the ratios it found, and its controls."""
    found, result = about["found"], {}
    keys = (REWARD.key, SKILLS.key)
    for source in methods.ENDS:
        for kind in ("hma", "hma_2"):
            for weight in methods.WEIGHTS:
                name = methods.row_of(source, kind, weight)
                plain = methods.row_of(source, "ma", weight)
                gap = settings.difference(found, name, plain, keys)
                if gap:
                    ratios = _ratios(about["records"], name)
                    result[name] = {"minus_ma": gap, "ratios": ratios}
    for name in methods.LISTS["hma_controls"]:
        learned = methods.row_of("rsf", "hma", methods.CONTROLLED)
        gap = settings.difference(found, name, learned, keys)
        if gap:
            result[name] = {"minus_hma": gap}
    return result


def _ratios(records, name):
    """{metric: estimate} of what a heterogeneous average logged of itself."""
    found = {}
    for record in records:
        if record["method"] == name:
            for key, value in record.items():
                if key.startswith("average/"):
                    unit = of(record)
                    found.setdefault(key.partition("/")[2], {})[unit] = value
    return {key: results.estimate(by_unit) for key, by_unit in found.items()}


def _render_hma(hma, about, evidence):
    yield "## A ratio for each block"
    yield (
        "Heterogeneous minus plain averages at the same mean ratio, and the ratios, "
        f"from input to output; {markdown.brackets(evidence.summary)}. Ratios start at "
        "the mean, and *moved* is the furthest that one got."
    )
    axes = [a for a in about["axes"] if a.key in (REWARD.key, SKILLS.key)]
    header = ["average", *(_title(a) for a in axes), "mean ratios", "moved"]
    rows, controls = [], []
    for name, one in hma.items():
        gap = one.get("minus_ma") or one["minus_hma"]
        cells = [about["labels"][name]]
        cells += [markdown.interval(gap.get(a.key), a.scale) for a in axes]
        if "minus_hma" in one:
            controls.append(cells)
            continue
        alphas = [e["mean"] for k, e in one["ratios"].items() if "ratio_" in k]
        moved = one["ratios"].get("moved")
        text = ", ".join(f"{alpha:.2f}" for alpha in alphas)
        rows.append([*cells, text, markdown.interval(moved)])
    yield markdown.table(header, rows)
    if controls:
        yield (
            "Its ratios in other orders, and random ones, minus HMA of RSF at "
            f"{methods.CONTROLLED:g}:"
        )
        yield markdown.table(["ratios", *(_title(a) for a in axes)], controls)


def _adaptive(about):
    """Ratios tuned with labels of one skill, minus MA at equal mean."""
    found, result = about["found"], {}
    for weight in methods.WEIGHTS:
        name, plain = (methods.row_of("rsf", k, weight) for k in ("adaptive", "ma"))
        gap = settings.difference(found, name, plain, _keys(about))
        if gap:
            result[name] = gap
    return result


def _render_adaptive(adaptive, about, evidence):
    yield "## Ratios tuned on one skill"
    yield (
        f"With labelled {methods.TUNED_ON}s as the objective, minus plain averages at "
        f"the same mean; {markdown.brackets(evidence.summary)}. A control: it should "
        "help that skill and no other."
    )
    yield _table("average", adaptive, about)


# What predicts forgetting


def _forgetting(about):
    records, found = about["records"], {}
    names = pictures.predicted(records)
    for axis in forgetting.PREDICTORS:
        rho = settings.partial(records, names, axis.key)
        if rho:
            units = {Unit(world, 0): value for world, value in rho.items()}
            by_world = {str(world): value for world, value in rho.items()}
            found[axis.key] = {**results.estimate(units), "per_world": by_world}
    return found


def _render_forgetting(found, about, evidence):
    del about
    yield "## What predicts forgetting"
    yield (
        "Rank correlation with the skills lost at matched reward (partial, reward "
        "taken out), over all looks at trained policies of a world; "
        f"{markdown.brackets(evidence.summary)}."
    )
    rows = [
        [evidence.report.axis(key).title, markdown.interval(one)]
        for key, one in found.items()
    ]
    yield markdown.table(["predictor", "ρ"], rows)


# Everything


def _settings(about):
    return {name: settings.estimates(by) for name, by in about["found"].items()}


def _render_settings(found, about, evidence):
    yield "## Every setting"
    yield (
        "Change from the initial policy to the end; "
        f"{markdown.brackets(evidence.summary)}."
    )
    yield _table("setting", found, about)
