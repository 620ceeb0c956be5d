"""Adapters of fused modules, which hold our query, key and value layers in one.

GPT-2's c_attn and GPT-NeoX's query_key_value have one A, shared by our three layers,
and one B, in which each layer has its outputs. In the other direction our layers may
have different A: they are concatenated, x [A_q A_k] diag(B_q, B_k), and the ranks add
up. Both directions are exact. A is [L, inputs, r] and B is [L, r, outputs], numpy
arrays.
"""

import numpy as np

from rlhf_jax.huggingface import names

_FUSED = (names.THIRDS, names.HEAD_THIRDS)


def parts(form):
    """How many of our layers share a tensor of this form."""
    return 3 if any(form in joined for joined in _FUSED) else 1


def take(down, up, form, heads):
    """The (A, B) of one part of a module: the inverse of `join`.

    Ranks that only other parts use are dropped; a part without an adapter has rank 0.
    """
    part = up[:, :, _outputs(form, up.shape[-1], heads)]
    unused = ~(part != 0).any((0, 2)) & (up != 0).any((0, 2))
    return down[:, :, ~unused], part[:, ~unused]


def join(pairs, heads):
    """The (A, B) of a module from its parts {form: (A, B)}; absent parts get zeros."""
    (first, *others), ups = zip(*pairs.values(), strict=True)
    if parts(next(iter(pairs))) == 1:
        return first, ups[0]
    shared = all(np.array_equal(first, other) for other in others)
    down = first if shared else np.concatenate([first, *others], axis=-1)
    outputs = 3 * ups[0].shape[-1]
    joined = np.zeros((len(down), down.shape[-1], outputs), np.float32)
    start = 0
    for form, (_, up) in pairs.items():
        rank = up.shape[1]
        joined[:, start : start + rank, _outputs(form, outputs, heads)] = up
        start += 0 if shared else rank
    return down, joined


def _outputs(form, count, heads):
    """The indices of a part's outputs among a module's `count` outputs."""
    every = np.arange(count)
    if form in names.THIRDS:
        return every.reshape(3, -1)[names.THIRDS.index(form)]
    if form in names.HEAD_THIRDS:
        by_head = every.reshape(heads, 3, -1)
        return by_head[:, names.HEAD_THIRDS.index(form)].reshape(-1)
    return every
