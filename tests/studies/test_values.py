"""Settings that a search chose: written, read back, told apart."""

import json
import pathlib

import pytest

from rlhf_jax.studies import values
from rlhf_jax.studies.values import Values


def test_what_was_chosen_is_read_back(tmp_path):
    path = tmp_path / "results.json"
    chosen = {"ppo": {"trial": 3, "values": {"learning_rate": 0.25}}}
    path.write_text(json.dumps({"chosen": chosen}))
    assert values.read(path) == {"ppo": Values(learning_rate=0.25)}
    assert values.read(None) == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"chosen": {"ppo": {"values": {"lr": 1}}}}']
)
def test_a_file_of_something_else_is_refused(text, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="--tuned .*results.json: not the results"):
        values.read(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="--tuned .*nowhere.json: .*FileNotFound"):
        values.read(tmp_path / "nowhere.json")


def test_the_digest_moves_with_what_is_tuned():
    one = {"ppo": Values(learning_rate=0.1)}
    other = {"ppo": Values(learning_rate=0.2)}
    found = {values.digest("0123456789ab", t) for t in ({}, one, other)}
    assert len(found) == 3 and "0123456789ab" in found
    assert all(len(text) == 12 for text in found)


def test_what_an_earlier_sweep_recorded_is_still_read():
    results = pathlib.Path(__file__).resolve().parents[2] / "experiments/results"
    found = values.read(results / "game_sweep.json")
    assert found["reinforce"] == found["reinforce_ma50"] == Values(1.25e-4)
    assert found["elastic_reset"] == Values(1.25e-4, weight=0.3, every=100)
