"""What the nodes of the review grammar write: their words, and how likely each is."""

import numpy as np

from rlhf_jax.microworld.lexicon import TOPICS

# Words that depend on the prompt: its title, its person, the film's other person with
# "by" or "with", the opening's aspect, the links of praise and of blame to it.
SLOTS = ("title", "name", "other", "credit", "opening", "praise_link", "blame_link")


def invert(groups):
    """{name: group} of {group: names separated by blanks}."""
    return {name: group for group, names in groups.items() for name in names.split()}


# The word class of a node, if it differs from its name.
READS = invert(
    {
        "connective": "agree contrast joint",
        "stop": "dot last cut",
        "the": "again the_liked the_made the_opening",
        "aspect": "aspect_liked aspect_made opening",
        "adjective": "adjective_liked more first",
        "adverb": "mild strong gush",
        "opener": "slip",
        "it": "it_is",
        "title": "title_advice",
        "name": "other person person_advice",
        "credit": "credit_advice",
        "bang": "shout",
        "a": "a_again",
        "noun": "noun_again",
    }
)
# The slot that a node fills, if it is not named like it.
_FILLS = invert(
    {
        "title": "title_advice",
        "other": "person person_advice",
        "credit": "credit_advice",
    }
)


def reads(state: str) -> str:
    """The word class of a reader state."""
    return READS.get(state, state)


class Wording:
    """The word distributions: `rows[d]` is over the vocabulary and the slots."""

    def __init__(self, lexicon, rng, style):
        self.lexicon, self.style, self.rows, self.known = lexicon, style, [], {}
        judging = lexicon.strength > 0
        common = rng.gamma(np.where(judging, 0.7, 3.0)) + np.where(judging, 0.1, 1.0)
        rarer = np.array([1.0, 1.0, 0.9, 0.5])[lexicon.strength.astype(int)]
        self.weight = np.append(common * rarer, np.zeros(len(SLOTS)))

    def written_at(self, name, sign):
        """[A] the distribution of a node for every aspect in memory."""
        read, aspects = READS.get(name, name), self.lexicon["aspect"]
        if read == "aspect" and name not in SLOTS:
            return [self._row([word]) for word in aspects]
        if read == "adjective":
            topics = self.lexicon.topic[aspects]
            slip = 0.0 if name == "first" else self.style.slip
            rows = [self._adjectives(sign, topic, slip) for topic in range(TOPICS)]
            return [rows[topic] for topic in topics]
        return [self._row(self._choices(name, sign))] * len(aspects)

    def adjectives(self):
        """[2, A, V] adjectives by sentiment and aspect."""
        table = [self.written_at("first", sign) for sign in (0, 1)]
        return np.array(self.rows)[np.array(table)][..., : len(self.lexicon.vocabulary)]

    def _choices(self, name, sign):
        words, read = self.lexicon, READS.get(name, name)
        mood = ("praise", "blame")[sign]
        size, end = len(words.vocabulary), [words.id("<eos>")]
        special = {"open": end, "end": end, "gush": words["strong"][:1]}
        if name in special:
            return special[name]
        slot = f"{mood}_link" if name == "link" else _FILLS.get(name, name)
        if slot in SLOTS:
            return [size + SLOTS.index(slot)]
        role = name if name in ("mild", "strong", "agree", "contrast") else read
        return words[f"{mood}_{role}" if role in ("verb", "noun", "advice") else role]

    def _adjectives(self, sign, topic, slip):
        row = np.zeros_like(self.weight)
        for side, mood in enumerate(("praise", "blame")):
            weight = 1 - slip if side == sign else slip
            chosen = self.lexicon[f"{mood}_adjective"]
            chosen = chosen[self.lexicon.fits[chosen, topic]]
            row[chosen] = weight * self.weight[chosen] / self.weight[chosen].sum()
        return self._keep(row)

    def _row(self, choices):
        row = np.zeros_like(self.weight)
        row[choices] = np.maximum(self.weight[choices], 0.1)
        return self._keep(row / row.sum())

    def _keep(self, row):
        key = row.tobytes()
        if key not in self.known:
            self.known[key] = len(self.rows)
            self.rows.append(row)
        return self.known[key]
