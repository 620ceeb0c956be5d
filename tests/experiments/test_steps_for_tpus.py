"""Every experiment's step lowers for TPUs without their compiler, and compiles with it.

Lowering finds what a TPU does not know; compiling, what its compiler cannot do.
"""

import functools
import importlib.util

import jax
import lowered_steps
import pytest

from experiments.throughput import compiled
from rlhf_jax import sharding
from rlhf_jax.runtime import parallel, topologies

QUICK = {  # one of each kind; the others are lowered where all are compiled
    "ppo": "data",
    "grpo, packed": "fsdp",
    "ppo with adapters": "fsdp",
    "ppo judged by an encoder": "data",
    "sft": "fsdp",
    "preference": "data",
    "reward model": "fsdp",
    "classifier": "data",
    "game": "data",
    "translator": "fsdp",
}


@pytest.fixture
def for_tpus(monkeypatch):
    """Steps on devices of this machine are traced and lowered for TPUs."""
    lower = functools.partialmethod(
        jax.stages.Traced.lower, lowering_platforms=("tpu",)
    )
    monkeypatch.setattr(jax.stages.Traced, "lower", lower)
    monkeypatch.setattr(sharding, "platform", lambda: "tpu")


@pytest.mark.parametrize("name, layout", QUICK.items())
def test_a_step_lowers_for_tpus_without_their_compiler(name, layout, for_tpus):
    lowered = lowered_steps.STEPS[name](parallel.layout(layout, 2))
    assert "stablehlo" in lowered.as_text()


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the extra [plan]"
)
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layout",
    [(name, layout) for layout in ("data", "fsdp") for name in lowered_steps.STEPS]
    + [(name, "fsdp:2,tensor:2") for name in ("ppo", "ppo with adapters", "sft")],
)
def test_a_step_compiles_for_tpus_that_are_not_here(name, layout):
    devices = topologies.devices(topologies.parse("tpu:v5e:2x2"))
    lowered = lowered_steps.STEPS[name](parallel.layout(layout, among=devices))
    facts = compiled.compile_for(lowered, 0.0)
    assert facts.sizes["total"] >= facts.sizes["arguments"] > 0
    # To draw its own rows a device that holds all weights asks no other.
    assert facts.collectives or (name, layout) == ("rollout", "data")
