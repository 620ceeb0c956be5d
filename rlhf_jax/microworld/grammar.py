"""The grammar of reviews: clauses, connectives and a verdict, as an automaton.

A node includes the sentiment c ∈ {praise, blame} of the current clause and the number n
of clauses so far. The automaton's memory is the current aspect. It is not repeated
(except as a flaw), is likely followed by aspects of the same topic, determines which
adjectives fit, and is what "it" refers to.

    clause  = connective "the plot was quite clever" | "it felt clever" |
              "i loved the clever plot" | "karin made the plot quite clever"
    verdict = ". overall moonfall with ada is a gem despite the pacing ."

A review speaks of its own film: most name the film's other person, whom the prompt does
not name (the star of "moonfall, horror by karin"), and most verdicts take up the aspect
that the prompt opens with, as "given" if they agree with the opening, else "despite".
Such words are slots, filled for each prompt.

About 15% of reviews have flaws, mostly those of praise: repeated intensifiers, piled up
adjectives, a repeated aspect, exclamations, a verdict that contradicts the body, no
verdict.
"""

import dataclasses

import numpy as np

from rlhf_jax.microworld import automaton, wording
from rlhf_jax.microworld.lexicon import Lexicon

NOISE = 0.005
SIGNS = {"praise": 0, "blame": 1}
FLAWS = ("none", "gush", "pile", "repeat", "exclaim", "contradict", "unfinished")
# Nodes that a reader cannot distinguish share a reader state.
STATES = wording.invert(
    {
        "joint": "agree contrast",
        "the": "again",
        "name": "other",
        "dot": "last cut",
        "adverb": "mild strong gush",
        "opener": "slip",
        "bang": "shout",
        "a": "a_again",
        "noun": "noun_again",
    }
)
_FLAWED = {
    "gush": "gush",
    "more": "pile",
    "again": "repeat",
    "shout": "exclaim",
    "a_again": "exclaim",
    "slip": "contradict",
    "cut": "unfinished",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Grammar:
    """The automaton of reviews with the names of its nodes."""

    machine: automaton.Automaton
    opening: np.ndarray  # [2] int: the node after an opening of praise, of blame
    flaw: np.ndarray  # [K] int, the flaw (index in FLAWS) of passing a node
    edges: frozenset[tuple[str, str]]  # reader states that may follow each other
    opener: np.ndarray  # [2, A, V] float: adjectives of an opening clause
    relevance: np.ndarray  # [G, A] float, how often a genre's reviews name an aspect


@dataclasses.dataclass(frozen=True)
class Style:
    """Probabilities of the grammar; each world draws some around these values."""

    more: tuple[float, ...] = (1.0, 0.64, 0.38, 0.12)  # P(another clause | n so far)
    joint: tuple[float, ...] = (0.42, 0.2, 0.38)  # agree, contrast, full stop
    turn: float = 0.1  # P(a full stop changes the sentiment)
    subject: tuple[float, ...] = (0.4, 0.12, 0.3, 0.18)  # the, it, i, name
    other: float = 0.5  # P(a clause's name is the person the prompt does not name)
    mild: float = 0.12
    strong: float = 0.2
    attribute: float = 0.5  # P("i loved the clever plot" has its adjective)
    verdict: tuple[float, ...] = (0.5, 0.2, 0.3)  # title, it, advice
    credit: float = 0.65  # P(a title has its person: "moonfall with ada")
    reply: float = 0.85  # P(the verdict takes up the opening: "despite the pacing")
    slip: float = 0.03  # P(an adjective of the other sentiment)
    gush: tuple[float, float] = (0.04, 0.009)  # P(flaw) per clause: praise, blame
    pile: tuple[float, float] = (0.05, 0.013)
    again: float = 0.014
    bang: tuple[float, float] = (0.12, 0.05)
    shout: float = 0.25
    contradict: float = 0.02
    unfinished: float = 0.015
    loop: float = 0.6  # P(a repetition continues)


def create(lexicon: Lexicon, rng: np.random.Generator, style: Style = Style()):
    """The review grammar of one world."""
    style = dataclasses.replace(
        style,
        subject=tuple(rng.dirichlet(40 * np.array(style.subject))),
        joint=tuple(rng.dirichlet(60 * np.array(style.joint))),
        verdict=tuple(rng.dirichlet(40 * np.array(style.verdict))),
    )
    arcs = [*_clause_arcs(style), *_verdict_arcs(style)]
    words = wording.Wording(lexicon, rng, style)
    relevance = _relevance(rng)
    names = list(dict.fromkeys(node for arc in arcs for node in arc[:2]))
    names.sort(key=lambda node: node[0] == "end")  # the end is the last node
    index = {node: position for position, node in enumerate(names)}
    arcs.sort(key=lambda arc: index[arc[0]])
    machine = automaton.Automaton(
        source=np.array([index[arc[0]] for arc in arcs]),
        target=np.array([index[arc[1]] for arc in arcs]),
        weight=np.array([arc[2] for arc in arcs]),
        redraws=np.array([arc[3] for arc in arcs]),
        recall=_recall(lexicon, relevance),
        writes=np.array([words.written_at(name, sign) for name, sign, _ in names]),
        words=np.array(words.rows),
        size=len(lexicon.vocabulary),
        noise=NOISE,
        end_id=lexicon.id("<eos>"),
    )
    flaw = np.array([FLAWS.index(_FLAWED.get(name, "none")) for name, *_ in names])
    edges = frozenset((_state(a[0]), _state(b[0])) for a, b, *_ in arcs)
    opening = np.array([index["open", sign, 0] for sign in (0, 1)])
    return Grammar(machine, opening, flaw, edges, words.adjectives(), relevance)


def _state(name):
    return STATES.get(name, name)


def _clause_arcs(style):
    """Arcs (source, target, probability, redraws) of all clauses."""
    for n in range(len(style.more) + 1):
        for c in (0, 1):
            if n == 0:
                yield from _joints(style, ("open", c, 0), 1.0)
                continue
            yield from _subjects(style, c, n)
            pile = style.pile[c]
            yield ("adjective", c, n), ("comma", c, n), pile, False
            yield ("comma", c, n), ("more", c, n), 1.0, False
            yield ("more", c, n), ("comma", c, n), style.loop, False
            yield from _joints(style, ("adjective", c, n), 1 - pile)
            yield from _joints(style, ("more", c, n), 1 - style.loop)
            yield from _joints(style, ("aspect_liked", c, n), 1.0)


def _joints(style, node, share):
    """Arcs from the end of a clause to the next clause or to the verdict."""
    _, c, n = node
    more = style.more[n] if n < len(style.more) else 0.0
    agree, contrast, dot = np.array(style.joint) * share * more
    if more > 0:
        yield node, ("agree", c, n + 1), agree, False
        yield node, ("contrast", 1 - c, n + 1), contrast, False
        yield node, ("dot", c, n + 1), dot * (1 - style.turn), False
        yield node, ("dot", 1 - c, n + 1), dot * style.turn, False
    if more < 1:
        yield node, ("last", c, 0), share * (1 - more) * (1 - style.unfinished), False
        yield node, ("cut", c, 0), share * (1 - more) * style.unfinished, False


def _subjects(style, c, n):
    the, it, i, name = np.array(style.subject) * (1 - style.again)
    for joint in ("agree", "contrast", "dot"):
        yield (joint, c, n), ("the", c, n), the, True
        yield (joint, c, n), ("again", c, n), style.again, False
        yield (joint, c, n), ("it", c, n), it, False
        yield (joint, c, n), ("i", c, n), i, True
        yield (joint, c, n), ("name", c, n), name * (1 - style.other), True
        yield (joint, c, n), ("other", c, n), name * style.other, True
    chain = {"the": "aspect", "again": "aspect", "aspect": "copula", "it": "copula"}
    chain |= {"i": "verb", "verb": "the_liked", "name": "made", "other": "made"}
    chain |= {"made": "the_made", "the_made": "aspect_made"}
    chain |= {"adjective_liked": "aspect_liked"}
    chain |= {"mild": "adjective", "strong": "adjective"}
    for source, target in chain.items():
        yield (source, c, n), (target, c, n), 1.0, False
    yield ("the_liked", c, n), ("adjective_liked", c, n), style.attribute, False
    yield ("the_liked", c, n), ("aspect_liked", c, n), 1 - style.attribute, False
    gush = style.gush[c]
    plain = 1 - gush - style.mild - style.strong
    for source in ("copula", "aspect_made"):
        yield (source, c, n), ("mild", c, n), style.mild, False
        yield (source, c, n), ("strong", c, n), style.strong, False
        yield (source, c, n), ("gush", c, n), gush, False
        yield (source, c, n), ("adjective", c, n), plain, False
    yield ("gush", c, n), ("gush", c, n), style.loop, False
    yield ("gush", c, n), ("adjective", c, n), 1 - style.loop, False


def _verdict_arcs(style):
    end = ("end", 0, 0)
    yield end, end, 1.0, False
    for c in (0, 1):
        yield ("cut", c, 0), end, 1.0, False
        yield ("stop", c, 0), end, 1.0, False
        yield ("last", c, 0), ("opener", c, 0), 1 - style.contradict, False
        yield ("last", c, 0), ("slip", 1 - c, 0), style.contradict, False
        for opener in ("opener", "slip"):
            title, it_is, advice = style.verdict
            yield (opener, c, 0), ("title", c, 0), title, False
            yield (opener, c, 0), ("it_is", c, 0), it_is, False
            yield (opener, c, 0), ("advice", c, 0), advice, False
        chain = {"it_is": "is", "sure": "a", "a": "noun", "advice": "title_advice"}
        chain |= {"credit": "person", "credit_advice": "person_advice", "person": "is"}
        chain |= {"link": "the_opening", "the_opening": "opening"}
        chain |= {"a_again": "noun_again"}
        for source, target in chain.items():
            yield (source, c, 0), (target, c, 0), 1.0, False
        yield ("title", c, 0), ("credit", c, 0), style.credit, False
        yield ("title", c, 0), ("is", c, 0), 1 - style.credit, False
        yield ("is", c, 0), ("sure", c, 0), style.strong, False
        yield ("is", c, 0), ("a", c, 0), 1 - style.strong, False
        yield from _endings(style, c)
        for source, shout in (("bang", style.shout), ("shout", style.loop)):
            yield (source, c, 0), end, 1 - shout, False
            yield (source, c, 0), ("shout", c, 0), shout / 2, False
            yield (source, c, 0), ("a_again", c, 0), shout / 2, False


def _endings(style, c):
    """Arcs from a verdict to its reply to the opening, and to its last mark."""
    advice = ("title_advice", c, 0)
    yield advice, ("credit_advice", c, 0), style.credit, False
    marked = [(advice, (1 - style.credit) * (1 - style.reply), style.bang[c])]
    yield advice, ("link", c, 0), (1 - style.credit) * style.reply, False
    for name in ("noun", "person_advice"):
        yield (name, c, 0), ("link", c, 0), style.reply, False
        marked.append(((name, c, 0), 1 - style.reply, style.bang[c]))
    marked.append((("opening", c, 0), 1.0, style.bang[c]))
    marked.append((("noun_again", c, 0), 1.0, style.loop))
    for node, share, bang in marked:
        yield node, ("stop", c, 0), share * (1 - bang), False
        yield node, ("bang", c, 0), share * bang, False


def _relevance(rng, genres=4, aspects=30):
    """For each genre 10 aspects are relevant, 14 less so, and 6 hardly."""
    weights = np.repeat([5.0, 1.0, 0.1], [10, 14, 6])
    return np.stack([rng.permutation(weights) for _ in range(genres)])


def _recall(lexicon, relevance):
    """[G, A, A]: P(next aspect | aspect); its own topic is 3 times as likely."""
    topic = lexicon.topic[lexicon["aspect"]]
    near = np.where(topic[:, None] == topic, 3.0, 1.0) * (1 - np.eye(len(topic)))
    recall = relevance[:, None, :] * near
    return recall / recall.sum(-1, keepdims=True)
