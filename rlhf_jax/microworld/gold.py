"""The gold reward: the true preferences of a microworld's people, in [0, 1].

    gold = Π_i component_i ^ weight_i,   0 without an end word

Every component lies in [0, 1] and saturates, so more of a good thing stops paying; a
review that fails in one respect fails as a whole. N rows, T response tokens.
"""

import dataclasses
import functools

import numpy as np

from rlhf_jax.microworld import grammar, reviews


@dataclasses.dataclass(frozen=True)
class Weights:
    """Exponents of the components; the defaults are the gold reward of experiments."""

    valence: float = 1.0  # praise, by mean strength of distinct judging words
    grammar: float = 2.0  # few words out of place, adjectives that fit their aspect
    topic: float = 1.0  # the right film and people, aspects relevant to the genre
    aspects: float = 1.0  # three distinct aspects, none repeated
    adjectives: float = 1.0  # distinct adjectives
    coverage: float = 1.0  # a verdict, and aspects of more than one topic
    restraint: float = 1.0  # no gushing: repeats, piles, exclamations
    consistency: float = 1.0  # a verdict that agrees with the body


FIRST = Weights()
# A second population with the same components, weighted differently.
SECOND = Weights(valence=0.6, grammar=1.0, topic=2.0, coverage=1.5, restraint=1.5)

# The score for 0, 1, 2, and 3 or more distinct words of a kind.
_ASPECTS, _ADJECTIVES = np.array([[0.4, 0.75, 0.9, 1.0], [0.0, 0.75, 0.9, 1.0]])


def reward(world, prompts, responses, response_mask, ended, *, weights=FIRST):
    """[N] float64: the product of the components to the power of their weights."""
    parts = components(world, prompts, responses, response_mask)
    product = np.where(np.asarray(ended) != 0, 1.0, 0.0)
    for name, power in dataclasses.asdict(weights).items():
        product *= parts[name] ** power
    return product


def components(world, prompts, responses, response_mask):
    """{name: [N] float64 in [0, 1]} of every component of `Weights`.

    prompts [N, P] left-padded review prompts; responses [N, T] with their mask.
    """
    info = reviews.parse(world, prompts)
    words = np.where(np.asarray(response_mask) != 0, responses, world.pad_id)
    reader = _reader(world.lexicon, world.grammar)
    states, unexpected = reader.read(words)
    count = _counts(words, len(world.vocabulary))
    misfits = _misfits(world, info, words)
    mood, verdict = _moods(world.lexicon, count)
    contradicts = (mood * verdict < 0) & (np.abs(mood) > 0.5)
    return {
        "valence": np.minimum(1.0, 1.03 / (1 + np.exp(-1.4 * mood))),
        "grammar": 1 / (1 + 0.35 * (unexpected + 0.5 * misfits)),
        "topic": _topic(world, info, count),
        "aspects": _distinct(count[:, world.lexicon["aspect"]], _ASPECTS),
        "adjectives": _distinct(count[:, adjectives(world.lexicon)], _ADJECTIVES),
        "coverage": _coverage(world.lexicon, count, verdict),
        "restraint": np.exp(-0.1 * _gushing(reader, states) ** 2),
        "consistency": np.where(contradicts, 0.5, 1.0),
    }


def errors(world, words):
    """[N] the number of ungrammatical words in each padded row."""
    return _reader(world.lexicon, world.grammar).read(words)[1]


def adjectives(words):
    """Ids of all adjectives."""
    return np.concatenate([words["praise_adjective"], words["blame_adjective"]])


def verdicts(words):
    """Ids of all words that express a verdict."""
    roles = ("praise_noun", "blame_noun", "praise_advice", "blame_advice")
    return np.concatenate([words[role] for role in roles])


def _moods(words, count):
    """(mood, sign of the verdict): the mean signed strength of distinct judging words.

    The body counts twice as much as the verdict.
    """
    value = words.polarity * words.strength
    final = np.zeros(len(value), bool)
    final[verdicts(words)] = True
    present = (count > 0) & (value != 0)
    body = (present & ~final) @ value / np.maximum((present & ~final).sum(1), 1)
    verdict = (present & final) @ value
    judged = present.any(1)
    mean = np.where(judged, (2 * body + np.clip(verdict, -2, 2)) / 3, 0.0)
    return mean, np.sign(verdict)


def _topic(world, info, count):
    """The share of relevant aspects, halved by each wrong title or name."""
    words, films = world.lexicon, world.films
    relevant = np.minimum(world.grammar.relevance[info.genre], 1.0)
    named = count[:, words["aspect"]]
    share = (named * relevant).sum(1) / np.maximum(named.sum(1), 1)
    row, wrong = np.arange(len(count)), count.copy()
    for right in (films.title[info.film], films.director[info.film]):
        wrong[row, right] = 0
    wrong[row, films.star[info.film]] = 0
    wrong = wrong[:, words["title"]].sum(1) + wrong[:, words["name"]].sum(1)
    return (0.25 + 0.75 * share) * 0.5**wrong


def _distinct(count, worth):
    """The score for distinct words, times the share of words that are not repeats."""
    distinct, total = (count > 0).sum(1), count.sum(1)
    fresh = np.where(total > 0, distinct / np.maximum(total, 1), 1.0)
    return worth[np.minimum(distinct, 3)] * fresh


def _coverage(words, count, verdict):
    topics = words.topic[words["aspect"]]
    covered = np.stack(
        [count[:, words["aspect"]][:, topics == t].any(1) for t in range(3)]
    )
    several = np.where(covered.sum(0) > 1, 1.0, 0.8)
    return several * np.where(verdict != 0, 1.0, 0.5)


def _gushing(reader, states):
    """Counts piled adjectives, repeated adverbs, and exclamations after the first."""
    piled = (states == reader.index["more"]).sum(1)
    adverb = states == reader.index["adverb"]
    repeated = (adverb[:, 1:] & adverb[:, :-1]).sum(1)
    bangs = (states == reader.index["bang"]).sum(1)
    return piled + repeated + np.maximum(bangs - 1, 0)


def _misfits(world, info, words):
    """Counts adjectives that do not fit the topic of the aspect they describe."""
    lexicon = world.lexicon
    topic = lexicon.topic[words]
    steps = np.arange(words.shape[1])
    last = np.maximum.accumulate(np.where(topic >= 0, steps, -1), axis=1)
    current = np.take_along_axis(topic, np.maximum(last, 0), axis=1)
    opening = lexicon.topic[lexicon["aspect"][info.aspect]]
    current = np.where(last >= 0, current, opening[:, None])
    following = np.append(topic[:, 1:], np.full_like(topic[:, :1], -1), axis=1)
    described = np.where(following >= 0, following, current)
    fits = lexicon.fits[words, described]
    return (np.isin(words, adjectives(lexicon)) & ~fits).sum(1)


def _counts(words, size):
    """[N, V]: how often each row uses each word."""
    flat = words + size * np.arange(len(words))[:, None]
    return np.bincount(flat.ravel(), minlength=size * len(words)).reshape(-1, size)


class _Reader:
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


@functools.lru_cache(maxsize=64)
def _reader(lexicon, review_grammar):
    return _Reader(lexicon, review_grammar.edges)


def _class(name):
    """The word class of a reader state or of a role."""
    same = {"mild": "adverb", "strong": "adverb", "agree": "connective"}
    same |= {"contrast": "connective"}
    plain = name.removeprefix("praise_").removeprefix("blame_")
    return same.get(plain, grammar.reads(plain))
