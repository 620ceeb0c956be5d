"""Response tokens as a network sees them: hidden states, logits and log-probs.

B rows, P prompt tokens, T response tokens, S = P + T, D width, V vocabulary. `data` is
anything with `tokens` [B, S], `mask` [B, S] and `response_mask` [B, T], such as a
`types.Rollout`.
"""

from rlhf_jax import logprobs


def positions(data):
    """The positions whose states predict the response: P − 1 + t predicts token t."""
    length = data.response_mask.shape[1]
    start = data.tokens.shape[1] - length
    return slice(start - 1, start - 1 + length)


def tokens(data):
    """The response tokens [B, T], padding included."""
    return data.tokens[:, data.tokens.shape[1] - data.response_mask.shape[1] :]


def states(model, params, data):
    """The hidden states [B, T, D] that predict the response tokens."""
    return model.apply(
        {"params": params}, data.tokens, data.mask, method="hidden", at=positions(data)
    )


def logits(model, params, data, *, hidden=None):
    """Logits [B, T, V] of the response tokens; nothing else reaches the vocabulary.

    `hidden`: the `states`, if they have been computed already.
    """
    if hidden is None:
        hidden = states(model, params, data)
    return model.apply({"params": params}, hidden, method="unembed")


def logps(response_logits, data, *, temperature=1.0):
    """Log-probs [B, T] float32 of the response tokens under their `logits`, in nats."""
    return logprobs.of_tokens(response_logits, tokens(data), temperature=temperature)
