"""Stop strings: an automaton that reads tokens, so that a compiled loop knows the end.

A stop string may begin and end inside tokens. A state says how much of one the text
ends with; after every token the next state is looked up in a table.

Legend: B rows, V vocabulary, S states, C classes of tokens.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

_MOST = 512  # bytes of all stop strings: a table of V · 512 small numbers is built


@dataclasses.dataclass(frozen=True)
class Matcher:
    """The automaton of some stop strings over a vocabulary; static under jit.

    State 0 is of a text without any part of a stop string, the last state of one that
    holds a whole one. Most tokens move all states alike: tables are kept by class.
    """

    states: int  # S
    classes: bytes = dataclasses.field(repr=False)  # [V] int32, the class of a token
    moves: bytes = dataclasses.field(repr=False)  # [C, S] int32, the next state


def matcher(strings, tokens):
    """The `Matcher` that finds any of `strings` in a text made of tokens.

    Aho & Corasick 1975, "Efficient String Matching: An Aid to Bibliographic Search",
    Communications of the ACM 18(6), over bytes; a token is the sequence of its bytes.

    Args: strings: the stop strings as bytes; tokens: the bytes of every id [V]. Raises
    ValueError for an empty string, and for strings that are too long together.
    """
    if not strings or not all(strings):
        raise ValueError("a stop string is empty: every text would hold it")
    if sum(map(len, strings)) > _MOST:
        size = sum(map(len, strings))
        raise ValueError(f"stop strings of {size} bytes: give at most {_MOST} in all")
    table = _automaton(strings)
    moves, classes = np.unique(_read(table, tokens), axis=0, return_inverse=True)
    classes = classes.reshape(-1)
    return Matcher(
        len(table), classes.astype("<i4").tobytes(), moves.astype("<i4").tobytes()
    )


def advance(matcher, state, token):
    """The state of each row after one more token. [B] int32, [B] → [B] int32."""
    classes = jnp.asarray(np.frombuffer(matcher.classes, "<i4"))
    moves = np.frombuffer(matcher.moves, "<i4").reshape(-1, matcher.states)
    return jnp.asarray(moves)[classes[token], state]


def complete(matcher, state):
    """Whether the text of a row holds a stop string. [B] → [B] bool."""
    return state == matcher.states - 1


def _automaton(strings):
    """The next state after each byte, [S, 256]: states are beginnings of strings."""
    starts = {string[:end] for string in strings for end in range(len(string))}
    number = {start: i for i, start in enumerate(sorted(starts, key=len))}
    table = np.zeros((len(number) + 1, 256), np.int16)
    table[-1] = len(number)  # what is complete stays so
    for start, state in number.items():
        for byte in set(b"".join(strings)):
            text = start + bytes([byte])
            endings = (text[i:] for i in range(len(text) + 1))
            following = next(number[end] for end in endings if end in number)
            done = text.endswith(tuple(strings))
            table[state, byte] = len(number) if done else following
    return table


def _read(table, tokens):
    """The state after each token from each state, [V, S]."""
    lengths = np.array([len(token) for token in tokens])
    ends = np.tile(np.arange(len(table), dtype=np.int16), (len(tokens), 1))
    text = np.frombuffer(b"".join(tokens), np.uint8)
    starts = np.cumsum(lengths) - lengths
    for position in range(lengths.max()):
        longer = np.flatnonzero(lengths > position)
        byte = text[starts[longer] + position]
        ends[longer] = table[ends[longer], byte[:, None]]
    return ends
