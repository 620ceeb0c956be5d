"""What a decoder says of labels, from token ids: their log-probs, and d-RLAIF's score.

Legend: B rows, P prompt tokens, L labels, E label tokens that are read.
"""

import jax.numpy as jnp
import numpy as np

from rlhf_jax import labeling, logprobs
from rlhf_jax.models import responses


def make_scores(model, labels):
    """`scores(params, prefix, prompts) -> (logps [B, L] in nats, outside [B])`.

    log p(label | prompt) of whole labels, summed over their tokens; a label that begins
    longer ones is counted without these: see `labeling.exclusive`. What is outside goes
    on with the tokens of no label. A prompt is read once for all of its labels, which
    do not see each other, and logits are computed at its end and at E tokens of labels.

    Args: labels: L static tuples of ids; prefix: the `cache.Prefix` of what comes
    before all prompts, or None; prompts: (tokens [B, P], mask [B, P]), left-padded.
    """
    flat = np.concatenate([np.array(label, np.int32) for label in labels])
    owners = np.repeat(np.arange(len(labels)), [len(label) for label in labels])
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    later = np.setdiff1d(np.arange(len(flat)), starts)  # all but the first of each
    read = later - 1  # a token is predicted where the one before it is read

    def followed(rows, by):
        by = jnp.broadcast_to(jnp.asarray(by, rows.dtype)[None], (len(rows), len(by)))
        return jnp.concatenate([rows, by], axis=1)

    def scores(params, prefix, prompts):
        tokens, mask = prompts
        start = tokens.shape[1]
        tokens, mask = followed(tokens, flat[read]), followed(mask, np.ones_like(read))
        segments = np.concatenate([np.zeros(start, int), owners[read] + 1])
        hidden = model.apply(
            {"params": params}, tokens, mask, at=slice(start - 1, None),
            segments=segments if len(read) else None, after=prefix, method="hidden",
        )  # fmt: skip
        ends = responses.unembed(model, params, hidden[:, 0])
        totals = logprobs.normalize(ends)[:, flat[starts]]
        if len(read):
            nexts = jnp.broadcast_to(flat[later][None], (len(hidden), len(later)))
            rest = responses.logps_of_states(model, params, hidden[:, 1:], nexts)
            totals = totals.at[:, owners[later]].add(rest)
        totals = labeling.exclusive(totals, labels)
        return totals, labeling.outside(totals, None)

    return scores


def make_rating(model, labels, wrap, *, preamble=()):
    """`score(params, tokens, mask) -> [B]` in [−1, 1]: the reward of d-RLAIF, in JAX.

    (E[i] − 5.5)/4.5 over the labels 1..10, whose probabilities are renormalised: Lee et
    al. 2023, "RLAIF vs. RLHF", arXiv:2309.00267, section 2.2.2. No text lies between
    labeler and policy, so they must share a vocabulary. No gradient is meant to flow.

    Args:
      labels: the ids of each, ascending; static tuples.
      wrap: wrap(tokens, mask) → (tokens, mask): a rollout's ids [B, S] within the
        rating prompt; padding may be anywhere.
      preamble: ids that come before all of these, read once for all rows.
    """
    scores = make_scores(model, labels)

    def score(params, tokens, mask):
        prefix = None
        if len(preamble):
            ids = jnp.array([preamble], jnp.int32)
            prefix = model.apply({"params": params}, ids, method="prefix")
        prompts = left_padded(*wrap(tokens, mask))
        return labeling.expected_score(scores(params, prefix, prompts)[0], None)

    return score


def left_padded(tokens, mask):
    """Rows [B, T] with padding on the right moved to the left: (tokens, mask)."""
    width = mask.shape[1]
    after = jnp.argmax(mask[:, ::-1] != 0, axis=1)  # all-padding rows stay
    index = (jnp.arange(width)[None] - after[:, None]) % width
    return tuple(jnp.take_along_axis(x, index, axis=1) for x in (tokens, mask))
