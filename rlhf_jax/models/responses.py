"""Response tokens as a network sees them: hidden states, logits and log-probs.

B rows, P prompt tokens, T response tokens, S = P + T, K candidates of a prompt, D
width, V vocabulary. `data` is anything with `tokens` [B, S], `mask` [B, S] and
`response_mask` [B, T], such as a `types.Rollout`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import logprobs, masking
from rlhf_jax.types import Packed

_LOGITS = 2**25  # the most logits held at once where they are only passed through


def positions(data):
    """The positions whose states predict the response: P − 1 + t predicts token t."""
    length = data.response_mask.shape[1]
    start = data.tokens.shape[1] - length
    return slice(start - 1, start - 1 + length)


def tokens(data):
    """The response tokens [B, T], padding included."""
    return data.tokens[:, data.tokens.shape[1] - data.response_mask.shape[1] :]


def states(model, params, data, *, copies=1):
    """The hidden states [B, T, D] that predict the response tokens.

    copies: K adjacent rows are candidates of one prompt, which is then read once for
    all of them. The states are the same but for rounding, and so are their gradients.
    """
    if copies > 1:
        return _packed_states(model, params, data, copies)
    return model.apply(
        {"params": params}, data.tokens, data.mask, method="hidden", at=positions(data)
    )


def _packed_states(model, params, data, copies):
    """Rows [B/K, P + K·T]: a prompt, then its candidates, which do not see each other.

    The state at the end of the prompt predicts the first token of each of them.
    """
    length = data.response_mask.shape[1]
    start = data.tokens.shape[1] - length

    def pack(x):
        answers = x[:, start:].reshape(-1, copies * length)
        return jnp.concatenate([x[::copies, :start], answers], axis=1)

    segments = np.repeat(np.arange(copies + 1), [start] + [length] * copies)
    hidden = model.apply(
        {"params": params},
        pack(data.tokens),
        pack(data.mask),
        method="hidden",
        segments=segments,
    )
    answers = hidden[:, start:].reshape(-1, copies, length, hidden.shape[-1])
    first = jnp.broadcast_to(
        hidden[:, None, start - 1 : start], answers[:, :, :1].shape
    )
    moved = jnp.concatenate([first, answers[:, :, :-1]], axis=2)
    return moved.reshape(-1, length, hidden.shape[-1])


def of_targets(model, params, batch):
    """(log-probs, hits, mask) of tokens 1 to T − 1 of `Tokens` or `Packed`,
    [B, T − 1] each.

    The mask is that of targets. A hit is 1 where no token is likelier than the target,
    else 0; both are float32.
    """
    variables, targets = {"params": params}, batch.tokens[:, 1:]
    apart = {"segments": batch.segments} if isinstance(batch, Packed) else {}
    hidden = model.apply(variables, batch.tokens, batch.mask, method="hidden", **apart)
    logits = model.apply(variables, hidden[:, :-1], method="unembed")
    logps = logprobs.of_tokens(logits, targets)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    hits = (chosen >= logits.max(-1)).astype(jnp.float32)
    return logps, hits, batch.target_mask[:, 1:]


def logits(model, params, data, *, hidden=None):
    """Logits [B, T, V] of the response tokens; nothing else reaches the vocabulary.

    `hidden`: the `states`, if they have been computed already.
    """
    if hidden is None:
        hidden = states(model, params, data)
    return unembed(model, params, hidden)


def unembed(model, params, hidden):
    """Logits [..., V] of hidden states [..., D]."""
    return model.apply({"params": params}, hidden, method="unembed")


def logps(response_logits, data, *, temperature=1.0):
    """Log-probs [B, T] float32 of the response tokens under their `logits`, in nats."""
    return logprobs.of_tokens(response_logits, tokens(data), temperature=temperature)


def logps_of_states(model, params, hidden, tokens, *, temperature=1.0):
    """log π(token) at each state: the same numbers, of however many logits.

    Args: hidden [B, T, D]; tokens [B, T], each the one after its state. Returns [B, T]
    float32, nats. At most 2²⁵ logits are held at once; more are computed in parts, and
    again for the gradient.
    """

    def part(hidden, tokens):
        logits = unembed(model, params, hidden)
        return logprobs.of_tokens(logits, tokens, temperature=temperature)

    return in_parts(part, (hidden, tokens), vocabulary(model, params, hidden))


def vocabulary(model, params, hidden):
    """V, from shapes alone."""
    return jax.eval_shape(lambda x: unembed(model, params, x), hidden).shape[-1]


def in_parts(fn, arrays, size):
    """fn(*arrays) over slices of the positions, one after the other, where B·T·V of its
    logits would be too many.

    Args: arrays: [B, T, ...] each; size: V. fn(*parts) -> pytree of [B, t, ...]; its
    backward pass computes a slice again.
    """
    rows, length = arrays[0].shape[:2]
    count = -(-rows * length * size // _LOGITS)
    if count == 1 or length == 1:
        return fn(*arrays)
    width = -(-length // count)
    count = -(-length // width)

    def cut(x):
        room = [(0, 0), (0, count * width - length)] + [(0, 0)] * (x.ndim - 2)
        parts = jnp.pad(x, room).reshape(rows, count, width, *x.shape[2:])
        return jnp.moveaxis(parts, 1, 0)

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(rows, -1, *x.shape[3:])[:, :length]

    each = jax.checkpoint(lambda parts: fn(*parts))
    return jax.tree.map(join, jax.lax.map(each, tuple(map(cut, arrays))))


def answer_mask(mask, starts):
    """Which of the tokens 1 to T − 1 are of the answer, as in `of_answers`. [B, T − 1].

    Args: mask [B, T]; starts [B].
    """
    position = jnp.expand_dims(jnp.arange(mask.shape[1]), 0)
    return (mask * (position >= jnp.expand_dims(starts, 1)))[:, 1:]


def of_answers(model, params, tokens, mask, starts, *, collisions=False):
    """(log π of each token, whether it is one of the answer), [B, T − 1] each.

    Token 0 has no log-prob: column t is of token t + 1. The answer is the valid tokens
    from column `starts` of its row on; elsewhere the log-prob is 0.

    Args: tokens, mask [B, T]; starts [B]; collisions: a third array, log Σ_v π(v)² at
    each token, without gradient.
    """
    answer = answer_mask(mask, starts)
    hidden = model.apply({"params": params}, tokens, mask, method="hidden")
    logits = unembed(model, params, hidden[:, :-1])
    logps = masking.zero(logprobs.of_tokens(logits, tokens[:, 1:]), answer)
    if not collisions:
        return logps, answer
    twice = 2.0 * logprobs.normalize(jax.lax.stop_gradient(logits))
    return logps, answer, masking.zero(jax.nn.logsumexp(twice, -1), answer)
