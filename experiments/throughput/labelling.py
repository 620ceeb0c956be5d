"""How fast a model labels prompts, next to a plain prefill of as many tokens.

Prompts are random words of its own vocabulary, of lengths that differ by a factor of
two. A prefill reads rows of their mean length, all tokens valid, in batches of as many
tokens: neither padding nor encoding of texts is in its time, both are in a labeler's.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.throughput import measure
from rlhf_jax import huggingface
from rlhf_jax.feedback import in_process, labelers
from rlhf_jax.runtime import parallel

LABELS = {"pair": ("1", "2"), "rating": tuple(map(str, range(1, 11)))}
BATCH = 1024  # tokens
_END = "\nPreferred="


def race(path, rounds, *, prompts, words):
    """Times a prefill, labels of two kinds, and prompts that begin alike, in turn.

    Args: path: a model directory; prompts: how many; words: the most in one, and in
    what the last kind of prompts begins with.
    Returns {name: {"tokens", "seconds", "tokens_per_second", "of_prefill": {"median",
    "low", "high"}}}. Every token of a prompt counts once, those of a common beginning
    in every prompt; "of_prefill": tokens per second over those of the prefill of the
    same round. Raises ValueError for prompts that the context has no room for.
    """
    model, params, tokenizer = huggingface.load(path)
    layout = parallel.data(1)
    labeler = in_process.labeler(model, params, tokenizer, layout=layout, batch=BATCH)
    rng = np.random.default_rng(0)
    texts = [_text(tokenizer, rng, n) for n in rng.integers(words // 2, words, prompts)]
    common = _text(tokenizer, rng, words)
    asked = {name: (texts, labels) for name, labels in LABELS.items()}
    asked["pair, common beginning"] = [common + x for x in texts], LABELS["pair"]

    lengths = {}
    for name, (given, labels) in asked.items():  # compiled
        answers = labelers.in_order(labeler.read(given, labels), prompts)
        for answer in answers:
            if isinstance(answer, labelers.Failure):
                raise ValueError(f"{answer.reason}; choose a shorter --prompt-length")
        lengths[name] = [answer.prompt_tokens for answer in answers]
    mean = int(np.mean(lengths["pair"]))
    tokens = {name: sum(counts) for name, counts in lengths.items()}
    tokens = {"prefill": mean * prompts, **tokens}

    def read(given, labels):
        return labelers.in_order(labeler.read(given, labels), prompts)

    calls = {"prefill": _prefill(model, layout.put(params), prompts, mean)}
    jax.block_until_ready(calls["prefill"]())
    calls |= {name: functools.partial(read, *given) for name, given in asked.items()}
    calls = {k: functools.partial(measure.seconds, call) for k, call in calls.items()}
    times = measure.alternate(calls, rounds)
    return {name: _describe(name, times, tokens) for name in calls}


def _text(tokenizer, rng, words):
    """Random words, one token each for a vocabulary of whole words."""
    ids = rng.integers(len(tokenizer) // 2, len(tokenizer), words).tolist()
    return " ".join(tokenizer.decode(ids).split()) + _END


def _prefill(model, params, rows, length):
    """A call that reads `rows` rows of `length` tokens, a batch at a time."""
    ids = np.random.default_rng(1).integers(3, model.config.vocab_size, (rows, length))
    size = max(BATCH // length, 1)
    parts = [ids[i : i + size].astype(np.int32) for i in range(0, rows, size)]
    program = jax.jit(
        lambda params, ids: model.apply(
            {"params": params}, ids, jnp.ones_like(ids), length, method="prefill"
        )[0]
    )
    return lambda: [program(params, part).block_until_ready() for part in parts]


def _describe(name, times, tokens):
    took = measure.median(times[name])
    weight = tokens[name] / tokens["prefill"]
    faster = measure.ratios(times[name], times["prefill"])
    return {
        "tokens": tokens[name],
        "seconds": took,
        "tokens_per_second": tokens[name] / took,
        "of_prefill": {key: weight * ratio for key, ratio in faster.items()},
    }
