"""sharding: the rules by hand, for every parameter that models have, and what is said
where a dimension does not divide."""

import functools
import math
import re

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import optim, sharding, training, trees
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.models import config, decoder, lora
from rlhf_jax.runtime import parallel

SIZES = {"fsdp": 2, "tensor": 2}
SMALL = {"vocab_size": 12, "width": 8, "layers": 2, "heads": 2, "max_length": 8}
MODELS = {
    "llama": decoder.Decoder(config.llama(**SMALL)),
    "gpt2": decoder.Decoder(config.gpt2(**SMALL)),
}


@functools.cache
def shapes(name):
    init = functools.partial(MODELS[name].init, jax.random.key(0))
    return jax.eval_shape(init, jnp.zeros((1, 2), jnp.int32))["params"]


def named(name):
    leaves = jax.tree.leaves(shapes(name))
    return dict(zip(trees.paths(shapes(name)), leaves, strict=True))


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("embedding/token", (12, 8), ("tensor", "fsdp")),
        ("embedding/position", (16, 8), (None, "fsdp")),
        ("unembedding/kernel", (8, 12), ("fsdp", "tensor")),
        ("layers/attention/query/kernel", (3, 8, 8), (None, "fsdp", "tensor")),
        ("layers/attention/key/bias", (2, 8), (None, "tensor")),
        ("layers/attention/output/kernel", (2, 8, 8), (None, "tensor", "fsdp")),
        ("layers/attention/output/bias", (2, 8), ()),
        ("layers/mlp/up/kernel", (2, 8, 24), (None, "fsdp", "tensor")),
        ("layers/mlp/down/kernel", (2, 24, 8), (None, "tensor", "fsdp")),
        ("layers/mlp_norm/scale", (2, 8), ()),
        ("layers/attention/query/lora_a", (2, 8, 4), (None, "fsdp")),
        ("layers/attention/query/lora_b", (2, 4, 8), (None, None, "tensor")),
        ("layers/mlp/down/lora_a", (2, 24, 4), (None, "tensor")),
        ("layers/mlp/down/lora_b", (2, 4, 8), (None, None, "fsdp")),
        ("head/kernel", (8, 1), ("fsdp",)),
        ("something/else", (8, 8), ()),
        ("updates", (), ()),
    ],
)
def test_rules_by_hand(path, shape, expected):
    assert sharding.spec(path, shape, SIZES) == (jax.P(*expected), "")
    longer = f"learner/opt_state/1/mu/policy/{path}"
    assert sharding.spec(longer, shape, SIZES) == (jax.P(*expected), "")


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("layers/attention/query/kernel", (3, 8, 8), (None, None, "fsdp")),
        ("layers/attention/output/kernel", (2, 8, 8), (None, "fsdp")),
        ("layers/mlp/up/kernel", (2, 8, 24), (None, None, "fsdp")),
        ("layers/mlp/down/kernel", (2, 24, 8), (None, "fsdp")),
        ("layers/mlp/up/kernel", (2, 8, 22), (None, "fsdp")),
        ("layers/mlp/down/kernel", (2, 22, 8), (None, None, "fsdp")),
        ("embedding/token", (12, 8), (None, "fsdp")),
        ("unembedding/kernel", (8, 12), (None, "fsdp")),
        ("unembedding/kernel", (8, 11), ("fsdp",)),
        ("layers/mlp/up/kernel", (2, 8), ()),  # of an optimiser, say: a row of it
    ],
)
def test_without_tensor_a_layer_is_sharded_as_it_would_be_over_it(
    path, shape, expected
):
    """Or over its other dimension, where only that one divides."""
    assert sharding.spec(path, shape, {"fsdp": 4}) == (jax.P(*expected), "")


def test_a_dimension_that_does_not_divide_stays_whole_and_says_so():
    spec, reason = sharding.spec("embedding/token", (11, 8), SIZES)
    assert spec == jax.P(None, "fsdp")
    assert reason == "embedding/token [11, 8]: 11 does not divide by tensor:2"
    spec, reason = sharding.spec("layers/mlp/up/kernel", (2, 7, 9), SIZES)
    assert spec == jax.P()
    assert "7 does not divide by fsdp:2, 9 does not divide by tensor:2" in reason


@checks.examples
@given(
    st.sampled_from(["fsdp", "tensor", "data"]),
    st.integers(1, 4),
    st.sampled_from(trees.paths(shapes("llama"))),
)
def test_stacked_layers_are_never_cut_and_cuts_divide(axis, count, path):
    leaf = named("llama")[path]
    spec, _ = sharding.spec(path, leaf.shape, {axis: count})
    for size, name in zip(leaf.shape, spec, strict=False):
        assert name is None or size % count == 0
    if "layers/" in path and len(spec):
        assert spec[0] is None


@pytest.mark.parametrize("name", MODELS)
def test_every_matrix_of_a_model_has_a_rule(name):
    patterns = [re.compile(rf"(^|/){end}$") for end, _ in sharding.RULES[:-1]]
    for path, leaf in named(name).items():
        if leaf.ndim - ("layers/" in path) == 2:
            assert any(rule.search(path) for rule in patterns), path
            spec, reason = sharding.spec(path, leaf.shape, SIZES)
            assert "fsdp" in spec and reason == "", path


def test_optimiser_averages_adapters_and_critics_are_cut_like_their_parameters():
    trunk = {k: v for k, v in shapes("llama").items() if k != "unembedding"}
    tx = optim.transformation(optim.Config())
    init = functools.partial(
        policy_gradient.init, tx=tx, hyper=tiny.HYPER, config=tiny.config()
    )
    params = {"policy": shapes("llama"), "value": {"trunk": trunk}}
    state = jax.eval_shape(init, params, key=jax.random.key(0))
    result = sharding.specs(state, SIZES)
    by_end = {}
    for path, (spec, _) in result.items():
        if match := re.search(r"/((layers|embedding)/.*)$", path):
            by_end.setdefault(match[1], []).append(spec)
    assert len(by_end) == 10
    for end, specs in by_end.items():
        # Policy and critic with two moments each; average, initial, critic's start.
        assert len(specs) == 9, end
        assert len(set(specs)) == 1, end


def test_adapters_have_rules():
    made = lora.init(
        jax.tree.map(lambda x: jnp.zeros(x.shape), shapes("llama")),
        jax.random.key(0),
        rank=2,
        targets=("query", "down"),
    )
    result = sharding.specs(made, SIZES)
    assert len(result) == 4
    assert all(len(spec) > 0 for spec, _ in result.values())


# Bytes


@pytest.mark.parametrize(
    ("name", "part"), [("fsdp:4", 4), ("fsdp:2,tensor:2", 4), ("data:2,fsdp:2", 2)]
)
def test_devices_hold_their_part_of_the_bytes(name, part):
    layout = parallel.layout(name)
    params = jax.tree.map(lambda x: jnp.ones(x.shape), shapes("llama"))
    state = layout.put(training.init(params, optim.transformation(optim.Config())))
    total = sum(x.nbytes for x in jax.tree.leaves(state.params))
    matrices = sum(x.nbytes for x in jax.tree.leaves(state.params) if x.size > 16)
    for tree in (state.params, state.opt_state[1].mu, state.opt_state[1].nu):
        for device in layout.devices:
            size = sum(
                shard.data.nbytes
                for x in jax.tree.leaves(tree)
                for shard in x.addressable_shards
                if shard.device == device
            )
            assert size == matrices / part + total - matrices
    assert matrices > 0.9 * total
    line = layout.describe(params)[0]
    shown = (matrices / part + total - matrices) / 1e6
    assert line.startswith(
        f"{layout.name} on one host: {shown:.3g} of {total / 1e6:.3g}"
    )
    whole = parallel.layout("data:4").put(params)
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(whole))


def test_what_is_not_cut_is_described():
    layout = parallel.layout("fsdp,tensor")
    lines = layout.describe({"embedding": {"token": jnp.ones((11, 8))}})
    assert (
        "not sharded: embedding/token [11, 8]: 11 does not divide by tensor:2" in lines
    )
    assert parallel.data(2).describe({}) == ()


# Rows


def test_shard_rows_is_the_identity_where_there_is_no_mesh():
    x = jnp.arange(6.0).reshape(3, 2)
    assert sharding.shard_rows({"x": x})["x"] is x
    mapped = jax.pmap(lambda y: sharding.shard_rows(y), axis_name="data")
    np.testing.assert_array_equal(mapped(jnp.ones((4, 3))), np.ones((4, 3)))


@pytest.mark.parametrize("name", ["fsdp", "fsdp:2,tensor:2", "data:2,fsdp:2"])
def test_sharded_rows_lie_on_all_that_share_them(name):
    layout = parallel.layout(name)

    def step(x, *, axis_name):
        del axis_name
        return sharding.shard_rows(jnp.take(x, jnp.arange(7, -1, -1), axis=0))

    program = layout.compile(step, rows_in=(0,), rows_out=(0,), outputs=1)
    x = np.arange(16.0, dtype=np.float32).reshape(8, 2)
    out = program(layout.shard_rows(x))
    np.testing.assert_array_equal(layout.gather(out), x[::-1])
    assert out.sharding.shard_shape(out.shape) == (8 // layout.size, 2)


def test_rows_that_a_mesh_does_not_divide_are_named():
    layout = parallel.layout("fsdp")

    def step(x, *, axis_name):
        return sharding.shard_rows(x[:6])

    program = layout.compile(step, rows_in=(0,), rows_out=(0,), outputs=1)
    with pytest.raises(ValueError, match=r"6 rows of a minibatch.*4 devices.*--layout"):
        program(layout.shard_rows(np.ones((8, 1), np.float32)))


# Names of layouts


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fsdp", "fsdp:4"),
        ("tensor", "tensor:4"),
        ("fsdp,tensor", "fsdp:2,tensor:2"),
        ("tensor:4,fsdp", "fsdp:1,tensor:4"),
        ("data,fsdp:2", "data:2,fsdp:2"),
        ("data:2,fsdp:1,tensor:2", "data:2,fsdp:1,tensor:2"),
    ],
)
def test_a_layout_is_named_by_axes_and_sizes(name, expected):
    layout = parallel.layout(name)
    assert layout.name == expected
    assert math.prod(layout.mesh.shape.values()) == 4


@pytest.mark.parametrize("count", [1, 2, None])
def test_the_data_layout_of_one_host_is_pmap(count):
    assert parallel.layout("data", count) == parallel.data(count)


@pytest.mark.parametrize(
    ("name", "devices", "complaint"),
    [
        ("fdsp", None, r"--layout fdsp: 'fdsp' is not data, fsdp or tensor"),
        ("fsdp,fsdp", None, "each at most once"),
        ("fsdp:x", None, "'fsdp:x' is not data"),
        ("fsdp:0", None, "'fsdp:0' is not data"),
        ("data,fsdp", None, "data and fsdp cannot both take the remaining.*data:2"),
        ("fsdp:3", None, "fsdp:3 does not make 4 devices.*sizes or --devices"),
        ("fsdp,tensor:8", None, r"fsdp:\?,tensor:8 does not make 4 devices"),
        ("fsdp", 9, "--devices 9: this host has 4 cpu"),
    ],
)
def test_layouts_that_do_not_fit_are_named(name, devices, complaint):
    with pytest.raises(ValueError, match=complaint):
        parallel.layout(name, devices)
