"""Stop strings are found wherever they begin and end, as a search in the text would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rlhf_jax import sampling, stopping
from rlhf_jax.types import Prompts

# A vocabulary over two letters, so that chance writes what is looked for.
TOKENS = (b"", b"a", b"b", b"ab", b"ba", b"aab", b"bb", b"abab", b"\n", b"aa", b"b\n")
CASES = (
    (b"ab",),
    (b"aab", b"ba"),
    (b"abab", b"bab", b"bb\n"),
    (b"aaaa", b"\n\n"),
    (b"b", b"abb"),
    ("é".encode(),),
)


def states(matcher, rows):
    """The state after each token of each row [B, T]."""
    found, state = [], jnp.zeros(len(rows), jnp.int32)
    for token in np.asarray(rows).T:
        state = stopping.advance(matcher, state, jnp.asarray(token))
        found.append(np.asarray(state))
    return np.stack(found, axis=1)


def test_a_stop_string_by_hand():
    matcher = stopping.matcher((b"aab",), TOKENS)
    assert matcher.states == 4  # nothing, a, aa, all of it
    # a, then abab: "aabab" holds aab, which began in one token and ended inside another
    np.testing.assert_array_equal(states(matcher, [[1, 7, 2]]), [[1, 3, 3]])
    # ab, ab: "abab" does not
    np.testing.assert_array_equal(states(matcher, [[3, 3, 9]]), [[0, 0, 2]])
    done = stopping.complete(matcher, jnp.array([0, 2, 3]))
    np.testing.assert_array_equal(done, [False, False, True])


@pytest.mark.parametrize("strings", CASES)
def test_a_row_is_complete_from_the_token_on_with_which_its_text_holds_one(
    rng, strings
):
    rows = rng.integers(0, len(TOKENS), (300, 8))
    matcher = stopping.matcher(strings, TOKENS)
    done = stopping.complete(matcher, states(matcher, rows))
    for row, complete in zip(rows, done, strict=True):
        texts = [b"".join(TOKENS[i] for i in row[: n + 1]) for n in range(len(row))]
        expected = [any(string in text for string in strings) for text in texts]
        np.testing.assert_array_equal(complete, expected)
    assert done.any() != (strings == CASES[-1])  # nothing spells the last


def test_a_state_is_that_of_the_text_however_it_is_cut_into_tokens():
    matcher = stopping.matcher((b"abab", b"bb"), TOKENS)
    for whole, parts in (((7,), (1, 2, 1, 2)), ((3, 4), (1, 6, 1)), ((5,), (9, 2))):
        ends = [states(matcher, [row])[0, -1] for row in (whole, parts)]
        assert ends[0] == ends[1]


def test_matchers_are_equal_and_hash_alike_by_what_they_find():
    first, same, other = (
        stopping.matcher((string,), TOKENS) for string in (b"ab", b"ab", b"bb")
    )
    assert first == same and hash(first) == hash(same) and first != other
    assert len(repr(first)) < 40  # no tables in messages


@pytest.mark.parametrize(
    ("strings", "message"),
    [
        ((b"a", b""), "a stop string is empty"),
        ((), "a stop string is empty"),
        ((b"a" * 300, b"b" * 300), "stop strings of 600 bytes: give at most 512"),
    ],
)
def test_strings_that_cannot_be_looked_for_are_refused(strings, message):
    with pytest.raises(ValueError, match=message):
        stopping.matcher(strings, TOKENS)


# In generation: tiny's bigram policy, whose vocabulary has as many ids as TOKENS.


def generate(**changes):
    table = tiny.policy_params()["table"]
    prompts = jnp.array(np.random.default_rng(0).integers(2, 11, (64, 3)), jnp.int32)
    config = tiny.sampler(**{"max_new_tokens": 8, **changes})

    def run(params, keys):
        prompt = Prompts(prompts, jnp.ones_like(prompts))
        return sampling.generate(tiny.BIGRAM, params, prompt, keys, config=config)

    keys = sampling.row_keys(jax.random.key(0), jnp.arange(64))
    return prompts, jax.jit(run)({"table": table}, keys)


def test_a_row_ends_with_the_token_that_completes_a_stop_string():
    """Up to there it draws what it would have drawn; the string stays in the row."""
    strings = (b"aaab", b"abbb")
    _, free = generate(eos_ids=())
    _, cut = generate(eos_ids=(), stops=stopping.matcher(strings, TOKENS))
    assert 0 < cut.ended.sum() < 64
    for row, ids in enumerate(np.asarray(free.tokens[:, 3:])):
        texts = [b"".join(TOKENS[i] for i in ids[: n + 1]) for n in range(8)]
        done = [any(string in text for string in strings) for text in texts]
        length = done.index(True) + 1 if any(done) else 8
        assert bool(cut.ended[row]) == any(done)
        assert cut.response_mask[row].sum() == length
        np.testing.assert_array_equal(cut.tokens[row, 3 : 3 + length], ids[:length])
        np.testing.assert_array_equal(cut.tokens[row, 3 + length :], tiny.PAD)
        np.testing.assert_array_equal(cut.logps[row, :length], free.logps[row, :length])


def test_a_string_that_one_token_spells_stops_as_an_end_token_and_beside_one():
    """Nor is it looked for in prompts, which hold that token often."""
    only = stopping.matcher((b"x",), (b"",) * 10 + (b"x",))
    prompts, stopped = generate(stops=only)
    _, ended = generate(eos_ids=(tiny.EOS, 10))
    assert (prompts == 10).any() and (stopped.tokens[:, 3:] == 10).any()
    jax.tree.map(np.testing.assert_array_equal, stopped, ended)


def test_a_penalty_counts_the_prompt_and_the_response_so_far():
    """Greedy choices under a penalty, as a loop over rows and tokens makes them."""
    table = np.asarray(tiny.policy_params()["table"], np.float64)
    prompts, drawn = generate(temperature=0.0, repetition_penalty=1.5, eos_ids=())
    repeated = 0
    for row, prompt in enumerate(np.asarray(prompts)):
        tokens = prompt.tolist()
        for _ in range(8):
            logits = table[tokens[-1]].copy()
            for token in set(tokens):
                logits[token] *= 1.5 if logits[token] < 0 else 1 / 1.5
            repeated += logits.argmax() != table[tokens[-1]].argmax()
            tokens.append(int(logits.argmax()))
        np.testing.assert_array_equal(drawn.tokens[row], tokens)
    assert repeated > 64  # choices that the penalty changed


def test_padding_is_nothing_that_a_penalty_counts():
    prompts = Prompts(jnp.array([[5, 6, 4]]), jnp.array([[0, 0, 1]]))
    seen = sampling._seen(prompts, (1, tiny.VOCAB))
    np.testing.assert_array_equal(np.flatnonzero(seen), [4])
