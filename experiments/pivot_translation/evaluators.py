"""Evaluators of the game: how well its agents translate, and how messages drift.

An evaluator is a function `(agents, run) -> (metrics, samples)`, agents being
{"sender", "receiver"}. Decoding is greedy, on the same sentences for every method.
Sentences are split in two halves (even and odd), so that a checkpoint can be chosen on
one and read on the other.
"""

import functools
from typing import NamedTuple

import numpy as np

from experiments.pivot_translation import decoding, pretraining
from rlhf_jax import kl, logprobs, masking
from rlhf_jax.algorithms.translation_game import messages
from rlhf_jax.data.translation import corpora, moses, subwords
from rlhf_jax.evaluation import policy
from rlhf_jax.evaluation import translation as scores

_COMPARED = 256  # sentences on whose messages the exact KL is measured


class Sentences(NamedTuple):
    """The human sentences of an evaluation, by language."""

    ids: dict  # (tokens, mask) [N, L], padded
    words: dict
    texts: dict


class Outputs(NamedTuple):
    """What a pair of agents makes of French sentences."""

    message: messages.Message  # [N, T]
    english: list[str]  # the messages as lines of words
    german: list[str]


def validation(task, greedy):
    """The evaluators of the validation sentences. greedy: sampling.Config."""
    return own_messages(task, greedy), human_text(task, greedy)


def own_messages(task, greedy):
    """BLEU-De of the pipeline, BLEU-En and drift of the messages; samples.

    A row of the samples: {"prompt" (French), "completion" (the message), "english",
    "german", "output" (the receiver's German)}.
    """
    human = sentences(task.val)

    @functools.lru_cache(maxsize=2)
    def pretrained(layout):
        """BLEU-En of the pretrained sender: what drift is measured from."""
        _, english = speak(task, layout, greedy, task.params, human)
        return _bleu_halves("eval/bleu_en", english, human.words["en"])

    def evaluate(agents, run):
        outputs = translate(task, run.layout, greedy, agents, human)
        metrics = _bleu_halves("eval/reward", outputs.german, human.words["de"])
        metrics |= _bleu_halves("eval/bleu_en", outputs.english, human.words["en"])
        for half in ("", "_a", "_b"):
            name = "eval/bleu_en" + half
            lost = pretrained(run.layout)[name] - metrics[name]
            metrics["drift/bleu_en" + half] = lost
        metrics |= _sacre_bleu("eval/sacrebleu", outputs, human)
        metrics |= _message_drift(task, run.layout, agents, outputs.message, human)
        message, size = outputs.message, task.pieces.size("en")
        special = {"eos": subwords.EOS, "unk": subwords.UNK}
        metrics |= scores.message_statistics(
            message.heard, message.mask, *human.ids["en"], size=size, **special
        )
        metrics["message/ended"] = float(message.ended.mean())
        return metrics, _samples(outputs, human)

    return evaluate


def human_text(task, greedy):
    """Each agent on human English: the sender's NLL of it, and BLEU-De of the
    receiver that reads it instead of messages."""
    human = sentences(task.val)

    def evaluate(agents, run):
        score = decoding.compile_logps(task.networks.sender, run.layout)
        english = human.ids["en"]
        logps = score(agents["sender"], *human.ids["fr"], *english)
        counts = english.mask.sum(-1)
        metrics = _halves("drift/text_nll", -logps.sum(-1), counts)
        german = hear(task, run.layout, greedy, agents, *english)
        bleu = scores.tokenized_bleu(german, human.words["de"]).score
        return {**metrics, "eval/bleu_of_reference": bleu}, []

    return evaluate


def on_test(task, greedy, *, prefix="test"):
    """BLEU-De and BLEU-En on the test sentences: tokenized BLEU and sacreBLEU."""
    human = sentences(task.test)

    def evaluate(agents, run):
        outputs = translate(task, run.layout, greedy, agents, human)
        metrics = _sacre_bleu(f"{prefix}/sacrebleu", outputs, human)
        for name, lines in (("de", outputs.german), ("en", outputs.english)):
            bleu = scores.tokenized_bleu(lines, human.words[name]).score
            metrics[f"{prefix}/bleu_{name}"] = bleu
        return metrics, []

    return evaluate


def sentences(pairs):
    """`Sentences` of corpora.Parallel."""
    rows = np.arange(len(pairs))
    ids = {
        name: corpora.pad(ids, rows, length=int(ids.lengths().max()))
        for name, ids in pairs.ids.items()
    }
    return Sentences(ids, pairs.words, pairs.texts)


def translate(task, layout, greedy, agents, human):
    """The `Outputs` of agents on the French of `Sentences`."""
    message, english = speak(task, layout, greedy, agents, human)
    german = hear(task, layout, greedy, agents, message.heard, message.mask)
    return Outputs(message, english, german)


def speak(task, layout, greedy, agents, human):
    """(the sender's messages, the same as lines of words)."""
    program = decoding.compile_translate(task.networks.sender, layout, greedy)
    message = program(agents["sender"], *human.ids["fr"])
    return message, task.pieces.decode("en", message.heard, message.mask)


def hear(task, layout, greedy, agents, tokens, mask):
    """The receiver's German for English ids, as lines of words."""
    program = decoding.compile_translate(task.networks.receiver, layout, greedy)
    german = program(agents["receiver"], tokens, mask)
    return task.pieces.decode("de", german.heard, german.mask)


def _message_drift(task, layout, agents, message, human):
    """NLL of messages under the judge, exact KL from the pretrained sender."""
    judge, params = task.judge
    text = pretraining.begun(message.heard, message.mask)
    metrics = _halves(
        "drift/message_nll", *policy.compile_text_nll(judge, layout)(params, text)
    )
    first = slice(_COMPARED)
    source = human.ids["fr"]
    rows = (*source, message.heard, message.mask)
    senders = agents["sender"], task.params["sender"]
    compare = _comparing(task.networks.sender, layout)
    divergence, entropy = compare(*senders, tuple(x[first] for x in rows))
    metrics |= _halves("drift/kl_initial", divergence)
    length = max(message.mask[first].sum(), 1)
    return {**metrics, "eval/entropy": float(entropy.sum() / length)}


def _samples(outputs, human):
    fr, en, de = (human.texts[language] for language in ("fr", "en", "de"))
    rows = zip(fr, outputs.english, en, de, outputs.german, strict=True)
    names = ("prompt", "completion", "english", "german", "output")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _bleu_halves(name, hypotheses, references):
    """Corpus BLEU of all sentences, of the even ones and of the odd ones."""
    picks = {"": slice(None), "_a": slice(0, None, 2), "_b": slice(1, None, 2)}
    return {
        name + half: scores.tokenized_bleu(hypotheses[pick], references[pick]).score
        for half, pick in picks.items()
    }


def _sacre_bleu(name, outputs, human):
    """sacreBLEU of detokenized lines, case-insensitive: the agents write lower case."""
    metrics = {}
    for language, lines in (("de", outputs.german), ("en", outputs.english)):
        plain = moses.plain(lines, language)
        bleu = scores.sacre_bleu(plain, human.texts[language], lowercase=True)
        metrics[f"{name}_{language}"] = bleu.score
    return metrics


def _halves(name, values, weights=None):
    """{name: mean, name_a: of even rows, name_b: of odd rows}."""
    whole, even, odd = policy.halves(values, weights)
    return {name: whole, f"{name}_a": even, f"{name}_b": odd}


@functools.lru_cache(maxsize=8)
def _comparing(sender, layout):
    """compare(params, initial, (source, mask, message, mask)) -> (KL [B], entropy)."""

    def compare(params, initial, rows):
        valid = rows[3]
        now, before = (sender.apply({"params": p}, *rows) for p in (params, initial))
        divergence = masking.zero(kl.exact(now, before), valid).sum(-1)
        entropy = masking.zero(logprobs.entropy(now), valid).sum(-1)
        return divergence, entropy

    return layout.over_rows(compare, replicated=2, chunk=_COMPARED)
