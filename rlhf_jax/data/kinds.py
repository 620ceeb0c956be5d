"""What a data set is, by its columns, and whether their values are what that says."""

import difflib

from rlhf_jax.data import diagnosis, origins

KINDS = {  # most specific first: a data set is of the first kind whose columns it has
    "paired": ("question", "response_j", "response_k"),
    "choices": ("question", "choices", "label"),
    "preference": ("prompt", "chosen", "rejected"),
    "conversations": ("chosen", "rejected"),
    "completion": ("prompt", "completion"),
    "messages": ("messages",),
    "translation": ("translation",),
    "classification": ("text", "label"),
    "text": ("text",),
    "prompt": ("prompt",),
    "tokens": ("input_ids",),
}
_TEXTS = {"text", "prompt", "completion", "chosen", "rejected"}
_MESSAGES = {"messages", "prompt", "completion", "chosen", "rejected"}


def of(rows, where="the data set", *, among=tuple(KINDS), flag=None):
    """The kind of a data set, by its columns: the first of `among` that it has.

    flag: of columns, for the message where it is none of them.
    """
    for name in among:
        if set(KINDS[name]) <= set(rows.column_names):
            return name
    present = origins.visible(rows)
    known = "; ".join("+".join(KINDS[name]) for name in among)
    needed, yours = _meant(present, among)
    hint = f"did you mean {needed} by {yours}? " if yours else ""
    raise ValueError(
        f"{where}: columns {', '.join(present)}; needed are {known}; {hint}name yours "
        f"with {_fix(flag, needed, yours)}{_other_reason(rows, where)}"
    )


def _meant(present, among):
    """(a column needed, the present one that may be it, None if none is like it)."""
    for name in among:
        if missing := [c for c in KINDS[name] if c not in present]:
            near = difflib.get_close_matches(missing[0], present, n=1, cutoff=0.75)
            if near and len(missing) == 1 and near[0] not in KINDS[name]:
                return missing[0], near[0]
    return ("text" if "text" in among else KINDS[among[0]][0]), None


def _other_reason(rows, where):
    """Why a file may seem to lack columns: no header, one object for all rows."""
    if ".csv" in where:
        return "; the first line of a CSV names its columns"
    if len(rows) == 1 and any(isinstance(x, list) for x in rows[0].values()):
        return "; the file is one object: write one for each row"
    return ""


def rename(rows, columns, where, *, flag=None):
    """Renames columns as needed. Raises ValueError if one is missing.

    Args: columns: as in `load`; flag: of columns, for messages.
    """
    renames = columns if isinstance(columns, dict) else {c: c for c in columns or ()}
    for needed, present in renames.items():
        if present not in rows.column_names:
            raise ValueError(
                f"{where}: no column {present!r}, needed for {needed!r}; there is "
                f"{', '.join(origins.visible(rows))}; name yours with "
                f"{_fix(flag, needed)}"
            )
        if needed != present:
            if needed in rows.column_names:
                rows = rows.remove_columns(needed)
            rows = rows.rename_column(present, needed)
    return rows


def _fix(flag, needed, yours=None):
    """How a column is named, on the command line or in Python."""
    if flag:
        return f"{flag} {needed}={yours or 'YOURS'}"
    return f"columns={{{needed!r}: {yours or 'your column'!r}}}"


def refuse_unreadable(rows, columns):
    """Raises ValueError at the first row whose text is missing, blank, or no text."""
    size = 10_000
    columns = list(columns)
    for start in range(0, len(rows), size):
        part = rows.select_columns(columns)[start : start + size]
        for column, values in part.items():
            for i, value in enumerate(values):
                if said := _unreadable(column, value):
                    raise ValueError(f"{origins.words(rows, start + i)}: {said}")


def _unreadable(column, value):
    """What is wrong with a value, None where nothing is."""
    empty = not (value.strip() if isinstance(value, str) else value)
    # An answer may be empty.
    if value is None or (column in ("text", "prompt") and empty and value != 0):
        return f"no {column}; remove the row or fill it"
    texts, lists = column in _TEXTS, column in _MESSAGES
    if not (texts or lists) or (texts and isinstance(value, str)):
        return None
    if lists and isinstance(value, list):
        return None
    quoted = ", in quotes" if isinstance(value, int | float) else ""
    wanted = [f"a text{quoted}"] * texts + ["a list of messages"] * lists
    wanted = f"{', ' if quoted else ' '}or ".join(wanted)
    return f"{column} is {diagnosis.named(value)}; it must be {wanted}"
