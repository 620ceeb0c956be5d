"""Fused attention: what stands in for it elsewhere, and when cuDNN is asked."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from rlhf_jax import sharding
from rlhf_jax.models import config, decoder, fused, heads

GROUPED = config.llama(
    vocab_size=19, width=32, layers=1, heads=4, kv_heads=2, max_length=8
)
HALF = dataclasses.replace(GROUPED, attention="cudnn", dtype="bfloat16")


@pytest.fixture
def asked(monkeypatch):
    """The (implementation, shapes of queries and mask) of each attention."""
    calls, attend = [], jax.nn.dot_product_attention

    def record(q, k, v, *, mask, implementation, **options):
        calls.append((implementation, q.shape, mask.shape))
        return attend(q, k, v, mask=mask, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    return calls


def test_an_accelerators_attention_is_that_of_a_cpu_where_tokens_are_valid(rng):
    """Logits and gradients, with padding on both sides."""
    model = decoder.Decoder(GROUPED)
    params = tiny_models.draw(model)
    tokens = rng.integers(0, 19, (2, 8))
    mask = np.array([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0]])

    @functools.partial(jax.jit, static_argnums=1)
    @functools.partial(jax.grad, has_aux=True)
    def gradient(params, platform):
        with sharding.tracing_for(platform):
            logits = model.apply({"params": params}, tokens, mask)
        return jnp.square(logits * mask[..., None]).mean(), logits

    on_cpu, logits = gradient(params, "cpu")
    on_gpu, other = gradient(params, "gpu")
    valid = mask.astype(bool)
    np.testing.assert_allclose(logits[valid], other[valid], rtol=0, atol=1e-5)
    chex.assert_trees_all_close(on_cpu, on_gpu, rtol=1e-4, atol=1e-6)


def logits_of(c, length=8):
    tokens = jax.ShapeDtypeStruct((3, length), jnp.int32)
    model = decoder.Decoder(c)
    return jax.eval_shape(model.init, jax.random.key(0), tokens)


def test_cudnn_is_asked_where_it_is_wanted_and_takes_the_shape(asked):
    logits_of(HALF)
    assert ("cudnn", (3, 8, 4, 8), (3, 1, 8, 8)) in asked
    assert not [shape for name, shape, _ in asked if name is None and shape[1] == 8]


@pytest.mark.parametrize(
    ("c", "length"),
    [
        (dataclasses.replace(HALF, attention="auto"), 8),
        (HALF, 7),  # of an odd length it has no gradient with a mask
        (dataclasses.replace(HALF, head_dim=12), 8),
        (dataclasses.replace(HALF, head_dim=136), 8),
    ],
)
def test_elsewhere_xla_computes_it(asked, c, length):
    with sharding.tracing_for("gpu"):
        logits_of(c, length)
    assert {name for name, *_ in asked} == {None}


def test_a_single_query_is_no_work_for_cudnn(asked):
    """A shallow model's last layer computes the one state that is read."""
    model = heads.Classifier(dataclasses.replace(HALF, layers=2))
    tokens = jax.ShapeDtypeStruct((3, 8), jnp.int32)
    jax.eval_shape(model.init, jax.random.key(0), tokens)
    assert ("cudnn", (3, 8, 4, 8), (3, 1, 8, 8)) in asked
    assert (None, (3, 1, 4, 8), (3, 1, 1, 8)) in asked


def test_cudnn_gets_a_mask_of_every_query_where_they_share_one(asked):
    q = jnp.zeros((2, 4, 2, 8), jnp.bfloat16)
    mask = jnp.ones((2, 1, 4), bool)
    fused.attend(q, q, q, mask, scale=1.0, cudnn=True)
    fused.attend(q, q, q, mask, scale=1.0)
    assert [shape for _, _, shape in asked] == [(2, 1, 4, 4), (2, 1, 1, 4)]


def test_in_float32_cudnn_is_not_asked():
    q = jnp.zeros((2, 4, 2, 8))
    assert not fused.takes(q, q)
    assert fused.takes(q.astype(jnp.float16), q)
