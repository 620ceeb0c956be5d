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
        hidden = model.apply(
            {"params": params}, batch.tokens, batch.mask, method="hidden"
        )
        logits = model.apply({"params": params}, hidden[:, :-1], method="unembed")
        targets = batch.tokens[:, 1:]
        logps = logprobs.of_tokens(logits, targets)
        value, _ = losses.nll(logps, batch.target_mask[:, 1:], count=count)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        hit = (chosen >= logits.max(-1)).astype(logps.dtype)
        accuracy = masking.mean(hit, batch.target_mask[:, 1:], count=count)
        return value, {"nll": value, "accuracy": accuracy}

    return loss


def count(batch):
    """The number of targets on this device, for the loss's denominator. []."""
    return batch.target_mask[:, 1:].sum()
