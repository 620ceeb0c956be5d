"""What a language model's labels mean: soft preferences, expected scores.

Lee et al. 2023, "RLAIF vs. RLHF", arXiv:2309.00267, sections 2.1 and 2.2. A labeler
reads a prompt and says how likely each label is to come next. B prompts, V vocabulary,
L labels.

Every function takes the logits [B, V] at the answer's position with the token ids
`tokens` [L] of the labels, the same for all rows; or, with `tokens=None`, the
log-probabilities [B, L] of whole labels, for labels of several tokens. Where "10" is
"1" and "0", the next token alone takes a 10 for a 1, and so does the whole label "1"
until `exclusive` has taken the 10 out of it. A label at −inf has probability 0; a row
with every label at −inf, or with an id beyond the vocabulary, is NaN. Results are
float32 and differentiable in the logits.
"""

import jax
import jax.numpy as jnp

from rlhf_jax import logprobs

POLARITIES = ("better", "worse")  # which candidate the labels name


def distribution(logits, tokens):
    """p(label) = softmax over the labels alone: [B, L].

    Lee et al. 2023, section 2.1: no text is parsed, and nothing is made one-hot.
    """
    return jax.nn.softmax(_of_labels(logits, tokens), axis=-1)


def exclusive(logps, ids):
    """log(p_i − Σ_j p_j) over the labels j that continue label i: [B, L].

    The log-probability of a whole label counts every text that begins with its tokens.
    Where "10" is "1" and "0", that of "1" holds all of "10"; what is left is a 1 that
    something else follows. Where "10" is a token of its own, nothing changes.

    Args: logps: [B, L] of whole labels; ids: the token ids of each, L static tuples.
    """
    logps = _of_labels(logps, None)
    share = jnp.zeros_like(logps)
    for i, j in _continuations([tuple(label) for label in ids]):
        known = jnp.isfinite(logps[:, i]) & jnp.isfinite(logps[:, j])
        gap = jnp.where(known, logps[:, j], 0.0) - jnp.where(known, logps[:, i], 0.0)
        share = share.at[:, i].add(jnp.where(known, jnp.exp(gap), 0.0))
    # Rounding may leave a share of a little over 1.
    some = (share > 0) & (share < 1)
    rest = jnp.where(some, jnp.log1p(-jnp.where(some, share, 0.0)), 0.0)
    return jnp.where(share >= 1, -jnp.inf, logps + rest)


def outside(logits, tokens):
    """1 − Σ p(label): the probability of anything but a label, [B] in [0, 1].

    Labels of no probability tell little where nearly all of it lies elsewhere: the
    prompt did not make the labeler answer. Whole labels that are not told (−inf) count
    as outside. Labels that continue each other are counted twice: see `exclusive`.
    """
    logits = jnp.asarray(logits)
    if tokens is None:
        total = jax.nn.logsumexp(_of_labels(logits, None), axis=-1)
        return -jnp.expm1(jnp.minimum(total, 0.0))
    # The sum of the others keeps the digits that 1 − Σ would lose.
    labels = jnp.zeros(logits.shape[-1], bool).at[jnp.asarray(tokens)].set(True)
    probabilities = jnp.exp(logprobs.normalize(logits))
    return jnp.where(labels[None], 0.0, probabilities).sum(-1)


def first_slot(logits, tokens):
    """p(first of two labels): the soft preference in one order of candidates, [B].

    It holds the labeler's liking for a position too: see `preference`.
    """
    return _two(distribution(logits, tokens))[:, 0]


def preference(logits_ab, logits_ba, tokens):
    """½ [p_ab(first label) + p_ba(second label)]: [B], in [0, 1].

    The probability that the candidate which stands first in `ab` is better. The
    distributions of both orders are averaged, not their logits (Lee et al. 2023,
    section 2.1.1): a labeler that looks at positions only gets ½. Exchanging `ab` and
    `ba` gives exactly 1 − p.
    """
    return average(first_slot(logits_ab, tokens), first_slot(logits_ba, tokens))


def average(p_ab, p_ba):
    """½ [p_ab + (1 − p_ba)]: the preference of two orders, [B].

    Args: p_ab, p_ba: [B] probability of the *first slot* in each order, `first_slot`.
    They are rounded to multiples of 2⁻²³, so that exchanging the orders gives exactly
    1 − p; the gradient is that of the line.
    """
    return 0.5 + (_rounded(p_ab) - _rounded(p_ba)) / 2


def oriented(preferences, polarity):
    """p, or 1 − p where the labels name the worse candidate: [B].

    The paper's prompt for harmlessness asks for the more harmful response (Lee et al.
    2023, Table 22): its softmax is the probability of being *worse*. To be applied
    once, after averaging. polarity: "better" or "worse", a static string.
    """
    return 1.0 - jnp.asarray(preferences) if _worse(polarity) else preferences


def expected_score(logits, tokens):
    """(E[i] − (L + 1)/2) / ((L − 1)/2), i = 1..L: [B], in [−1, 1].

    The reward of d-RLAIF: the expected score over the labels 1..L, which with L = 10 is
    (E − 5.5)/4.5 (Lee et al. 2023, section 2.2.2 and appendix D). Labels in ascending
    order. Equally likely labels give 0; all of the mass on the last gives 1.
    Raises ValueError for fewer than two labels.
    """
    p = distribution(logits, tokens)
    labels = p.shape[-1]
    if labels < 2:
        raise ValueError(f"a score needs at least two labels, not {labels}")
    steps = (2.0 * jnp.arange(labels) - (labels - 1)) / (labels - 1)
    # In pairs from both ends: what is symmetric cancels without rounding.
    return ((p - p[:, ::-1]) / 2 * steps[None]).sum(-1)


def _of_labels(logits, tokens):
    """[B, L] float32: the logits of the labels."""
    logits = jnp.asarray(logits)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if logits.ndim != 2:
        raise ValueError(f"logits are [rows, labels or vocabulary], got {logits.shape}")
    if tokens is None:
        return logits
    return jnp.take(logits, jnp.asarray(tokens), axis=-1, mode="fill")


def _continuations(ids):
    """(i, j) where label j continues label i, with no other label between."""
    longer = {
        (i, j)
        for i, one in enumerate(ids)
        for j, other in enumerate(ids)
        if len(other) > len(one) and other[: len(one)] == one
    }
    between = {(i, j) for i, k in longer for m, j in longer if k == m}
    return sorted(longer - between)


def _rounded(p):
    """p to multiples of its type's ε: sums and differences of these are exact.

    Otherwise they depend on which of the two a compiler multiplies and adds at once.
    """
    p = jnp.asarray(p)
    eps = jnp.finfo(p.dtype).eps
    return p + jax.lax.stop_gradient(jnp.round(p / eps) * eps - p)


def _two(p):
    if p.shape[-1] != 2:
        raise ValueError(f"a preference is between two labels, not {p.shape[-1]}")
    return p


def _worse(polarity):
    if polarity not in POLARITIES:
        raise ValueError(f"polarity {polarity!r}: must be {' or '.join(POLARITIES)}")
    return polarity == "worse"
