"""Configurations of decoders, encoders and GRU translators: shapes and branches."""

import dataclasses
from typing import Annotated, ClassVar, Literal, NamedTuple

from rlhf_jax import ranges


class RopeScaling(NamedTuple):
    """Scales rotary frequencies for a longer context.

    Linear scaling changes all of them; with `original_length`, as in Llama 3, only the
    slow ones.
    """

    factor: float
    low_frequency: float = 1.0  # cycles in `original_length`; slower ones are scaled
    high_frequency: float = 4.0  # faster ones are kept
    original_length: int | None = None


Activation = Literal["gelu", "gelu_new", "silu", "relu"]
DType = Literal["float32", "bfloat16", "float16"]
Remat = Literal["none", "full", "dots"]
Attention = Literal["auto", "cudnn"]


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Shapes and branches of a decoder; hashable, hence static under jit."""

    vocab_size: ranges.Count
    width: ranges.Count
    layers: ranges.Count
    heads: ranges.Count
    kv_heads: ranges.Count
    head_dim: ranges.Count
    hidden: ranges.Count  # width of the feed-forward layer
    max_length: ranges.Count  # longest context, padding included
    positions: Literal["learned", "rotary"] = "rotary"
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm: Literal["layer", "rms"] = "rms"
    norm_eps: float = 1e-5
    activation: Activation = "silu"
    gated: bool = True  # activation(x W_gate) · x W_up, as in SwiGLU
    attention_bias: bool = False
    mlp_bias: bool = False
    tied: bool = True  # the unembedding is the embedding
    dtype: DType = "float32"  # of compute; parameters keep their own
    remat: Remat = "none"  # what a backward pass recomputes: nothing, layers, cheap ops
    attention: Attention = "auto"  # "cudnn": flash attention of NVIDIA: see `fused`
    rotary_dim: ranges.Count | None = None  # of a head, those that rotate; None: all
    head_norm: bool = False  # normalise queries and keys, each head separately
    output_bias: bool | None = None  # of the attention output; None: attention_bias
    parallel: bool = False  # attention and feed-forward layer read the same x
    window: ranges.Count | None = None  # tokens attended to, itself too; None: all
    windowed: tuple[bool, ...] | None = None  # layers with the window; None: all
    window_theta: ranges.Positive | None = None  # their rope_theta; None: the same
    unit_offset: bool = False  # norms multiply by 1 + scale
    post_norm: bool = False  # normalise a layer's update before adding it to x
    scaled_embedding: bool = False  # multiply token vectors by √width
    score_dim: ranges.Positive | None = None  # scores / its root; None: head_dim
    score_cap: ranges.Positive | None = None  # scores become cap · tanh(score / cap)
    logit_cap: ranges.Positive | None = None  # logits become cap · tanh(logit / cap)

    def __post_init__(self):
        ranges.check(self)

    def conflicts(self):
        """Fields that contradict each other, and why."""
        yield from _attention_conflicts(self)
        if self.heads % self.kv_heads:
            reason = "every key-value head must serve the same number of query heads"
            yield ("heads", "kv_heads"), reason
        rotated = self.head_dim if self.rotary_dim is None else self.rotary_dim
        odd = rotated % 2 or rotated > self.head_dim
        if self.positions == "rotary" and odd:
            reason = "positions rotate pairs of a head's dimensions, an even number"
            yield ("rotary_dim", "head_dim"), reason
        entries = self.layers if self.windowed is None else len(self.windowed)
        if self.windowed is not None and self.window is None or entries != self.layers:
            reason = "it needs a window and one entry for each layer"
            yield ("windowed", "window", "layers"), reason

    def in_window(self):
        """Which layers have the window: one bool per layer."""
        return self.windowed or (self.window is not None,) * self.layers


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Shapes and branches of an encoder for classification: DistilBERT, BERT, RoBERTa.

    Learned positions, LayerNorm after each residual sum, biases everywhere.
    """

    vocab_size: ranges.Count
    width: ranges.Count
    layers: ranges.Count
    heads: ranges.Count
    hidden: ranges.Count  # width of the feed-forward layer
    max_length: ranges.Count  # longest text, special tokens included
    segments: ranges.Natural = 0  # segment embeddings; every text uses the first
    first_position: ranges.Natural = 0  # RoBERTa's is 2, after 2 unused rows
    pooling: Literal["tanh", "relu"] = "tanh"  # of the pooler, on the first token
    norm_eps: float = 1e-12
    activation: Activation = "gelu"
    dtype: DType = "float32"  # of compute; parameters keep their own
    remat: Remat = "none"
    attention: Attention = "auto"
    # Fields that the layers read, the same for every encoder.
    norm: ClassVar[str] = "layer"
    positions: ClassVar[str] = "learned"
    gated: ClassVar[bool] = False
    attention_bias: ClassVar[bool] = True
    output_bias: ClassVar[bool] = True
    mlp_bias: ClassVar[bool] = True
    head_norm: ClassVar[bool] = False
    unit_offset: ClassVar[bool] = False
    score_dim: ClassVar[None] = None
    score_cap: ClassVar[None] = None

    def __post_init__(self):
        ranges.check(self)
        _head_dim(self.width, self.heads)

    def conflicts(self):
        """Fields that contradict each other, and why."""
        return _attention_conflicts(self)

    @property
    def kv_heads(self):
        return self.heads

    @property
    def head_dim(self):
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class Seq2Seq:
    """Shapes and special ids of a translator: a GRU encoder and a GRU decoder."""

    source_vocab: ranges.Count
    target_vocab: ranges.Count
    embedding: ranges.Count = 256
    hidden: ranges.Count = 256
    # Of embeddings and decoder states, in training.
    dropout: Annotated[float, ranges.Range(at_least=0, below=1)] = 0.0
    pad_id: ranges.Natural = 0  # special ids are the same in both vocabularies
    unk_id: ranges.Natural = 1
    bos_id: ranges.Natural = 2  # the decoder's first input; the encoder never sees it
    eos_id: ranges.Natural = 3

    def __post_init__(self):
        ranges.check(self)

    def conflicts(self):
        """Fields that contradict each other, and why."""
        names = ("pad_id", "unk_id", "bos_id", "eos_id")
        ids = {getattr(self, name) for name in names}
        last = min(self.source_vocab, self.target_vocab) - 1
        if len(ids) < 4 or max(ids) > last:
            reason = f"choose four ids from 0 to {last}, which both vocabularies have"
            yield names, reason


def _attention_conflicts(c):
    if c.attention == "cudnn" and c.score_cap is not None:
        reason = "cuDNN cannot cap scores: set attention='auto'"
        yield ("attention", "score_cap"), reason
    if c.attention == "cudnn" and c.dtype == "float32":
        reason = "cuDNN computes in half precision: set dtype='bfloat16', or 'auto'"
        yield ("attention", "dtype"), reason


def gpt2(
    *, vocab_size=50257, width=768, layers=12, heads=12, max_length=1024, **changes
):
    """GPT-2: learned positions, LayerNorm, tanh-GELU, biases. Defaults: GPT-2 124M.

    `changes` are fields of `Decoder`.
    """
    shape = dict(hidden=4 * width, max_length=max_length, positions="learned")
    shape |= dict(norm="layer", activation="gelu_new", gated=False)
    shape |= dict(attention_bias=True, mlp_bias=True)
    return _even_heads(vocab_size, width, layers, heads, **(shape | changes))


def llama(
    *, vocab_size=32000, width=4096, layers=32, heads=32, max_length=4096, **changes
):
    """Llama: rotary positions, RMSNorm, SwiGLU, no biases. Defaults: Llama 2 7B.

    `changes` are fields of `Decoder`.
    """
    hidden = -(-8 * width // 3 // 4) * 4  # 8/3 of the width, a multiple of 4
    shape = dict(hidden=hidden, max_length=max_length, tied=False)
    return _even_heads(vocab_size, width, layers, heads, **(shape | changes))


def neox(
    *, vocab_size=50304, width=768, layers=12, heads=12, max_length=2048, **changes
):
    """GPT-NeoX: partial rotary positions, parallel attention and MLP, LayerNorm, GELU.

    A quarter of each head rotates; all layers have biases. Defaults: Pythia 160M.

    `changes` are fields of `Decoder`.
    """
    shape = dict(hidden=4 * width, max_length=max_length, norm="layer", gated=False)
    shape |= dict(rotary_dim=_head_dim(width, heads) // 4, activation="gelu")
    shape |= dict(attention_bias=True, mlp_bias=True, parallel=True, tied=False)
    return _even_heads(vocab_size, width, layers, heads, **(shape | changes))


def _even_heads(vocab_size, width, layers, heads, **fields):
    """A `Decoder` whose heads share the width, each with keys and values of its own."""
    fields = dict(kv_heads=heads, head_dim=_head_dim(width, heads)) | fields
    return Decoder(vocab_size, width, layers, heads, **fields)


def _head_dim(width, heads):
    if width % heads:
        raise ValueError(f"width={width} is no multiple of heads={heads}")
    return width // heads


# Small models to train from scratch, Llamas unless the name says GPT-2. Embeddings are
# tied.
PRESETS = {
    "tiny": {"width": 32, "layers": 1, "heads": 4},
    "micro": {"width": 64, "layers": 2, "heads": 4},
    "small": {"width": 96, "layers": 3, "heads": 4},
    "large": {"width": 128, "layers": 4, "heads": 4},
    "thin": {"width": 64, "layers": 3, "heads": 4},
    "base": {"width": 256, "layers": 4, "heads": 4},
    "gpt2-micro": {"width": 64, "layers": 2, "heads": 4},
    "gpt2-mini": {"width": 128, "layers": 4, "heads": 4},
    "gpt2-base": {"width": 256, "layers": 4, "heads": 4},
}


def preset(name, *, vocab_size, max_length, **changes):
    """The configuration of a preset in `PRESETS`, for a vocabulary and a context."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}: choose one of {tuple(PRESETS)}")
    shape = {"tied": True} | PRESETS[name] | changes
    family = gpt2 if name.startswith("gpt2-") else llama
    return family(vocab_size=vocab_size, max_length=max_length, **shape)
