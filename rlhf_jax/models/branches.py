"""Attention of texts that continue one common beginning and do not see each other.

Legend: B rows, P common tokens, N branches of t tokens each, S = P + N·t, H query
heads, K key-value heads, d head width. All S × S scores would be masked but for those
of each branch with the beginning and with itself; here only these are computed, P + t
for each token.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Visible(NamedTuple):
    """Which tokens each one sees."""

    common: jax.Array  # [B, P, P] bool, of the beginning
    branches: jax.Array  # [B·N, t, P + t] bool, of each branch after it


def split(visible, segments):
    """The `Visible` of a mask [B, S, S]; the mask itself where it has no such form.

    segments: a numpy array [S] of 0, 1, ... N, as in `Decoder.hidden`. The form needs a
    segment 0 and others of one length, in order.
    """
    start = np.count_nonzero(segments == 0)
    count = segments.max()
    length = (len(segments) - start) // max(count, 1)
    formed = np.repeat(np.arange(count + 1), [start] + [length] * count)
    if not (start and length and np.array_equal(segments, formed)):
        return visible
    rows = visible.shape[0]
    earlier = visible[:, start:, :start].reshape(rows, count, length, start)
    firsts = range(start, len(segments), length)
    cuts = [slice(first, first + length) for first in firsts]
    own = jnp.stack([visible[:, cut, cut] for cut in cuts], axis=1)
    branches = jnp.concatenate([earlier, own], axis=-1)
    return Visible(
        common=visible[:, :start, :start],
        branches=branches.reshape(rows * count, length, start + length),
    )


def attend(attention, q_BSHd, k_BSKd, v_BSKd, visible):
    """attention(q, k, v, mask) of the beginning, then of its branches. [B, S, H, d].

    attention: from [B, T, H, d], twice [B, S, K, d] and a bool mask [B, T, S] to
    [B, T, H, d].
    """
    start = visible.common.shape[1]
    length = visible.branches.shape[1]
    count = visible.branches.shape[0] // visible.common.shape[0]

    def apart(x):
        return x[:, start:].reshape(-1, length, *x.shape[2:])

    def continued(x):
        earlier = jnp.repeat(x[:, :start], count, axis=0)
        return jnp.concatenate([earlier, apart(x)], axis=1)

    first = attention(*(x[:, :start] for x in (q_BSHd, k_BSKd, v_BSKd)), visible.common)
    rest = attention(
        apart(q_BSHd), continued(k_BSKd), continued(v_BSKd), visible.branches
    )
    rest = rest.reshape(len(first), count * length, *rest.shape[2:])
    return jnp.concatenate([first, rest], axis=1)
