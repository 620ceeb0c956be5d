"""Plans for TPUs that are not here: names, what a compiler says, the least time."""

import dataclasses
import functools
import importlib.util
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

from experiments.throughput import (
    benchmark,
    compiled,
    memory,
    planning,
    roofline,
    workloads,
)
from rlhf_jax import sampling, sharding
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder, lora
from rlhf_jax.runtime import parallel, topologies

SHAPE = model_config.llama(
    vocab_size=16, width=8, layers=2, heads=2, max_length=8, tied=True
)
HLO = """
  %all-reduce.1 = f32[64]{0:T(128)S(1)} all-reduce(%x), channel_id=1
  %ar = (bf16[2,8,128]{2,1,0:T(8,128)(2,1)}, /*index=1*/f32[3]{0}) all-reduce-start(%a)
  %done = (bf16[2,8,128]{2,1,0}, f32[3]{0}) all-reduce-done(%ar)
  %g.2 = s32[4,1024]{1,0} all-gather(%y), dimensions={0}
  %fusion = f32[64]{0} fusion(%all-reduce.1), calls=%c
"""
PARTS = """
%async_collective_fusion.1 (p: bf16[2,4]) -> bf16[8,4] {
  %all-gather.3 = bf16[8,4]{1,0} all-gather(%p), channel_id=1, chain_id="0"
}

%async_collective_fusion.2 (p: bf16[2,4]) -> bf16[8,4] {
  %all-gather.4 = bf16[8,4]{1,0} all-gather(%p), channel_id=1, chain_id="0"
}

%all-reduce-scatter.7.clone.1 (input.14: f32[64,8]) -> f32[16,8] {
  %all-reduce.6 = f32[64,8]{1,0:T(8,128)} all-reduce(%input.14), channel_id=1
  ROOT %dynamic-slice.1 = f32[16,8]{1,0:T(8,128)} dynamic-slice(%all-reduce.6, %c)
}

ENTRY %main.1 (p: f32[4]) -> f32[4] {
  ROOT %all-reduce.8 = f32[4]{0} all-reduce(%p), channel_id=1, to_apply=%add
}
"""


@pytest.mark.parametrize(
    "name, said",
    [
        ("v5e:2x4", "name a slice of TPUs as tpu:KIND:GRID"),
        ("tpu:v9:2x4", "KIND one of v4, v5e, v5p, v6e"),
        ("tpu:v5e:8", "name a slice of TPUs"),
        ("tpu:v5e:2x2x1", "as in tpu:v5e:2x4"),
        ("tpu:v5p:2x4", "as in tpu:v5p:2x2x1"),
        ("tpu:v6e:0x4", "as in tpu:v6e:2x4"),
    ],
)
def test_a_target_that_is_no_topology_is_refused(name, said):
    with pytest.raises(ValueError, match=f"--target {name}: .*{said}"):
        topologies.parse(name)


def test_without_its_compiler_a_target_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'rlhf_jax\[plan\]'"):
        topologies.devices(topologies.parse("tpu:v5e:2x4"))


def test_a_target_without_plan_is_refused(tmp_path):
    config = benchmark.Config(target="tpu:v5e:2x4", output=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="--target tpu:v5e:2x4 is for --plan"):
        benchmark.run(config)
    assert not list(tmp_path.iterdir())


def test_collectives_are_counted_by_kind_with_their_bytes():
    reduced = 64 * 4 + 2 * 8 * 128 * 2 + 3 * 4
    assert compiled.collectives(HLO) == {
        "all-gather": (1, 4 * 1024 * 4 / 2**20),
        "all-reduce": (2, reduced / 2**20),
    }


def test_parts_of_a_collective_count_once_and_a_reduce_scatter_as_one():
    """As a TPU's compiler writes them."""
    assert compiled.collectives(PARTS) == {
        "all-gather": (1, 8 * 4 * 2 / 2**20),
        "all-reduce": (1, 4 * 4 / 2**20),
        "reduce-scatter": (1, 16 * 8 * 4 / 2**20),
    }


@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
        "HLO temporaries (32.00G) exceeds available HBM (15.75G).",
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
        "memory space hbm. Used 32.00G of 15.75G hbm. Exceeded hbm capacity by 16G.",
    ],
)
def test_a_refusal_says_what_is_needed_and_what_there_is(text):
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError(text)

    with pytest.raises(compiled.DoesNotFit, match="needs 32.00 GiB of 15.75 GiB a dev"):
        compiled.compile_for(Lowered(), 0.0)


def test_the_least_time_by_hand():
    """With a peak of 1 op/s and endless bandwidth, all operations one after another;
    with endless arithmetic, the bytes that decoding reads on one of two devices."""
    load = workloads.Workload("", SHAPE, rows=8, prompt_length=3, new_tokens=5)
    work = roofline.Work(load, critic=False, copies=1)
    chip = topologies.CHIPS["v5e"]
    busy = roofline.bound(work, chip._replace(flops=1, bandwidth=1e30), devices=2)
    assert busy.seconds == pytest.approx(busy.operations / 2) and not busy.reads
    idle = roofline.bound(work, chip._replace(flops=1e30, bandwidth=1), devices=2)
    weights = 2 * (4 * 8 * 8 + 3 * 8 * SHAPE.hidden) + 8 * 16
    cache = 2 * 2 * 4 * (3 + 2.5) * 2 * 4  # layers, rows of a device, slots, heads
    assert idle.decoding == pytest.approx(4 * 4 * (weights + cache)) and idle.reads
    chip = chip._replace(flops=1e30, bandwidth=1)
    parts = roofline.bound(work, chip, devices=2, shards=2)
    assert parts.decoding == pytest.approx(4 * 4 * (weights / 2 + cache))


@pytest.mark.parametrize(
    "name, count",
    [("data", 1), ("fsdp", 4), ("fsdp:2,tensor:2", 4), ("data:2,fsdp", 2)],
)
def test_the_devices_that_read_one_copy_together(name, count):
    assert roofline.shards(parallel.layout(name, 4)) == count


@pytest.mark.parametrize("name", ["data", "fsdp"])
def test_rows_as_shapes_are_those_of_the_rows(name):
    layout = parallel.layout(name, 4)
    rows = {"a": np.zeros((8, 3), np.int32), "b": np.zeros(8, np.float32)}
    shapes, arrays = layout.rows_like(rows), layout.shard_rows(rows)
    for key, shape in shapes.items():
        assert shape.shape == arrays[key].shape and shape.dtype == arrays[key].dtype
        if name == "fsdp":
            assert shape.sharding == arrays[key].sharding


def test_a_step_is_traced_for_the_platform_of_its_layout():
    seen = []

    def step(x, *, axis_name):
        seen.append(sharding.platform())
        return x

    layout = parallel.layout("fsdp", 2)
    with sharding.tracing_for("tpu"):
        layout.compile(step, outputs=1).lower(
            layout.like(jax.ShapeDtypeStruct((2,), float))
        )
        assert seen == ["cpu"] * len(seen) and seen
        assert sharding.platform() == "tpu"
    assert sharding.platform() == jax.default_backend()


@pytest.mark.parametrize(
    "adapter", [None, pytest.param(lora.Config(2, 4.0), marks=pytest.mark.slow)]
)
def test_under_fsdp_no_device_holds_all_rows_and_its_memory_is_that_of_copies(adapter):
    """Of 20 rows of 24 tokens, an array with all rows is at most one number a token."""
    shape = model_config.llama(
        vocab_size=32, width=8, layers=1, heads=2, hidden=16, max_length=24, tied=True
    )
    config = policy_gradient.Config(
        sampling=sampling.Config(max_new_tokens=16, eos_ids=(1,)),
        algorithm="reinforce",
        epochs=1,
        minibatches=1,
    )
    sizes = {"rows": 20, "prompt_length": 8, "adapter": adapter}
    programs = {}
    for name in ("data", "fsdp"):
        layout = parallel.layout(name, 4)
        made, given = memory.prepare(shape, config, layout, **sizes)
        programs[name] = memory.lower(made, given).compile()
    arrays = re.findall(r"= f32\[([\d,]+)\]", programs["fsdp"].as_text())
    sizes = [tuple(map(int, array.split(","))) for array in set(arrays)]
    assert not [s for s in sizes if 20 in s and math.prod(s) > 20 * 24]
    assert any(5 in s and math.prod(s) > 5 * 24 for s in sizes)  # a device's share
    copies, shards = (
        programs[name].memory_analysis().temp_size_in_bytes for name in programs
    )
    assert shards <= 1.05 * copies


@pytest.mark.parametrize("tied", [True, False])
def test_of_one_token_a_row_devices_exchange_the_states_between_layers(tied):
    """[rows, D], and nothing of the width within layers; no logits are added up."""
    rows, within, vocabulary = 4, 64, 4096
    shape = model_config.llama(
        vocab_size=vocabulary, width=16, layers=1, heads=4, hidden=within,
        max_length=8, tied=tied, dtype="bfloat16",
    )  # fmt: skip
    model, layout = decoder.Decoder(shape), parallel.layout("fsdp", 4)

    def step(params, tokens, *, axis_name):
        del axis_name
        apply = functools.partial(model.apply, {"params": params})
        _, kept = apply(tokens, jnp.ones_like(tokens), 8, method="prefill")
        at = jnp.full(rows, tokens.shape[1])
        return apply(tokens[:, -1], at, kept, method="step")[0]

    tokens = layout.rows_like(np.ones((rows, 2), np.int32))
    program = layout.compile(step, rows_in=(1,), rows_out=(0,), outputs=1)
    weights = layout.like(memory.policy_shapes(shape))
    text = program.lower(weights, tokens).compile().as_text()
    lines = [line for line in text.splitlines() if "Decoder.step" in line]
    moved = [line for line in lines if compiled.collectives(line)]
    assert any(f"[{rows},{shape.width}]" in line for line in moved)
    assert not [line for line in moved if f",{within}]" in line]
    added = [line for line in moved if "all-reduce" in compiled.collectives(line)]
    assert not [line for line in added if f",{vocabulary}]" in line]


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the extra [plan]"
)


def small(**changes):
    """A plan for four chips of a model whose arrays fill the tiles of a TPU."""
    plain = {"plan": True, "target": "tpu:v5e:2x2", "policy": "scratch:gpt2-mini"}
    plain |= {"vocabulary": 8192, "rows": 32, "prompt_length": 32, "new_tokens": 96}
    return benchmark.Config(**{**plain, "algorithm": "reinforce", **changes})


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["data", "fsdp"])
def test_the_sizes_of_a_plan_are_those_of_the_compiler_and_of_the_shapes(layout):
    config = small(layout=layout)
    facts = benchmark.run(config)
    shape, asked = planning._shape(config), planning.algorithm(config)
    devices = topologies.devices(topologies.parse(config.target))
    programs, given = memory.prepare(
        shape,
        asked,
        parallel.layout(layout, among=devices),
        **planning._sizes(config),
    )
    stats = memory.lower(programs, given).compile().memory_analysis()
    assert facts.sizes["peak"] == pytest.approx(stats.peak_memory_in_bytes, rel=0.05)
    live = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    assert facts.sizes["total"] >= live >= stats.argument_size_in_bytes > 0
    held = sum(memory.held(given).values())
    assert facts.sizes["arguments"] == pytest.approx(held, rel=0.05)


@needs_compiler
@pytest.mark.slow
def test_what_does_not_fit_is_refused_with_what_would_which_does_fit():
    config = small(
        policy="scratch:gpt2-base",
        vocabulary=50_257,
        rows=32_768,
        prompt_length=8,
        new_tokens=120,
    )
    with pytest.raises(ValueError, match="does not fit: needs") as problem:
        benchmark.run(config)
    said = r"needs ([\d.]+) GiB of ([\d.]+) GiB a device; with (.*) it does"
    needed, there, flags = re.search(said, str(problem.value)).groups()
    assert float(needed) > float(there)
    words = flags.replace("--", "").replace("-", "_").split()
    named = dict(zip(words[::2], words[1::2], strict=True))
    named["micro_batches"] = int(named["micro_batches"])
    facts = benchmark.run(dataclasses.replace(config, **named))
    assert facts.sizes["total"] < float(there) * memory.GIB


@pytest.mark.parametrize("rows, tried", [(4, 2), (8, 4), (512, 5)])
def test_where_nothing_fits_no_size_is_compiled_twice(rows, tried, monkeypatch):
    seen = []

    def compile_none(config, devices):
        seen.append((config.micro_batches, config.layout, config.remat))
        raise compiled.DoesNotFit("16 GiB of 8")

    monkeypatch.setattr(planning, "_compile", compile_none)
    monkeypatch.setattr(topologies, "devices", lambda target: jax.devices()[:4])
    config = benchmark.Config(plan=True, target="tpu:v5e:2x2", rows=rows)
    with pytest.raises(ValueError, match="does not fit: .*take fewer --rows"):
        planning.run(config, rich.console.Console(quiet=True))
    assert len(set(seen)) == len(seen) == 1 + tried
