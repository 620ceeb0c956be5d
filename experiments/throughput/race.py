"""Times a workload: this library's parts, then rounds that alternate with a peer's."""

import functools
import tempfile

from experiments.throughput import measure, ours, peers, worker, workloads

RACED = {"trl": ("iteration", "generate", "train"), "tunix": ("iteration", "generate")}


def alone(work, layout, *, algorithms, rounds):
    """Times this library: all parts of the first algorithm, fewer of the others.

    Returns {"ours": {...}, "ours_ppo": {...}}.
    """
    entries = {}
    for number, algorithm in enumerate(algorithms):
        measure.start_peak()
        subject = ours.Ours(work, algorithm, layout)
        parts = ours.PARTS if number == 0 else ("iteration", "train")
        facts = _timed(subject, parts, rounds)
        entries["ours" if number == 0 else f"ours_{algorithm}"] = facts
    return entries


def _timed(subject, parts, rounds):
    layout, work = subject.layout, subject.work
    first = ours.first_rounds(subject, parts)
    times = measure.alternate({p: getattr(subject, p) for p in parts}, rounds)
    facts = ours.describe(
        work,
        subject.algorithm,
        times,
        matmul=measure.matmul_flops(layout, work.decoder.dtype),
        bandwidth=measure.bandwidth(layout),
    )
    compiling = {p: first[p] - facts[f"{p}_seconds"] for p in parts}
    return {
        "algorithm": subject.algorithm,
        **facts,
        "compile_seconds": {p: round(s, 3) for p, s in compiling.items()},
        "peak_gib": measure.peak_bytes(layout.devices) / measure.GIB,
        "devices": layout.size,
        "rounds": rounds,
    }


def against(peer, work, layout, *, python, rounds, report=lambda line: None):
    """Times this library and a peer in alternating rounds.

    Returns {"ours": {...}, peer: {...}, "ratios": {part: {"median", "low", "high",
    "cpu"}}}: how many times as fast this library is; "cpu" in processor time, which a
    busy machine distorts less. The algorithm is the peer's. report(line) receives the
    progress.
    """
    algorithm, parts = work.raced or peers.PEERS[peer][1], RACED[peer]
    if work.rank or work.decoder.dtype != "float32":  # the plain step knows neither
        parts = tuple(part for part in parts if part != "train")
    with tempfile.TemporaryDirectory() as folder:
        spec = peers.write_models(work, folder, algorithm)
        with peers.Peer(peer, python, spec, folder) as other:
            about = other.ask("")
            subject = ours.Ours(work, algorithm, layout)
            ours.first_rounds(subject, parts)
            for part in parts:  # a peer's first round compiles, or fills its caches
                other.ask(part)
            mine, theirs, ratios, worked = {}, {}, {}, {"ours": {}, peer: {}}
            for part in parts:
                times, cpu = _alternate(subject, other, peer, part, rounds)
                mine[part], theirs[part] = times["ours"], times[peer]
                seconds = {who: measure.median(took) for who, took in times.items()}
                shown = ", ".join(f"{who} {s:.3g} s" for who, s in seconds.items())
                report(f"{part}: {shown}")
                for who in worked:
                    worked[who][f"{part}_cpu_seconds"] = cpu[who]
                ratios[part] = measure.ratios(times["ours"], times[peer])
                ratios[part]["cpu"] = cpu[peer] / cpu["ours"]
            peak = other.ask(parts[-1])["peak_bytes"]
    peaks = {
        "matmul": measure.matmul_flops(layout, work.decoder.dtype),
        "bandwidth": measure.bandwidth(layout),
    }
    described = {
        who: {
            "algorithm": algorithm,
            **ours.describe(work, algorithm, times, **peaks),
            **worked[who],
        }
        for who, times in (("ours", mine), (peer, theirs))
    }
    described["ours"]["devices"] = layout.size
    described[peer] |= about | {"peak_gib": peak / measure.GIB}
    return {**described, "ratios": ratios}


def _alternate(subject, other, peer, part, rounds):
    """({who: seconds of each round}, {who: median processor seconds}) of one part."""
    cpu = {"ours": [], peer: []}
    pair = {
        "ours": functools.partial(_ours, subject, part, cpu["ours"]),
        peer: functools.partial(_theirs, other, part, cpu[peer]),
    }
    times = measure.alternate(pair, rounds)
    return times, {who: measure.median(values) for who, values in cpu.items()}


def _ours(subject, part, cpu):
    clock = worker.Clock()
    seconds = getattr(subject, part)()
    cpu.append(clock.read()["cpu_seconds"])
    return seconds


def _theirs(other, part, cpu):
    answer = other.ask(part)
    cpu.append(answer["cpu_seconds"])
    return answer["seconds"]


def fitting(peer, name):
    """(name, workload) that a peer has a model for: the twin, if it needs one."""
    work = workloads.WORKLOADS[name]
    if peer == "tunix" and work.twin is not None:
        return work.twin, workloads.WORKLOADS[work.twin]
    return name, work
