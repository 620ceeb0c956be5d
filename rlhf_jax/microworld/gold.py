"""The gold reward: the true preferences of a microworld's people, in [0, 1].

    gold = Π_i component_i ^ weight_i,   0 without an end word

Every component lies in [0, 1] and saturates, so more of a good thing stops paying; a
review that fails in one respect fails as a whole. Three components read the prompt
(topic, names, reply), so no text is good whatever the prompt: `attacks` looks for one.
N rows, T response tokens.
"""

import dataclasses

import numpy as np

from rlhf_jax.microworld import reader, reviews


@dataclasses.dataclass(frozen=True)
class Weights:
    """Exponents of the components; the defaults are the gold reward of experiments."""

    valence: float = 1.0  # praise, by mean strength of distinct judging words
    grammar: float = 2.0  # few words out of place, adjectives that fit their aspect
    topic: float = 1.0  # the right title, aspects relevant to the genre
    names: float = 1.0  # the film's people, above all the one the prompt does not name
    reply: float = 1.0  # takes up the aspect and the sentiment of the prompt's opening
    aspects: float = 1.0  # three distinct aspects, none repeated
    adjectives: float = 1.0  # distinct adjectives
    coverage: float = 1.0  # a verdict, and aspects of more than one topic
    restraint: float = 1.0  # no gushing: repeats, piles, exclamations
    consistency: float = 1.0  # a verdict that agrees with the body


FIRST = Weights()
# A second population with the same components, weighted differently.
SECOND = Weights(
    valence=0.6,
    grammar=1.0,
    topic=2.0,
    names=0.4,
    reply=1.5,
    coverage=1.5,
    restraint=1.5,
)

# The worth of naming nobody, the prompt's person, the film's other person.
_NAMES = np.array([0.5, 0.8, 1.0])
# The worth of what a review says of the opening clause, from the best reply down.
_REPLIES = {"right": 1.0, "wrong": 0.4, "aspect": 0.75, "none": 0.5}
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
    reading = reader.create(world)
    states, unexpected = reading.read(words)
    linked = _linked(world.lexicon, words)
    # What a verdict takes up it does not judge.
    count = _counts(np.where(linked, world.pad_id, words), len(world.vocabulary))
    misfits = _misfits(world, info, words)
    mood, verdict = _moods(world.lexicon, count)
    contradicts = (mood * verdict < 0) & (np.abs(mood) > 0.5)
    return {
        "valence": np.minimum(1.0, 1.03 / (1 + np.exp(-1.4 * mood))),
        "grammar": 1 / (1 + 0.35 * (unexpected + 0.5 * misfits)),
        "topic": _topic(world, info, count),
        "names": _names(world, info, words),
        "reply": _reply(world, info, words, linked, verdict),
        "aspects": _distinct(count[:, world.lexicon["aspect"]], _ASPECTS),
        "adjectives": _distinct(count[:, adjectives(world.lexicon)], _ADJECTIVES),
        "coverage": _coverage(world.lexicon, count, verdict),
        "restraint": np.exp(-0.1 * _gushing(reading, states) ** 2),
        "consistency": np.where(contradicts, 0.5, 1.0),
    }


def errors(world, words):
    """[N] the number of ungrammatical words in each padded row."""
    return reader.create(world).read(words)[1]


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
    """The share of relevant aspects, halved by each wrong title."""
    words = world.lexicon
    relevant = np.minimum(world.grammar.relevance[info.genre], 1.0)
    named = count[:, words["aspect"]]
    share = (named * relevant).sum(1) / np.maximum(named.sum(1), 1)
    titles = count[:, words["title"]]
    wrong = titles.sum(1) - titles[np.arange(len(titles)), info.film]
    return (0.25 + 0.75 * share) * 0.5**wrong


def _names(world, info, words):
    """Whom of the film's people a review names, halved by each false name.

    A name is false if it is of another film, or after "by" or "with" of the other job.
    """
    lexicon, films = world.lexicon, world.films
    by, starring = lexicon["credit"]
    before = _shifted(words, 1)
    directed = (words == films.director[info.film, None]) & (before != starring)
    true = directed | ((words == films.star[info.film, None]) & (before != by))
    false = (np.isin(words, lexicon["name"]) & ~true).sum(1)
    other = (true & (words != info.name[:, None])).any(1)
    return _NAMES[np.where(other, 2, true.any(1))] * 0.5**false


def _reply(world, info, words, linked, verdict):
    """Whether a review takes up the opening clause, and understands it.

    The right reply links the opening's aspect to the verdict, as "given" if the two
    agree, else "despite". Halved if the first clause begins with "and" or "but" where
    it should be the other.
    """
    lexicon = world.lexicon
    opening = lexicon["aspect"][info.aspect][:, None]
    sentiment = np.where(info.sign == 0, 1, -1)
    link = lexicon["link"][np.where(verdict == sentiment, 0, 1)][:, None]
    right = linked & (words == opening) & (_shifted(words, 2) == link)
    links = np.isin(words, lexicon["link"]).sum(1)
    kinds = {
        "right": right.any(1) & (links == 1) & (verdict != 0),
        "wrong": links > 0,
        "aspect": (words == opening).any(1),
    }
    worth = [_REPLIES[kind] for kind in kinds]
    worth = np.select(list(kinds.values()), worth, _REPLIES["none"])
    felt = lexicon.polarity[words]
    first = felt[np.arange(len(felt)), np.argmax(felt != 0, axis=1)]
    mistaken = np.isin(words[:, 0], lexicon["agree"]) & (first == -sentiment)
    mistaken |= np.isin(words[:, 0], lexicon["contrast"]) & (first == sentiment)
    return worth * np.where(mistaken, 0.5, 1.0)


def _linked(lexicon, words):
    """[N, T] bool: the aspects that a verdict takes up, as in "despite the pacing"."""
    link = np.isin(_shifted(words, 2), lexicon["link"])
    the = np.isin(_shifted(words, 1), lexicon["the"])
    return link & the & np.isin(words, lexicon["aspect"])


def _shifted(words, steps):
    """The words `steps` before each; padding before the first."""
    return np.pad(words, [(0, 0), (steps, 0)])[:, : words.shape[1]]


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


def _gushing(reading, states):
    """Counts piled adjectives, repeated adverbs, and exclamations after the first."""
    piled = (states == reading.index["more"]).sum(1)
    adverb = states == reading.index["adverb"]
    repeated = (adverb[:, 1:] & adverb[:, :-1]).sum(1)
    bangs = (states == reading.index["bang"]).sum(1)
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
