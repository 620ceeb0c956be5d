"""What a compiler says of a program that it made: memory, and what devices exchange."""

import re
import time
from typing import NamedTuple

import jax

MIB = 1024**2
_COMPUTATION = re.compile(r"^(ENTRY )?%?(?P<name>[\w.-]+) \(.*\) -> (?P<shapes>.*) {$")
_COLLECTIVE = re.compile(
    r"^\s*(ROOT )?%?[\w.-]+ = (?P<shapes>.*?) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)
_CHAIN = re.compile(r'chain_id="(\d+)"')
_ARRAY = re.compile(r"(?P<type>pred|bf16|[fsu]\d+)\[(?P<sizes>[\d,]*)\]")
_NEEDED = re.compile(r"([\d.]+[KMGT])\b[^.]*?(?:exceeds|of)[^\d]*([\d.]+[KMGT])")


class DoesNotFit(Exception):
    """The compiler refused: a device has too little memory."""


class Facts(NamedTuple):
    """A compiled program, on one device."""

    sizes: dict[str, int]  # bytes: of its parts, their total, and live at its fullest
    collectives: dict[str, tuple[int, float]]  # kind -> (number, MiB of results)
    seconds: float  # to trace, lower and compile


def compile_for(lowered, started):
    """Compiles; returns `Facts`. started: of `time.monotonic`, when tracing began.

    Raises DoesNotFit, with what is needed and what there is, where the compiler finds
    too little memory.
    """
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(_needed(str(error))) from None
    found = sizes(program.memory_analysis())
    return Facts(found, collectives(program.as_text()), time.monotonic() - started)


def sizes(stats):
    """{part: bytes} of a compiled program's `memory_analysis`.

    "total" is what a device must have: temporaries are one piece, held throughout.
    "peak" is what is live at once, by the compiler's count, and may be less.
    """
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "results": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }
    whole = {"total": sum(parts.values()), "peak": stats.peak_memory_in_bytes}
    return {**parts, **whole}


def _needed(message):
    """What a refusal says of sizes, in words."""
    found = _NEEDED.search(message)
    if found is None:
        return " ".join(message.split())[:200]
    need, there = (f"{x[:-1]} {x[-1]}iB" for x in found.groups())
    return f"needs {need} of {there} a device"


def collectives(text):
    """{kind: (number, MiB of results)} of the collectives in a program's HLO text.

    A loop's body counts once, whatever the number of its passes. A TPU's compiler cuts
    a collective that runs beside arithmetic into parts, a chain, which counts once; it
    writes a reduce-scatter as an all-reduce in a computation of its own.
    """
    found, scattered = {}, None
    for number, line in enumerate(text.splitlines()):
        if computation := _COMPUTATION.match(line):
            scatters = computation["name"].startswith("all-reduce-scatter")
            scattered = computation["shapes"] if scatters else None
        match = _COLLECTIVE.match(line)
        if match is None:
            continue
        kind, shapes = match["kind"], match["shapes"]
        if scattered and kind == "all-reduce":
            kind, shapes = "reduce-scatter", scattered
        chain = _CHAIN.search(line)
        found[kind, chain[0] if chain else number] = _bytes(shapes) / MIB
    kinds = sorted({kind for kind, _ in found})
    sizes = {
        kind: [size for (k, _), size in found.items() if k == kind] for kind in kinds
    }
    return {kind: (len(each), sum(each)) for kind, each in sizes.items()}


def _bytes(shapes):
    """Bytes of the arrays of a shape as HLO writes it."""
    total = 0
    for match in _ARRAY.finditer(shapes):
        size = (
            1 if match["type"] == "pred" else int(re.sub(r"\D", "", match["type"])) / 8
        )
        for extent in filter(None, match["sizes"].split(",")):
            size *= int(extent)
        total += size
    return total
