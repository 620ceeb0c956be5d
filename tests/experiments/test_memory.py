"""The memory planner: bytes counted by hand, and against what a process holds."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.throughput import memory, workloads
from rlhf_jax import sampling
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.models import config as model_config
from rlhf_jax.models import lora
from rlhf_jax.runtime import parallel

ROOT = pathlib.Path(__file__).resolve().parents[2]
VOCAB, WIDTH, HIDDEN = 11, 8, 24
SHAPE = model_config.llama(
    vocab_size=VOCAB, width=WIDTH, layers=1, heads=2, max_length=8, tied=True
)
# Embedding; query, key, value, output; gate, up, down; three norms.
TRUNK = VOCAB * WIDTH + 4 * WIDTH**2 + 3 * WIDTH * HIDDEN + 3 * WIDTH
HEAD = WIDTH + 1


def algorithm(name="ppo", **changes):
    return policy_gradient.Config(
        sampling=sampling.Config(max_new_tokens=5, eos_ids=(1,)),
        algorithm=name,
        epochs=1,
        **changes,
    )


def held(config, devices=1, **changes):
    layout = parallel.data(devices)
    sizes = {"rows": 8, "prompt_length": 3, **changes}
    return memory.held(memory.prepare(SHAPE, config, layout, **sizes)[1])


def test_what_ppo_holds_is_the_sum_of_its_parts_by_hand():
    assert held(algorithm()) == {
        "policy": 4 * TRUNK,
        "critic": 4 * (TRUNK + HEAD),
        "optimiser": 2 * 4 * (2 * TRUNK + HEAD) + 4,  # two moments, and a counter
        "average (EMA)": 4 * TRUNK,
        "initial (KL reference)": 4 * TRUNK,
        "reward model": 4 * (TRUNK + HEAD),
    }


def test_rloo_holds_no_critic_and_copies_do_not_shrink_with_devices():
    assert held(algorithm("rloo", candidates=2), devices=2) == {
        "policy": 4 * TRUNK,
        "optimiser": 2 * 4 * TRUNK + 4,
        "average (EMA)": 4 * TRUNK,
        "initial (KL reference)": 4 * TRUNK,
        "reward model": 4 * (TRUNK + HEAD),
    }


def test_a_kept_critic_is_held_twice():
    found = held(algorithm(keep_initial_value=True))
    assert found["initial critic"] == found["critic"] == 4 * (TRUNK + HEAD)


def test_adapters_alone_are_held_in_copies_beside_a_frozen_base():
    rank = 2
    adapter = lora.Config(rank, 4.0, ("attention/query", "mlp/down"))
    query, down = rank * 2 * WIDTH, rank * (HIDDEN + WIDTH)
    config = algorithm("rloo", candidates=2)
    found = held(config, adapter=adapter, weights="bfloat16")
    assert found == {
        "frozen weights": 2 * TRUNK,
        "policy": 4 * (query + down),
        "optimiser": 2 * 4 * (query + down) + 4,
        "average (EMA)": 4 * (query + down),
        "initial (KL reference)": 4 * (query + down),
        "reward model": 2 * (TRUNK + HEAD),
    }


def test_llama_7b_with_adapters_is_its_13_5_gb_base_and_a_few_megabytes():
    work = workloads.WORKLOADS["llama-7b-lora"]
    config = work.algorithm("rloo")
    _, arguments = memory.prepare(
        work.decoder,
        config,
        parallel.data(1),
        rows=work.rows,
        prompt_length=work.prompt_length,
        adapter=work.adapter,
    )
    found = memory.held(arguments)
    assert found["frozen weights"] == 2 * 6_738_415_616  # as published
    assert found["policy"] == 4 * 32 * 2 * 16 * (4096 + 4096)  # query and value
    assert found["average (EMA)"] == found["initial (KL reference)"] == found["policy"]
    assert found["optimiser"] == 2 * found["policy"] + 4


def test_a_sharded_leaf_counts_its_share():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("fsdp",))
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    tree = {
        "cut": jax.ShapeDtypeStruct((3, 8), jnp.float32, sharding=cut),
        "whole": jax.ShapeDtypeStruct((3, 8), jnp.bfloat16, sharding=whole),
        "nowhere": jax.ShapeDtypeStruct((5,), jnp.int8),
    }
    sizes = {name: memory.bytes_on_device(leaf) for name, leaf in tree.items()}
    assert sizes == {"cut": 3 * 2 * 4, "whole": 3 * 8 * 2, "nowhere": 5}
    assert memory.bytes_on_device(tree) == sum(sizes.values())


def test_a_cache_is_keys_and_values_of_every_layer_and_token():
    c = model_config.llama(
        vocab_size=11, width=16, layers=3, heads=4, kv_heads=2, dtype="bfloat16"
    )
    assert memory.cache_bytes(c, rows=5, length=7) == 2 * 3 * 5 * 7 * 2 * 4 * 2


@pytest.fixture(scope="module")
def made():
    layout = parallel.data(2)
    return memory.make(SHAPE, algorithm(), layout, rows=8, prompt_length=3)


def test_a_plan_adds_up_and_its_working_memory_holds_gradients_and_cache(made):
    assert made.gradients == 4 * (2 * TRUNK + HEAD)
    assert made.cache == 2 * 4 * 8 * WIDTH * 4  # 4 of the 8 rows, of 8 tokens
    assert made.total == sum(made.held.values()) + made.working
    assert made.working >= max(made.gradients, made.cache)
    assert made.activations == made.working - max(made.gradients, made.cache)
    assert made.held == held(algorithm())


def test_a_verdict_says_what_is_missing_and_what_helps(made):
    rows, plain = memory.describe(made)
    assert rows[-1] == ("at its fullest", made.total / memory.GIB)
    assert plain.startswith("needs ")
    assert memory.describe(made, memory=1.0)[1].startswith("fits: ")
    short = memory.describe(made, memory=1e-6)[1]
    assert short.startswith("does not fit") and "--micro-batches" in short


def test_a_policy_is_read_from_its_config_alone(tmp_path):
    described = {
        **{"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        **{"vocab_size": 32000, "hidden_size": 64, "intermediate_size": 96},
        **{"num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "max_position_embeddings": 128},
        **{"rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    }
    (tmp_path / "config.json").write_text(json.dumps(described))
    rest = {"vocabulary": 9, "dtype": "bfloat16"}
    found = memory.read_policy(str(tmp_path), length=128, **rest)
    assert (found.vocab_size, found.width, found.kv_heads) == (32000, 64, 2)
    assert (found.dtype, found.tied) == ("bfloat16", False)
    with pytest.raises(ValueError, match="129 tokens.*context of 128"):
        memory.read_policy(str(tmp_path), length=129, **rest)


def test_a_preset_takes_the_vocabulary_and_the_context():
    rest = {"vocabulary": 99, "length": 40, "dtype": "float32"}
    found = memory.read_policy("scratch:gpt2-mini", **rest)
    expected = model_config.preset("gpt2-mini", vocab_size=99, max_length=40)
    assert found == expected


def test_a_policy_that_is_nowhere_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rest = {"vocabulary": 9, "length": 8, "dtype": "float32"}
    with pytest.raises(ValueError, match="--policy .*config.json"):
        memory.read_policy(str(tmp_path), **rest)
    with pytest.raises(ValueError, match="--policy no-such-model: neither a preset"):
        memory.read_policy("no-such-model", **rest)


MEASURE = """
import ctypes, gc, json, sys
import jax
import numpy as np
jax.config.update("jax_num_cpu_devices", 1)
jax.config.update("jax_cpu_enable_async_dispatch", False)
from experiments.throughput import measure, memory
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.runtime import parallel
import test_memory

case = test_memory.CASES[sys.argv[1]]
layout = parallel.data(1)
programs, given = memory.prepare(case.shape, case.algorithm, layout, **case.sizes)
compiled = memory.lower(programs, given).compile()
plan = memory.read(compiled, given, cache=0)

def zeros(tree):
    def leaf(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.device_put(jax.random.key(0), x.sharding)
        return jax.numpy.full(x.shape, 1e-2, x.dtype, device=x.sharding)
    return jax.tree.map(leaf, tree)

def ones(tree):  # rows, by hand: pmap wants no sharding of theirs
    return jax.tree.map(lambda x: np.ones(x.shape, x.dtype), tree)

hyper = jax.tree.map(jax.numpy.asarray, policy_gradient.Hyper())

def run(iterations):
    names = ("base", "state", "frozen")
    base, state, frozen = (zeros(given[name]) for name in names)
    for _ in range(iterations):
        batch = ones(given["batch"])
        state, rows, metrics = compiled(base, state, frozen, batch, hyper)
        jax.block_until_ready(state)

run(1)  # a warm baseline: threads, their scratch and code are there already
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
before = measure.resident_bytes()
measure.start_peak()
run(2)
print(json.dumps([plan.total, measure.peak_bytes() - before]))
"""


@dataclasses.dataclass(frozen=True)
class Case:
    shape: model_config.Decoder
    algorithm: policy_gradient.Config
    sizes: dict


CASES = {
    "weights": Case(
        model_config.llama(
            vocab_size=4096, width=512, layers=4, heads=8, max_length=24, tied=True
        ),
        dataclasses.replace(
            algorithm(), sampling=sampling.Config(max_new_tokens=8, eos_ids=(1,))
        ),
        {"rows": 4, "prompt_length": 16},
    ),
    "activations": Case(
        model_config.preset("gpt2-mini", vocab_size=2048, max_length=128),
        dataclasses.replace(
            algorithm(), sampling=sampling.Config(max_new_tokens=64, eos_ids=(1,))
        ),
        {"rows": 64, "prompt_length": 64},
    ),
    "critic-less": Case(
        model_config.preset("base", vocab_size=8192, max_length=96),
        dataclasses.replace(
            algorithm("rloo", candidates=2, micro_batches=4),
            sampling=sampling.Config(max_new_tokens=64, eos_ids=(1,)),
        ),
        {"rows": 64, "prompt_length": 32},
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("name", CASES)
def test_a_plan_is_what_the_process_grows_by(name):
    environment = dict(
        os.environ, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/experiments'}"
    )
    environment["XLA_FLAGS"] = ""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, name],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    predicted, grown = json.loads(done.stdout.splitlines()[-1])
    assert abs(grown / predicted - 1) < 0.2, (predicted, grown)
