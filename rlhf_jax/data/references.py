"""Questions that are answered in writing, with the answers that are right.

The columns of a data set tell what is asked:

    question, context, answers    reading: a span of the context, as in SQuAD
    question, answer              arithmetic: the last number counts, as in GSM8K
    translation                   a sentence in two languages, {"fr": ..., "en": ...}
    prompt, references            anything: the prompt as it is, a list of answers
"""

from typing import NamedTuple

from rlhf_jax.data import choices

_LANGUAGES = {
    "cs": "Czech",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "ro": "Romanian",
    "ru": "Russian",
    "zh": "Chinese",
}


class Kind(NamedTuple):
    """How answers of a kind are asked for, and how they are scored."""

    columns: tuple[str, ...]
    metrics: tuple[str, ...]  # besides exact_match and f1; the first is the headline
    prompt: str  # its format
    new_tokens: int  # of an answer, at most
    stops: tuple[str, ...]  # an answer ends before any of these


KINDS = {
    "reading": Kind(
        ("question", "context", "answers"), ("f1",),
        "{context}\n\nQuestion: {question}\nAnswer:", 32, ("\n",),
    ),
    "arithmetic": Kind(
        ("question", "answer"), ("number",),
        "Question: {question}\nAnswer:", 256, ("Question:",),
    ),
    "translation": Kind(
        ("translation",), ("bleu",), "{source}: {text}\n{target}:", 96, ("\n",)
    ),
    "references": Kind(
        ("prompt", "references"), ("f1", "bleu"), "{prompt}", 64, ("\n",)
    ),
}  # fmt: skip


class References(NamedTuple):
    """Q prompts, each with its right answers."""

    prompts: list[str]
    answers: list[list[str]]  # at least one each; "" is right where nothing is
    kind: Kind


def kind(rows):
    """The `Kind` of a `datasets.Dataset` by its columns, None for no kind."""
    for found in KINDS.values():
        if set(found.columns) <= set(rows.column_names):
            return found
    return None


def of_rows(rows, where, *, count, languages=None):
    """At most `count` rows as `References`, a random but fixed sample.

    Args:
      rows: a `datasets.Dataset` of some `kind`; where: what errors call it.
      languages: (from, to) of a translation; by default into English, else from the
        first language into the second.
    Raises ValueError where no row has an answer. In a reading suite with some, as in
    SQuAD 2.0, a question without one is answered right by saying nothing.
    """
    asked = kind(rows)
    rows, column = list(choices.drawn(rows, count)), asked.columns[-1]
    if asked is KINDS["translation"]:
        rows = [_translation(row[column], languages, where) for row in rows]
        column = "references"
    answers = [_texts(row[column]) for row in rows]
    if not any(map(any, answers)):
        raise ValueError(
            f"{where}: the column {column} has no answer in any of {len(rows)} rows; "
            "choose a split whose answers are public"
        )
    prompts = [asked.prompt.format(**row) for row in rows]
    return References(prompts, [texts or [""] for texts in answers], asked)


def _texts(answers):
    """Answers as a list: of a text, a list of texts, or SQuAD's {"text": [...]}."""
    if isinstance(answers, dict):
        answers = answers.get("text") or []
    if isinstance(answers, str):
        return [answers]
    return list(answers or [])


def _translation(pair, languages, where):
    """A row of {"source", "target", "text", "references"} of a sentence pair."""
    present = [code for code, text in pair.items() if text is not None]
    if languages is None:
        english = [code for code in present if code == "en"]
        others = [code for code in present if code != "en"]
        languages = tuple(others[:1] + english if english else others[:2])
    if len(languages) != 2 or not set(languages) <= set(present):
        raise ValueError(
            f"{where}: it has {', '.join(present)}; name two of these as languages, "
            "from and to"
        )
    source, target = languages
    return {
        "source": _LANGUAGES.get(source, source),
        "target": _LANGUAGES.get(target, target),
        "text": pair[source],
        "references": [pair[target]],
    }
