"""Which tokens may be drawn: the filters of a sampler, each a mask on logits.

Legend: B rows, V vocabulary.
"""

import functools
import math

import jax
import jax.numpy as jnp


def repetition_penalty(logits, seen, *, penalty):
    """z ← z / θ where z > 0, z ← z · θ where z < 0, for the tokens that were seen.

    Keskar et al. 2019, "CTRL", arXiv:1909.05858, section 4.1; that negative logits are
    multiplied is from `transformers`.

    Args: logits [B, V]; seen [B, V] bool, the tokens of the prompt and of the response
    so far; penalty: θ > 0, above 1 to avoid what was seen.
    """
    penalized = jnp.where(logits < 0, logits * penalty, logits / penalty)
    return jnp.where(seen, penalized, logits)


def top_k(logits, count):
    """The `count` likeliest tokens, and those tied with the last. [B, V] → bool.

    Fan et al. 2018, "Hierarchical Neural Story Generation", arXiv:1805.04833.
    """
    if not 0 < count < logits.shape[-1]:
        return jnp.ones(logits.shape, bool)
    ranks = functools.partial(_kth_by_bisection, count=count)
    least = jax.lax.platform_dependent(
        logits, cpu=ranks, default=lambda x: jax.lax.top_k(x, count)[0][:, -1:]
    )
    return logits >= least


def _kth_by_bisection(logits, *, count):
    """The `count`-th largest logit of each row, [B, 1]: on CPU faster than sorting.

    Bits of a positive float sort like the number, those of a negative one against it.
    """
    bits = jax.lax.bitcast_convert_type(logits + 0.0, jnp.int32)  # no −0
    order = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)

    def raise_bit(i, least):
        # The first bit is the sign, which raises from the lowest number to 0.
        higher = jnp.where(i == 0, 0, least | (1 << (31 - i)))
        enough = (order >= higher[:, None]).sum(-1) >= count
        return jnp.where(enough, higher, least)

    lowest = jnp.full(logits.shape[0], jnp.iinfo(jnp.int32).min, jnp.int32)
    found = jax.lax.fori_loop(0, 32, raise_bit, lowest)
    bits = jnp.where(found < 0, found ^ 0x7FFFFFFF, found)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)[:, None]


def nucleus(logits, top_p, *, least=None):
    """The smallest set of the likeliest tokens with probability top_p or more.

    Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration",
    arXiv:1904.09751. It holds at least `least` tokens. The threshold is found by
    bisection on the bits of a float, which sort like the number: exact, and 12 times as
    fast as sorting on CPU. [B, V] → [B, V] bool.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)

    def kept(bits):
        least = jax.lax.bitcast_convert_type(bits, jnp.float32)
        return probabilities >= least[:, None]

    def raise_bit(i, bits):
        higher = bits | (1 << (30 - i))
        mass = jnp.where(kept(higher), probabilities, 0.0).sum(-1)
        enough = mass >= top_p
        if least is not None:
            enough &= kept(higher).sum(-1) >= least
        return jnp.where(enough, higher, bits)

    lowest = jnp.zeros(logits.shape[0], jnp.int32)
    return kept(jax.lax.fori_loop(0, 31, raise_bit, lowest))


def min_p(logits, share):
    """Tokens at least `share` times as probable as the likeliest. [B, V] → bool.

    Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for Creative and Coherent
    LLM Outputs", arXiv:2407.01082. p ≥ share · max p is z ≥ max z + log share.
    """
    if share == 0:
        return jnp.ones(logits.shape, bool)
    return logits >= logits.max(-1, keepdims=True) + math.log(share)
