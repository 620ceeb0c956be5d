"""report.md of a comparison of two models, from results.json."""

import math

from experiments.alignment_tax.two_models import merges
from rlhf_jax.reporting import markdown
from rlhf_jax.runtime import progress

_AXES = {
    "reward": "The x axis is the mean reward of samples",
    "kl": "No --reward was given: the x axis is KL(model ‖ before) of the model's own "
    "samples, in nats a sample. It is how far a model is from the start, and no price",
    "weight": "No --prompts were given: the x axis is the weight on the aligned model; "
    "of a merge, the share of the change that it keeps",
}


def page(results, before, after):
    """The whole page. before, after: the two models as the flags name them."""
    parts = [
        f"# What alignment cost: {before} → {after}",
        f"**{sentence(results)}**",
        "![The front](front.png)",
        "## What was lost",
        _lost(results),
        _beside(results),
        "## The front",
        _axis(results),
        _front(results),
        *_ranking(results),
        "## How the models were made",
        _families(results),
        *_hma(results),
        "## The run",
        _run(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def sentence(results):
    """The advice, or why there is none."""
    found = results["advice"]
    if not found["tax"]:
        return (
            "No suite lost significantly (Holm-corrected p ≥ 0.05): there is no tax to "
            "buy back, and nothing is advised."
        )
    if found["point"] is None:
        return f"Alignment was taxed, but nothing is advised: {found['reason']}"
    text = _keep(found) + f": it returned {share(found['returned'])} of the tax"
    if found["paid"] is not None:
        text += f" for {share(found['paid'])} of the reward gained"
    text += ", read on items that did not choose it."
    if found["paid"] is None:
        text += " Without a reward nobody knows the price: give --reward."
    low = found["returned"]["low"]
    if low is None or not low > 0:
        text += " The interval includes 0: ask more questions before relying on it."
    return text


def change(name, row):
    """One suite's loss in a line."""
    low, high = (100 * row[end] for end in ("low", "high"))
    difference = 100 * (row["after"] - row["before"])
    return (
        f"{name}: {100 * row['before']:.1f} → {100 * row['after']:.1f}, "
        f"{difference:+.1f} [{low:+.1f}, {high:+.1f}], Holm p {row['holm']:.2g}"
        + (", lost" if row["taxed"] else "")
    )


def share(value):
    """A share and its interval in percent; an end without a bound is said so."""
    if value is None or value["mean"] is None or math.isnan(value["mean"]):
        return "–"
    ends = [value[end] for end in ("low", "high")]
    if not all(end is not None and math.isfinite(end) for end in ends):
        return f"{100 * value['mean']:.0f}% [no bound]"
    low, high = (f"{100 * end:.0f}" for end in ends)
    return f"{100 * value['mean']:.0f}% [{low}, {high}]"


def _keep(found):
    kept = f"{100 * (1 - found['weight']):.0f}% of the starting weights"
    if found["family"] == "ma":
        return f"Keep {kept}"
    if found["family"] == "hma":
        return f"Keep {kept} on average, by blocks of layers ({found['label']})"
    return f"Merge with {found['label']}"


def _lost(results):
    header = (
        "suite", "questions, chance", "metric", "before", "after",
        "difference [95%]", "lost / gained", "p", "Holm p",
    )  # fmt: skip
    rows = []
    for name, row in results["lost"].items():
        counted = "–" if row["lost"] is None else f"{row['lost']} / {row['gained']}"
        ends = [f"{100 * row[key]:.1f}" for key in ("before", "after")]
        rows.append(
            (
                f"**{name}**" if row["taxed"] else name,
                results["facts"][name],
                row["metric"],
                *ends,
                difference(row),
                counted,
                f"{row['p']:.2g}",
                f"{row['holm']:.2g}",
            )
        )
    both, ends = results["together"], [r["together"] for r in results["points"][:2]]
    together = [f"{100 * x:.1f}" for x in ends]
    rows.append(
        (
            "all questions", "", "", *together, interval(both, 100), "",
            f"{both['p']:.2g}", "",
        )
    )  # fmt: skip
    return "\n".join(
        [
            markdown.table(header, rows),
            "",
            "In percent. Intervals: paired bootstrap over questions; p: McNemar's "
            "exact test for right and wrong answers, else the bootstrap's; bold: lost "
            "at 5% after Holm's correction over suites. They speak about these two "
            "models on other questions of the kind, not about other training runs.",
        ]
    )


def _beside(results):
    """Reward, drift on text and KL of the two models."""
    names = {
        "reward": "reward" + ", in deviations of --before" * results["scaled"],
        "text": "NLL of human text, nats a token",
    }
    rows = [
        (
            names[key],
            markdown.number(results[key]["before"]),
            markdown.number(results[key]["after"]),
            interval(results[key]),
            f"{results[key]['p']:.2g}",
        )
        for key in names
        if results[key] is not None
    ]
    if results["kl"] is not None:
        kl = markdown.number(results["kl"])
        rows.append(("KL(after ‖ before), nats a sample", "0", kl, "", ""))
    header = ("besides", "before", "after", "difference [95%]", "p")
    return markdown.table(header, rows) if rows else ""


def difference(row):
    """What became of a suite's score, in points, with its interval."""
    return interval({**row, "value": row["after"] - row["before"]}, 100)


def interval(row, scale=1.0):
    """A difference with the ends of its interval, signed."""
    low, high = (f"{scale * row[end]:+.3g}" for end in ("low", "high"))
    return f"{scale * row['value']:+.3g} [{low}, {high}]"


def _axis(results):
    scaled = ", in deviations of those of --before" * results["scaled"]
    text = _AXES[results["axis"]] + (scaled if results["axis"] == "reward" else "")
    return (
        f"{text}. Every model saw the same questions and prompts, with the same "
        "sampling keys. Scores in percent."
    )


def _front(results):
    points = results["points"]
    extra = [
        (title, key)
        for title, key in (("reward", "reward"), ("KL", "kl"), ("NLL", "text_nll"))
        if points[0][key] is not None
    ]
    names = list(results["lost"])
    header = ("model", "weight", *(t for t, _ in extra), "all questions", *names)
    rows = [
        (
            f"**{p['label']}**" if p["family"] is None else p["label"],
            f"{p['weight']:g}",
            *(markdown.number(p[key]) for _, key in extra),
            f"{100 * p['together']:.1f}",
            *(f"{100 * p['scores'][name]:.1f}" for name in names),
        )
        for p in points
    ]
    return markdown.table(header, rows)


def _ranking(results):
    """What every model returns and pays; () where there was no tax."""
    made = results["points"][2:]
    if not results["advice"]["tax"] or not made:
        return ()
    priced = made[0]["paid"] is not None

    def worth(point):
        paid = point["paid"]["mean"] if priced else 0.0
        worth = point["returned"]["mean"] - paid
        return math.inf if math.isnan(worth) else -worth

    rows = [
        (p["label"], share(p["returned"]), *([share(p["paid"])] if priced else []))
        for p in sorted(made, key=worth)
    ]
    lost = [name for name, row in results["lost"].items() if row["taxed"]]
    header = ("model", "tax returned", *(["reward paid"] if priced else []))
    by = "share returned minus share paid" if priced else "share returned"
    return (
        "## What each model returns",
        markdown.table(header, rows),
        f"Of the questions of {markdown.join(lost)}; ranked by {by}, on all items, so "
        "that the top flatters itself. Intervals: paired bootstrap; “no bound”: in too "
        "many resamples there is no tax, or no reward gained, to have a share of. The "
        "suites were selected by their loss, which overstates it, and averaging seems "
        f"to return some of what was only noise. {results['advice']['reason']} The "
        "advice is read on half B (odd items).",
    )


def _families(results):
    used = dict.fromkeys(p["family"] for p in results["points"] if p["family"])
    lines = [
        f"- {merges.FAMILIES[k].label}: {merges.FAMILIES[k].summary}"
        + ("" if merges.FAMILIES[k].advised else "; never advised")
        for k in used
    ]
    lines.append(
        "\nWeights are on the aligned model: 0.8 keeps 20% of the starting weights. Of "
        "merges the number is the density, the share of the change after − before that "
        "is kept; they add it to the starting weights once."
    )
    return "\n".join(lines)


def _hma(results):
    fitted = results["about"]["hma"]
    if not fitted:
        return ()
    rows = [
        (
            name,
            " ".join(f"{x:.3f}" for k, x in row.items() if k.startswith("ratio_")),
            f"{row['moved']:.3f}",
            f"{row['nll']:.4f}",
            f"{row['nll_uniform']:.4f}",
        )
        for name, row in fitted.items()
    ]
    header = ("model", "ratios, input first", "moved", "NLL of samples", "at the mean")
    return (
        markdown.table(header, rows),
        "The ratios maximise the likelihood of samples that the aligned model wrote to "
        "the prompts, with other keys than those that are measured here.",
    )


def _run(results):
    about, memory = results["about"], results["about"]["memory"]
    peak = memory["device_peak_mib"]
    where = "" if peak is None else f", {peak:,.0f} MiB at most on the device"
    lines = [f"- {note}" for note in about["notes"]]
    lines += [
        f"- Memory: two models and one average, {memory['model_mib']:,.1f} MiB each, "
        "one tensor's masks for a merge, one more model for a graft and for the "
        f"gradient of HMA{where}; the process held {memory['peak_mib']:,.0f} MiB at "
        "most, programs and data included.",
        f"- {progress.duration(about['seconds'])}, jax {about['jax']}, commit "
        f"{about['commit']}",
        f"- `{about['command']}`",
        "- results.json has every item of every model.",
    ]
    return "\n".join(lines)
