"""BLEU of translations in two variants, and statistics of language drift in messages.

BLEU (Papineni et al. 2002) of strings is computed by `sacrebleu`. Message statistics
are numpy on ids; tokens and mask [N, T], rows are messages, right-padded, up to and
including EOS.
"""

import math
from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import diversity


class Bleu(NamedTuple):
    """A corpus's score, BP · exp(mean of log precisions), and its parts."""

    score: float  # 0 to 100
    precisions: tuple[float, ...]  # of 1- to 4-grams, 0 to 100
    brevity_penalty: float  # 1 if not shorter than the references
    length: int  # tokens of the hypotheses
    reference_length: int
    signature: str  # of sacrebleu: how it was computed


def tokenized_bleu(hypotheses, references):
    """BLEU of words split at spaces, as multi-bleu and the papers compute it.

    One reference each, no smoothing, case-sensitive. Lu et al. 2020, arXiv:2003.12694,
    score lower-case Moses tokens with subwords joined, as in `Subwords.decode` and
    `Parallel.words`. Not comparable with `sacre_bleu`, which tokenises differently.

    Args: two lists of strings of equal length. Returns `Bleu`.
    """
    return _bleu(hypotheses, references, tokenize="none", smooth_method="none")


def sacre_bleu(hypotheses, references, *, lowercase=False):
    """sacreBLEU with its defaults: 13a tokens, exponential smoothing.

    Both sides are ordinary text. With `lowercase` both are lowered first, as is fair to
    a model of lower-case text (detokenised by `moses.plain`). The signature records it.

    Args: two lists of strings of equal length. Returns `Bleu`.
    """
    return _bleu(hypotheses, references, lowercase=lowercase)


def bleu_counts(hypotheses, references):
    """What each sentence adds to a corpus's `sacre_bleu`: [N, 10] counts.

    Matching 1- to 4-grams, all 1- to 4-grams, the lengths of the hypothesis and of the
    closest reference: their sums over any sample of sentences give its `bleu`.

    Args: N strings; N lists of references, at least one each.
    """
    from sacrebleu.metrics import BLEU

    metric, rows = BLEU(force=True), []
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        score = metric.corpus_score([hypothesis], [[text] for text in texts])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, np.int64).reshape(-1, 10)


def bleu(counts, *, sentence=False):
    """sacreBLEU of summed `bleu_counts` [10], 0 to 100.

    sentence: of a single one, whose orders beyond its length are left out.
    """
    from sacrebleu.metrics import BLEU

    *grams, length, reference_length = (int(count) for count in counts)
    return BLEU.compute_bleu(
        grams[:4], grams[4:], length, reference_length,
        smooth_method="exp", effective_order=sentence,
    ).score  # fmt: skip


def _bleu(hypotheses, references, **settings):
    from sacrebleu.metrics import BLEU

    if len(hypotheses) != len(references) or not len(references):
        raise ValueError(
            f"{len(hypotheses)} hypotheses and {len(references)} references: give one "
            "of each per sentence, and at least one"
        )
    metric = BLEU(force=True, **settings)  # force: no warning that text is tokenised
    result = metric.corpus_score(list(hypotheses), [list(references)])
    return Bleu(
        score=result.score,
        precisions=tuple(result.precisions),
        brevity_penalty=result.bp,
        length=result.sys_len,
        reference_length=result.ref_len,
        signature=str(metric.get_signature()),
    )


def stutter(tokens, mask):
    """The share of tokens that repeat the previous token, among those that have one."""
    tokens, mask = np.asarray(tokens), np.asarray(mask) != 0
    pairs = mask[:, 1:] & mask[:, :-1]
    same = pairs & (tokens[:, 1:] == tokens[:, :-1])
    return float(same.sum() / max(pairs.sum(), 1))


def frequencies(tokens, mask, *, size):
    """The relative frequency of each id: [size], all 0 if no token is valid."""
    valid = np.asarray(tokens)[np.asarray(mask) != 0]
    counts = np.bincount(valid, minlength=size).astype(np.float64)
    return counts / max(counts.sum(), 1.0)


def type_perplexity(shares):
    """exp H of shares [V]: the effective number of ids in use, 1 to V."""
    used = shares[shares > 0]
    return float(np.exp(-(used * np.log(used)).sum()))


def jensen_shannon(first, second):
    """½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2, of shares [V], in nats.

    0 if they are equal, log 2 if they are disjoint.
    """
    middle = (first + second) / 2

    def half(shares):
        used = shares > 0
        return (shares[used] * np.log(shares[used] / middle[used])).sum() / 2

    return float(np.clip(half(first) + half(second), 0.0, math.log(2.0)))


def message_statistics(tokens, mask, references, references_mask, *, size, eos, unk):
    """Metrics of language drift in messages, under their names.

    EOS does not count as a token. `message/length_ratio` is relative to the references;
    `message/unigram_divergence` is the Jensen–Shannon divergence of the frequencies of
    ids from the references', in nats; `message/types` counts distinct ids. Frequencies
    and types depend on the amount of text: compare equally many messages and
    references.

    Args: messages and references: ids [N, T], each with its mask; size of the
    vocabulary. Returns {name: float}.
    """
    ended = ((np.asarray(tokens) == eos) & (np.asarray(mask) != 0)).any(-1)
    mask = _without_eos(tokens, mask, eos)
    references_mask = _without_eos(references, references_mask, eos)
    shares = frequencies(tokens, mask, size=size)
    human = frequencies(references, references_mask, size=size)
    length = diversity.lengths(mask).mean()
    return {
        "message/length": float(length),
        "message/length_ratio": float(
            length / max(diversity.lengths(references_mask).mean(), 1e-9)
        ),
        "message/ended": float(ended.mean()),
        "message/unknown": float(shares[unk]),
        "message/stutter": stutter(tokens, mask),
        "message/repeated_2": diversity.repeated_share(tokens, mask, n=2),
        "message/duplicates": diversity.duplicate_share(tokens, mask),
        "message/types": float((shares > 0).sum()),
        "message/type_perplexity": type_perplexity(shares),
        "message/unigram_divergence": jensen_shannon(shares, human),
    }


def _without_eos(tokens, mask, eos):
    """The mask without EOS and everything after it."""
    ended = np.cumsum(np.asarray(tokens) == eos, axis=-1) > 0
    return ((np.asarray(mask) != 0) & ~ended).astype(np.int32)
