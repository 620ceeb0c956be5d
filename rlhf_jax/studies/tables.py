"""Rows of a table of methods: making them, choosing from them, changing them.

Rows are data, so that a run's own settings for a method are another row: `--override`
and `--tuned` change tables, and nothing downstream asks about either.
"""

import dataclasses
import functools
import math

from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.studies import eval_steps
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


def derived(summary, label, source, derive, *, role="null", **fields):
    """A row that is read off the run of another one. fields: of `Method` besides."""
    return Method(label, summary, role, source=source, derive=derive, **fields)


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
    return tuple(rows(wanted, table))


def rows(names, table):
    """{name: its row}, in the table's order, with the sources that these rows read."""
    wanted = set()
    for name in names:
        while name is not None:
            wanted.add(name)
            name = table[name].source
    return {name: row for name, row in table.items() if name in wanted}


def listed(table):
    """{name: its row} of the rows that a report lists."""
    return {name: method for name, method in table.items() if method.listed}


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
    kind = float if default is None else type(default)  # None: the method's own
    return None if math.isnan(value) else kind(value)


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

    A derived method that has other values than its source reads a run of its own: its
    source with these values, a row that is trained but not listed. Derived methods of
    one source with equal values share it. A control or an ablation has the values of
    the method that it follows. values: {method: Values}.
    """
    values = {
        **{n: values[m.follows] for n, m in table.items() if m.follows in values},
        **values,
    }
    changed, private = {}, {}  # private: {(source, values): the row that has them}
    for name, method in table.items():
        chosen = values.get(name)
        if chosen is not None and method.train is not None:
            method = _tuned(method, chosen)
        elif chosen is not None and method.source is not None:
            key = method.source, chosen
            if chosen == values.get(method.source, Values()):
                private[key] = method.source
            elif key not in private:
                private[key] = f"{method.source}_for_{name}"
                changed[private[key]] = _private(table[method.source], chosen, method)
            method = dataclasses.replace(method, source=private[key])
        changed[name] = method
    return changed


def _private(source, values, reader):
    """A source with settings of its own, trained for the sake of who reads it."""
    label = f"{source.label} for {reader.label}"
    return dataclasses.replace(_tuned(source, values), label=label, listed=False)


def _tuned(method, values):
    """A trained method with settings of its own."""
    resets = method.resets
    if method.is_reset and values.every is not None:
        resets = functools.partial(method.resets, every=values.every)
    return dataclasses.replace(method, train=method.train.tuned(values), resets=resets)
