"""Rows of a table of methods: making them, choosing from them, changing them.

Rows are data, so that a run's own settings for a method are another row: `--override`
and `--tuned` change tables, and nothing downstream asks about either.
"""

import dataclasses
import functools
import math

from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.studies import eval_steps, post_hoc
from rlhf_jax.studies.interfaces import Method, never
from rlhf_jax.studies.values import Values

_OF_THE_RUN = ("total_updates", "reset_every", "reset_first")  # the study's clocks


def trained(summary, label, train, *, role="arm", resets=False, **fields):
    """A row that trains and may be reset at the study's intervals.

    Args: train: a trainer that knows what it `tunes`; fields: of `Method` besides.
    """
    return Method(
        label,
        summary,
        role,
        train=train,
        resets=eval_steps.at_intervals if resets else never,
        tunes=train.tunes(resets=resets),
        **fields,
    )


def derived(summary, label, source, derive, *, role="null", at_end=False):
    """A row that is read off the run of another one."""
    return Method(label, summary, role, source=source, derive=derive, at_end=at_end)


def choose(names, table, lists=None):
    """The methods asked for, in the order of the table, sources before what derives.

    lists: {name: names of methods} that may be asked for besides; `all` stands for the
    whole table. A source that was not asked for is added. Raises ValueError for an
    unknown name, with the names that exist.
    """
    lists = {"all": tuple(table), **(lists or {})}
    wanted = {known for name in names for known in lists.get(name, (name,))}
    for name in sorted(wanted - set(table)):
        raise ValueError(
            f"--methods {name}: unknown; choose from {', '.join(table)}, or "
            f"{', '.join(lists)}"
        )
    wanted |= {table[name].source for name in wanted} - {None}
    return tuple(name for name in table if name in wanted)


def labels(table):
    """{method: its label}."""
    return {name: method.label for name, method in table.items()}


def overrides(words, table):
    """{method: {field: value}} of words like "ppo_kl.kl_coef=0.1".

    Settings that a method has to itself, over everything else: any field of
    `policy_gradient.Hyper` but the study's clocks; true and false for a switch.
    Raises ValueError for what names no such thing.
    """
    asked = {}
    for word in words:
        name, dot, rest = word.partition(".")
        field, equals, text = rest.partition("=")
        if not dot or not equals:
            raise ValueError(
                f"--override {word}: write method.field=value, as ppo_kl.kl_coef=0.1"
            )
        if name not in table:
            raise ValueError(
                f"--override {word}: there is no method {name}; choose from "
                f"{', '.join(table)}"
            )
        if not hasattr(table[name].train, "overridden"):
            raise ValueError(f"--override {word}: {name} takes no such settings")
        asked.setdefault(name, {})[field] = _setting(word, field, text)
    return asked


def _setting(word, field, text):
    """The value of a word of --override, as the field of Hyper has it."""
    fields = policy_gradient.Hyper._field_defaults
    known = [x for x in fields if x not in _OF_THE_RUN]
    if field not in known:
        raise ValueError(
            f"--override {word}: {field} is no setting of a method; choose from "
            f"{', '.join(known)}"
        )
    value = _as_default(text, fields[field])
    if value is None:
        kind = "true or false" if isinstance(fields[field], bool) else "a number"
        raise ValueError(f"--override {word}: {text!r} is not {kind}")
    return value


def _as_default(text, default):
    """A word as the type of a default has it, None where it is none."""
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower())
    try:
        value = float(text)
    except ValueError:
        return None
    if isinstance(default, int) and not value.is_integer():
        return None
    return None if math.isnan(value) else type(default)(value)


def with_overrides(table, asked):
    """A table in which some methods have settings of their own, as of `overrides`."""
    changed = dict(table)
    for name, settings in asked.items():
        method = table[name]
        train = method.train.overridden(settings)
        tunes = train.tunes(resets=method.is_reset)
        changed[name] = dataclasses.replace(method, train=train, tunes=tunes)
    return changed


def with_values(table, values):
    """A table in which some methods have the settings that a search chose.

    values: {method: Values}. A derived method that has other values than its source is
    trained by itself; one that is derived at the end alone, as an early stop is, is one
    policy of that very run and stays with it.
    """
    changed = {}
    for name, method in table.items():
        chosen = values.get(name)
        if method.train is not None and chosen is not None:
            method = _tuned(method, chosen)
        elif method.source is not None and chosen is not None and not method.at_end:
            if chosen != values.get(method.source, Values()):
                source = _tuned(table[method.source], chosen)
                method = dataclasses.replace(
                    method,
                    train=post_hoc.Apart(source.train, method.derive),
                    resets=source.resets,
                    reward=source.reward,
                    source=None,
                    derive=None,
                )
        changed[name] = method
    return changed


def _tuned(method, values):
    """A trained method with settings of its own."""
    resets = method.resets
    if method.is_reset and values.every is not None:
        resets = functools.partial(method.resets, every=values.every)
    return dataclasses.replace(method, train=method.train.tuned(values), resets=resets)
