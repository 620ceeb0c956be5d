"""Heads on a decoder or an encoder: classes, rewards and values.

Legend: B rows, T tokens, D width. The parameters of a network here are {"trunk": those
of an encoder, or of a decoder without its unembedding, "head": {"kernel", "bias"}}, and
with an encoder also "pooler": {"kernel", "bias"}.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rlhf_jax import masking, trees
from rlhf_jax.models import config, decoder, encoder, layers

_POOLING = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class Head(nn.Module):
    """x W + b in float32. Initially b = 0 and W has std 1/√(D+1), or is 0 with `zero`.

    Std 1/√(D+1) for rewards and 0 for values: "The N Implementation Details of RLHF
    with PPO", details 8 and 11.
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
    """Scores [B, labels] float32 per row; a reward model has one label.

    Read from a decoder's hidden state at the last valid token, or from
    activation(W h + b) of an encoder's at the first.
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
            first = self.trunk(tokens, mask, at=jnp.argmax(mask != 0, axis=-1))[:, 0]
            return self.head(_POOLING[self.config.pooling](self.pooler(first)))
        last = self.trunk.hidden(tokens, mask, at=masking.last_valid(mask))
        return self.head(last[:, 0])


class Value(nn.Module):
    """Values [B, T] float32 after each token, with a trunk of its own; initially 0.

    A critic may start from a reward model: the parameter trees are the same.
    """

    config: config.Decoder
    bias: bool = True  # of the head

    def setup(self):
        self.trunk = decoder.Decoder(self.config)
        self.head = Head(1, zero=True, bias=self.bias)

    def __call__(self, tokens, mask=None, at=None):
        """at: a slice of the positions whose values to return; by default all."""
        return self.head(self.trunk.hidden(tokens, mask, at))[..., 0]


class Scalar(nn.Module):
    """Values [B, T] float32 of a shared trunk's states [B, T, D]; initially 0."""

    @nn.compact
    def __call__(self, hidden):
        return Head(1, zero=True, name="head")(hidden)[..., 0]


class FeatureValue(nn.Module):
    """Values [...] of features [..., D]: W₂ relu(W₁ x + b₁) + b₂, float32; initially 0.

    The baseline of a translator, on `Seq2Seq.features`: Lu et al. 2020,
    arXiv:2003.12694, and its code. No gradient flows to the features, so the baseline
    does not train the policy.
    """

    hidden: int = 256

    @nn.compact
    def __call__(self, features):
        features = jax.lax.stop_gradient(features)
        hidden = jax.nn.relu(Head(self.hidden, name="hidden_layer")(features))
        return Head(1, zero=True, name="head")(hidden)[..., 0]


def init_head(model, key):
    """The parameters of a new head for a `Classifier` or a `Value`."""
    if isinstance(model, Value):
        head = Head(1, zero=True, bias=model.bias)
    else:
        head = Head(model.labels)
    return head.init(key, jnp.zeros((1, model.config.width)))["params"]


def from_decoder(params, head):
    """Parameters of a classifier or value network, from a language model and a head.

    params: a decoder's; head: {"kernel", "bias"} from `init_head`. The result shares no
    buffer with either, so all can be donated.
    """
    trunk = {name: leaf for name, leaf in params.items() if name != "unembedding"}
    return trees.copy({"trunk": trunk, "head": head})
