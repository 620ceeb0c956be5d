"""The table of a slot on an accelerator, in Markdown, to paste where it is quoted."""

from rlhf_jax.reporting import markdown

HEADER = (
    *("workload", "part", "s", "tokens/s", "Tflop/s", "of peak %"),
    *("of bandwidth %", "compile s"),
)
NAMED = {
    "prefill": "prefill",
    "generate": "rollout",
    "decode": "decode",
    "train": "updates",
    "iteration": "iteration",
    "bookkeeping": "EMA + reset",
}


def markdown_of(results):
    """All that was measured, and why the rest was not, of a slot's results."""
    rows = [
        _row(name, part, entries["ours"])
        for name, entries in results["workloads"].items()
        for part in NAMED
        if _seconds(part, entries["ours"]) is not None
    ]
    parts = [_device(results), *_peaks(results)]
    parts += [markdown.table(HEADER, rows)] if rows else []
    parts += [*_attention(results), *_population(results)]
    for kind in ("skipped", "too_large", "failed"):
        lines = [f"- {name}: {why}" for name, why in results[kind].items()]
        said = kind.replace("_", " ")
        parts += [f"Not measured, {said}:\n\n" + "\n".join(lines)] if lines else []
    return "\n\n".join(parts) + "\n"


def _seconds(part, facts):
    """The median of a part; of decoding, that of a rollout without its prefill."""
    if part == "decode":
        both = facts.get("generate_seconds"), facts.get("prefill_seconds")
        return None if None in both else max(both[0] - both[1], 0.0)
    return facts.get(f"{part}_seconds")


def _row(name, part, facts):
    number = markdown.number
    return (
        name,
        NAMED[part],
        number(_seconds(part, facts)),
        number(facts.get(f"{part}_tokens_per_second")),
        number(facts.get(f"{part}_gflops"), 1e-3),
        number(facts.get(f"{part}_utilisation"), 100),
        number(facts.get(f"{part}_bandwidth_share"), 100),
        number(facts["compile_seconds"].get(part)),
    )


def _device(results):
    about, versions = results.get("environment", {}), results["versions"]
    facts = {
        "GiB of memory each": markdown.number(about.get("memory_gib")),
        "driver": about.get("driver"),
        "compute capability": about.get("compute_capability"),
    }
    known = [f"{name} {fact}" for name, fact in facts.items() if fact is not None]
    software = f"jax {versions['jax']}, jaxlib {versions['jaxlib']}"
    platform = about.get("platform_version", results["platform"])
    words = f"{results['devices']} × {results['device']}", software, platform, *known
    commits = {part["commit"]: None for part in results["parts"].values()}
    made = ", ".join(commits) or results["commit"]
    return f"{'; '.join(words)}; {results['algorithm']}; commit {made}."


def _peaks(results):
    peaks = dict(results["peaks"])
    bandwidth = peaks.pop("bandwidth", None)
    words = [f"{name} {markdown.number(x, 1e-12)}" for name, x in peaks.items()]
    if words:
        yield f"Matmul peak, Tflop/s: {', '.join(words)}."
    if bandwidth is not None:
        yield f"Memory bandwidth, GB/s: {markdown.number(bandwidth, 1e-9)}."


def _attention(results):
    for name, found in results["attention"].items():
        xla = markdown.number(found["xla_seconds"], 1e3)
        if "refused" in found:
            yield f"Attention of {name}: XLA {xla} ms; cuDNN: {found['refused']}."
            continue
        cudnn = markdown.number(found["cudnn_seconds"], 1e3)
        yield (
            f"Attention of {name}, forward and backward: XLA {xla} ms, cuDNN {cudnn} "
            f"ms, difference {markdown.number(found['difference'])} of the largest "
            f"number; used: {found['chosen']}."
        )


def _population(results):
    found = results["population"]
    if found:
        number, ratio = markdown.number, found["times_as_fast"]
        yield (
            f"{found['members']} runs of {found['workload']}, an iteration of each: "
            f"{number(found['together_seconds'])} s in one program, "
            f"{number(found['apart_seconds'])} s one after another, "
            f"{number(ratio['median'])} times as fast ({number(ratio['low'])} to "
            f"{number(ratio['high'])}); {number(found['tokens_per_second'])} tokens/s."
        )
