"""Sampling where lengths are ragged: responses that take turns, against one batch.

With random weights all tokens are about as likely. A share of the vocabulary ends a
response, so that lengths are geometric and a third of the longest on average, as those
of a small chat model are.
"""

import functools

import jax
import numpy as np

from experiments.throughput import measure, worker, workloads
from rlhf_jax import continuous, sampling
from rlhf_jax.types import Prompts

ROWS = 16  # times as many as in an iteration of the workload
TURNS = 8  # rows that take turns in a slot


def race(work, layout, rounds):
    """Times both ways on the same prompts and keys, in alternating rounds.

    The candidates of a prompt share its reading. Returns {"batch", "turns": {"seconds",
    "cpu_seconds", "tokens_per_second", "of_batch": {"median", "low", "high", "cpu"},
    "compile_seconds"}, "rows", "mean_length", "longest", "same_rows"}: how many times
    as many tokens per second as the batch of the same round, in processor time for
    "cpu"; and the share of rows that both write alike.
    """
    model, params = workloads.policy(work)
    params, rows = layout.put(params), layout.shard_rows(prompts(work))
    calls, first, drawn, cpu = {}, {}, {}, {"batch": [], "turns": []}
    for name, turns in (("batch", 1), ("turns", TURNS)):
        draw = functools.partial(_draw, model, work, turns)
        program = layout.compile(draw, rows_in=(1,), rows_out=(0,), outputs=1)
        call = functools.partial(program, params, rows)
        first[name] = measure.seconds(call)
        drawn[name] = layout.gather(call())
        calls[name] = functools.partial(_timed, call, cpu[name])
    times = measure.alternate(calls, rounds)
    lengths = drawn["batch"].response_mask.sum(-1)
    same = (drawn["batch"].tokens == drawn["turns"].tokens).all(-1)
    entries = {}
    for name, took in times.items():
        seconds, worked = measure.median(took), measure.median(cpu[name])
        ratios = measure.ratios(took, times["batch"])
        ratios["cpu"] = measure.median(cpu["batch"]) / worked
        entries[name] = {
            "seconds": seconds,
            "cpu_seconds": worked,
            "tokens_per_second": float(lengths.sum()) / seconds,
            "of_batch": ratios,
            "compile_seconds": round(first[name] - seconds, 3),
        }
    return entries | {
        "rows": len(lengths),
        "mean_length": float(lengths.mean()),
        "longest": work.new_tokens,
        "same_rows": float(same.mean()),
    }


def sampler(work):
    """A `sampling.Config` of which about three tokens in T end a response."""
    size = work.decoder.vocab_size
    ends = max(round(3 * size / work.new_tokens), 1)
    first = workloads.PAD + 1
    return sampling.Config(
        max_new_tokens=work.new_tokens,
        eos_ids=tuple(range(first, first + ends)),
        pad_id=workloads.PAD,
    )


def prompts(work):
    """(tokens, mask [N / K, P], row ids [N / K]) of K candidates a prompt."""
    return tuple(workloads.prompts(work, ROWS * work.rows // work.candidates))


def said(entry):
    """What the table of `entry` does not say."""
    ratios = entry["turns"]["of_batch"]
    return (
        f"{entry['rows']} responses of {entry['mean_length']:.1f} tokens on average, "
        f"{entry['longest']} at most; {ratios['median']:.2f} times as many tokens a "
        f"second with turns ({ratios['cpu']:.2f} in processor time); "
        f"{100 * entry['same_rows']:g}% of responses are the same"
    )


def _draw(model, work, turns, params, rows, *, axis_name):
    del axis_name
    tokens, mask, ids = rows
    count = work.candidates
    ids = ids[:, None] * count + np.arange(count, dtype=np.int32)[None]
    return continuous.take_turns(
        model,
        params,
        Prompts(tokens, mask),
        sampling.row_keys(jax.random.key(0), ids.reshape(-1)),
        config=sampler(work),
        rows_per_slot=turns,
        copies=count,
    )


def _timed(call, cpu):
    clock = worker.Clock()
    seconds = measure.seconds(call)
    cpu.append(clock.read()["cpu_seconds"])
    return seconds
