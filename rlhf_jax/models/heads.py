"""Numbers read off a decoder or an encoder: classes, rewards and values.

Legend: B rows, T tokens, D width. `params` of the networks here are {"trunk": a
decoder's parameters without an unembedding, or an encoder's, "head": {"kernel",
"bias"}}, and "pooler" {"kernel", "bias"} on an encoder.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rlhf_jax import masking, trees
from rlhf_jax.models import config, decoder, encoder, layers

_POOLING = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class Head(nn.Module):
    """x W + b in float32; b = 0, W ~ N(0, 1/√(D+1)), or 0 when `zero`.

    Standard deviation 1/√(D+1) for rewards and 0 for values: "The N Implementation
    Details of RLHF with PPO", details 8 and 11.
    """

    outputs: int
    zero: bool = False
    bias: bool = True

    @nn.compact
    def __call__(self, hidden):
        """hidden [..., D] → [..., outputs]."""
        width = hidden.shape[-1]
        init = nn.initializers.normal((width + 1) ** -0.5)
        init = nn.initializers.zeros if self.zero else init
        kernel = self.param("kernel", init, (width, self.outputs))
        rows = hidden.reshape(-1, width).astype(jnp.float32)
        out = rows @ kernel.astype(jnp.float32)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.outputs,))
            out = out + bias.astype(jnp.float32)[None]
        return out.reshape(*hidden.shape[:-1], self.outputs)


class Classifier(nn.Module):
    """Scores [B, labels] float32 of each row: of a decoder's hidden state at the last
    valid token; of activation(W h + b) of an encoder's at the first.

    A reward model is a classifier with one label.
    """

    config: config.Decoder | config.Encoder
    labels: int = 1

    def setup(self):
        c = self.config
        if isinstance(c, config.Encoder):
            self.trunk = encoder.Encoder(c)
            self.pooler = layers.Dense(c.width, bias=True, dtype=c.dtype)
        else:
            self.trunk = decoder.Decoder(c)
        self.head = Head(self.labels)

    def __call__(self, tokens, mask=None):
        mask = jnp.ones_like(tokens) if mask is None else mask
        if isinstance(self.config, config.Encoder):
            first = self.trunk(tokens, mask, at=encoder.first_valid(mask))[:, 0]
            return self.head(_POOLING[self.config.pooling](self.pooler(first)))
        last = self.trunk.hidden(tokens, mask, at=masking.last_valid(mask))
        return self.head(last[:, 0])


class Value(nn.Module):
    """Values [B, T] float32 after each token, from a trunk of their own; 0 at first.

    A reward model's parameters fit too: the critic may start from them.
    """

    config: config.Decoder
    bias: bool = True  # of the head

    def setup(self):
        self.trunk = decoder.Decoder(self.config)
        self.head = Head(1, zero=True, bias=self.bias)

    def __call__(self, tokens, mask=None, at=None):
        """at: a slice of positions, the values there alone."""
        return self.head(self.trunk.hidden(tokens, mask, at))[..., 0]


class Scalar(nn.Module):
    """Values [B, T] float32 of a shared trunk's hidden states [B, T, D]; 0 first."""

    @nn.compact
    def __call__(self, hidden):
        return Head(1, zero=True, name="head")(hidden)[..., 0]


class FeatureValue(nn.Module):
    """Values [...] float32 of features [..., D]: W₂ relu(W₁ x + b₁) + b₂; 0 at first.

    Lu et al. 2020, arXiv:2003.12694, and its code: the baseline of a translator reads
    `Seq2Seq.features`. No gradient reaches the features: a value does not teach the
    policy that it judges.
    """

    hidden: int = 256

    @nn.compact
    def __call__(self, features):
        features = jax.lax.stop_gradient(features)
        inside = jax.nn.relu(Head(self.hidden, name="hidden_layer")(features))
        return Head(1, zero=True, name="head")(inside)[..., 0]


def init_head(model, key):
    """A fresh head for a `Classifier` or a `Value`."""
    if isinstance(model, Value):
        head = Head(1, zero=True, bias=model.bias)
    else:
        head = Head(model.labels)
    return head.init(key, jnp.zeros((1, model.config.width)))["params"]


def from_decoder(params, head):
    """Parameters of a classifier or a value network that starts from a language model.

    params: a decoder's; head: {"kernel", "bias"}, of `init_head`. The result shares no
    buffer with either, so that each can be donated.
    """
    trunk = {name: leaf for name, leaf in params.items() if name != "unembedding"}
    return trees.copy({"trunk": trunk, "head": head})
