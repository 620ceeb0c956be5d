"""The layers of decoders and encoders: flax.linen modules, by configuration.

Legend: B rows, T tokens, S tokens or slots attended to, D width, H query heads,
K key-value heads, d head width. Parameters keep their own type; compute is in
`config.dtype`, but norms, rotations and softmax are in float32.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rlhf_jax import sharding
from rlhf_jax.models import branches, cache, config, fused, products, stacks

_MASKED = -1e30  # finite: a query that may attend to nothing gets a mean, not NaN
_LARGEST_TABLE = 2**20  # the most cosines kept as constants of the program

_ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}


class Dense(nn.Module):
    """x W + b over the last axis, or x (W + A B) + b with a LoRA adapter.

    Initially W ~ N(0, gain² / inputs) and b = 0.
    """

    features: int
    bias: bool
    dtype: str
    gain: float = 1.0

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.variance_scaling(self.gain**2, "fan_in", "normal")
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        axes = sharding.axes(f"{self.name}/kernel", kernel.shape)
        out = products.product(x, kernel, self.dtype, axes=axes)
        if self.has_variable("params", "lora_a"):  # see `models.lora`
            down = self.get_variable("params", "lora_a")
            up = self.get_variable("params", "lora_b")
            down = products.product(x, down, self.dtype)
            out = out + products.product(down, up, self.dtype)
        if not self.bias:
            return out
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return out + jnp.broadcast_to(bias.astype(self.dtype), out.shape)


class Norm(nn.Module):
    """LayerNorm, or RMSNorm: x / √(mean x² + ε) · scale, over the last axis."""

    config: config.Decoder | config.Encoder

    @nn.compact
    def __call__(self, x):
        c, outer = self.config, tuple(range(x.ndim - 1))
        start = nn.initializers.zeros if c.unit_offset else nn.initializers.ones
        scale = self.param("scale", start, (x.shape[-1],)).astype(jnp.float32)
        scale = 1.0 + scale if c.unit_offset else scale
        x = x.astype(jnp.float32)
        if c.norm == "layer":
            x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + c.norm_eps)
        x = x * jnp.expand_dims(scale, outer)
        if c.norm == "layer":
            bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
            x = x + jnp.expand_dims(bias.astype(jnp.float32), outer)
        return x.astype(c.dtype)


class Embedding(nn.Module):
    """Token vectors, plus position vectors when positions are learned."""

    config: config.Decoder

    def setup(self):
        c = self.config
        # Logits of a tied unembedding then start with variance 1. After 300 steps of a
        # micro model this is 0.05 to 0.2 nats better than a std of 0.02.
        init = nn.initializers.normal(c.width**-0.5)
        self.token = self.param("token", init, (c.vocab_size, c.width))
        if c.positions == "learned":
            self.position = self.param("position", init, (c.max_length, c.width))

    def __call__(self, tokens_BT, positions_BT):
        """[B, T, D]; an id or a position outside its table gives NaN."""
        x = jnp.take(self.token, tokens_BT, axis=0, mode="fill")
        if self.config.positions == "learned":
            x = x + jnp.take(self.position, positions_BT, axis=0, mode="fill")
        x = x.astype(self.config.dtype)
        if not self.config.scaled_embedding:
            return x
        return x * jnp.asarray(self.config.width**0.5, x.dtype)


class Unembedding(nn.Module):
    """Logits in float32 whatever the compute type: rounding would bias PPO ratios."""

    config: config.Decoder

    @nn.compact
    def __call__(self, hidden):
        c = self.config
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        kernel = self.param("kernel", init, (c.width, c.vocab_size))
        axes = sharding.axes("unembedding/kernel", kernel.shape)
        return products.product(hidden, kernel, c.dtype, jnp.float32, axes=axes)


def rotation(c, positions_BT, *, windowed=False):
    """Cosine and sine of position · θ^(−2i/d), each [B, T, 1, d/2] float32.

    Su et al. 2021, "RoFormer", arXiv:2104.09864; d is `rotary_dim` if given. windowed:
    for layers with a window and their own θ, `window_theta`, which is never scaled.
    Returns None when positions are learned.
    """
    if c.positions != "rotary":
        return None
    rotated = c.rotary_dim or c.head_dim
    theta = c.window_theta if windowed else c.rope_theta
    frequency = theta ** -(np.arange(0, rotated, 2) / rotated)
    if c.rope_scaling is not None and not windowed:
        frequency = _scaled(frequency, c.rope_scaling)
    if c.max_length * frequency.size > _LARGEST_TABLE:
        frequency = jnp.asarray(frequency, jnp.float32)[None, None, None]
        angle = positions_BT[..., None, None] * frequency
        return jnp.cos(angle), jnp.sin(angle)
    # On CPU, computed cosines would be fused into the rotation, anew for every head.
    angle = np.outer(np.arange(c.max_length, dtype=np.float32), frequency)
    tables = np.cos(angle.astype(np.float32)), np.sin(angle.astype(np.float32))
    cos, sin = (
        jnp.take(table, positions_BT, axis=0, mode="fill")[:, :, None]
        for table in tables
    )
    return cos, sin


def _scaled(frequency, scaling):
    """Linear: frequency / factor. Llama 3: the same for slow frequencies, unchanged for
    fast ones, a mixture in between."""
    if scaling.original_length is None:
        return frequency / scaling.factor
    cycles = scaling.original_length * frequency / (2 * math.pi)
    span = scaling.high_frequency - scaling.low_frequency
    fast = np.clip((cycles - scaling.low_frequency) / span, 0.0, 1.0)
    return fast * frequency + (1.0 - fast) * frequency / scaling.factor


def rotate(x_BTHd, angles):
    """Rotates the pairs (xᵢ, xᵢ₊d/2), the order of Hugging Face's weights.

    With angles for fewer dimensions, the remaining ones are unchanged.
    """
    if angles is None:
        return x_BTHd
    cos, sin = angles
    if 2 * cos.shape[-1] < x_BTHd.shape[-1]:
        head, rest = jnp.split(x_BTHd, [2 * cos.shape[-1]], axis=-1)
        return jnp.concatenate([rotate(head, angles), rest], axis=-1)
    first, second = jnp.split(x_BTHd.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
    return rotated.astype(x_BTHd.dtype)


def attend(q_BTHd, k_BKSd, v_BKSd, mask_BTS, *, scale=None, cap=None):
    """softmax(q kᵀ / √d) v over the positions in the mask. Returns [B, T, H, d].

    scale replaces 1/√d; cap applies `capped` to the scores.

    Query heads that share a key-value head are stacked as rows of one matrix product
    batched over key-value heads, the fastest of the layouts tried for training on CPU.
    The softmax runs on three axes: over five, its gradient takes twice as long there.
    """
    B, T, H, d = q_BTHd.shape
    K, S = k_BKSd.shape[1], k_BKSd.shape[2]
    q_NRd = (q_BTHd * (scale or d**-0.5)).swapaxes(1, 2).reshape(B * K, -1, d)
    k_NSd, v_NSd = k_BKSd.reshape(-1, S, d), v_BKSd.reshape(-1, S, d)
    scores = jnp.einsum(
        "nrd,nsd->nrs", q_NRd, k_NSd, preferred_element_type=jnp.float32
    )
    visible = mask_BTS[:, None, None]
    grouped = capped(scores, cap).reshape(B, K, H // K, T, S)
    scores = jnp.where(visible, grouped, _MASKED).reshape(scores.shape)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_NSd.dtype)
    out = jnp.einsum("nrs,nsd->nrd", weights, v_NSd)
    return out.reshape(B, H, T, d).swapaxes(1, 2)


def attend_once(q_BHd, k_BKSd, v_BKSd, mask_BS, *, scale=None, cap=None):
    """`attend` for one query per row against a cache. Returns [B, H, d].

    Rows and heads are separate axes: merged, a loop on CPU would write the cache twice,
    in both shapes, and copy it three times at every token.
    """
    B, H, d = q_BHd.shape
    K = k_BKSd.shape[1]
    q_BKRd = (q_BHd * (scale or d**-0.5)).reshape(B, K, H // K, d)
    scores = jnp.einsum(
        "bkrd,bksd->bkrs", q_BKRd, k_BKSd, preferred_element_type=jnp.float32
    )
    scores = jnp.where(mask_BS[:, None, None], capped(scores, cap), _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BKSd.dtype)
    return jnp.einsum("bkrs,bksd->bkrd", weights, v_BKSd).reshape(B, H, d)


def capped(x, cap):
    """cap · tanh(x / cap), or x without a cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


class Attention(nn.Module):
    """Masked multi-head attention with grouped key-value heads."""

    config: config.Decoder | config.Encoder

    def setup(self):
        c = self.config
        project = functools.partial(Dense, bias=c.attention_bias, dtype=c.dtype)
        self.query = project(c.heads * c.head_dim)
        self.key = project(c.kv_heads * c.head_dim)
        self.value = project(c.kv_heads * c.head_dim)
        bias = c.attention_bias if c.output_bias is None else c.output_bias
        self.output = project(c.width, gain=(2 * c.layers) ** -0.5, bias=bias)
        if c.head_norm:
            self.query_norm, self.key_norm = Norm(c), Norm(c)

    def __call__(self, x_BTD, angles, mask_BTS, at=None, before=None):
        """Returns the update [B, T, D] and (keys, values), [B, T, K, d] each.

        mask [B, T, S], or [B, 1, S] if all queries share it, or `branches.Visible`; at:
        the positions of the queries, as in `stacks.pick`; only they get an update;
        before: (keys, values) of the S − T tokens before x, [B or 1, S − T, K, d].
        """
        q, *new = self._project(x_BTD, angles, at)
        k, v = cache.join(before, new)
        if isinstance(mask_BTS, branches.Visible):
            out = branches.attend(self._attend, q, k, v, mask_BTS)
        else:
            shared = mask_BTS.shape[1] == 1
            mask_BTS = mask_BTS if shared else stacks.pick(mask_BTS, at)
            out = self._attend(q, k, v, mask_BTS)
        return self._merge(out), tuple(new)

    def _attend(self, q, k, v, mask_BTS):
        """[B, T, H, d] of queries, [B, S, K, d] of keys and values."""
        c, scale = self.config, self._scale
        cudnn = c.attention == "cudnn"
        if c.score_cap is None and (cudnn or sharding.platform() != "cpu"):
            return fused.attend(q, k, v, mask_BTS, scale=scale, cudnn=cudnn)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        return attend(q, k, v, mask_BTS, scale=scale, cap=c.score_cap)

    def step(self, x_B1D, angles, memory, index, mask_BS):
        """One token against the cache. Returns its update and new (keys, values)."""
        q, k, v = self._project(x_B1D, angles)
        keys, values = (
            cache.write(old, new, index)
            for old, new in zip(memory, (k, v), strict=True)
        )
        options = {"scale": self._scale, "cap": self.config.score_cap}
        out = attend_once(q[:, 0], keys, values, mask_BS, **options)
        return self._merge(out[:, None]), (keys, values)

    def _project(self, x, angles, at=None):
        x_q, angles_q = jax.tree.map(lambda t: stacks.pick(t, at), (x, angles))
        q, k, v = (
            states.reshape(*states.shape[:2], -1, self.config.head_dim)
            for states in (self.query(x_q), self.key(x), self.value(x))
        )
        if self.config.head_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        return rotate(q, angles_q), rotate(k, angles), v

    @property
    def _scale(self):
        return (self.config.score_dim or self.config.head_dim) ** -0.5

    def _merge(self, out_BTHd):
        return self.output(out_BTHd.reshape(*out_BTHd.shape[:2], -1))


class MLP(nn.Module):
    """activation(x W_up) W_down, or gated: (activation(x W_gate) · x W_up) W_down."""

    config: config.Decoder | config.Encoder

    def setup(self):
        c = self.config
        project = functools.partial(Dense, bias=c.mlp_bias, dtype=c.dtype)
        self.up = project(c.hidden)
        if c.gated:
            self.gate = project(c.hidden)
        self.down = project(c.width, gain=(2 * c.layers) ** -0.5)

    def __call__(self, x_BTD):
        activation = _ACTIVATIONS[self.config.activation]
        if not self.config.gated:
            return self.down(activation(self.up(x_BTD)))
        return self.down(activation(self.gate(x_BTD)) * self.up(x_BTD))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); parallel: both read the input."""

    config: config.Decoder

    def setup(self):
        self.attention_norm = Norm(self.config)
        self.attention = Attention(self.config)
        self.mlp_norm = Norm(self.config)
        self.mlp = MLP(self.config)
        if self.config.post_norm:
            self.attention_post_norm = Norm(self.config)
            self.mlp_post_norm = Norm(self.config)

    def __call__(self, x_BTD, angles, mask_BTS, at=None, before=None):
        """Returns x at positions `at` (see `stacks.pick`), and new (keys, values)."""
        normed = self.attention_norm(x_BTD)
        update, memory = self.attention(normed, angles, mask_BTS, at, before)
        return self._feed(stacks.pick(x_BTD, at), update), memory

    def step(self, x_B1D, angles, memory, index, mask_BS):
        update, memory = self.attention.step(
            self.attention_norm(x_B1D), angles, memory, index, mask_BS
        )
        return self._feed(x_B1D, update), memory

    def _feed(self, x_BTD, update):
        if self.config.post_norm:
            update = self.attention_post_norm(update)
        read = x_BTD if self.config.parallel else x_BTD + update
        fed = self.mlp(self.mlp_norm(read))
        if self.config.post_norm:
            fed = self.mlp_post_norm(fed)
        return x_BTD + update + fed
