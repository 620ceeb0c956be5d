"""Learning to judge: the likelihood of a label after the question that asks for it.

What is learned of a judgment is its label alone; text beside it is learned as text, so
that a model which learns to judge can still write.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import logprobs, masking
from rlhf_jax.models import responses
from rlhf_jax.types import Prompts, Tokens


class Batch(NamedTuple):
    """Judgments, with a row of text beside each where text is learned too."""

    questions: Prompts  # [B, P], left-padded: the label follows
    labels: jax.Array  # [B] int32: token ids
    text: Tokens | None = None  # [B, T]


def make_loss(model):
    """`loss(params, batch: Batch, count) -> ([], metrics)`.

    L = −1/B Σ log π(label | question), plus, where there is text, the mean over rows of
    its NLL a token. Metrics: `nll` of labels, in nats; `accuracy`, the share of labels
    that no other token was likelier than; `text_nll`, in nats a token.
    """

    def loss(params, batch, count):
        logits = label_logits(model, params, batch.questions)
        logps = logprobs.of_tokens(logits[:, None], batch.labels[:, None])
        value = -logps.sum() / count
        hits = (logits.argmax(-1) == batch.labels).astype(jnp.float32)
        metrics = {"nll": value, "accuracy": hits.sum() / count}
        if batch.text is None:
            return value, metrics
        logps, _, learned = responses.of_targets(model, params, batch.text)
        rows = masking.zero(logps, learned).sum(-1) / jnp.maximum(learned.sum(-1), 1)
        text = -rows.sum() / count
        return value + text, metrics | {"text_nll": text}

    return loss


def label_logits(model, params, questions):
    """Logits [B, V] of what follows each of the left-padded questions [B, P].

    The last state alone reaches the vocabulary.
    """
    last = slice(questions.tokens.shape[1] - 1, None)
    variables = {"params": params}
    hidden = model.apply(variables, *questions, method="hidden", at=last)
    return model.apply(variables, hidden[:, 0], method="unembed")


def count(batch):
    """The number of judgments on this device, for the loss's denominator. []."""
    return jnp.asarray(batch.labels.shape[0], jnp.float32)
