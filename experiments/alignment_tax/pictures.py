"""Capability against reward, a point a setting: the pictures of the alignment tax."""

import functools

import numpy as np

from experiments.alignment_tax import methods, settings
from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation.axes import REWARD, SKILLS
from rlhf_jax.reporting import evaluations, figure_style, markdown
from rlhf_jax.reporting.report import Picture
from rlhf_jax.studies import forgetting
from rlhf_jax.studies.fine_tuning import FineTuning
from rlhf_jax.studies.policy_gradient import PolicyGradient
from rlhf_jax.studies.preference_tuning import PreferenceTuning
from rlhf_jax.studies.selection import RejectionSampling

_ROWS = {
    "RSF": ("rsf_early", "rsf_sma", "rsf_graft", "rsf_ma", "rsf_hma"),
    "PPO": ("ppo_early", "ppo_sma", "ppo_kl", "ppo_ma", "ppo_hma"),
    "DPO": ("dpo_early", "dpo_ma", "dpo_hma"),
    "SFT on RSF's texts": (
        "distilled_early",
        *("l1", "l2", "kd", "replay", "lora"),
        "distilled_ma",
    ),
}
_THIRDS = ("ma", *(f"ma_{part}" for part in methods.PARTS), "ma_embeddings")
_PARTS = {
    label: tuple(f"{name}_{third}" for third in _THIRDS)
    for name, label in methods.ALIGNERS.items()
}
# How a method is trained: the classes of the figure about predictors.
_CLASSES = {
    "on-policy RL": (PolicyGradient, RejectionSampling),
    "SFT": (FineTuning,),
    "DPO": (PreferenceTuning,),
}
_CONTROL = "control"


def of_settings(records, axes):
    """The pictures of a report: fronts, those of parts, predictors."""
    known = {axis.key for axis in axes}
    ran = {record["method"] for record in records}
    fronts = functools.partial(_fronts, _ROWS)
    found = [Picture("Capability against reward", "front.png", fronts)]
    if any("_ma_input_" in name for name in ran):
        parts = functools.partial(_fronts, _PARTS)
        found.append(Picture("One third averaged at a time", "parts.png", parts))
    if forgetting.FORWARD_KL.key in known:
        draw = functools.partial(_predictors, records)
        found.append(Picture("What predicts forgetting", "forgetting.png", draw))
    return tuple(found)


def _fronts(rows, records, path, report):
    """A row an aligner, a column a capability; a line a family, a point a setting."""
    by_method = evaluations.by_method(evaluations.runs(records))
    rows = {
        label: [name for name in names if name in by_method]
        for label, names in rows.items()
    }
    rows = {label: names for label, names in rows.items() if names}
    columns = [axis for axis in report.axes if axis.from_start]
    columns += [axis for axis in report.axes if axis.key == axes_.TEXT_NLL.key]
    sheet, panels = figure_style.sheet(
        max(len(rows), 1), len(columns), width=2.7, height=2.6
    )
    order = list(
        dict.fromkeys(_knob(name) for names in rows.values() for name in names)
    )
    styles = dict(zip(order, figure_style.styles(), strict=False))
    for i, (label, names) in enumerate(rows.items()):
        for panel, axis in zip(panels[i], columns, strict=True):
            for name in names:
                _family(panel, by_method[name], axis, styles[_knob(name)])
            _start(panel, by_method[names[0]], axis)
            _describe(panel, axis, label, top=i == 0, left=panel is panels[i, 0])
    labels = {knob: _KNOBS.get(knob, knob) for knob in order}
    keys = [
        figure_style.key("initial policy π₀", **figure_style.STAR),
        figure_style.key(
            "the policy itself, knob at zero", marker="o", ms=7, mec="white"
        ),
    ]
    groups = [figure_style.handles(order, labels), keys]
    worlds = {run.unit.world for group in by_method.values() for run in group}
    note = f"means over {markdown.count(len(worlds), 'world')}"
    return figure_style.finish(
        sheet, groups, path, "The alignment tax: up and to the right is better", note
    )


_KNOBS = {
    "early": "early stop",
    "sma": "SMA (Elastic Reset)",
    "ma": "MA",
    "hma": "HMA",
    "kl": "KL penalty",
    "l1": "L1",
    "l2": "L2",
    "kd": "distillation",
    "lora": "LoRA",
    "ma_input": "MA, input third",
    "ma_middle": "MA, middle third",
    "ma_output": "MA, output third",
    "ma_embeddings": "MA, input third and embeddings",
}


def _knob(family):
    """What a family turns, whichever aligner: its style."""
    source, _, knob = family.partition("_")
    return knob if source in methods.ENDS else family


def _points(group, axis):
    """Means over units of (reward gained, capability) at the start and every look."""
    looks = min(len(run.rows) for run in group)
    reward = np.mean([run.values(REWARD)[:looks] for run in group], axis=0)
    score = [[row.get(axis.key, np.nan) for row in run.rows[:looks]] for run in group]
    return reward - reward[0], np.mean(score, axis=0) * axis.scale


def _family(panel, group, axis, style):
    x, y = _points(group, axis)
    panel.plot(x, y, lw=1.3, ms=4, mec="white", mew=0.5, zorder=3, **style)
    panel.plot(
        x[-1:], y[-1:], ls="", marker=style["marker"], color=style["color"], ms=8,
        mec="white", zorder=4,
    )  # fmt: skip


def _start(panel, group, axis):
    x, y = _points(group, axis)
    panel.plot(x[:1], y[:1], ls="", zorder=7, **figure_style.STAR)


def _describe(panel, axis, label, *, top, left):
    if top:
        title = axis.title.replace(" lost", "")
        unit = "points" if axis.percent else axis.unit
        panel.set_title(f"{title}  ({unit})", fontsize=9, loc="left")
    if axis.better == "less" and not axis.from_start and not panel.yaxis_inverted():
        panel.invert_yaxis()
    if left:
        panel.set_ylabel(label, fontsize=10, fontweight="bold")
    panel.set_xlabel("reward gained (sd)", fontsize=8)


def _class_of(method):
    """The class of a trained method, None of any other."""
    row = methods.METHODS.get(method)
    if row is None or row.train is None:
        return None
    if row.role == _CONTROL:
        return _CONTROL
    of = (label for label, kinds in _CLASSES.items() if isinstance(row.train, kinds))
    return next(of, None)


def _predictors(raw, records, path, report):
    """Skills lost against each predictor, a point a look at a trained policy."""
    del records
    runs = [r for r in evaluations.runs(raw) if _class_of(r.method)]
    known = [
        axis for axis in forgetting.PREDICTORS if any(run.has(axis) for run in runs)
    ]
    sheet, panels = figure_style.sheet(1, len(known), width=3.4, height=3.2)
    classes = (*_CLASSES, _CONTROL)
    styles = dict(zip(classes, figure_style.styles(), strict=False))
    for panel, axis in zip(panels[0], known, strict=True):
        for name, group in evaluations.by_method(runs).items():
            style = styles[_class_of(name)]
            looks = min(len(run.rows) for run in group)
            x, y = (
                np.mean([run.values(a)[1:looks] for run in group], axis=0)
                for a in (axis, SKILLS)
            )
            panel.plot(
                x, 100 * y, ls="", marker=style["marker"], color=style["color"], ms=5,
                mec="white", mew=0.5, alpha=0.85,
            )  # fmt: skip
        rho = settings.partial(raw, predicted(raw), axis.key)
        text = f"{axis.title}\n"
        if rho:
            text += f"ρ at matched reward {np.mean(list(rho.values())):.2f}"
        panel.set_title(text, fontsize=9, loc="left")
        panel.set_xlabel(axis.unit, fontsize=8)
        if axis != forgetting.RANK:
            panel.set_xscale("log")
    panels[0][0].set_ylabel("skills lost (points)", fontsize=9)
    handles = [
        figure_style.key(name, marker=style["marker"], color=style["color"], ms=6)
        for name, style in styles.items()
        if any(_class_of(run.method) == name for run in runs)
    ]
    return figure_style.finish(
        sheet,
        [handles],
        path,
        "What predicts forgetting?",
        "means over units, every look",
    )


def predicted(records):
    """The trained methods among the records, whose forgetting is to be predicted."""
    return {
        record["method"]
        for record in records
        if _class_of(record["method"]) not in (None, _CONTROL)
    }
