"""Preference tuning as a method: which loss, what it asks, what it refuses."""

import types

import numpy as np
import pytest

from rlhf_jax.studies import preference_tuning
from rlhf_jax.studies.preference_tuning import PreferenceTuning
from rlhf_jax.studies.values import Values
from rlhf_jax.types import Preferences

ROWS, LENGTH, PROMPT = 4, 6, 2


def task(preference):
    """A task without a network: asking the reference would fail."""
    tokens = np.ones((ROWS, LENGTH), np.int32)
    labels = np.full(ROWS, preference, np.float32)
    prompts = types.SimpleNamespace(tokens=np.ones((1, PROMPT), np.int32))
    pairs = Preferences(tokens, tokens, tokens, tokens, labels)
    return types.SimpleNamespace(
        prompts=prompts, pairs=lambda seed: (pairs, None, None), model=None, params=None
    )


def test_losses_without_a_reference_ask_none():
    batch = PreferenceTuning(loss="simpo", beta=2.0)._data(task(1.0), None, 0)
    assert batch.reference.shape == (ROWS, 2) and not np.any(batch.reference)
    assert (batch.starts == PROMPT).all()


def test_soft_labels_are_refused_where_a_loss_takes_none():
    PreferenceTuning(loss=("simpo",))._data(task(0.75), None, 0)
    with pytest.raises(ValueError, match="loss cpo takes pairs .* is 0.75 in 4"):
        PreferenceTuning(loss=("simpo", "cpo"))._data(task(0.75), None, 0)


def test_settings_are_those_of_the_algorithm_and_survive_a_search():
    method = PreferenceTuning(loss="simpo", more={"simpo_gamma": 1.5})
    tuned = method.tuned(Values(learning_rate=1e-3))
    assert tuned._settings() == method._settings()
    assert tuned._settings().simpo_gamma == 1.5
    assert tuned.values.learning_rate == 1e-3
    with pytest.raises(ValueError, match="simpo_gamma=1.5 and loss=.*without effect"):
        PreferenceTuning(more={"simpo_gamma": 1.5})._settings()


def test_equal_settings_share_one_program():
    one, two = (PreferenceTuning(more={"label_smoothing": 0.1}) for _ in range(2))
    make = preference_tuning._make_loss
    assert make(one._settings()) is make(two._settings())
    assert make(one._settings()) is not make(PreferenceTuning()._settings())
