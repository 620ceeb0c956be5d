"""How far a policy has moved: NLL on human text, KL to the initial weights, perplexity.

What a batch yields is a total and a count, so that batches and devices of any size add
up exactly; the one division comes last. B rows, T tokens, V vocabulary.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import logprobs, masking


class Total(NamedTuple):
    """A sum and what it is to be divided by."""

    total: jax.Array  # []
    count: jax.Array  # []


def text_nll(logits, tokens, mask, *, axis_name=None):
    """Σ −log π(token | what stands before), and the tokens it is over.

    The primary measure of drift, on text that people (or the corpus) wrote: Noukhovitch
    et al. 2023, arXiv:2312.07551. Over the count it is nats a token; its exponential
    is the perplexity.

    Args:
      logits: [B, T, V] of the policy; no shift: `logits[:, t]` scores `tokens[:, t]`
        (for a decoder that is `apply(...)[:, :-1]` with `tokens[:, 1:]`).
      tokens: [B, T] int; mask: [B, T], 1 at the tokens that count.
    """
    nll = -logprobs.of_tokens(logits, tokens)
    return Total(
        masking.total(nll, mask, axis_name=axis_name),
        masking.total(mask, mask, axis_name=axis_name),
    )


def kl(policy_logits, initial_logits, mask, *, temperature=1.0, axis_name=None):
    """Σ over samples and their tokens of KL(π(·|s_t) ‖ π₀(·|s_t)), and the samples.

    Exact over the vocabulary at every state of the policy's own samples; the mean over
    them estimates KL(π‖π₀) of whole responses, in nats a sample, with less variance
    than any estimate from the drawn tokens alone (k3 is heavy-tailed past 10 nats).

    Args: logits [B, T, V] at the response positions; mask [B, T] of the response.
    A row with no valid token is no sample.
    """
    gap = logprobs.divergence(policy_logits, initial_logits, temperature=temperature)
    rows = (mask != 0).any(-1).astype(jnp.float32)
    return Total(
        masking.total(gap, mask, axis_name=axis_name),
        masking.total(rows, rows, axis_name=axis_name),
    )


def mean(total):
    """total / count as a float, NaN when nothing was counted."""
    count = float(total.count)
    return float(total.total) / count if count else math.nan


def perplexity(nll):
    """exp(nats a token), infinity where a float ends."""
    return math.exp(nll) if nll < 709.0 else math.inf


def over_batches(measure, batches):
    """{name: mean} of `measure(batch) -> {name: Total}` over any number of batches.

    Sums are kept on the host in float64, so that a thousand batches lose nothing.
    """
    sums = {}
    for batch in batches:
        for name, total in jax.device_get(measure(batch)).items():
            before = sums.get(name, Total(0.0, 0.0))
            sums[name] = Total(
                before.total + np.float64(total.total),
                before.count + np.float64(total.count),
            )
    return {name: mean(total) for name, total in sums.items()}


def windows(length, *, window=1024, stride=512):
    """[(begin, end, first scored)]: each window adds the tokens not scored before.

    Window i starts at i·stride and the last one ends with the text. Every token but the
    very first is scored once, with at least window − stride tokens before it once the
    text is that long.
    """
    if not 0 < stride < window:
        raise ValueError(f"0 < stride < window, got stride {stride}, window {window}")
    result, scored = [], 1
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        if end > scored:
            result.append((begin, end, scored))
        scored = max(scored, end)
        if end == length:
            break
    return result


def strided_nll(logps, tokens, *, weight="tokens", **options):
    """Nats a token of one long text, read through a sliding window.

    The papers' perplexity: all held-out texts joined, window 1024, stride 512. The
    joining separator and the window move its value: never mix two settings.

    Args:
      logps, tokens and options: of `strided_totals`.
      weight: "tokens" weighs every token alike; "windows" is the mean of window means,
        as the StackLLaMA evaluation of Elastic Reset does.
    """
    totals, counts = strided_totals(logps, tokens, **options)
    if not len(totals):
        return math.nan
    if weight == "windows":
        return float(np.mean(totals / counts))
    if weight != "tokens":
        raise ValueError(f'weight must be "tokens" or "windows", got {weight!r}')
    return float(totals.sum() / counts.sum())


def strided_totals(logps, tokens, *, window=1024, stride=512, batch=8, pad=0):
    """(Σ NLL, tokens) of what each window of one long text scores, float64 [W] each.

    Args:
      logps: function of (tokens [N, window], mask [N, window]) to the log-probability
        of each token given those before it in its row, [N, window]; the first is
        ignored. N is always `batch`: one compilation.
      tokens: [L] int, the text. pad: id that fills the end, under mask 0.
    """
    tokens = np.asarray(tokens)
    plan = windows(len(tokens), window=window, stride=stride)
    totals, counts = [], []
    for start in range(0, len(plan), batch):
        part = plan[start : start + batch]
        rows, mask, scored = _rows(tokens, part, (batch, window), pad)
        values = np.asarray(logps(rows, mask), np.float64)
        values = np.where(scored, values, 0.0)
        totals += list(-values.sum(-1)[: len(part)])
        counts += list(scored.sum(-1)[: len(part)])
    return np.array(totals, np.float64), np.array(counts, np.float64)


def _rows(tokens, plan, shape, pad):
    rows = np.full(shape, pad, tokens.dtype)
    mask, scored = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for i, (begin, end, first) in enumerate(plan):
        rows[i, : end - begin] = tokens[begin:end]
        mask[i, : end - begin] = 1
        scored[i, first - begin : end - begin] = True
    return rows, mask, scored
