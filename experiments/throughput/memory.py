"""Whether a run fits: bytes per device, before any weights exist.

What stays in memory follows from shapes and shardings; the working memory of an
iteration is what XLA reports for the compiled program. Neither needs weights: a
config.json is enough. Devices may be simulated (`jax_num_cpu_devices`). Compilers fuse
differently, so the working memory of a plan made on a CPU is an estimate elsewhere.
"""

import dataclasses
import functools
import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.huggingface import read_config
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder, heads
from rlhf_jax.studies import programs
from rlhf_jax.studies.trainable import Trainable

GIB = 1024**3


class Plan(NamedTuple):
    """Bytes on one device; see `make`."""

    held: dict[str, int]  # kept between iterations, by purpose
    working: int  # the most that an iteration needs besides
    gradients: int  # part of `working` during updates
    cache: int  # part of `working` during generation

    @property
    def activations(self):
        """The part of the working memory that is neither gradients nor cache."""
        return max(self.working - max(self.gradients, self.cache), 0)

    @property
    def total(self):
        """The most that a device holds at once."""
        return sum(self.held.values()) + self.working


def make(shape, algorithm, layout, *, rows, prompt_length, adapter=None, weights=None):
    """The `Plan` of policy gradients with a reward model of the policy's size.

    Args: shape: a `config.Decoder`; algorithm: a static `policy_gradient.Config`;
    layout: of `parallel`; rows: responses per iteration, over all devices; adapter:
    a `lora.Config`, None to train all weights; weights: the type of frozen weights, by
    default the compute type with an adapter and float32 without.
    """
    compiled, arguments = prepare(
        shape,
        algorithm,
        layout,
        rows=rows,
        prompt_length=prompt_length,
        adapter=adapter,
        weights=weights,
    )
    length = prompt_length + algorithm.sampling.max_new_tokens
    cache = cache_bytes(shape, -(-rows // layout.size), length)
    return read(lower(compiled, arguments).compile(), arguments, cache=cache)


def read(compiled, arguments, *, cache):
    """The `Plan` of a compiled iteration and its arguments."""
    stats = compiled.memory_analysis()
    return Plan(
        held=held(arguments),
        working=stats.temp_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes,
        gradients=bytes_on_device(arguments["state"].learner.params),
        cache=cache,
    )


def prepare(
    shape, algorithm, layout, *, rows, prompt_length, adapter=None, weights=None
):
    """The programs of a run and an iteration's arguments: (`programs.Programs`, dict).

    All arguments are shapes, with the shardings of the layout.
    """
    model, judge = decoder.Decoder(shape), heads.Classifier(shape)
    frozen_type = weights or ("float32" if adapter is None else shape.dtype)
    start_type = "float32" if adapter is None else frozen_type

    def score(params, tokens, mask):
        return judge.apply({"params": params}, tokens, mask)[:, 0]

    compiled = programs.compile_programs(
        model, algorithm, layout, score=score, adapter=adapter
    )
    weights = policy_shapes(shape, start_type)
    start = functools.partial(_start, model, compiled.tx, algorithm, adapter)
    state = jax.eval_shape(start, weights, jax.random.key(0))
    count = rows // algorithm.candidates
    tokens = np.ones((count, prompt_length), np.int32)
    batch = policy_gradient.Batch(tokens, tokens, np.arange(count, dtype=np.int32))
    return compiled, {
        "base": layout.like(weights),
        "state": layout.like(state),
        "frozen": layout.like(_shapes(judge, frozen_type)),
        "batch": layout.rows_like(batch),
        "hyper": layout.like(jax.eval_shape(_hyper)),
    }


def of_workload(work, algorithm, layout):
    """`prepare` of a `workloads.Workload` with an algorithm, by name."""
    return prepare(
        work.decoder,
        work.algorithm(algorithm),
        layout,
        rows=work.rows,
        prompt_length=work.prompt_length,
        adapter=work.adapter,
        weights=work.weights,
    )


def _hyper():
    return jax.tree.map(jnp.asarray, policy_gradient.Hyper())


def lower(compiled, arguments):
    """The fused iteration, traced for its arguments but not compiled."""
    return compiled.iteration.lower(*arguments.values())


def _start(model, tx, algorithm, adapter, params, key):
    policy = Trainable(params, adapter)
    params = programs.initial_params(model, policy, algorithm, key)
    hyper = policy_gradient.Hyper()
    held = {"config": algorithm, "hold_initial": adapter is not None}
    return policy_gradient.init(params, tx, hyper, key, **held)


def policy_shapes(shape, dtype="float32"):
    """The parameters of a policy as shapes."""
    return _shapes(decoder.Decoder(shape), dtype)


def _shapes(module, dtype):
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    tree = jax.eval_shape(module.init, jax.random.key(0), tokens)["params"]
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)


def held(arguments):
    """{purpose: bytes on a device} of an iteration's arguments."""
    state = arguments["state"]
    learner, elastic = state.learner, state.elastic
    apart = jax.tree.leaves(elastic.initial)  # of adapters, which have a base besides
    named = {
        "frozen weights" if apart else "initial (KL reference)": arguments["base"],
        "policy": learner.params["policy"],
        "critic": learner.params["value"],
        "optimiser": learner.opt_state,
        "average (EMA)": elastic.average,
        **({"initial (KL reference)": elastic.initial} if apart else {}),
        "initial critic": state.initial_value,
        "reward model": arguments["frozen"],
    }
    sizes = {name: bytes_on_device(tree) for name, tree in named.items()}
    return {name: size for name, size in sizes.items() if size}


def bytes_on_device(tree):
    """Bytes that a tree of shapes takes on one device, given its shardings."""

    def size(x):
        sharding = getattr(x, "sharding", None)
        shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
        return int(np.prod(shape)) * x.dtype.itemsize

    return sum(map(size, jax.tree.leaves(tree)))


def cache_bytes(shape, rows, length):
    """Keys and values of `rows` rows of `length` tokens, in the compute type."""
    slots = 2 * shape.layers * rows * length
    itemsize = jnp.dtype(shape.dtype).itemsize
    return slots * shape.kv_heads * shape.head_dim * itemsize


def read_policy(name, *, vocabulary, length, dtype):
    """The `config.Decoder` of a preset, a model directory or a hub name.

    Of the latter two, only config.json is read. length: tokens per row.
    """
    preset = name.removeprefix("scratch:")
    if preset in model_config.PRESETS:
        return model_config.preset(
            preset, vocab_size=vocabulary, max_length=length, dtype=dtype
        )
    file = _config_file(name)
    try:
        shape = read_config.read(json.loads(file.read_text(encoding="utf-8")))
    except KeyError as error:
        raise ValueError(f"{file} has no {error}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(shape, model_config.Decoder):
        raise ValueError(f"--policy {name} is an encoder; a policy must be a decoder")
    if length > shape.max_length:
        raise ValueError(
            f"--prompt-length and --new-tokens add up to {length} tokens, but {name} "
            f"has a context of {shape.max_length}: lower one of them"
        )
    return dataclasses.replace(shape, dtype=dtype)


def _config_file(name):
    folder = pathlib.Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"--policy {name}: the directory has no config.json")
        return folder / "config.json"
    import huggingface_hub

    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(name, "config.json"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--policy {name}: neither a preset ({', '.join(model_config.PRESETS)}) "
            "nor a local directory, and the hub did not return its config.json "
            f"({str(error).strip().partition(chr(10))[0]})"
        ) from None


def describe(plan, memory=None):
    """A plan as rows (what, GiB), and a sentence that says whether it fits.

    memory: GiB per device, or None.
    """
    rows = [(name, size / GIB) for name, size in plan.held.items()]
    rows += [
        ("gradients", plan.gradients / GIB),
        ("cache", plan.cache / GIB),
        ("activations and the rest", plan.activations / GIB),
        ("at its fullest", plan.total / GIB),
    ]
    need = plan.total / GIB
    if memory is None:
        return rows, f"needs {need:.3g} GiB on each device"
    if need <= memory:
        return rows, f"fits: {need:.3g} GiB of {memory:g} GiB on each device"
    return rows, (
        f"does not fit: {need:.3g} GiB are needed and a device has {memory:g}; raise "
        "--micro-batches or --devices, shard with --layout fsdp, or train adapters "
        "with --lora.rank"
    )
