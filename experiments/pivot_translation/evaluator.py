"""What the agents of a game are worth, and what their messages have become.

Everything is greedy and on the same sentences for every method. Sentences are split in
two halves (even and odd): a checkpoint is chosen on one and read on the other.
"""

import functools

import numpy as np

from experiments.pivot_translation import decoding, pretraining
from rlhf_jax import kl, logprobs, masking
from rlhf_jax.data.translation import corpora, moses, subwords
from rlhf_jax.evaluation import policy as policies
from rlhf_jax.evaluation import translation as scores

_COMPARED = 256  # sentences whose messages the exact KL is taken on


class Sentences:
    """Human sentences of an evaluation, padded once."""

    def __init__(self, pairs):
        self.count, self._pairs = len(pairs), pairs
        rows = np.arange(len(pairs))
        self.ids = {
            name: corpora.pad(ids, rows, length=int(ids.lengths().max()))
            for name, ids in pairs.ids.items()
        }
        self.words = pairs.words
        self.texts = pairs.texts


class Evaluator:
    """The compiled measurements of a task; agents are arguments."""

    def __init__(self, task, layout, *, longest=40, shortest=3):
        self._task, self._networks = task, task.networks
        self._val, self._test = Sentences(task.val), Sentences(task.test)
        greedy = decoding.config(longest=longest, shortest=shortest)
        compiled = functools.partial(decoding.compile_translate, layout=layout)
        self._send = compiled(self._networks.sender, config=greedy)
        self._receive = compiled(self._networks.receiver, config=greedy)
        self._surprise = decoding.compile_logps(self._networks.sender, layout)
        compare = _make_compare(self._networks.sender)
        self._compare = layout.over_rows(compare, whole=2, chunk=_COMPARED)
        judge, self._judge_params = task.judge
        self._judge = layout.over_rows(policies.make_text_nll(judge), whole=1)

    def __call__(self, agents, reward=None):
        """(metrics, samples) of agents {"sender", "receiver"} on validation sentences.

        samples: {"prompt" (French), "completion" (the message), "english", "german",
        "output"}, a row a sentence.
        """
        del reward
        said, lines = self._speak(agents, self._val)
        output = self._hear(agents, said.heard, said.mask)
        metrics = self._task_metrics(agents, self._val, output)
        metrics |= self._english(lines)
        metrics |= self._drift(agents, said)
        references = self._val.ids["en"]
        metrics |= scores.message_statistics(
            said.heard,
            said.mask,
            *references,
            size=self._task.pieces.size("en"),
            eos=subwords.EOS,
            unk=subwords.UNK,
        )
        metrics["message/ended"] = float(said.ended.mean())
        return metrics, self._samples(lines, output)

    def test(self, agents, prefix="test"):
        """BLEU-De and BLEU-En of agents on the test sentences, in both forms."""
        said, lines = self._speak(agents, self._test)
        output = self._hear(agents, said.heard, said.mask)
        found = {}
        for name, language, hypotheses in (("de", "de", output), ("en", "en", lines)):
            found[f"{prefix}/bleu_{name}"] = scores.tokenized_bleu(
                hypotheses, self._test.words[language]
            ).score
            found[f"{prefix}/sacrebleu_{name}"] = _sacre(
                hypotheses, self._test.texts[language], language
            )
        return found

    def _speak(self, agents, sentences):
        """(messages, the same as lines of words)."""
        said = self._send(agents["sender"], *sentences.ids["fr"])
        return said, self._task.pieces.decode("en", said.heard, said.mask)

    def _hear(self, agents, tokens, mask):
        """What the receiver makes of messages: lines of words."""
        found = self._receive(agents["receiver"], tokens, mask)
        return self._task.pieces.decode("de", found.heard, found.mask)

    def _task_metrics(self, agents, sentences, output):
        """BLEU-De: of the pipeline, and of the receiver on human English."""
        german = sentences.words["de"]
        metrics = _halves("eval/reward", output, german)
        metrics["eval/sacrebleu_de"] = _sacre(output, sentences.texts["de"], "de")
        own = self._hear(agents, *sentences.ids["en"])
        metrics["eval/bleu_of_reference"] = scores.tokenized_bleu(own, german).score
        return metrics

    def _english(self, lines):
        """BLEU-En, and what of it is lost against the pretrained sender."""
        metrics = _halves("eval/bleu_en", lines, self._val.words["en"])
        metrics["eval/sacrebleu_en"] = _sacre(lines, self._val.texts["en"], "en")
        for half in ("", "_a", "_b"):
            before = self._start["bleu"]["eval/bleu_en" + half]
            metrics["drift/bleu_en" + half] = before - metrics["eval/bleu_en" + half]
        return metrics

    @functools.cached_property
    def _start(self):
        """What the pretrained agents say, and the BLEU-En of it."""
        said, lines = self._speak(self._task.params, self._val)
        return {"bleu": _halves("eval/bleu_en", lines, self._val.words["en"])}

    def _drift(self, agents, said):
        """NLL of human English, NLL of messages under the judge, exact KL."""
        source, english = self._val.ids["fr"], self._val.ids["en"]
        found = self._surprise(agents["sender"], *source, *english)
        counts = english.mask.sum(-1)
        metrics = _spread("drift/text_nll", -found.sum(-1), counts)
        text = pretraining.begun(said.heard, said.mask)
        totals, tokens = self._judge(self._judge_params, text)
        metrics |= _spread("drift/message_nll", totals, tokens)
        first = slice(_COMPARED)
        rows = (*(x[first] for x in source), said.heard[first], said.mask[first])
        params = agents["sender"], self._task.params["sender"]
        divergence, entropy = self._compare(*params, rows)
        metrics |= _spread("drift/kl_initial", divergence)
        length = max(said.mask[first].sum(), 1)
        return {**metrics, "eval/entropy": float(entropy.sum() / length)}

    def _samples(self, lines, output):
        texts = self._val.texts
        rows = zip(texts["fr"], lines, texts["en"], texts["de"], output, strict=True)
        names = ("prompt", "completion", "english", "german", "output")
        return [dict(zip(names, row, strict=True)) for row in rows]


def _make_compare(sender):
    """compare(params, initial, (source, mask, message, mask)) -> (KL [B], entropy)."""

    def compare(params, initial, rows):
        valid = rows[3]
        now, before = (sender.apply({"params": p}, *rows) for p in (params, initial))
        divergence = masking.zero(kl.exact(now, before), valid).sum(-1)
        entropy = masking.zero(logprobs.entropy(now), valid).sum(-1)
        return divergence, entropy

    return compare


def _halves(name, hypotheses, references):
    """BLEU on all sentences, the even ones and the odd ones: a corpus' each time."""
    picks = {"": slice(None), "_a": slice(0, None, 2), "_b": slice(1, None, 2)}
    return {
        name + half: scores.tokenized_bleu(hypotheses[pick], references[pick]).score
        for half, pick in picks.items()
    }


def _sacre(lines, texts, language):
    """sacreBLEU of words put together, case aside: the agents write lower case."""
    plain = moses.plain(lines, language)
    return scores.sacre_bleu(plain, texts, lowercase=True).score


def _spread(name, values, weights=None):
    whole, even, odd = policies.halves(values, weights)
    return {name: whole, f"{name}_a": even, f"{name}_b": odd}
