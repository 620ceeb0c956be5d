"""Supervised fine-tuning on packed chats and on a stream, from files to weights."""

import numpy as np
import pytest
import small_recipes
import small_study

from experiments import sft
from rlhf_jax.runtime import loop, metrics_log

pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("programs")]

FIT = {"fit__steps": 6, "fit__rows": 4, "fit__learning_rate": 2e-2, "save_every": 2}


def given(home):
    return {"model": home / "model", "dataset": home / "chats.jsonl", **FIT}


def measured(place, name):
    rows = metrics_log.read(place / "metrics.jsonl")
    return [row[name] for row in rows if name in row]


def test_a_stopped_stream_goes_on_bit_for_bit(home, monkeypatch):
    flags = {**given(home), "data__streaming": True, "data__buffer": 9}
    flags |= {"data__eval_rows": 5}
    whole = small_recipes.folder(sft, output=home / "whole", **flags)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "Signals", lambda: small_study.StopAfter(3))
        with pytest.raises(loop.Interrupted):
            small_recipes.run(sft, output=home / "part", **flags)
    part = small_recipes.again(sft, output=home / "part", **flags).folder
    weights = [
        (place / "model" / "model.safetensors").read_bytes() for place in (whole, part)
    ]
    assert weights[0] == weights[1]
    assert measured(whole, "nll") == measured(part, "nll")
    assert measured(whole, "eval/nll")[-1] < measured(whole, "eval/nll")[0]


def test_packed_chats_are_learned(home):
    short = [{"prompt": "yes", "completion": "no" * (i % 3)} for i in range(60)]
    small_recipes.lines(home / "short.jsonl", short)
    flags = {**given(home), "dataset": home / "short.jsonl", "pack": True}
    place = small_recipes.folder(sft, output=home / "packed", **flags)
    losses = measured(place, "eval/nll")
    assert losses[-1] < losses[0] and np.isfinite(losses).all()
    assert "packed into" in (place / "report.md").read_text()
