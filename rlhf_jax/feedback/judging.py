"""Judging by a labeler and a prompt: which of two texts is better, how good is one.

    template = prompts.load("summarization_detailed")
    found = judging.prefer(labeler, template, pairs, chain_of_thought=True)
    found.preference              # [B] p(first is better), NaN where it failed

Lee et al. 2023, "RLAIF vs. RLHF", arXiv:2309.00267, sections 2.1 and 2.2. B rows, O = 2
orders of the candidates (the given one, then the other), S rationales, L labels.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rlhf_jax import labeling
from rlhf_jax.feedback import labelers, prompts

ORDERS = {"both": (0, 1), "ab": (0,), "ba": (1,)}
_ORDER_NAMES = ("ab", "ba")


class Pair(NamedTuple):
    """Two texts for one context."""

    context: str
    first: str
    second: str


class Preferences(NamedTuple):
    """What a labeler says of B pairs; a row that failed has no preference (NaN).

    `p_ab` and `p_ba` are about slots and labels, as position bias is: no polarity has
    been applied to them. An order that was not asked is NaN.
    """

    preference: np.ndarray  # [B] float32: p(first is better), polarity applied
    p_ab: np.ndarray  # [B] p(label of the first slot), where the first text stands
    p_ba: np.ndarray  # [B] the same, where the second text stands
    logps: np.ndarray  # [B, O, S, L] float64, nats; NaN: no answer
    told: np.ndarray  # [B, O, S, L] bool: which labels the labeler gave
    outside: np.ndarray  # [B, O, S] probability of anything but a label; NaN: not known
    rationales: np.ndarray  # [B, O, S] texts; None where none was written
    failures: tuple[str | None, ...]  # [B] why a row has no preference
    prompt_tokens: np.ndarray  # [B] int, of all calls of a row
    completion_tokens: np.ndarray  # [B] int


class Ratings(NamedTuple):
    """What a labeler says of B texts; a row that failed has no score (NaN)."""

    score: np.ndarray  # [B] float32, in [−1, 1]: more is better
    logps: np.ndarray  # [B, L] float64, nats; NaN: no answer
    told: np.ndarray  # [B, L] bool
    outside: np.ndarray  # [B]
    failures: tuple[str | None, ...]  # [B]
    prompt_tokens: np.ndarray  # [B] int
    completion_tokens: np.ndarray  # [B] int


def prefer(
    labeler,
    template,
    pairs,
    *,
    shots=0,
    chain_of_thought=False,
    decoding=None,
    samples=1,
    orders="both",
    wrap=None,
):
    """Soft preferences between the texts of pairs, both orders averaged.

    ½ [p_ab + (1 − p_ba)], each the mean over rationales of the softmax over two labels
    (sections 2.1.1 and 2.1.2; self-consistency, appendix M). The template's polarity is
    applied last. A call that fails takes its own row with it and no other.

    Args:
      labeler: a `labelers.Labeler`. template: a `prompts.Template` of kind "pair".
      pairs: of (context, first, second). shots: exemplars that are shown.
      chain_of_thought: a rationale is written for each order before its label is read.
      decoding: a `labelers.Decoding` for rationales; by default greedy. They end where
        the template's ending begins.
      samples: rationales for each order, with the seeds from `decoding.seed` on.
      orders: "both", or one of them ("ab", "ba"): half of the calls, all of the bias.
      wrap: text → text, for every prompt, such as `prompts.chat`.
    Returns `Preferences`. Raises ValueError for arguments that do not fit together.
    """
    _check_kind(template, "pair")
    decoding = _decoding(template, chain_of_thought, decoding, samples)
    form, pairs = _Form(template, shots, wrap), [Pair(*pair) for pair in pairs]
    questions = _both_ways(pairs, orders, samples)
    written = [None] * len(questions)
    if chain_of_thought:
        written = _write(labeler, form, questions, decoding)
    readings = _read(labeler, form, questions, written)
    table = _table((len(pairs), 2, samples), template, questions, readings, written)
    slots = _first_slots(table["logps"], table["failures"])
    p = {"ab": slots[0], "ba": 1 - slots[1], "both": labeling.average(*slots)}[orders]
    preference = np.asarray(labeling.oriented(p, template.polarity), np.float32)
    return Preferences(preference, *slots, **table)


def rate(labeler, template, contexts, responses, *, shots=0, wrap=None):
    """Expected scores of responses, in [−1, 1], more being better: d-RLAIF's reward.

    `labeling.expected_score` of the labels, which ascend (section 2.2.2), with its sign
    changed where the template's polarity is "worse". One call a row. Arguments as in
    `prefer`, with a template of kind "rating". Returns `Ratings`.
    """
    _check_kind(template, "rating")
    rows = enumerate(zip(contexts, responses, strict=True))
    questions = [
        _Question((row, 0, 0), {"context": context, "response": response})
        for row, (context, response) in rows
    ]
    nothing = [None] * len(questions)
    readings = _read(labeler, _Form(template, shots, wrap), questions, nothing)
    table = _table((len(questions), 1, 1), template, questions, readings, nothing)
    del table["rationales"]
    for name in ("logps", "told", "outside"):
        table[name] = table[name][:, 0, 0]
    logps = np.where(_failed(table["failures"])[:, None], np.nan, table["logps"])
    score = np.asarray(labeling.expected_score(logps, None))
    return Ratings(-score if template.polarity == "worse" else score, **table)


def in_both_orders(pairs):
    """Yields (row, order, the fields of a sample): each pair as it is, then turned."""
    for row, (context, first, second) in enumerate(pairs):
        for order, (one, other) in enumerate(((first, second), (second, first))):
            yield row, order, Pair(context, one, other)._asdict()


def text(make, template, values, *, shots=0, wrap=None, **more):
    """What a labeler reads: the text of `make`, `prompts.render` or `.ask_rationale`,
    in its wrapping. Args: values: the fields of the sample; more: of `make`."""
    made = make(template, shots=shots, **values, **more)
    return made if wrap is None else wrap(made)


class _Form(NamedTuple):
    """How prompts are written."""

    template: prompts.Template
    shots: int
    wrap: Callable | None


class _Question(NamedTuple):
    """One call: a row, in one order, with one of its rationales."""

    at: tuple[int, int, int]
    values: dict


def _both_ways(pairs, orders, samples):
    """The questions about pairs."""
    if orders not in ORDERS:
        raise ValueError(f"orders={orders!r}: must be {', '.join(ORDERS)}")
    return [
        _Question((row, order, sample), values)
        for row, order, values in in_both_orders(pairs)
        if order in ORDERS[orders]
        for sample in range(samples)
    ]


def _check_kind(template, kind):
    if template.kind != kind:
        raise ValueError(
            f"the prompt {template.name} is of kind {template.kind}, not {kind}"
        )


def _decoding(template, chain_of_thought, decoding, samples):
    """How rationales are written: they end at the template's ending."""
    if not chain_of_thought and (decoding is not None or samples != 1):
        raise ValueError("decoding and samples go with chain_of_thought=True")
    decoding = labelers.Decoding() if decoding is None else decoding
    if samples < 1:
        raise ValueError(f"samples={samples}: must be at least 1")
    if samples > 1 and decoding.temperature == 0:
        raise ValueError(
            f"samples={samples} at temperature 0 are the same one {samples} times"
        )
    stop = dict.fromkeys((*decoding.stop, template.ending))
    return dataclasses.replace(decoding, stop=tuple(stop))


def _text(form, make, question, **more):
    how = {"shots": form.shots, "wrap": form.wrap}
    return text(make, form.template, question.values, **how, **more)


def _write(labeler, form, questions, decoding):
    """The rationales of questions: [Written or Failure]."""
    texts = [_text(form, prompts.ask_rationale, question) for question in questions]
    found = [None] * len(questions)
    for sample in sorted({question.at[-1] for question in questions}):
        chosen = [i for i, x in enumerate(questions) if x.at[-1] == sample]
        seeded = dataclasses.replace(decoding, seed=decoding.seed + sample)
        results = labeler.write([texts[i] for i in chosen], seeded)
        ordered = labelers.in_order(results, len(chosen))
        for i, result in zip(chosen, ordered, strict=True):
            found[i] = _ended(result, form.template.ending)
    return found


def _ended(result, ending):
    """A rationale without an answer of its own."""
    if isinstance(result, labelers.Failure):
        return result
    return result._replace(text=result.text.partition(ending)[0])


def _read(labeler, form, questions, written):
    """The labels of questions: [Reading or Failure]; no call without its rationale."""
    found = list(written)
    asked = [i for i, x in enumerate(written) if not isinstance(x, labelers.Failure)]
    texts = []
    for i in asked:
        more = {} if written[i] is None else {"rationale": written[i].text}
        texts.append(_text(form, prompts.render, questions[i], **more))
    labels = form.template.labels
    results = labelers.in_order(labeler.read(texts, labels), len(texts))
    for i, result in zip(asked, results, strict=True):
        found[i] = _checked(result, labels)
    return found


def _checked(result, labels):
    """A reading, or why it tells nothing."""
    if isinstance(result, labelers.Failure):
        return result
    logps = np.asarray(result.logps, np.float64)
    if logps.shape != (len(labels),):
        raise ValueError(f"a labeler read {logps.shape} of {len(labels)} labels")
    if np.isnan(logps).any() or np.isposinf(logps).any():
        return labelers.Failure(f"log-probabilities of the labels are {logps}")
    if np.isneginf(logps).all():
        return labelers.Failure(f"none of the labels {list(labels)} was told")
    return result


def _table(shape, template, questions, readings, written):
    """The columns of `Preferences` that follow from calls, by name: [B, O, S, ...]."""
    labels = len(template.labels)
    logps, told = np.full((*shape, labels), np.nan), np.zeros((*shape, labels), bool)
    outside, rationales = np.full(shape, np.nan), np.full(shape, None, object)
    tokens, failures = np.zeros((2, shape[0]), int), [None] * shape[0]
    for question, reading, text in zip(questions, readings, written, strict=True):
        at, row = question.at, question.at[0]
        if isinstance(text, labelers.Written):
            rationales[at] = text.text
        if isinstance(reading, labelers.Failure):
            failures[row] = failures[row] or _reason(at, shape, reading, text)
        else:
            logps[at], told[at], outside[at] = reading[:3]
        for answer in (reading, text):
            if isinstance(answer, labelers.Reading | labelers.Written):
                tokens[:, row] += answer.prompt_tokens, answer.completion_tokens
    return {
        "logps": logps,
        "told": told,
        "outside": outside,
        "rationales": rationales,
        "failures": tuple(failures),
        "prompt_tokens": tokens[0],
        "completion_tokens": tokens[1],
    }


def _reason(at, shape, failure, text):
    """Which call of a row failed, and why."""
    _, orders, samples = shape
    parts = [f"order {_ORDER_NAMES[at[1]]}"] if orders > 1 else []
    parts += [f"sample {at[2]}"] if samples > 1 else []
    parts += ["rationale"] if text is failure else []
    return ": ".join(filter(None, [", ".join(parts), failure.reason]))


def _failed(failures):
    return np.array([reason is not None for reason in failures], bool)


def _first_slots(logps, failures):
    """p(label of the first slot) in both orders, the mean over samples: [B] each."""
    logps = np.where(_failed(failures)[:, None, None, None], np.nan, logps)
    p = labeling.first_slot(logps.reshape(-1, 2), None)
    return tuple(np.asarray(p).reshape(logps.shape[:-1]).mean(-1).T)
