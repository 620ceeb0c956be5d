"""How good a translation is, by BLEU in two forms, and how a message's language drifts.

BLEU (Papineni et al. 2002) compares strings and is `sacrebleu`'s, with its defaults
named. Statistics of messages are numpy, of ids; tokens and mask [N, T], rows are
messages, right-padded, up to and including EOS.
"""

import math
from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import diversity


class Bleu(NamedTuple):
    """A corpus' score and what it is made of: BP · exp(mean of log precisions)."""

    score: float  # 0 to 100
    precisions: tuple[float, ...]  # of 1- to 4-grams, 0 to 100
    brevity_penalty: float  # 1 when not shorter than the references
    length: int  # tokens of the hypotheses
    reference_length: int
    signature: str  # of sacrebleu: how it was computed


def tokenized_bleu(hypotheses, references):
    """BLEU of words as they stand, split at spaces: multi-bleu's, the papers' form.

    One reference each, no smoothing, case as given; Lu et al. 2020, arXiv:2003.12694,
    score lower-case Moses tokens with subwords put together, which is what
    `Subwords.decode` writes and `Parallel.words` holds. Compare it with no number of
    `sacre_bleu`: other tokens are counted.

    Args: two lists of as many strings. Returns `Bleu`.
    """
    return _bleu(hypotheses, references, tokenize="none", smooth_method="none")


def sacre_bleu(hypotheses, references, *, lowercase=False):
    """sacreBLEU's standard: its own tokens (13a), exponential smoothing.

    Both sides are ordinary text. A model that writes lower case, put together by
    `moses.plain`, loses every capital to references as they came; with `lowercase`
    both sides are lowered first. The signature says which it was.

    Args: two lists of as many strings. Returns `Bleu`.
    """
    return _bleu(hypotheses, references, lowercase=lowercase)


def _bleu(hypotheses, references, **settings):
    from sacrebleu.metrics import BLEU

    if len(hypotheses) != len(references) or not len(references):
        raise ValueError(
            f"{len(hypotheses)} hypotheses and {len(references)} references: give one "
            "of each a sentence, and at least one"
        )
    metric = BLEU(force=True, **settings)  # force: words apart are what is meant
    found = metric.corpus_score(list(hypotheses), [list(references)])
    return Bleu(
        score=found.score,
        precisions=tuple(found.precisions),
        brevity_penalty=found.bp,
        length=found.sys_len,
        reference_length=found.ref_len,
        signature=str(metric.get_signature()),
    )


def stutter(tokens, mask):
    """Share of tokens that equal the one before them, of those that have one."""
    tokens, mask = np.asarray(tokens), np.asarray(mask) != 0
    pairs = mask[:, 1:] & mask[:, :-1]
    same = pairs & (tokens[:, 1:] == tokens[:, :-1])
    return float(same.sum() / max(pairs.sum(), 1))


def frequencies(tokens, mask, *, size):
    """How often each id occurs, as shares: [size], zeros where nothing is valid."""
    valid = np.asarray(tokens)[np.asarray(mask) != 0]
    counts = np.bincount(valid, minlength=size).astype(np.float64)
    return counts / max(counts.sum(), 1.0)


def type_perplexity(shares):
    """exp H of shares [V]: how many ids are in use, were all used alike; 1 to V."""
    used = shares[shares > 0]
    return float(np.exp(-(used * np.log(used)).sum()))


def jensen_shannon(first, second):
    """½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2, of shares [V]: 0 when equal, log 2 when
    they have nothing in common; nats."""
    middle = (first + second) / 2

    def half(shares):
        used = shares > 0
        return (shares[used] * np.log(shares[used] / middle[used])).sum() / 2

    return float(np.clip(half(first) + half(second), 0.0, math.log(2.0)))


def message_statistics(tokens, mask, references, references_mask, *, size, eos, unk):
    """What shows that a language is being bent, under its metric names.

    EOS is not counted as a token of a message. `message/length_ratio` is over the
    references, `message/unigram_divergence` the Jensen–Shannon divergence of how often
    ids are used from the references', in nats; `message/types` counts different ids.
    Differences in frequency and types depend on how much text there is: compare as many
    messages with as many references.

    Args: messages and references [N, T] ids, each with its mask; size: of the
    vocabulary. Returns {name: float}.
    """
    ended = ((np.asarray(tokens) == eos) & (np.asarray(mask) != 0)).any(-1)
    mask = _before(tokens, mask, eos)
    references_mask = _before(references, references_mask, eos)
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


def _before(tokens, mask, eos):
    """The mask without EOS and what follows it."""
    ended = np.cumsum(np.asarray(tokens) == eos, axis=-1) > 0
    return ((np.asarray(mask) != 0) & ~ended).astype(np.int32)
