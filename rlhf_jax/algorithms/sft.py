"""Supervised fine-tuning and language-model pretraining: next-token likelihood."""

from rlhf_jax import losses, masking
from rlhf_jax.models import responses


def make_loss(model):
    """`loss(params, batch: Tokens, count) -> ([], metrics)`.

    L = −1/N Σ log π(token_t | tokens_<t) over the N tokens in `target_mask` ("N+", SFT:
    query and response, or completions only). Metrics: `nll` in nats per token, and
    `accuracy`, the share of targets that no token was likelier than.
    """

    def loss(params, batch, count):
        logps, hits, learned = responses.of_targets(model, params, batch)
        value, _ = losses.nll(logps, learned, count=count)
        return value, {
            "nll": value,
            "accuracy": masking.mean(hits, learned, count=count),
        }

    return loss


def count(batch):
    """The number of targets on this device, for the loss's denominator. []."""
    return batch.target_mask[:, 1:].sum()
