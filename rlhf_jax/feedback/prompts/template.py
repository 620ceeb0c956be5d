"""A prompt as data: a TOML file, read into a frozen record with a digest.

    name = "summarization_base"
    version = 1
    kind = "pair"                    # or "rating"
    polarity = "better"              # "worse": the labels name the worse candidate
    labels = ["1", "2"]              # of the first, of the second; ratings ascend
    preamble = "..."                 # the task
    sample = "... {context} ... {first} ... {second}"  # ratings: {context}, {response}
    ending = "Preferred Summary="    # what the label follows, character by character
    rationale_request = "..."        # optional: asks for a chain of thought,
    rationale_cue = "Rationale:"     #   which follows this
    example_banner = "..."           # optional: stands before each exemplar,
    sample_banner = "..."            #   and before what is to be judged
    exemplars = "FILE.toml"          # optional: the file of them, or [[exemplars]]

Exemplars have the fields of the sample, `better` ("first" or "second"; for ratings
`label`) and optionally a `rationale`. Which label an exemplar shows follows from the
polarity, so both polarities share one file.

A label begins where the ending ends. If the model writes a blank between them, it is
the label's (" 1", not "Score: "): most tokens begin with their blank, and a text that
ends with one continues in ways that the model has hardly seen. An ending with a blank
at its end is refused.
"""

import dataclasses
import hashlib
import json
import pathlib
import string
import tomllib
from collections.abc import Mapping

from rlhf_jax import labeling

FIELDS = {"pair": ("context", "first", "second"), "rating": ("context", "response")}
_FOLDER = pathlib.Path(__file__).resolve().parent
_EXEMPLARS = ".exemplars"  # in the name of a file of exemplars alone
_NAMES = ("name", "version", "summary")  # say nothing to a labeler


@dataclasses.dataclass(frozen=True)
class Exemplar:
    """A sample that is shown with its answer."""

    values: Mapping[str, str]  # the fields of the sample
    label: str
    rationale: str | None = None


@dataclasses.dataclass(frozen=True)
class Template:
    """A prompt; the module says what its fields are."""

    name: str
    version: int
    kind: str
    polarity: str
    labels: tuple[str, ...]
    preamble: str
    sample: str
    ending: str
    rationale_request: str = ""
    rationale_cue: str = ""
    example_banner: str = ""
    sample_banner: str = ""
    exemplars: tuple[Exemplar, ...] = ()
    summary: str = ""  # one line for people

    @property
    def digest(self):
        """SHA-256 of all that determines what a labeler reads and what it means."""
        content = dataclasses.asdict(self)
        for name in _NAMES:
            del content[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_TEXTS = tuple(x.name for x in dataclasses.fields(Template) if x.type is str)
_ALL = tuple(x.name for x in dataclasses.fields(Template))
_NEEDED = ("name", "kind", "polarity", "preamble", "sample", "ending")


def names():
    """The templates that come with the package."""
    found = (path.stem for path in _FOLDER.glob("*.toml"))
    return tuple(sorted(name for name in found if not name.endswith(_EXEMPLARS)))


def load(name_or_path):
    """A template of the package by its name, or one's own by the path of its file.

    Raises ValueError for a name that is not known, and for a file that is no template;
    the message names the file and the field.
    """
    text = str(name_or_path)
    own = isinstance(name_or_path, pathlib.Path) or "/" in text or ".toml" in text
    if not own and text not in names():
        raise ValueError(
            f"there is no prompt {text!r}; known are {', '.join(names())}, or the path "
            "of a TOML file"
        )
    path = pathlib.Path(text).expanduser() if own else _FOLDER / f"{text}.toml"
    data = _read(path)
    _typed(path, "", data, _TEXTS, _NEEDED)
    if not isinstance(data.get("version"), int):
        raise _error(path, "version", "must be a whole number")
    _chosen(path, "kind", data["kind"], tuple(FIELDS))
    _chosen(path, "polarity", data["polarity"], labeling.POLARITIES)
    texts = {name: data[name].strip("\n") for name in _TEXTS if name in data}
    labels = _labels(path, data)
    _check_texts(path, texts)
    return Template(
        version=data["version"],
        labels=labels,
        exemplars=_exemplars(path, data, labels),
        **texts,
    )


def _read(path):
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no TOML: {error}") from error
    return data


def _typed(path, prefix, data, texts, needed, others=_ALL):
    """Raises ValueError unless the needed fields are there, and texts are texts."""
    for name in data:
        if name not in (*texts, *others):
            known = ", ".join(dict.fromkeys((*texts, *others)))
            raise _error(path, prefix + name, f"is not known; fields are {known}")
    for name in needed:
        if name not in data:
            raise _error(path, prefix + name, "is missing")
    for name in texts:
        if name in data and not isinstance(data[name], str):
            raise _error(path, prefix + name, f"must be a text, not {data[name]!r}")


def _chosen(path, name, value, allowed):
    if value not in allowed:
        raise _error(path, name, f"must be {' or '.join(allowed)}, not {value!r}")


def _labels(path, data):
    labels = data.get("labels")
    texts = isinstance(labels, list) and all(isinstance(x, str) for x in labels)
    if not texts or not all(x.strip() for x in labels):
        raise _error(path, "labels", f"must be a list of texts, not {labels!r}")
    if data["kind"] == "pair" and len(labels) != 2:
        raise _error(path, "labels", f"a pair has two labels, not {len(labels)}")
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise _error(path, "labels", f"must be two or more that differ: {labels}")
    if len({label[0].isspace() for label in labels}) > 1:
        raise _error(path, "labels", f"begin with a blank, or none does: {labels}")
    return tuple(labels)


def _check_texts(path, texts):
    for name in ("ending", "rationale_cue"):
        text = texts.get(name, "")
        if text != text.rstrip(" \t"):
            raise _error(
                path, name, f"{text!r} ends with a blank; begin the labels with it"
            )
    if bool(texts.get("rationale_request")) != bool(texts.get("rationale_cue")):
        raise _error(path, "rationale_cue", "goes with rationale_request: give both")
    wanted = FIELDS[texts["kind"]]
    try:
        parts = list(string.Formatter().parse(texts["sample"]))
    except ValueError as error:
        raise _error(path, "sample", f"{error}; a brace is written twice") from error
    found = [name for _, name, *_ in parts if name is not None]
    for _, name, form, conversion in parts:
        if name is not None and (name not in wanted or form or conversion):
            known = ", ".join(f"{{{field}}}" for field in wanted)
            raise _error(
                path, "sample", f"{{{name}}} is no placeholder; there are {known}"
            )
    for name in wanted:
        if name not in found:
            raise _error(path, "sample", f"lacks {{{name}}}")


def _exemplars(path, data, labels):
    rows = data.get("exemplars", [])
    if isinstance(rows, str):
        path = path.parent / rows
        rows = _read(path).get("exemplars")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _error(path, "exemplars", "must be [[exemplars]], or the file of them")
    return tuple(
        _exemplar(path, f"exemplars[{index}].", row, data, labels)
        for index, row in enumerate(rows)
    )


def _exemplar(path, prefix, row, data, labels):
    fields = FIELDS[data["kind"]]
    answer = "better" if data["kind"] == "pair" else "label"
    texts = (*fields, answer, "rationale")
    _typed(path, prefix, row, texts, (*fields, answer), others=())
    if answer == "better":
        _chosen(path, prefix + answer, row["better"], ("first", "second"))
        second = (row["better"] == "second") != (data["polarity"] == "worse")
        label = labels[second]
    else:
        _chosen(path, prefix + answer, row["label"], labels)
        label = row["label"]
    values = {name: row[name].strip("\n") for name in fields}
    return Exemplar(values, label, row.get("rationale"))


def _error(path, field, reason):
    return ValueError(f"{path}: {field}: {reason}")
