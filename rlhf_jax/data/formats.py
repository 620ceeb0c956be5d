"""Columns of ShareGPT and of Alpaca as messages.

ShareGPT: `conversations`, lists of {"from", "value"}; beside `chosen` and `rejected`,
one such turn each, they are the prompt. Alpaca: `instruction`, `input` and `output`,
here a user's turn and its answer. A column `system` is the first turn of either.
"""

from collections.abc import Mapping

from rlhf_jax.data import diagnosis, origins

_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "assistant", "model", "bard"), "assistant"),
    "system": "system",
}


def recognised(rows):
    """(a `datasets.Dataset` with columns of messages, a line that says so; "" if not).

    Raises ValueError, naming the row, for one that is not as the others.
    """
    names = set(rows.column_names)
    if "conversations" in names and "messages" not in names:
        if names >= {"chosen", "rejected"} and "prompt" not in names:
            made = {"conversations": "prompt", "chosen": "chosen"}
            made["rejected"] = "rejected"
        else:
            made = {"conversations": "messages"}
        said = "columns conversations (ShareGPT) are read as " + made["conversations"]
        return _replaced(
            rows, {new: _chat(old) for old, new in made.items()}, made
        ), said
    if "instruction" in names and "prompt" not in names:
        read = [name for name in ("instruction", "input", "output") if name in names]
        made = {"prompt": _asked}
        if "output" in names and "completion" not in names:
            made["completion"] = _answered
        said = f"columns {', '.join(read)} (Alpaca) are read as {' and '.join(made)}"
        return _replaced(rows, made, read), f"{said}, messages"
    return rows, ""


def _replaced(rows, made, read):
    """The data set with columns made(row), without those that were read for them."""
    import datasets

    drop = {*read, "system"} & set(rows.column_names)
    columns = {name: [] for name in made}
    for i, row in enumerate(rows):
        for name, make in made.items():
            try:
                columns[name].append(make(row))
            except ValueError as error:
                raise ValueError(f"{origins.words(rows, i)}: {error}") from None
    kept = [name for name in rows.column_names if name not in drop]
    made = datasets.Dataset.from_dict(columns)
    if not kept:
        return made
    return datasets.concatenate_datasets([rows.select_columns(kept), made], axis=1)


def _chat(column):
    """row -> the messages of its turns, or of the one turn, in a column."""

    def messages(row):
        turns = row[column]
        if isinstance(turns, Mapping) and column != "conversations":
            return [_message(turns, column)]
        if column != "conversations" and isinstance(turns, str):
            return [{"role": "assistant", "content": turns}]
        if not isinstance(turns, list) or not turns:
            raise ValueError(
                f"{column} is {diagnosis.named(turns)}; it must be a list of turns, "
                '{"from": "human", "value": "..."}'
            )
        system = _system(row) if column == "conversations" else []
        return system + [_message(turn, column) for turn in turns]

    return messages


def _message(turn, column):
    """A turn as {"role", "content"}; one that has these is left as it is."""
    turn = turn if isinstance(turn, Mapping) else {"value": turn}
    role, said = turn.get("from"), turn.get("value")
    role = _ROLES.get(role, role) or turn.get("role")
    said = turn.get("content") if said is None else said
    if not isinstance(role, str) or not isinstance(said, str):
        raise ValueError(
            f"{column} has the turn {diagnosis.named(dict(turn))}; a turn has from, "
            "such as human or gpt, and value, a text"
        )
    return {"role": role, "content": said}


def _asked(row):
    """The user's turn of an instruction and its input."""
    asked, given = _text(row, "instruction"), row.get("input") or ""
    if given:
        asked = f"{asked}\n\n{_text(row, 'input')}"
    if not asked.strip():
        raise ValueError("no instruction; remove the row or fill it")
    return [*_system(row), {"role": "user", "content": asked}]


def _answered(row):
    return [{"role": "assistant", "content": _text(row, "output")}]


def _system(row):
    said = row.get("system")
    return [{"role": "system", "content": _text(row, "system")}] if said else []


def _text(row, column):
    if not isinstance(row[column], str):
        raise ValueError(
            f"{column} is {diagnosis.named(row[column])}; it must be a text"
        )
    return row[column]
