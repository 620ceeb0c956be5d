"""Suites: what a model can do, and what alignment makes it forget.

Lin et al. 2023, arXiv:2309.06256, measure the alignment tax as the drop of scores on
such suites. Of multiple choice the likeliest option is the answer, as in EleutherAI's
harness; other answers are written, greedily, and compared with references. The columns
of a data set say which: see `data.choices` and `data.references`.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.benchmarks import generations, programs
from rlhf_jax.data import choices, conversations, references, sources
from rlhf_jax.evaluation import (
    calibration,
    multiple_choice,
    paired,
    policy,
    translation,
)
from rlhf_jax.runtime import parallel

NORMALIZE = {"raw": "acc", "characters": "acc_norm", "bytes": "acc_bytes"}


class Measured(NamedTuple):
    """What a model scores on a suite."""

    metrics: dict[str, float]  # in [0, 1]
    items: dict[str, np.ndarray]  # [Q, ...] of most metrics, a question each
    headline: str  # which metric is the suite's score
    outputs: Any  # log-likelihoods of all options [R], in nats, or Q texts


class Change(NamedTuple):
    """What became of a suite's score: `after` minus `before`, over the same items."""

    metric: str
    before: float
    after: float
    low: float  # of the difference: a 95% interval, paired bootstrap
    high: float
    p: float  # two-sided: McNemar's for right and wrong, else the bootstrap's
    lost: int | None  # items right before only; None: not right or wrong
    gained: int | None  # items right after only


def read(specs, *, count, question="{question}"):
    """{name: `choices.Questions` or `references.References`} that `specs` name.

    Args:
      specs: "PATH" or "PATH:SPLIT" each, the split "test" by default; a suite is
        called by the last part of its path.
      count: questions of a suite, at most.
      question: how a prompt is written around a multiple-choice question.

    Raises ValueError for two suites of one name, and for rows without right answers.
    """
    suites = {}
    for spec in specs:
        path, split = path_and_split(spec)
        name = suite_name(spec)
        if name in suites:
            raise ValueError(
                f"two suites are called {name}, which their metrics could not tell "
                f"apart: {' '.join(specs)}"
            )
        rows = sources.load(path, split=split, columns=())
        suites[name] = _read(rows, f"{path}, split {split!r}", count, question)
    return suites


def chat(questions, tokenizer):
    """The suites that `read` returned, each prompt as a user's turn in the tokenizer's
    chat template, each option without the blank before it. Written answers end with
    their turn, and may have several lines.

    Raises ValueError for a tokenizer without one.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("to be asked as a chat: the tokenizer has no chat template")
    written = {}
    for name, suite in questions.items():
        turns = map(conversations.turn, suite.prompts)
        prompts = [conversations.prompt(turn, tokenizer) for turn in turns]
        suite = suite._replace(prompts=prompts)
        if isinstance(suite, choices.Questions):
            options = [[text.lstrip() for text in texts] for texts in suite.options]
            suite = suite._replace(options=options)
        else:
            suite = suite._replace(kind=suite.kind._replace(stops=()))
        written[name] = suite
    return written


def tokens(questions, tokenizer, *, length):
    """{name: `choices.Options`, or `generations.Exercises`} of suites.

    length: of a row, in tokens: a question with an option, or with a written answer. A
    longer question loses its beginning.
    """

    def encode(suite):
        written = isinstance(suite, references.References)
        room = generations if written else choices
        return room.tokens(tokenizer, suite, length=length)

    return {name: encode(suite) for name, suite in questions.items()}


def facts(suites):
    """{name: how many questions it has, and what a blind guess scores}."""

    def fact(suite):
        if isinstance(suite, choices.Options):
            chance = multiple_choice.chance(suite.questions)
            return f"{len(suite.labels)} questions, chance {chance:.2f}"
        kind = suite.references.kind
        return f"{len(suite.references.prompts)} questions, {kind.metrics[0]}"

    return {name: fact(suite) for name, suite in suites.items()}


def measure(model, params, suites, *, layout=None, normalize="characters"):
    """{name: `Measured`}: all metrics of a model on suites, item by item.

    Multiple choice: "acc", "acc_norm" and "acc_bytes" pick the option of the highest
    log-likelihood as it is, a character, and a byte; "ece" is the expected calibration
    error of the probabilities that the log-likelihoods give the options of a question.
    Written answers: see `generations.measure`.

    Args:
      model: a decoder; suites: {name: what `tokens` returns}.
      layout: the devices, by default all of this host.
      normalize: which accuracy is the headline, "raw", "characters" or "bytes".
    """
    if normalize not in NORMALIZE:
        raise ValueError(f"normalize={normalize!r}: choose {', '.join(NORMALIZE)}")
    layout = parallel.layout() if layout is None else layout
    params = layout.put(params)
    return {
        name: _measure(model, params, suite, layout, normalize)
        for name, suite in suites.items()
    }


def compare(before, after, *, metric=None):
    """{name: `Change`} of suites that two models were measured on.

    Args: before, after: what `measure` returned for each; metric: by default each
    suite's headline. Raises ValueError unless the suites and their questions are alike.
    """
    if set(before) != set(after):
        raise ValueError(
            f"suites {', '.join(before)} before and {', '.join(after)} after: measure "
            "both models on the same"
        )
    return {
        name: _change(old, after[name], metric or old.headline)
        for name, old in before.items()
    }


def evaluator(model, suites, *, layout=None, normalize="characters"):
    """`(params, run) -> (metrics, [])`: scores in [0, 1] on some suites.

    `tax/<name>` is the headline of one suite, `tax/skills` the mean over the questions
    of all of them together (BLEU: of each sentence), `tax/skills_a` and `_b` those of
    the even and the odd questions.

    Args: model: a decoder; suites: {name: what `tokens` returns}, at least one; layout:
    the devices, those of the run by default; normalize: as in `measure`.
    """

    def evaluate(params, run=None):
        found = measure(
            model, params, suites, layout=layout or run.layout, normalize=normalize
        )
        metrics = {f"tax/{k}": x.metrics[x.headline] for k, x in found.items()}
        means = policy.halves(np.concatenate([scores(x) for x in found.values()]))
        names = ("tax/skills", "tax/skills_a", "tax/skills_b")
        return {**metrics, **dict(zip(names, means, strict=True))}, []

    return evaluate


def suite_name(spec):
    """What a suite is called: the last part of its path."""
    return path_and_split(spec)[0].rstrip("/").rpartition("/")[2]


def path_and_split(spec):
    """("data/arc", "test[:50]") of "data/arc:test[:50]".

    Without a split it is test, and the one split of a single file.
    """
    start, bracket, part = spec.partition("[")
    path, colon, split = start.rpartition(":")
    if colon:
        return path, split + bracket + part
    return spec, "train" if pathlib.Path(spec).is_file() else "test"


def scores(measured):
    """The headline of each question of a `Measured`: [Q] in [0, 1]."""
    items = measured.items[measured.headline]
    if items.ndim == 1:
        return items
    return np.array([translation.bleu(row, sentence=True) / 100 for row in items])


def _read(rows, where, count, question):
    written = references.kind(rows)
    if written is not None:
        rows = sources.checked(rows, written.columns, where)
        return references.of_rows(rows, where, count=count)
    for columns in (choices.COLUMNS, ("text",)):
        if set(columns) <= set(rows.column_names):
            rows = sources.checked(rows, columns, where)
            return choices.of_rows(rows, where, count=count, question=question)
    kinds = [choices.COLUMNS, *(kind.columns for kind in references.KINDS.values())]
    known = "; ".join("+".join(columns) for columns in (*kinds, ("text",)))
    raise ValueError(
        f"{where}: columns {', '.join(rows.column_names)}, none of them with right "
        f"answers; a suite has {known}"
    )


def _measure(model, params, suite, layout, normalize):
    if isinstance(suite, generations.Exercises):
        found = generations.measure(model, params, suite, layout=layout)
        return Measured(*found[:2], suite.references.kind.metrics[0], found[2])
    _, totals = programs.score(model, params, suite.rows, layout=layout)
    ones = np.ones(len(totals))
    lengths = (ones, suite.lengths, suite.byte_lengths)
    items = {}
    for name, length in zip(NORMALIZE.values(), lengths, strict=True):
        picked = multiple_choice.pick(totals, length, suite.questions)
        items[name] = (picked == suite.labels).astype(float)
    metrics = {name: float(right.mean()) for name, right in items.items()}
    likely = multiple_choice.probabilities(totals, suite.questions)
    starts = np.flatnonzero(np.diff(suite.questions, prepend=-1))
    sure = np.maximum.reduceat(likely, starts)
    metrics["ece"] = calibration.expected_calibration_error(sure, items["acc"])
    return Measured(metrics, items, NORMALIZE[normalize], totals)


def _change(before, after, metric):
    old, new = before.items[metric], after.items[metric]
    statistic = (lambda mean: _bleu(mean, len(old))) if old.ndim > 1 else None
    found = paired.bootstrap(old, new, statistic=statistic)
    p, lost, gained = found.p, None, None
    if old.ndim == 1 and np.isin([old, new], (0, 1)).all():
        lost, gained, p = paired.mcnemar(old, new)
    means = before.metrics[metric], after.metrics[metric]
    return Change(metric, *means, found.low, found.high, p, lost, gained)


def _bleu(mean, count):
    """BLEU in [0, 1] of a sample's mean counts."""
    return translation.bleu(np.round(mean * count)) / 100
