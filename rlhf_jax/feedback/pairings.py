"""Which calls of a ledger are the two orders of one pair.

A ledger holds prompts and answers, and no prompt says which other one shows the same
candidates the other way round. A labelling job writes it down beside its calls, so that
position bias can be read from the ledger alone.
"""

import json
import math

import numpy as np

from rlhf_jax import labeling
from rlhf_jax.feedback import judging, ledger, prompts

_SLOTS = ("ab", "ba")  # the first candidate stands first, or second


def record(book, labeler, template, pairs, *, shots=0, wrap=None, rationales=None):
    """Writes down the requests for labels of pairs, in both orders.

    Arguments as of `judging.prefer`, of which labels are asked; rationales: [B, O, S]
    of its result, where a chain of thought came before. What stands there already is
    left as it is.
    """
    with ledger.connected(book) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS orders (pair TEXT, slot TEXT, request TEXT, "
            "PRIMARY KEY (pair, slot, request))"
        )
        how = {"shots": shots, "wrap": wrap, "rationales": rationales}
        rows = _requests(labeler, template, pairs, **how)
        connection.executemany("INSERT OR IGNORE INTO orders VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")


def _requests(labeler, template, pairs, *, shots, wrap, rationales):
    """Yields (pair, slot, request)."""
    labels, thought = list(template.labels), rationales is not None
    for row, order, values in judging.in_both_orders(pairs):
        known = [template.digest, shots, thought, *pairs[row]]
        name = ledger.request(labeler.identity, "pair", "", known)
        for rationale in rationales[row, order] if thought else [None]:
            if thought and rationale is None:
                continue  # it failed: no label was asked for
            read = judging.text(
                prompts.render, template, values,
                shots=shots, wrap=wrap, rationale=rationale,
            )  # fmt: skip
            asked = ledger.request(labeler.identity, "read", read, labels)
            yield name, _SLOTS[order], asked


def probabilities(book):
    """{model: (p_ab [N], p_ba [N])} of the pairs that were written down.

    p of the first slot, the mean over rationales, as in `judging.Preferences`; NaN
    where an order has no answer. Pairs without any answer are left out.
    """
    with ledger.connected(book) as connection:
        known = "SELECT 1 FROM sqlite_master WHERE name = 'orders'"
        if connection.execute(known).fetchone() is None:
            return {}
        found = connection.execute(
            "SELECT calls.model, pair, slot, logps, min(calls.id) FROM orders "
            "JOIN calls ON calls.request = orders.request WHERE failure IS NULL "
            "GROUP BY pair, slot, orders.request ORDER BY pair"
        ).fetchall()
    models = {}
    for model, pair, slot, logps, _ in found:
        slots = models.setdefault(model, {}).setdefault(pair, ([], []))
        values = [-math.inf if x is None else x for x in json.loads(logps)]
        slots[_SLOTS.index(slot)].append(values)
    return {model: _means(pairs.values()) for model, pairs in models.items()}


def _means(pairs):
    """(p_ab, p_ba) of pairs of (log-probs in one order, in the other)."""
    p = [
        [
            np.mean(labeling.first_slot(np.array(logps), None)) if logps else math.nan
            for logps in orders
        ]
        for orders in pairs
    ]
    return tuple(np.array(p, np.float64).T)
