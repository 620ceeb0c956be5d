"""Perplexity of one long text, read through a sliding window: the papers' drift.

Noukhovitch et al. 2023, arXiv:2312.07551, measure drift as the perplexity of a text
that people wrote. It is exp(NLL), NLL in nats per token.
"""

import math

import numpy as np


def perplexity(nll):
    """exp(nats per token), inf where a float overflows."""
    return math.exp(nll) if nll < 709.0 else math.inf


def windows(length, *, window=1024, stride=512):
    """[(begin, end, first scored)]: each window scores the tokens not scored before.

    Window i starts at i·stride, and the last one ends with the text. Every token except
    the first is scored once, after at least window − stride tokens of context once the
    text is that long. Raises ValueError unless 0 < stride < window.
    """
    if not 0 < stride < window:
        raise ValueError(
            f"stride={stride}, window={window}: choose 0 < stride < window"
        )
    result, scored = [], 1
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        if end > scored:
            result.append((begin, end, scored))
        scored = max(scored, end)
        if end == length:
            break
    return result


def strided_totals(logps, tokens, *, window=1024, stride=512, batch=8, pad=0):
    """(Σ NLL, tokens) scored by each window of one long text, float64 [W] each.

    The papers join all held-out texts and use window 1024 and stride 512. What follows
    from the totals depends on the separator and the window: never compare two settings.

    Args:
      logps: a function from (tokens [N, window], mask [N, window]) to the log-prob
        [N, window] of each token given its prefix in the row; the first is ignored. N
        is always `batch`, so it is compiled once.
      tokens: [L] int, the text. pad: the id for padding at the end, under mask 0.
    """
    tokens = np.asarray(tokens)
    plan = windows(len(tokens), window=window, stride=stride)
    totals, counts = [], []
    for start in range(0, len(plan), batch):
        part = plan[start : start + batch]
        rows, mask, scored = spread(tokens, part, (batch, window), pad)
        values = np.asarray(logps(rows, mask), np.float64)
        values = np.where(scored, values, 0.0)
        totals += list(-values.sum(-1)[: len(part)])
        counts += list(scored.sum(-1)[: len(part)])
    return np.array(totals, np.float64), np.array(counts, np.float64)


def spread(tokens, plan, shape, pad):
    """(rows, mask, scored bool), `shape` each: a text in the windows of a plan."""
    rows = np.full(shape, pad, tokens.dtype)
    mask, scored = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for i, (begin, end, first) in enumerate(plan):
        rows[i, : end - begin] = tokens[begin:end]
        mask[i, : end - begin] = 1
        scored[i, first - begin : end - begin] = True
    return rows, mask, scored
