"""Pretraining: done once, kept in the cache, and resumed where it was stopped."""

import contextlib
import shutil

import jax
import numpy as np
import pytest
import small_study
import tiny

from rlhf_jax import optim
from rlhf_jax.runtime import files, loop, parallel
from rlhf_jax.tasks import pretraining
from rlhf_jax.types import Tokens

STEPS, SAVE_EVERY = 7, 3


def data():
    tokens = np.random.default_rng(0).integers(2, tiny.VOCAB, (16, 6)).astype(np.int32)
    return Tokens(tokens, np.ones_like(tokens), np.ones_like(tokens))


def pretrained(folder, signals=None, data=data, told=None, waiting=None):
    """The weights at `folder`; `told` collects the steps done; waiting() is called
    when another process pretrains them."""

    def report(text, done=None, total=None, nll=None):
        if text.startswith("waiting"):
            return waiting()
        assert (text, total) == ("pretraining", STEPS) and np.isfinite(nll)
        if told is not None:
            told.append(done)

    return pretraining.cached(
        tiny.DECODER,
        data,
        folder,
        config=optim.Config(schedule="cosine", warmup=2),
        steps=STEPS,
        rows=4,
        learning_rate=1e-2,
        layout=parallel.data(2),
        report=report,
        signals=signals,
        save_every=SAVE_EVERY,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Where an undisturbed pretraining left its weights."""
    folder = tmp_path_factory.mktemp("cache") / "model"
    pretrained(folder)
    return folder


def unused():
    raise AssertionError("there is nothing to train")


def test_what_is_in_the_cache_is_not_trained_again(whole):
    again = pretrained(whole, data=unused, told=(told := []))
    jax.tree.map(np.testing.assert_array_equal, again, pretrained(whole, data=unused))
    assert told == []
    assert [path.name for path in whole.parent.iterdir()] == ["model"]


def test_a_stopped_pretraining_goes_on_bit_for_bit(whole, tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(loop.Interrupted) as stop:
        pretrained(folder, small_study.StopAfter(4), told=(first := []))
    assert stop.value.folder is None and not folder.exists()
    params = pretrained(folder, told=(rest := []))
    assert len(first) >= SAVE_EVERY and first + rest == [1, 2, 3, 4, 5, 6, 7]
    jax.tree.map(np.testing.assert_array_equal, params, pretrained(whole, data=unused))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_two_processes_pretrain_once(whole, tmp_path):
    folder = tmp_path / "model"
    other = contextlib.ExitStack()
    other.enter_context(files.lock(tmp_path / "model.unfinished"))

    def waiting():
        shutil.copytree(whole, folder)
        other.close()

    params = pretrained(folder, data=unused, waiting=waiting)
    jax.tree.map(np.testing.assert_array_equal, params, pretrained(whole, data=unused))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_who_waits_can_be_stopped(tmp_path):
    signals, said = small_study.StopAfter(0), []
    with files.lock(tmp_path / "model.unfinished"):
        with pytest.raises(loop.Interrupted, match="while another pretrains"):
            pretrained(tmp_path / "model", signals, waiting=lambda: said.append(1))
    assert said == [1]


def test_damaged_weights_are_one_error(whole, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    (packed,) = folder.rglob("packed/0")
    packed.write_bytes(packed.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged.*delete the folder"):
        pretrained(folder)
