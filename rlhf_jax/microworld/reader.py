"""Reading reviews word by word: what the grammar expects, and where it is surprised.

N rows, T words.
"""

import functools

import numpy as np

from rlhf_jax.microworld import wording


class Reader:
    """A deterministic automaton over word classes that counts unexpected words."""

    def __init__(self, lexicon, edges):
        states = sorted({state for edge in edges for state in edge})
        self.index = {state: i for i, state in enumerate(states)}
        classes = {name: i for i, name in enumerate(sorted(set(map(_class, states))))}
        stuck = np.arange(len(states))[:, None]
        self.classes = np.full(len(lexicon.vocabulary), len(classes))
        for role, ids in lexicon.roles.items():
            self.classes[ids] = classes.get(_class(role), len(classes))
        self.classes[lexicon.id("<eos>")] = classes["end"]
        # An unexpected word leads to the first state of its class, or is skipped.
        self.next = np.repeat(stuck, len(classes) + 1, axis=1)
        for state in reversed(states):
            self.next[:, classes[_class(state)]] = self.index[state]
        self.expects = np.zeros(self.next.shape, bool)
        for source, target in edges:
            entry = self.index[source], classes[_class(target)]
            self.next[entry], self.expects[entry] = self.index[target], True

    def read(self, words):
        """(states [N, T], −1 at padding, and the number of unexpected words [N])."""
        classes, valid = self.classes[words], words != 0
        states = np.full(words.shape, -1)
        errors, state = np.zeros((2, len(words)), int)
        state[:] = self.index["open"]
        for t in range(words.shape[1]):
            here = valid[:, t]
            errors += here & ~self.expects[state, classes[:, t]]
            state = np.where(here, self.next[state, classes[:, t]], state)
            states[here, t] = state[here]
        return states, errors


def create(world):
    """The reader of a world's reviews."""
    return _create(world.lexicon, world.grammar)


@functools.lru_cache(maxsize=64)
def _create(lexicon, reviewing):
    return Reader(lexicon, reviewing.edges)


def _class(name):
    """The word class of a reader state or of a role."""
    same = {"mild": "adverb", "strong": "adverb", "agree": "connective"}
    same |= {"contrast": "connective"}
    plain = name.removeprefix("praise_").removeprefix("blame_")
    return same.get(plain, wording.reads(plain))
