"""One run as its log has it: which column plays which role, and its value a step."""

import math
import re
from typing import NamedTuple

import numpy as np

from rlhf_jax.reporting import markdown

ROLES = {
    "proxy": "the reward that is optimised",
    "gold": "a reward that is only measured",
    "error": "standard error of gold",
    "kl": "divergence from the initial policy",
    "length": "mean length of a response",
    "entropy": "of the policy",
    "duplicates": "share of responses that occur more than once",
    "spread": "standard deviation of the proxy over samples",
}
STEP, RUN = "step", "run"  # the other two words that --columns knows
LEAST = 3  # steps with a proxy: fewer have no course
# What trainers call these columns, the more telling name first. TRL's trainers come
# first in each line; then ours, verl, OpenRLHF and older TRL.
KNOWN = {
    STEP: (
        *("step", "global_step", "train/global_step", "_step", "iteration"),
        *("episode", "training/global_step"),
    ),
    "proxy": (
        *("objective/scores", "reward", "eval/reward", "critic/score/mean"),
        *("critic/rewards/mean", "env/reward_mean", "rewards/mean", "score", "proxy"),
    ),
    "gold": (
        *("gold", "eval/gold", "gold_reward", "reward_gold", "gold/mean"),
        *("objective/gold", "gold_score", "eval_gold"),
    ),
    "kl": (
        *("objective/kl", "kl", "drift/kl_initial", "actor/reward_kl_penalty"),
        *("critic/kl", "mean_kl", "kl_mean", "eval/kl", "actor/kl_loss"),
    ),
    "error": ("gold_error", "gold_se", "gold/error"),
    "length": (
        *("completions/mean_length", "eval/length", "response_length/mean"),
        *(
            "response/length",
            "response_length",
            "mean_length",
            "completion_length",
            "length",
        ),
    ),
    "entropy": (
        *("objective/entropy", "entropy", "eval/entropy", "actor/entropy"),
        *("policy/entropy_avg", "policy/entropy"),
    ),
    "duplicates": ("eval/duplicates", "duplicates"),
    "spread": (
        *("reward_std", "objective/scores_std", "critic/score/std", "scores_std"),
        "spread",
    ),
}
_OF_A_FUNCTION = re.compile(r"rewards/(.*gold.*)/mean", re.IGNORECASE)
_TRAIN = "train/"  # what loggers of transformers put before every name
# A sum over a sample, as distinct from a mean over tokens.
_SUMMED = {"objective/kl", "drift/kl_initial"}
_BY_TOKEN = {"kl", "actor/reward_kl_penalty", "actor/kl_loss"}


class Table(NamedTuple):
    """The rows of a log, before anything is known about them."""

    rows: list  # of {column: value}
    places: list  # of text, where each row stands: "line 3"
    source: str
    notes: tuple = ()  # what the reader had to put up with


class Series(NamedTuple):
    """One run: its steps, and what each role was at them."""

    name: str
    steps: np.ndarray  # [N], ascending, each once
    values: dict  # role → [N] float64, NaN where it is missing
    source: str
    columns: dict  # role → the column it was read from
    notes: tuple = ()
    watched: dict = {}  # role → (steps [T], values [T]) that were logged more often

    def has(self, *roles):
        """Whether each role has a number at `LEAST` steps or more."""
        return all(
            role in self.values and np.isfinite(self.values[role]).sum() >= LEAST
            for role in roles
        )

    def complete(self, *roles):
        """[N] bool: the steps at which every one of these roles has a number."""
        return np.isfinite([self.values[role] for role in roles]).all(0)

    @property
    def kl_unit(self):
        """What the name of the KL column says of its unit, "nats" if nothing."""
        column = self.columns.get("kl", "").removeprefix(_TRAIN)
        if column in _SUMMED:
            return "nats a sample"
        return "nats a token" if column in _BY_TOKEN else "nats"


def parse(words):
    """{role: column} of the words `role=column` of --columns.

    Raises ValueError for a word without "=", an unknown role or one that stands twice.
    """
    asked, known = {}, (STEP, RUN, *ROLES)
    for word in words:
        role, equals, column = word.partition("=")
        if not equals or not column:
            raise ValueError(f"--columns {word}: write role=column, e.g. proxy=reward")
        if role not in known:
            raise ValueError(
                f"--columns {word}: {role!r} is no role; there are {', '.join(known)}"
            )
        if role in asked:
            raise ValueError(f"--columns: {role} stands twice; name one column for it")
        asked[role] = column
    return asked


def assign(asked, names, source):
    """{role: column}: those asked for, and for other roles what is known to be there.

    Args: asked: of `parse`; names: the columns of the log, in order; source: the log.
    Raises ValueError where a column is missing or nothing is known to be the proxy.
    """
    for role, column in asked.items():
        if column not in names:
            raise ValueError(
                f"{source} has no column {column!r} for {role}; it has {_some(names)}"
            )
    found = dict(asked)
    for role in (STEP, *ROLES):
        column = _known(role, names)
        # A column that was given a role has no second one.
        if role not in found and column and column not in asked.values():
            found[role] = column
    if "proxy" not in found:
        raise ValueError(
            f"{source}: no column is known to be the proxy reward; name it with "
            f"--columns proxy=COLUMN, one of {_some(names)}"
        )
    return found


def _known(role, names):
    """The first known name of a role among these columns, or None."""
    bare = {name.removeprefix(_TRAIN): name for name in reversed(names)}
    for name in KNOWN[role]:
        if name in names or name in bare:
            return name if name in names else bare[name]
    if role == "gold":
        # Reward functions of TRL are logged by name.
        return next((bare[name] for name in bare if _OF_A_FUNCTION.fullmatch(name)), "")
    return None


def _some(names, most=40):
    """The columns as a list for a reader, at most so many."""
    shown = ", ".join(names[:most])
    rest = len(names) - most
    return f"{shown} and {rest} more" if rest > 0 else shown or "no columns"


def build(table, asked, name):
    """The `Series` of a table: one, or with `run=` in --columns one for each run.

    Rows are sorted by step; a column that has several values at one step, as where two
    processes wrote to the log, is averaged; both are said in `notes`. Raises ValueError
    where the table is empty, a value is no number, or fewer than `LEAST` steps have a
    proxy.
    """
    if not table.rows:
        raise ValueError(f"{table.source} is empty: there is nothing to audit")
    names = list(dict.fromkeys(column for row in table.rows for column in row))
    columns = assign(asked, names, table.source)
    runs = {}
    for place, row in zip(table.places, table.rows, strict=True):
        run = row.get(columns[RUN]) if RUN in columns else None
        if RUN not in columns or run is not None:
            runs.setdefault(run, []).append((place, row))
    return [
        _one(rows, columns, name if run is None else f"{name} {run}", table)
        for run, rows in runs.items()
    ]


def _one(rows, columns, name, table):
    """A `Series` of the rows of one run, (place, row) each."""
    notes = list(table.notes)
    roles = [role for role in columns if role not in (STEP, RUN)]
    found, order, unplaced = {role: {} for role in roles}, [], 0
    for number, (place, row) in enumerate(rows):
        where = f"{table.source}, {place}"
        values = {r: _number(row, columns[r], where) for r in roles}
        values = {r: value for r, value in values.items() if math.isfinite(value)}
        if not values:
            continue
        step = number if STEP not in columns else _number(row, columns[STEP], where)
        if not math.isfinite(step):
            unplaced += 1
            continue
        order.append(step)
        for role, value in values.items():
            found[role].setdefault(step, []).append(value)
    steps = sorted(set(order))
    notes += _said(columns, steps, order, found, unplaced)
    values = {
        role: np.array([np.mean(at.get(step, np.nan)) for step in steps], float)
        for role, at in found.items()
    }
    if (count := len(found["proxy"])) < LEAST:
        raise ValueError(
            f"{table.source}: {markdown.count(count, 'step')} of {name} with a proxy "
            f"({columns['proxy']}); an audit needs {LEAST} or more"
        )
    source = table.source
    return Series(name, np.array(steps, float), values, source, columns, tuple(notes))


def _said(columns, steps, order, found, unplaced):
    """What was done to the rows so that they have a step each, in order."""
    if STEP not in columns:
        yield "no column is known to be the step: rows are counted"
    if unplaced:
        yield f"{markdown.count(unplaced, 'row')} without a step left out"
    if any(a > b for a, b in zip(order, order[1:], strict=False)):
        yield "steps were out of order: sorted"
    several = {
        step for at in found.values() for step, values in at.items() if len(values) > 1
    }
    if several:
        yield (
            f"{len(several)} of {markdown.count(len(steps), 'step')} were logged more "
            "than once, as by several processes: averaged"
        )
    missing = len(steps) - len(found["proxy"])
    if missing:
        yield f"{markdown.count(missing, 'step')} without a proxy"


def _number(row, column, where):
    """A cell as a number; NaN where it is missing or empty."""
    value = row.get(column)
    if value is None or value == "":
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{where}: {column} is {value!r}, not a number: mend the row, or name "
            "another column with --columns"
        ) from None
