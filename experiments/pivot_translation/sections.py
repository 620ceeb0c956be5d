"""Sections of the game's report: two selections, checks of signs, messages compared."""

import numpy as np

from experiments.pivot_translation import methods
from rlhf_jax.evaluation import axes, units
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.reporting import (
    controls,
    evaluations,
    markdown,
    results,
    samples,
    sections,
)
from rlhf_jax.reporting.claims import Claim

LEAST = 0.5  # BLEU: the smallest difference of interest
BLEU_DE = Axis(
    "eval/reward", "BLEU-De of the pipeline", "", "more", smallest=LEAST,
    short="BLEU-De",
)  # fmt: skip
BLEU_EN = Axis("drift/bleu_en", "BLEU-En lost", "", "less", corner=15.0, smallest=LEAST)
TEXT_NLL = Axis(
    "drift/text_nll", "NLL of human English, sender", "nats / token", "less", corner=2.0
)
MESSAGE_NLL = Axis(
    "drift/message_nll", "NLL of messages, judge", "nats / token", "less", corner=2.0
)
KL_INITIAL = Axis(
    "drift/kl_initial", "KL from the pretrained sender", "nats / message", "less",
    corner=60.0,
)  # fmt: skip
MESSAGES = Axis("eval/bleu_en", "BLEU-En of messages")
REFERENCE = Axis("eval/bleu_of_reference", "BLEU-De of human English")
LIKELIHOOD = Axis(
    "objective/scores", "Log-likelihood of the German, training", "nats / token", "more"
)
AXES = (BLEU_EN, TEXT_NLL, MESSAGE_NLL, KL_INITIAL)
MEASURED = (*AXES, BLEU_DE, MESSAGES, REFERENCE, LIKELIHOOD)
PANELS = (
    (BLEU_DE,), (MESSAGES,), (MESSAGE_NLL,), (TEXT_NLL,), (REFERENCE,), (axes.ENTROPY,),
)  # fmt: skip

# Declared before any run. More German at less drift than what it is compared with in
# the published tables, and than the nulls.
RIVALS = ("reinforce", "reinforce_kl", "s2p_1", "sil")
NULLS = (
    "reinforce_ma25", "reinforce_ma50", "reinforce_ma75", "reinforce_early_stop",
    "reset_to_initial",
)  # fmt: skip
PARTS = ("reinforce_average", "reset_to_interpolation", "reset_policy_only")
FAMILIES = {
    "More than rivals reach": RIVALS,
    "More than averaging and other resets": NULLS,
    "More than its parts": PARTS,
}
# One primary endpoint: what the front covers against lost English.
CLAIMS = tuple(
    Claim(
        "elastic_reset",
        others,
        f"{group}/{BLEU_EN.key}",
        family=family if group == "hypervolume" else "",
        secondary=group != "hypervolume",
    )
    for group in ("hypervolume", "reward_at")
    for family, others in FAMILIES.items()
)
_LOSS = 2.0  # BLEU-En that unconstrained play loses at least: "several"


def paragraphs(_, evidence):
    """What the report says between the results and the verdicts."""
    labels = evidence.report.labels
    yield from tables(evidence.records, labels)
    yield from examples(evidence.rows, labels)


def final(records):
    """{(method, unit): its last evaluation, with BLEU on the test sentences}."""
    return {(run.method, run.unit): run.rows[-1] for run in evaluations.runs(records)}


def best(records):
    """{(method, unit): its evaluation with the best BLEU-De on validation half A}.

    What is read of it is half B's, and the test sentences', of those weights.
    """
    tested = {(r["method"], units.of(r)): r for r in records if "best/bleu_de" in r}
    evaluated = {}
    for run in evaluations.runs(records):
        values = run.values(BLEU_DE, half="_a")
        row = run.rows[int(np.nanargmax(values))]
        key = run.method, run.unit
        evaluated[key] = {**row, **tested.get(key, {}), "step": row["step"]}
    return evaluated


def tables(records, labels):
    """Paragraphs: values at the best BLEU-De, and at the end."""
    runs = evaluations.runs(records)
    names = list(dict.fromkeys(run.method for run in runs))
    start = {run.unit: run.rows[0] for run in runs}
    yield "## At the best BLEU-De"
    yield (
        "The step with the best BLEU-De on validation half A; BLEU and NLL are half "
        "B's, of the papers' tokens. The last two columns are test sentences with the "
        "same weights. Brackets as above."
    )
    columns = {
        "step": "step", "BLEU-De": "eval/reward_b", "BLEU-En": "eval/bleu_en_b",
        "NLL of messages": "drift/message_nll_b",
        "test BLEU-De": "best/bleu_de", "test BLEU-En": "best/bleu_en",
    }  # fmt: skip
    yield _table(columns, best(records), start, names, labels)
    yield "## At the end"
    yield (
        "The last step; all validation sentences. “of human English”: BLEU-De of the "
        "receiver on the reference English instead of messages. sacreBLEU is of words "
        "put together, case aside."
    )
    columns = {
        "BLEU-De": "eval/reward", "BLEU-En": "eval/bleu_en",
        "NLL of messages": "drift/message_nll",
        "of human English": "eval/bleu_of_reference",
        "length ratio": "message/length_ratio",
        "test BLEU-De": "test/bleu_de", "test BLEU-En": "test/bleu_en",
        "sacreBLEU De": "eval/sacrebleu_de", "sacreBLEU En": "eval/sacrebleu_en",
    }  # fmt: skip
    yield _table(columns, final(records), start, names, labels)


def _table(columns, evaluated, start, names, labels):
    """Methods × columns, the pretrained agents first; who learned from what else."""
    rows = [["pretrained", methods.NOTHING, *_cells(columns, start)]]
    for name in names:
        kept = {
            unit: row for (method, unit), row in evaluated.items() if method == name
        }
        extra = methods.SUPERVISION.get(name, "")
        rows.append([labels.get(name, name), extra, *_cells(columns, kept)])
    return markdown.table(["method", "extra supervision", *columns], rows)


def _cells(columns, by_unit):
    for key in columns.values():
        values = {unit: row[key] for unit, row in by_unit.items() if key in row}
        yield markdown.interval(results.estimate(values)) if values else "–"


def gates(records):
    """(name, what should happen, what happened, passed): the papers' signs, a seed.

    The frozen sender's German goes up and its English cannot move; unconstrained play
    brings German up and English down.
    """
    rows = []
    for run in evaluations.runs(records):
        before, after = run.rows[0], run.rows[-1]
        german = after["eval/reward"] - before["eval/reward"]
        english = after["eval/bleu_en"] - before["eval/bleu_en"]
        what = f"BLEU-De {german:+.1f}, BLEU-En {english:+.1f}"
        if run.method == "frozen_sender":
            text = "BLEU-De up, BLEU-En as it was"
            fine = german > 0 and english == 0
            rows.append((f"frozen sender, seed {run.unit.seed}", text, what, fine))
        if run.method == "reinforce":
            text = f"BLEU-De up, BLEU-En down by {_LOSS:g} at least"
            fine = german > 0 and english <= -_LOSS
            rows.append((f"REINFORCE, seed {run.unit.seed}", text, what, fine))
    return rows


def examples(rows, labels, *, count=5):
    """Paragraphs: what every method makes of the same sentences at its end.

    The sentences are drawn blindly among those that samples.jsonl has; of the seeds
    the first is shown.
    """
    last = [row for row in rows if row.get("phase") == "final"]
    if not last:
        return
    seed = min(row["seed"] for row in last)
    last = [row for row in last if row["seed"] == seed]
    prompts = list(dict.fromkeys(row["prompt"] for row in last))
    yield "## Messages, sentence by sentence"
    yield f"Validation sentences drawn blindly, seed {seed}, final weights, greedy."
    for prompt in samples.unselected(prompts, count):
        same = [row for row in last if row["prompt"] == prompt]
        start = [
            row
            for row in rows
            if row["prompt"] == prompt and row.get("phase") == "start"
        ]
        body = [["human", same[0]["english"], same[0]["german"]]]
        body += [["pretrained", r["completion"], r["output"]] for r in start[:1]]
        body += [
            [labels.get(r["method"], r["method"]), r["completion"], r["output"]]
            for r in same
        ]
        yield f"### {samples.shorten(prompt, 200)}"
        yield markdown.table(["who", "English", "German"], body)


SECTIONS = (
    sections.Section("selections", None, paragraphs, after="results"),
    controls.section(gates),
)


def vocabulary_note(facts):
    """How large vocabularies came out, and how well the agents were pretrained."""
    sizes = ", ".join(f"{k} {v:,}" for k, v in facts["vocabulary"].items())
    reached = "; ".join(
        f"{name}: {pretrained['bleu']:.1f} BLEU on held-out pretraining text at step "
        f"{pretrained['step']}"
        for name, pretrained in facts["pretrained"].items()
    )
    return f"Vocabularies: {sizes}, of {facts['merges']:,} merges. {reached}."
