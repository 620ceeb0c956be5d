"""Fine-tuning that is kept near the model it started from.

The penalties of Lin et al. 2023, "Mitigating the Alignment Tax of RLHF",
arXiv:2309.06256, appendix D.4. A penalty is `penalty(params, batch, count) -> []`, a
share of the whole as losses are: the shares of devices and micro-batches add up to it.
"""

import jax
import jax.numpy as jnp

from rlhf_jax import masking, regularizers
from rlhf_jax.models import responses


def l1(model, anchor):
    """Σ |θ − θ₀|, the L1 penalty. anchor: θ₀, a pytree; no gradient flows to it."""
    del model
    return lambda params, batch, count: (
        regularizers.l1(params, anchor) * _share(batch, count)
    )


def l2(model, anchor):
    """½ Σ (θ − θ₀)², the L2 penalty (L²-SP). anchor: as in `l1`."""
    del model
    return lambda params, batch, count: (
        regularizers.l2(params, anchor) * _share(batch, count)
    )


def _share(batch, count):
    """This batch's share of all the targets."""
    return batch.target_mask[:, 1:].sum() / count


def distillation(model, anchor):
    """1/N Σ_t Σ_v (π(v|s_t) − π₀(v|s_t))² over the N targets: knowledge distillation.

    The squared distance of the two distributions at every token that is learned, as
    Lin et al. print it (their sign inside the maximum is a slip). anchor: π₀'s weights.
    """

    def penalty(params, batch, count):
        def states(weights):
            return model.apply(
                {"params": weights}, batch.tokens, batch.mask, method="hidden"
            )[:, :-1]

        def part(here, there):
            policy = jax.nn.softmax(responses.unembed(model, params, here))
            start = jax.nn.softmax(responses.unembed(model, anchor, there))
            return jnp.square(policy - jax.lax.stop_gradient(start)).sum(-1)

        both = states(params), jax.lax.stop_gradient(states(anchor))
        size = 2 * responses.vocabulary(model, params, both[0])
        gap = responses.in_parts(part, both, size)
        return masking.mean(gap, batch.target_mask[:, 1:], count=count)

    return penalty


def regularized(loss, penalty, strength):
    """loss + λ · penalty, as a loss; metrics gain `penalty`, without λ.

    Args: loss: as `training` has them; strength: λ [], may be traced.
    """

    def value(params, batch, count):
        total, metrics = loss(params, batch, count)
        extra = penalty(params, batch, count)
        return total + strength * extra, {**metrics, "penalty": extra}

    return value
