"""Every loss as one form, loss(*arrays, mask, **over), on fixed random numbers."""

import checks
import jax.numpy as jnp
import numpy as np

from rlhf_jax import losses

B, T, C = 4, 6, 3
TOKENS, ROWS = (B, T), (B,)
LABELS = np.array([0, 2, 1, 2])


def _classification(logits, labels, mask, **over):
    labels = jnp.asarray(labels).astype(jnp.int32)
    return losses.classification(logits, labels, mask=mask, **over)


def _pairs(loss, **hyper):
    return lambda *arrays, **over: loss(*arrays[:-1], mask=arrays[-1], **hyper, **over)


# name: (loss, the shape of each array, how many of them are learned)
CASES = {
    "nll": (losses.nll, [TOKENS], 1),
    "ppo_clip": (
        lambda *arrays, **over: losses.ppo_clip(*arrays, clip=0.2, **over),
        [TOKENS] * 3,
        1,
    ),
    "reinforce": (losses.reinforce, [TOKENS] * 2, 1),
    "entropy_bonus": (losses.entropy_bonus, [TOKENS], 1),
    "value_clip": (
        lambda *arrays, **over: losses.value_clip(*arrays, clip=0.3, **over),
        [TOKENS] * 3,
        1,
    ),
    "classification": (_classification, [(B, C), ROWS], 1),
    "bradley_terry": (
        _pairs(losses.bradley_terry, preference=0.75, margin=0.25),
        [ROWS] * 2,
        2,
    ),
    "dpo": (_pairs(losses.dpo, beta=0.5, label_smoothing=0.125), [ROWS] * 4, 2),
    "ipo": (_pairs(losses.ipo, beta=0.5, preference=0.75), [ROWS] * 4, 2),
}


def example(name, mask="ragged"):
    """(loss, arrays, mask, learned) of a case; mask "ragged" or "empty"."""
    loss, shapes, learned = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype(np.float32) for s in shapes]
    if name == "classification":
        arrays[1] = LABELS.astype(np.float32)
    valid = checks.ragged(B, T) if shapes[0] == TOKENS else np.array([1, 1, 0, 1])
    return loss, arrays, valid if mask == "ragged" else np.zeros_like(valid), learned
