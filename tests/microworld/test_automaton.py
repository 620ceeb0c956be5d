"""The forward recursion against brute force over every path of a tiny machine."""

import itertools

import numpy as np
import pytest

from rlhf_jax.microworld import automaton
from rlhf_jax.microworld.draws import Draws

PAD, END, SIZE = 0, 1, 5  # words: pad, end, three more; then one slot


@pytest.fixture(scope="module")
def machine():
    """Three nodes and two memory values; node 2 is the end."""
    return automaton.Automaton(
        source=np.array([0, 0, 0, 1, 1, 2]),
        target=np.array([0, 1, 1, 0, 2, 2]),
        weight=np.array([0.25, 0.5, 0.25, 0.375, 0.625, 1.0]),
        redraws=np.array([True, False, True, True, False, False]),
        recall=np.array([[[0.2, 0.8], [0.7, 0.3]], [[0.5, 0.5], [0.1, 0.9]]]),
        writes=np.array([[0, 1], [2, 2], [3, 3]]),
        words=np.array(
            [
                [0.0, 0.0, 0.75, 0.25, 0.0, 0.0],
                [0.0, 0.0, 0.0, 0.5, 0.25, 0.25],
                [0.0, 0.0, 0.125, 0.0, 0.25, 0.625],
                [0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
            ]
        ),
        size=SIZE,
        noise=0.1,
        end_id=END,
        pad_id=PAD,
    )


def starts(rows, rng):
    return {
        "node": rng.integers(2, size=rows),
        "memory": rng.integers(2, size=rows),
        "group": rng.integers(2, size=rows),
        "slots": rng.integers(2, SIZE, size=(rows, 1)),
    }


def brute_force(machine, words, node, memory, group, slots):
    """Σ over every path of arcs and memories of Π transition · emission."""
    total = 0.0
    arcs = range(len(machine.source))
    for path in itertools.product(arcs, (0, 1), repeat=len(words)):
        chance, here, held = 1.0, node, memory
        for word, arc, value in zip(words, path[::2], path[1::2], strict=True):
            if machine.source[arc] != here:
                chance = 0.0
                break
            kept = machine.recall[group, held, value]
            chance *= kept if machine.redraws[arc] else float(value == held)
            chance *= machine.weight[arc]
            here, held = machine.target[arc], value
            row = machine.words[machine.writes[here, held]]
            written = row[word] + row[SIZE] * (slots[0] == word)
            chance *= (1 - machine.noise) * written + machine.noise / (SIZE - 1)
        total += chance
    return total


def test_log_prob_equals_the_sum_over_all_paths(machine, rng):
    words = np.array(list(itertools.product(range(1, SIZE), repeat=3)))
    start = starts(len(words), rng)
    result = automaton.log_prob(machine, words, np.ones_like(words), **start)
    expected = [
        brute_force(machine, row, *(start[key][i] for key in start))
        for i, row in enumerate(words)
    ]
    np.testing.assert_allclose(np.exp(result), expected, rtol=1e-10)


def test_probabilities_of_all_texts_sum_to_one(machine):
    # Texts that end within four words, and the beginnings of all longer ones.
    texts = [
        text
        for length in range(1, 5)
        for text in itertools.product(range(1, SIZE), repeat=length)
        if END not in text[:-1] and (text[-1] == END or length == 4)
    ]
    words, mask = np.zeros((2, len(texts), 4), int)
    for i, text in enumerate(texts):
        words[i, : len(text)], mask[i, : len(text)] = text, 1
    start = {key: np.repeat(x[:1], len(texts), 0) for key, x in START.items()}
    result = automaton.log_prob(machine, words, mask, **start)
    np.testing.assert_allclose(np.exp(result).sum(), 1.0, rtol=1e-12)


START = starts(1, np.random.default_rng(0))


def test_samples_follow_the_likelihood(machine, rng):
    rows = 40_000
    start = {key: np.repeat(x, rows, 0) for key, x in START.items()}
    words, mask, _ = automaton.sample(machine, rng, length=3, **start)
    unique, which, count = np.unique(
        words, axis=0, return_index=True, return_counts=True
    )
    first = {key: x[which] for key, x in start.items()}
    chance = np.exp(automaton.log_prob(machine, unique, mask[which], **first))
    error = np.sqrt(chance * (1 - chance) / rows)
    # 4 standard errors, and half a count for the rarest
    assert (np.abs(count / rows - chance) < 4 * error + 0.5 / rows).all()


def test_samples_end_once_and_are_padded_after(machine, rng):
    words, mask, passed = automaton.sample(machine, rng, length=9, **starts(200, rng))
    last = (words == END).argmax(1)
    ended = (words == END).any(1)
    assert (mask.sum(1)[ended] == last[ended] + 1).all()
    assert (mask.sum(1)[~ended] == 9).all()
    assert (words[mask == 0] == PAD).all() and (words[mask == 1] != PAD).all()
    assert ((passed >= 0) == (mask == 1)).all()


def test_padding_and_blocks_change_nothing(machine, rng):
    start = starts(50, rng)
    words, mask, _ = automaton.sample(machine, rng, length=6, **start)
    plain = automaton.log_prob(machine, words, mask, **start)
    junk = np.where(mask == 0, 3, words)
    wide = [np.pad(x, [(0, 0), (0, 4)]) for x in (junk, mask)]
    np.testing.assert_allclose(
        automaton.log_prob(machine, *wide, block=7, **start), plain, rtol=1e-12
    )


def test_a_row_of_padding_has_probability_one(machine, rng):
    nothing = np.zeros((3, 4), int)
    result = automaton.log_prob(machine, nothing, nothing, **starts(3, rng))
    np.testing.assert_array_equal(result, 0.0)


def test_draws_follow_their_weights(rng):
    draw = Draws(np.array([1.0, 3.0, 0.0, 2.0, 2.0, 4.0]), np.array([0, 3]))
    which = np.repeat([0, 1], 10_000)
    result = draw(rng, which)
    for row, expected in enumerate(([0.25, 0.75, 0.0], [0.25, 0.25, 0.5])):
        share = np.bincount(result[which == row], minlength=3) / 10_000
        error = np.sqrt(np.array(expected) * (1 - np.array(expected)) / 10_000)
        assert (np.abs(share - expected) <= 4 * error).all()
