"""Multiple-choice suites as an evaluator: the alignment tax of a base model.

Lin et al. 2023, arXiv:2309.06256, measure what alignment makes a model forget as the
drop of its accuracy on such suites. Nothing is generated: the option with the highest
log-likelihood a character is the answer, `acc_norm` of EleutherAI's harness.
"""

import functools
import pathlib

import numpy as np

from rlhf_jax.data import batching, choices
from rlhf_jax.evaluation import multiple_choice, policy

_ROWS = 32  # options scored at once: they are longer than samples


def read(specs, *, count, question="{question}"):
    """{name: `choices.Questions`} of the data sets that `specs` name.

    Args:
      specs: "PATH" or "PATH:SPLIT" each, the split "test" by default; a suite is
        called by the last part of its path.
      count: questions of a suite, at most.
      question: how a prompt is written around a question.

    Raises ValueError for two suites of one name, and for rows that are no questions.
    """
    suites = {}
    for spec in specs:
        path, split = _path_and_split(spec)
        name = suite_name(spec)
        if name in suites:
            raise ValueError(
                f"two suites are called {name}, which their metrics could not tell "
                f"apart: {' '.join(specs)}"
            )
        suites[name] = choices.read(path, split=split, count=count, question=question)
    return suites


def tokens(questions, tokenizer, *, length):
    """{name: `choices.Options`} of suites, a question with an option in each row.

    length: of a row, in tokens; a longer question loses its beginning.
    """
    return {
        name: choices.tokens(tokenizer, suite, length=length)
        for name, suite in questions.items()
    }


def facts(suites):
    """{name: how many questions it has, and what a blind guess scores}."""
    return {
        name: f"{len(suite.labels)} questions, chance "
        f"{multiple_choice.chance(suite.questions):.2f}"
        for name, suite in suites.items()
    }


def evaluator(model, suites, *, layout=None):
    """`(params, run) -> (metrics, [])`: accuracies in [0, 1] on some suites.

    `tax/<name>` is the accuracy on one suite, `tax/skills` that on the questions of all
    of them together, `tax/skills_a` and `_b` on the even and the odd questions.

    Args: model: a decoder; suites: {name: `choices.Options`}, at least one; layout:
    the devices, those of the run by default.
    """
    batches = {name: batching.by_width(suite.rows) for name, suite in suites.items()}

    def evaluate(params, run=None):
        score = _text_nll(model, layout or run.layout)
        correct = {
            name: _correct(score, params, suite, batches[name])
            for name, suite in suites.items()
        }
        metrics = {
            f"tax/{name}": float(right.mean()) for name, right in correct.items()
        }
        means = policy.halves(np.concatenate(list(correct.values())))
        names = ("tax/skills", "tax/skills_a", "tax/skills_b")
        return {**metrics, **dict(zip(names, means, strict=True))}, []

    return evaluate


def suite_name(spec):
    """What a suite is called: the last part of its path."""
    return _path_and_split(spec)[0].rstrip("/").rpartition("/")[2]


def _path_and_split(spec):
    """("data/arc", "test[:50]") of "data/arc:test[:50]".

    Without a split it is test, and the one split of a single file.
    """
    start, bracket, part = spec.partition("[")
    path, colon, split = start.rpartition(":")
    if colon:
        return path, split + bracket + part
    return spec, "train" if pathlib.Path(spec).is_file() else "test"


def _correct(score, params, suite, batches):
    """Whether each question of a suite is answered correctly: [Q] bool."""
    nll = np.empty(len(suite.lengths))
    for indices, rows in batches:
        nll[indices] = score(params, rows)[0]
    picked = multiple_choice.pick(-nll, suite.lengths, suite.questions)
    return picked == suite.labels


@functools.lru_cache(maxsize=8)
def _text_nll(model, layout):
    """Compiled once for all who ask for the same."""
    return layout.over_rows(policy.make_text_nll(model), replicated=1, chunk=_ROWS)
