"""Adapters of one module in a file that is three layers here: query, key and value.

GPT-2's c_attn and GPT-NeoX's query_key_value have one A, which serves each of our
three, and one B, of which each has its outputs. Ours need not share an A: then they
stand side by side, x [A_q A_k] diag(B_q, B_k), a rank as large as theirs together. Both
ways are exact. A is [L, inputs, r] and B [L, r, outputs], numpy arrays.
"""

import numpy as np

from rlhf_jax.huggingface import names

_FUSED = (names.THIRDS, names.HEAD_THIRDS)


def parts(form):
    """How many layers of ours a tensor of a form holds."""
    return 3 if any(form in joined for joined in _FUSED) else 1


def take(down, up, form, heads):
    """A module's (A, B) as the part `form` has them.

    What only other parts use is left out, so that what `join` put side by side comes
    apart again: a part without any has rank 0.
    """
    own = up[:, :, _outputs(form, up.shape[-1], heads)]
    foreign = ~(own != 0).any((0, 2)) & (up != 0).any((0, 2))
    return down[:, :, ~foreign], own[:, ~foreign]


def join(pairs, heads):
    """The (A, B) of a module of {form: (A, B)}, its parts; absent parts get zeros."""
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
    """Which of a module's `count` outputs belong to a part."""
    every = np.arange(count)
    if form in names.THIRDS:
        return every.reshape(3, -1)[names.THIRDS.index(form)]
    if form in names.HEAD_THIRDS:
        by_head = every.reshape(heads, 3, -1)
        return by_head[:, names.HEAD_THIRDS.index(form)].reshape(-1)
    return every
