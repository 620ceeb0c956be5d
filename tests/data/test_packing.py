"""Packed rows: none sees another, nothing is lost, and the loss is that of the rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.algorithms import sft
from rlhf_jax.data import packing, spans
from rlhf_jax.models import config, decoder, responses
from rlhf_jax.types import Packed

LENGTH, VOCAB, PAD = 16, 17, 16
MODELS = {
    "rotary": config.llama(
        vocab_size=VOCAB, width=16, layers=1, heads=2, max_length=LENGTH
    ),
    "learned positions": config.gpt2(
        vocab_size=VOCAB, width=16, layers=1, heads=2, max_length=LENGTH
    ),
    "a window": config.llama(
        vocab_size=VOCAB, width=16, layers=1, heads=2, max_length=LENGTH, window=3
    ),
}


def drawn(seed=0, sizes=(5, 9, 3, 12, 7, 2, 4, 2)):
    """Rows of which the first half is not learned."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, PAD, n).astype(np.int32) for n in sizes]
    return spans.Rows(ids, [np.int32(np.arange(n) >= n // 2) for n in sizes])


@functools.cache
def tools(name):
    """(parameters, jitted (params, batch) -> (loss, log-probs))."""
    model = decoder.Decoder(MODELS[name])

    def both(params, batch):
        loss = sft.make_loss(model)(params, batch, sft.count(batch))[0]
        return loss, responses.of_targets(model, params, batch)[0]

    return tiny_models.draw(model), jax.jit(both)


@functools.cache
def gradient(name):
    """(params, batch) -> the loss's gradient."""
    loss = sft.make_loss(decoder.Decoder(MODELS[name]))
    return jax.jit(jax.grad(lambda p, batch: loss(p, batch, sft.count(batch))[0]))


def shared(packed, count):
    """Packed rows with empty ones, `count` in all, so that one program serves all."""
    room = [(0, count - len(packed.tokens)), (0, 0)]
    return type(packed)(*(np.pad(x, room) for x in packed))


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_and_the_log_probs_are_those_of_the_rows_alone(name):
    params, both = tools(name)
    rows = drawn()
    packed = packing.pack(rows, LENGTH, PAD)
    alone = spans.pad(rows, LENGTH, PAD)
    assert len(packed.tokens) < len(alone.tokens)
    apart = Packed(*alone, segments=alone.mask)
    loss, logps = both(params, shared(packed, len(alone.tokens)))
    wanted, wanted_logps = both(params, apart)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    ours = np.asarray(logps)[: len(packed.tokens)][packed.target_mask[:, 1:] != 0]
    theirs = np.asarray(wanted_logps)[alone.target_mask[:, 1:] != 0]
    np.testing.assert_allclose(np.sort(ours), np.sort(theirs), rtol=1e-5, atol=1e-6)


def test_the_gradient_is_that_of_rows_that_were_never_packed():
    params, _ = tools("rotary")
    packed = packing.pack(drawn(), LENGTH, PAD)
    alone = spans.pad(drawn(), LENGTH, PAD)
    both = [gradient("rotary")(params, batch) for batch in (packed, alone)]
    for ours, theirs in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_changed_token_changes_nothing_in_other_texts(name):
    params, both = tools(name)
    packed = shared(packing.pack(drawn(), LENGTH, PAD), len(drawn().ids))
    _, before = both(params, packed)
    place = (packed.segments == 2).argmax(-1)
    rows = np.arange(len(place))[packed.segments.max(-1) > 1]
    tokens = packed.tokens.copy()
    tokens[rows, place[rows]] = (tokens[rows, place[rows]] + 1) % PAD
    _, after = both(params, packed._replace(tokens=tokens))
    changed = np.asarray(before != after)
    second = (packed.segments == 2)[:, 1:]
    inside = packed.target_mask[:, 1:] != 0
    assert len(rows) > 1 and (changed & second & inside)[rows].any(-1).all()
    assert not (changed & ~second & inside).any()


def test_padding_and_junk_in_it_change_nothing():
    params, both = tools("rotary")
    packed = shared(packing.pack(drawn(), LENGTH, PAD), len(drawn().ids))
    loss, _ = both(params, packed)
    junk = jnp.where(packed.mask != 0, packed.tokens, 10**6)
    other, _ = both(params, packed._replace(tokens=np.asarray(junk)))
    assert loss == other


def test_every_token_and_target_is_there_once():
    rows = drawn()
    packed = packing.pack(rows, LENGTH, PAD)
    found = []
    for tokens, targets, segments in zip(
        packed.tokens, packed.target_mask, packed.segments, strict=True
    ):
        for number in range(1, segments.max() + 1):
            here = segments == number
            found.append((tokens[here].tolist(), targets[here].tolist()))
    wanted = []
    for ids, learned in zip(rows.ids, rows.learned, strict=True):
        wanted.append((ids.tolist(), [0, *learned[1:].tolist()]))
    assert sorted(found) == sorted(wanted)
    np.testing.assert_array_equal(packed.mask, packed.segments > 0)
    assert (packed.tokens[packed.mask == 0] == PAD).all()


def slow_first_fit(sizes, room):
    """Item by item, as the algorithm is written."""
    bins, left = [], []
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        number = next((k for k, r in enumerate(left) if r >= sizes[item]), len(bins))
        if number == len(bins):
            bins.append([])
            left.append(room)
        bins[number].append(item)
        left[number] -= sizes[item]
    return bins


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_rows_go_where_first_fit_decreasing_puts_them(sizes):
    assert packing.first_fit(sizes, 20) == slow_first_fit(sizes, 20)


def test_many_rows_are_packed_soon():
    sizes = np.random.default_rng(0).integers(1, 500, 50_000)
    bins = packing.first_fit(sizes, 512)
    assert sum(map(len, bins)) == len(sizes)
    assert len(bins) * 512 < 1.01 * sizes.sum()
