"""Supervised fine-tuning and language-model pretraining: next-token likelihood."""

import jax.numpy as jnp

from rlhf_jax import logprobs, losses, masking


def make_loss(model):
    """`loss(params, batch: Tokens, count) -> ([], metrics)`.

    L = −1/N Σ log π(token_t | tokens_<t) over the N tokens in `target_mask` ("N+", SFT:
    query and response, or completions only). Metrics: `nll` in nats per token, and
    `accuracy`, the share of targets that no token was likelier than.
    """

    def loss(params, batch, count):
        logps, hits, learned = of_targets(model, params, batch)
        value, _ = losses.nll(logps, learned, count=count)
        return value, {
            "nll": value,
            "accuracy": masking.mean(hits, learned, count=count),
        }

    return loss


def of_targets(model, params, batch):
    """(log-probs, hits, mask) of tokens 1 to T − 1 of `Tokens`, [B, T − 1] each.

    A hit is 1 where no token is likelier than the target, else 0; both are float32.
    """
    variables, targets = {"params": params}, batch.tokens[:, 1:]
    hidden = model.apply(variables, batch.tokens, batch.mask, method="hidden")
    logits = model.apply(variables, hidden[:, :-1], method="unembed")
    logps = logprobs.of_tokens(logits, targets)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    hits = (chosen >= logits.max(-1)).astype(jnp.float32)
    return logps, hits, batch.target_mask[:, 1:]


def count(batch):
    """The number of targets on this device, for the loss's denominator. []."""
    return batch.target_mask[:, 1:].sum()
