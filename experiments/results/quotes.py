"""Texts that READMEs make of kept results, by name."""

import numpy as np

from experiments import compare, results
from experiments.pivot_translation import methods as game
from experiments.results import ai, instruct_tax, mismatch, plans, real, tax
from experiments.sentiment import ablations as ablation_pairs
from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.microworld import skills
from rlhf_jax.reporting import contrasts, endpoints, markdown
from rlhf_jax.reporting import results as estimates
from rlhf_jax.studies import methods

_FINALS = {
    "reward": "proxy reward (sd)",
    "gold": "gold",
    "drift/text_nll": "human-text NLL",
    "drift/kl_initial": "KL from π₀",
    "tax/skills": "skills lost (points)",
}
_GAME = {
    "reward": "BLEU-De",
    "eval/bleu_en": "BLEU-En",
    "drift/message_nll": "NLL of messages",
    "drift/kl_initial": "KL / message",
}
_SHARED = ("drift/text_nll", "drift/kl_initial")  # of all recipes
_POINTS = {"tax/skills": 100.0}
_REPORTS = (  # numbers of no units
    *("measured", "worlds", real.MODELS, plans.PROGRAMS, instruct_tax.NAME),
)
_SECONDARY = {
    "reward_at/drift/text_nll": "reward at matched human-text NLL (sd)",
    "gold_at/drift/text_nll": "gold there",
    "gold": "final gold",
    "tax/skills": "skills kept at the end (points)",
}


def texts():
    """{name: text} of everything that a README may quote."""
    return {
        "sentiment.finals": finals("sentiment", _FINALS),
        "stories.finals": ends("stories", _judged(), methods.LABELS),
        "one_task.finals": one_task(),
        "imdb.finals": ends("imdb", _judged(), methods.LABELS),
        "game_study.finals": ends("game_study", _GAME, game.LABELS, test=True),
        "game_tuned.finals": ends("game_tuned", _GAME, game.LABELS, test=True),
        "elastic_reset.finals": finals("elastic_reset", _FINALS),
        "elastic_reset.verdicts": verdicts("elastic_reset"),
        "elastic_reset.hypervolumes": hypervolumes("elastic_reset"),
        "elastic_reset.differences": differences("elastic_reset"),
        "elastic_reset.recovery": recovery("elastic_reset"),
        "elastic_reset_tuned.verdicts": verdicts("elastic_reset_tuned"),
        "elastic_reset_tuned.differences": differences("elastic_reset_tuned"),
        "elastic_reset_tuned.hypervolumes": hypervolumes("elastic_reset_tuned"),
        "elastic_reset_tuned.finals": finals("elastic_reset_tuned", _FINALS),
        "elastic_reset_ablations": ablations(
            "elastic_reset_ablations", "elastic_reset_tuned"
        ),
        "elastic_reset_sweep.chosen": chosen("elastic_reset_sweep"),
        "worlds": worlds(),
        "alignment_tax.verdicts": verdicts("alignment_tax", tax.LABELS, both=True),
        **{f"alignment_tax.{key}": text for key, text in tax.texts().items()},
        "rlaif.verdicts": verdicts("rlaif", ai.LABELS, both=True),
        **{f"rlaif.{key}": text for key, text in ai.texts().items()},
        "objective_mismatch.verdicts": verdicts(
            "objective_mismatch", mismatch.LABELS, both=True
        ),
        **{f"objective_mismatch.{key}": x for key, x in mismatch.texts().items()},
        **real.texts(),
        **plans.texts(),
        **instruct_tax.texts(),
        "files": files(),
        "speed": speed(),
        "smollm2": smollm2(),
        **{f"measured.{k}": text for k, text in results.measured()["texts"].items()},
    }


def finals(name, columns):
    """Final policies of a kept result: mean [low, high], the initial policy first."""
    summary = results.load(name).summary
    rows = [("π₀", summary["initial"])]
    labels = methods.LABELS
    rows += [(labels[method], m) for method, m in summary["methods"].items()]
    body = []
    for label, m in rows:
        known = {**m["drift"], "reward": m["reward"], "gold": m.get("gold")}
        cells = [markdown.interval(known[c], _POINTS.get(c, 1)) for c in columns]
        body.append([label, *cells])
    table = markdown.table(["method", *columns.values()], body)
    return f"{table}\n\n{_brackets(summary)}"


def one_task():
    """Final policies of recipes that share a task, in the units of their reward."""
    summary = results.load("one_task").summary
    columns = {"reward": "reward", **{k: _FINALS[k] for k in _SHARED}}
    rows = {"π₀": summary["initial"]}
    rows |= {compare.named(k, methods.LABELS): m for k, m in summary["methods"].items()}
    body = []
    for label, m in rows.items():
        known = {**m["drift"], "reward": m["reward"]}
        body.append([label, *(markdown.number(known[c]["mean"]) for c in columns)])
    return markdown.table(["method", *columns.values()], body)


def ends(name, columns, labels, *, test=False):
    """Final values of a result of which these alone were kept, means and ranges."""
    kept = results.load(name)
    start = [markdown.number(kept.initial.get(c)) for c in columns]
    rows = [["π₀", *start, *[""] * test]]
    for method, by_name in kept.methods.items():
        cells = [markdown.interval(estimates.estimate(by_name[c])) for c in columns]
        if test:
            pair = (by_name[f"test/bleu_{c}"].values() for c in ("de", "en"))
            cells.append(", ".join(f"{np.mean(list(v)):.1f}" for v in pair))
        rows.append([labels.get(method, method), *cells])
    header = ["method", *columns.values(), *["test BLEU-De, -En"] * test]
    return markdown.table(header, rows)


def worlds():
    """How fit for use the worlds are: a row a world, and the contract."""
    kept = results.report("worlds")
    rows = []
    for r in kept["worlds"]:
        starts = [markdown.number(r[f"skill/{kind}"]) for kind in skills.KINDS]
        golds = (max(x["gold"] for x in r["ppo"]), r["ppo"][-1]["gold"])
        numbers = (r["kl"], r["accuracy"], r["constant"], r["corpus_gold_90"], *golds)
        cells = [markdown.number(x) for x in (r["skills"], *numbers)]
        rows.append([r["world"], cells[0], ", ".join(starts), *cells[1:]])
    kinds = ", ".join(skills.KINDS)
    header = [
        "world",
        "skills of π₀",
        kinds,
        "KL(corpus‖π₀)",
        "RM accuracy",
        "best constant text",
        "90th percentile of the corpus",
        "gold of PPO, at its peak",
        "at the end",
    ]
    count = len(kept["worlds"])
    fit = [f"- {name}: {n} of {count} worlds" for name, n in kept["fit"].items()]
    return "\n".join([markdown.table(header, rows), "", *fit])


def verdicts(name, labels=methods.LABELS, *, both=False):
    """What a study declared, and what its worlds say: the primary comparisons.

    both: whether the method that is said to be better is named in every row.
    """
    recorded, rows = results.load(name), []
    kept = recorded.summary
    for row in kept["verdicts"]:
        if row["secondary"]:
            continue
        rival = labels[row["other"]]
        than = "≈" if row["kind"] == "equal" else "better than"
        rival = f"{labels[row['method']]} {than} {rival}" if both else rival
        scale = endpoints.parse(row["endpoint"], recorded.axes).scale
        cells = [rival, markdown.number(row["smallest_effect"], scale), *[""] * 3]
        if row["mean"] is not None:
            cells[2] = markdown.interval(row, scale)
            alike = row["intraclass"]
            alike = None if alike in (None, "nan") or np.isnan(alike) else alike
            cells[3:] = [markdown.number(x) for x in (row["p_holm"], alike)]
        needed = row["needed"] if row["word"] == "undecided" else None
        word = f"{row['word']} ({needed} worlds would decide)" if needed else None
        rows.append([*cells, word or row["word"] or row["reason"]])
    header = ["claim" if both else "rival", "smallest effect"]
    header += ["difference", "Holm p", "ICC", "verdict"]
    return f"{markdown.table(header, rows)}\n\n{_brackets(kept, 'Paired differences')}"


def ablations(name, study):
    """What each part of Elastic Reset is worth: contrasts of a kept result with others
    of `study`, on the worlds and seeds that both have."""
    kept, rest = (results.load(n).summary for n in (name, study))
    both = {**rest, "methods": {**rest["methods"], **kept["methods"]}}
    rows = []
    for row in contrasts.table(both, ablation_pairs.CONTRASTS, axes_.STANDARD):
        if not {row["method"], row["other"]} & set(kept["methods"]):
            continue
        pair = " − ".join(methods.LABELS[row[side]] for side in ("method", "other"))
        cells = (
            markdown.interval(
                row["differences"].get(k), endpoints.parse(k, axes_.STANDARD).scale
            )
            for k in _ABLATED
        )
        rows.append([row["part"], pair, *cells])
    table = markdown.table(["part", "difference", *_ABLATED.values()], rows)
    return f"{table}\n\n{_brackets(kept, 'Paired differences')}"


_ABLATED = {
    "reward": "proxy reward (sd)",
    "gold": "gold",
    "hypervolume/drift/text_nll": "hypervolume, human-text NLL",
    "hypervolume/tax/skills": "hypervolume, skills lost (points)",
}


def hypervolumes(name):
    """{reward within drift} of every method of a study, on each axis."""
    kept = results.load(name).summary
    axes = {"drift/text_nll": "human-text NLL", "drift/kl_initial": "KL from π₀"}
    axes["tax/skills"] = "skills lost (points)"
    rows = []
    for method, m in kept["methods"].items():
        found = m.get("hypervolume") or {}
        cells = [markdown.interval(found.get(k), _POINTS.get(k, 1)) for k in axes]
        rows.append([methods.LABELS[method], *cells])
    return markdown.table(["method", *axes.values()], rows)


def chosen(name):
    """What a kept sweep chose for every method, and how many settings it compared."""
    kept = results.report(name)
    compared = {
        method: len({one["trial"] for line in lines for one in line["tried"]})
        for method, lines in kept["search"].items()
    }
    rows = [
        [methods.LABELS[method], f"`{one['flags']}`", compared[method]]
        for method, one in kept["chosen"].items()
    ]
    return markdown.table(["method", "chosen", "settings compared"], rows)


def differences(name):
    """Secondary endpoints of a study: the method named first − each rival."""
    kept, cells = results.load(name).summary, {}
    for row in kept["verdicts"]:
        if row["endpoint"] in _SECONDARY and row["mean"] is not None:
            scale = _POINTS.get(row["endpoint"], 1)
            text = markdown.interval(row, scale)
            cells.setdefault(row["other"], {})[row["endpoint"]] = text
    rows = [
        [methods.LABELS[other], *(found.get(e, "") for e in _SECONDARY)]
        for other, found in cells.items()
    ]
    return markdown.table(["rival", *_SECONDARY.values()], rows)


def recovery(name):
    """How soon Elastic Reset and a reset to π₀ regain what a reset costs."""
    compared = results.load(name).summary["recovery"]
    arms = {key: methods.LABELS[compared[key]] for key in ("method", "other")}
    rows = [
        [
            f"{row['iteration'] + 1}, watched for {row['watched']}",
            *(markdown.interval(row[arm]["below"]) for arm in arms),
            " and ".join(str(row[arm]["regained"]) for arm in arms),
        ]
        for row in compared["resets"]
    ]
    count = compared["resets"][0]["units"]
    header = ["reset after iteration", *arms.values(), f"regained, of {count} units"]
    gap = markdown.interval(compared["estimate"])
    return (
        f"{markdown.table(header, rows)}\n\nIterations below the level before the "
        f"reset, a mean over resets: {arms['other']} − {arms['method']} = {gap}."
    )


def files():
    """The table of the files beside the README."""
    rows = []
    for path in sorted(results.FOLDER.glob("*.json")):
        if path.stem in _REPORTS or path.stem.endswith("sweep"):
            continue
        kept = results.load(path.stem)
        about = kept.about
        rows.append(
            [
                f"[`{path.name}`]({path.name})",
                markdown.units(results.sizes(kept)),
                about["date"][:10],
                about.get("note", ""),
            ]
        )
    return markdown.table(["file", "units", "date", "note"], rows)


def speed():
    """How many times as fast as the peers: medians, ranges, processor time."""
    measured, rows = results.measured()["speed"], []
    for row in measured["rows"]:
        ours, theirs = row["seconds"]
        cells = [
            _ratio(row.get(part)) for part in ("iteration", "generation", "updates")
        ]
        cells[0] += f" ({ours:g} s against {theirs:g} s)"
        rows.append([row["workload"], row["against"], *cells])
    header = ["workload", "against", "iteration", "generation", "updates"]
    return f"{markdown.table(header, rows)}\n\n{_sentence(measured['about'])}."


def smollm2():
    """What an iteration of a real model of 135M parameters takes."""
    measured = results.measured()["smollm2"]
    ours, trl, ratios = (measured[name] for name in ("ours", "trl", "ratios"))
    return (
        f"{_sentence(measured['about'])}: {ours['seconds']:g} s against TRL's "
        f"{trl['seconds']:g} s, {ratios['iteration']:g} times as fast "
        f"({ratios['processor']:g} in processor time; sampling {ratios['generate']:g}, "
        f"updates {ratios['updates']:g}). Without a peer beside it {ours['alone']:g} "
        f"s, of which sampling takes {ours['sampling']:g} and updates "
        f"{ours['updates']:g}, at {100 * ours['peak_share']:.0f}% of the matmul peak. "
        f"Peak memory {ours['peak_gib']:g} GiB against {trl['peak_gib']:g} GiB."
    )


def _sentence(text):
    return text[0].upper() + text[1:]


def _ratio(numbers):
    """median [low, high], processor seconds."""
    if not numbers:
        return ""
    median, low, high, processor = numbers
    return f"{median:g} [{low:g}, {high:g}], {processor:g}"


def _brackets(summary, what="Mean"):
    return f"{what} over {markdown.units(summary)}; {markdown.brackets(summary)}."


def _judged():
    return {k: v for k, v in _FINALS.items() if k != "tax/skills"} | {"gold": "judge"}
