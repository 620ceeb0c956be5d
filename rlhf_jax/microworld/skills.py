"""Five skills with exact answers, capabilities that alignment may tax.

    fact         question director of moonfall ? -> karin
    hop          question home of director of moonfall ? -> bergen
    addition     question 23 plus 5 ? -> 28 (mod 100)
    translation  translate kaki lopa mimo suta roki ? -> warm plot slow crew cast
    rating       the slow crew , the warm mood , the dull cast . question score ? -> 1

Translation is from a toy language into the words of reviews, word by word with
neighbours swapped, in the order 2 1 4 3 5. Facts, hops and the 800 additions are
knowledge: all splits share them and test recall (models this small memorise addition).
Items of the other kinds are split by a hash. A rating is how many of the phrases
praise. Translation writes, and rating reads, the words of reviews: alignment on
reviews moves what these skills need, as it does in real models.
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.microworld import draws, splits

KINDS = ("fact", "hop", "addition", "translation", "rating")
KNOWN = ("fact", "hop", "addition")
# Each kind's share of the corpus, larger for those that are harder to learn.
SHARES = (0.13, 0.16, 0.34, 0.22, 0.15)
WIDTH = 16  # tokens of the longest question
ANSWER = 6  # tokens of an answer, with the end word
ADDEND = 8  # the second operand of an addition is below this
PHRASES = 3  # of a passage to read


class Items(NamedTuple):
    """Questions with their answers."""

    questions: np.ndarray  # [N, WIDTH] int32, left-padded
    question_mask: np.ndarray  # [N, WIDTH] int32
    answers: np.ndarray  # [N, ANSWER] int32, right-padded, with the end word
    answer_mask: np.ndarray  # [N, ANSWER] int32


def items(world, kind, split="test", n=300, *, rng=None):
    """n items of a kind; without `rng` fixed, and distinct if there are enough.

    `split` is "train", "validation" or "test". Raises ValueError for an unknown kind or
    split.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    number = splits.number(split)
    fixed = rng is None
    if fixed:
        rng = np.random.default_rng([world.seed, KINDS.index(kind), number])
    if kind in KNOWN:
        chosen = _choose_known(world, kind, rng, n, fixed)
    else:
        chosen = _choose_made(world, kind, rng, n, split, fixed)
    return _layout(world, *chosen)


def correct(answers, responses, response_mask):
    """[N] bool: the response equals the answer exactly, with the end word."""
    given = np.where(np.asarray(response_mask) != 0, responses, 0)
    width = max(answers.shape[1], given.shape[1])
    same = [np.pad(x, [(0, 0), (0, width - x.shape[1])]) for x in (answers, given)]
    return (same[0] == same[1]).all(1)


def _choose_known(world, kind, rng, n, fixed):
    solve = _sums if kind == "addition" else _known
    questions, answers = solve(world, kind)
    if fixed and n <= len(questions):
        rows = rng.choice(len(questions), n, replace=False)
    else:
        rows = rng.integers(len(questions), size=n)
    return questions[rows], answers[rows]


def _choose_made(world, kind, rng, n, split, fixed):
    kept, count = [], 0
    while count < n or not kept:
        operands = _operands(world, kind, rng, splits.draws_needed(n - count, split))
        operands = operands[splits.contains(operands, split)]
        if fixed:
            operands = operands[np.sort(np.unique(operands, axis=0, return_index=1)[1])]
        kept.append(operands)
        count += len(operands)
    return _solve(world, kind, np.concatenate(kept)[:n])


def _operands(world, kind, rng, n):
    if kind == "translation":
        return world.lexicon["source"][rng.integers(32, size=(n, 5))]
    return _passages(world.lexicon, rng, n)


def _passages(words, rng, n):
    """[N, 2 · PHRASES]: each phrase's adjective and aspect.

    Aspects differ; adjectives are any that fit, all equally often.
    """
    order = rng.random((n, len(words["aspect"]))).argsort(1)[:, :PHRASES]
    adjectives = np.concatenate([words["praise_adjective"], words["blame_adjective"]])
    fitting = words.fits[adjectives].T[words.topic[words["aspect"]]]  # [A, adjectives]
    chosen = draws.Draws.of_rows(fitting.astype(float))(rng, order.ravel())
    phrases = adjectives[chosen].reshape(n, -1), words["aspect"][order]
    return np.stack(phrases, axis=2).reshape(n, -1)


def _solve(world, kind, operands):
    """Questions and answers of made-up operands, [N, any] word ids."""
    words = world.lexicon
    if kind == "translation":
        question = np.insert(operands, 0, words.id("translate"), axis=1)
        return question, world.translation[operands[:, [1, 0, 3, 2, 4]]]
    phrases = operands.reshape(-1, PHRASES, 2)
    praised = (words.polarity[phrases[..., 0]] > 0).sum(1, keepdims=True)
    before, after = np.full((2, *phrases.shape[:2], 1), words.id("the"))
    after[:], after[:, -1] = words.id(","), words.id(".")
    passage = np.concatenate([before, phrases, after], axis=2)
    asked = np.tile(words.ids("question score"), (len(operands), 1))
    question = np.hstack([passage.reshape(len(operands), -1), asked])
    return question, words["number"][praised]


def _sums(world, kind):
    """Every addition: questions [800, 4], answers [800, 1]."""
    words, number = world.lexicon, world.lexicon["number"]
    one, two = np.divmod(np.arange(100 * ADDEND), ADDEND)
    question, plus = (np.full(len(one), words.id(w)) for w in ("question", "plus"))
    questions = np.stack([question, number[one], plus, number[two]], axis=1)
    return questions, number[(one + two) % 100, None]


def _known(world, kind):
    """All facts in both phrasings: questions [N, any], answers [N, 1]."""
    words, films = world.lexicon, world.films
    names, people = words["name"], {"home": films.home, "friend": films.friend}
    of_film = {"director": films.director, "star": films.star, "year": films.year}
    of_film["genre"] = words["genre"][films.genre]
    facts = [(films.title, [relation], answer) for relation, answer in of_film.items()]
    facts += [(names, [relation], answer) for relation, answer in people.items()]
    if kind == "hop":
        steps = [(films.title, key, of_film[key]) for key in ("director", "star")]
        steps.append((names, "friend", films.friend))
        facts = [
            (subject, [outer, inner], answer[middle - names[0]])
            for subject, inner, middle in steps
            for outer, answer in people.items()
        ]
    rows = [row for fact in facts for row in _phrase(words, *fact)]
    questions, answers = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return questions, answers[:, None]


def _phrase(words, subject, relations, answer):
    """Both phrasings: "home of director of X ?" and "X 's director 's home ?"."""
    of, owns = words.id("of"), words.id("'s")
    relations = [words.id(relation) for relation in relations]
    before = [words.id("question"), *(x for r in relations for x in (r, of))]
    after = [x for r in reversed(relations) for x in (owns, r)]
    column, size = subject[:, None], len(subject)
    yield np.hstack([np.tile(before, (size, 1)), column]), answer
    ahead = np.full((size, 1), words.id("question"))
    yield np.hstack([ahead, column, np.tile(after, (size, 1))]), answer


def _layout(world, questions, answers):
    rows = len(questions)
    ask = np.full((rows, 1), world.lexicon.id("?"))
    start, end = np.full((rows, 1), world.bos_id), np.full((rows, 1), world.eos_id)
    questions = np.hstack([start, questions, ask]).astype(np.int32)
    answers = np.hstack([answers, end]).astype(np.int32)
    questions = np.pad(questions, [(0, 0), (WIDTH - questions.shape[1], 0)])
    answers = np.pad(answers, [(0, 0), (0, ANSWER - answers.shape[1])])
    masks = [(x != world.pad_id).astype(np.int32) for x in (questions, answers)]
    return Items(questions, masks[0], answers, masks[1])
