"""What the game's report says besides: two selections, gates, messages compared."""

import numpy as np

from experiments.pivot_translation import methods
from rlhf_jax.reporting import markdown, results, samples
from rlhf_jax.reporting.claims import Claim
from rlhf_jax.runtime import metrics_log

AXES = ("drift/bleu_en", "drift/text_nll", "drift/message_nll", "drift/kl_initial")
NAMES = {
    "eval/reward": ("BLEU-De of the pipeline", ""),
    "reward": ("BLEU-De", ""),
    "drift/bleu_en": ("BLEU-En lost", ""),
    "drift/text_nll": ("NLL of human English, sender", "nats / token"),
    "drift/message_nll": ("NLL of messages, judge", "nats / token"),
    "drift/kl_initial": ("KL from the pretrained sender", "nats / message"),
    "eval/bleu_en": ("BLEU-En of messages", ""),
    "eval/bleu_of_reference": ("BLEU-De of human English", ""),
    "message/length_ratio": ("Length of messages / of human English", ""),
    "eval/entropy": ("Entropy", "nats / token"),
    "objective/scores": ("Log-likelihood of the German, training", "nats / token"),
}
PANELS = (
    ("eval/reward",),
    ("eval/bleu_en",),
    ("drift/message_nll",),
    ("drift/text_nll",),
    ("eval/bleu_of_reference",),
    ("eval/entropy",),
)

# Declared before any run. More German at less drift than what it is compared with in
# the published tables, and than the nulls.
RIVALS = ("reinforce", "reinforce_kl", "s2p_1", "sil")
NULLS = (
    "reinforce_ma25",
    "reinforce_ma50",
    "reinforce_ma75",
    "reinforce_early_stop",
    "reset_to_initial",
)
PARTS = ("reinforce_average", "reset_to_interpolation", "reset_policy_only")
LEAST = 0.5  # BLEU: the smallest difference of interest
CLAIMS = tuple(
    Claim("elastic_reset", others, f"{group}/drift/bleu_en", least, family=family)
    for group, least, family in (
        ("hypervolume", None, ""),
        ("reward_at", LEAST, "More German at matched English"),
        ("drift_at", LEAST, "More English at matched German"),
    )
    for others in (RIVALS, NULLS, PARTS)
)
_LOSS = 2.0  # BLEU-En that unconstrained play loses at least: "several"


def paragraphs(records, rows, labels):
    """What the report says between the results and the verdicts."""
    return *tables(records, labels), *examples(rows, labels)


def final(records):
    """{(method, seed): its last evaluation, with BLEU on the test sentences}."""
    return {(run.method, run.seed): run.final for run in results.runs(records)}


def best(records):
    """{(method, seed): its evaluation with the best BLEU-De on validation half A}.

    What is read of it is half B's, and the test sentences', of those weights.
    """
    tested = {(r["method"], r["seed"]): r for r in records if "best/bleu_de" in r}
    found = {}
    for run in results.runs(records):
        values = run.values("eval/reward_a")
        row = run.rows[int(np.nanargmax(values))]
        key = run.method, run.seed
        found[key] = {**row, **tested.get(key, {}), "step": row["step"]}
    return found


def tables(records, labels):
    """Paragraphs: values at the best BLEU-De, and at the end."""
    runs = results.runs(records)
    names = list(dict.fromkeys(run.method for run in runs))
    start = {seed: run.start for run in runs for seed in [run.seed]}
    yield "## At the best BLEU-De"
    yield (
        "The step with the best BLEU-De on validation half A; BLEU and NLL are half "
        "B's, of the papers' tokens. The last two columns are test sentences with the "
        "same weights. Brackets as above."
    )
    columns = {
        "step": "step",
        "BLEU-De": "eval/reward_b",
        "BLEU-En": "eval/bleu_en_b",
        "NLL of messages": "drift/message_nll_b",
        "test BLEU-De": "best/bleu_de",
        "test BLEU-En": "best/bleu_en",
    }
    yield _table(columns, best(records), start, names, labels)
    yield "## At the end"
    yield (
        "The last step; all validation sentences. “of human English”: BLEU-De of the "
        "receiver on the reference English instead of messages. sacreBLEU is of words "
        "put together, case aside."
    )
    columns = {
        "BLEU-De": "eval/reward",
        "BLEU-En": "eval/bleu_en",
        "NLL of messages": "drift/message_nll",
        "of human English": "eval/bleu_of_reference",
        "length ratio": "message/length_ratio",
        "test BLEU-De": "test/bleu_de",
        "test BLEU-En": "test/bleu_en",
        "sacreBLEU De": "eval/sacrebleu_de",
        "sacreBLEU En": "eval/sacrebleu_en",
    }
    yield _table(columns, final(records), start, names, labels)


def _table(columns, found, start, names, labels):
    """Methods × columns, the pretrained agents first; who learned from what else."""
    rows = [["pretrained", methods.NOTHING, *_cells(columns, start.values())]]
    for name in names:
        kept = [row for (method, _), row in found.items() if method == name]
        known = methods.METHODS.get(name)
        extra = known.supervision if known else ""
        rows.append([labels.get(name, name), extra, *_cells(columns, kept)])
    return markdown.table(["method", "extra supervision", *columns], rows)


def _cells(columns, rows):
    for key in columns.values():
        values = [row[key] for row in rows if key in row]
        yield markdown.interval(results.spread(values)) if values else "–"


def gates(records):
    """(name, what should happen, what happened, passed): the papers' signs, a seed.

    The frozen sender's German goes up and its English cannot move; unconstrained play
    brings German up and English down.
    """
    rows = []
    for run in results.runs(records):
        before, after = run.start, run.final
        german = after["eval/reward"] - before["eval/reward"]
        english = after["eval/bleu_en"] - before["eval/bleu_en"]
        what = f"BLEU-De {german:+.1f}, BLEU-En {english:+.1f}"
        if run.method == "frozen_sender":
            text = "BLEU-De up, BLEU-En as it was"
            fine = german > 0 and english == 0
            rows.append((f"frozen sender, seed {run.seed}", text, what, fine))
        if run.method == "reinforce":
            text = f"BLEU-De up, BLEU-En down by {_LOSS:g} at least"
            fine = german > 0 and english <= -_LOSS
            rows.append((f"REINFORCE, seed {run.seed}", text, what, fine))
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


def vocabulary_note(facts):
    """How large vocabularies came out, and how well the agents were pretrained."""
    sizes = ", ".join(f"{k} {v:,}" for k, v in facts["vocabulary"].items())
    reached = "; ".join(
        f"{name}: {found['bleu']:.1f} BLEU on held-out pretraining text at step "
        f"{found['step']}"
        for name, found in facts["pretrained"].items()
    )
    return f"Vocabularies: {sizes}, of {facts['merges']:,} merges. {reached}."


def read(place):
    """(records, samples) of a run folder."""
    return metrics_log.read(place / "metrics.jsonl"), metrics_log.read(
        place / "samples.jsonl"
    )
