"""Preference losses are TRL's: value and gradient of every one on its golden arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close
from golden import make_preference_losses as golden

from rlhf_jax import preference_losses, unpaired_losses
from rlhf_jax.algorithms import preference, unpaired


@functools.cache
def given():
    """{name: array} of the file."""
    with np.load(golden.FILE) as file:
        return {name: file[name] for name in file.files}


def array(name):
    return given()[f"given/{name}"]


def settings(names, changes):
    """TRL's settings, of which its sigmoid losses do not read the smoothing."""
    changes = {
        {"weights": "loss_weights"}.get(name, name): value
        for name, value in changes.items()
    }
    smooth = not any(name.startswith(("sigmoid", "sft")) for name in names)
    return preference.Settings(
        loss=names,
        beta=golden.BETA,
        label_smoothing=golden.SMOOTH if smooth else 0.0,
        simpo_gamma=golden.GAMMA,
        cpo_alpha=golden.ALPHA,
        discopop_tau=golden.TAU,
        **changes,
    )


def of_pairs(logps, names, changes):
    """The loss by log-probs of tokens [2, PAIRS, TOKENS]."""
    mask = array("mask")
    weigh = jax.vmap(preference_losses.wpo_weights)
    weights = jnp.prod(weigh(logps, array("collisions"), mask), axis=0)
    lengths = mask.sum(-1).T.astype(np.float32)
    answers = preference.Answers(logps.sum(-1).T, lengths, weights)
    labels = np.ones(golden.PAIRS, np.float32)
    known = settings(names, changes)
    return preference.compare(answers, array("reference").T, labels, known)[0]


def of_answers(logps, loss, weights):
    """The same of KTO, whose rows are the chosen answers and then the rejected ones."""
    known = unpaired.Settings(loss, golden.BETA, *weights)
    mismatched = array("mismatched"), array("mismatched_reference")
    baseline = unpaired_losses.kl_baseline(*mismatched) if loss == "kto" else 0.0
    labels = array("labels").astype(np.float32)
    own, other = array("reference").reshape(-1), mismatched[1]
    batch = unpaired.Batch(
        None, None, labels, np.stack([own, other], -1), jnp.full(labels.shape, baseline)
    )
    return unpaired.compare(logps.sum(-1).reshape(-1), batch, known)[0]


CASES = {
    **{name: (of_pairs, of) for name, of in golden.CASES.items()},
    **{name: (of_answers, of) for name, of in golden.UNPAIRED.items()},
}


@functools.cache
def ours():
    """{case: (loss, gradient)}, in one program."""

    @jax.jit
    def run(logps):
        return {
            case: jax.value_and_grad(loss)(logps, *how)
            for case, (loss, how) in CASES.items()
        }

    return run(array("logps").astype(np.float32))


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_trl(case):
    loss, gradient = ours()[case]
    close(loss, given()[f"{case}/loss"], 1e-5, 1e-6)
    close(gradient * array("mask"), given()[f"{case}/gradient"], 1e-5, 1e-6)
    assert np.abs(given()[f"{case}/gradient"]).max() > 1e-3


def test_every_loss_of_pairs_is_compared():
    compared = {name for names, _ in golden.CASES.values() for name in names}
    assert set(preference.LOSSES) == compared | {"dpo"}
    assert set(unpaired.LOSSES) == {loss for loss, _ in golden.UNPAIRED.values()}
