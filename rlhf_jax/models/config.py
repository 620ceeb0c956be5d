"""Configurations of decoders, encoders and GRU translators: shapes and branches."""

import dataclasses
from typing import ClassVar, NamedTuple


class RopeScaling(NamedTuple):
    """Scales rotary frequencies for a longer context.

    Linear scaling changes all of them; with `original_length`, as in Llama 3, only the
    slow ones.
    """

    factor: float
    low_frequency: float = 1.0  # cycles in `original_length`; slower ones are scaled
    high_frequency: float = 4.0  # faster ones are kept
    original_length: int | None = None


CHOICES = {
    "positions": ("learned", "rotary"),
    "norm": ("layer", "rms"),
    "activation": ("gelu", "gelu_new", "silu", "relu"),
    "dtype": ("float32", "bfloat16", "float16"),
    "remat": ("none", "full", "dots"),
    "attention": ("auto", "cudnn"),
}


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Shapes and branches of a decoder; hashable, hence static under jit."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int  # width of the feed-forward layer
    max_length: int  # longest context, padding included
    positions: str = "rotary"
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm: str = "rms"
    norm_eps: float = 1e-5
    activation: str = "silu"
    gated: bool = True  # activation(x W_gate) · x W_up, as in SwiGLU
    attention_bias: bool = False
    mlp_bias: bool = False
    tied: bool = True  # the unembedding is the embedding
    dtype: str = "float32"  # of compute; parameters keep their own
    remat: str = "none"  # what a backward pass recomputes: nothing, layers, cheap ops
    attention: str = "auto"  # "cudnn": flash attention, on NVIDIA in half precision
    rotary_dim: int | None = None  # how many dimensions of a head rotate; None: all
    head_norm: bool = False  # normalise queries and keys, each head separately
    output_bias: bool | None = None  # of the attention output; None: attention_bias
    parallel: bool = False  # attention and feed-forward layer read the same x
    window: int | None = None  # tokens a token attends to, with itself; None: all
    windowed: tuple[bool, ...] | None = None  # layers with the window; None: all
    window_theta: float | None = None  # their rope_theta, unscaled; None: the same
    unit_offset: bool = False  # norms multiply by 1 + scale
    post_norm: bool = False  # normalise a layer's update before adding it to x
    scaled_embedding: bool = False  # multiply token vectors by √width
    score_dim: int | None = None  # scores are divided by its root; None: head_dim
    score_cap: float | None = None  # scores become cap · tanh(score / cap)
    logit_cap: float | None = None  # logits become cap · tanh(logit / cap)

    def __post_init__(self):
        _check_shared(self)
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} is no multiple of kv_heads={self.kv_heads}: "
                "every key-value head must serve the same number of query heads"
            )
        if self.positions == "rotary":
            _check_rotary(self)
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window}: a token sees at least itself")
        for name in ("window_theta", "score_dim", "score_cap", "logit_cap"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value}: needs to be positive, or None")
        if self.windowed is not None and (
            self.window is None or len(self.windowed) != self.layers
        ):
            raise ValueError(
                f"windowed={self.windowed} needs a window and one entry for each of "
                f"layers={self.layers}"
            )

    def in_window(self):
        """Which layers have the window: one bool per layer."""
        return self.windowed or (self.window is not None,) * self.layers


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Shapes and branches of an encoder for classification: DistilBERT, BERT, RoBERTa.

    Learned positions, LayerNorm after each residual sum, biases everywhere.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    hidden: int  # width of the feed-forward layer
    max_length: int  # longest text, special tokens included
    segments: int = 0  # segment embeddings; every text uses the first
    first_position: int = 0  # RoBERTa counts from 2, with 2 more rows in its table
    pooling: str = "tanh"  # activation of the pooler, on the first token
    norm_eps: float = 1e-12
    activation: str = "gelu"
    dtype: str = "float32"  # of compute; parameters keep their own
    remat: str = "none"
    attention: str = "auto"
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
        _check_shared(self)
        _head_dim(self.width, self.heads)
        if self.pooling not in ("tanh", "relu"):
            raise ValueError(f"pooling={self.pooling!r}: choose 'tanh' or 'relu'")
        if self.segments < 0 or self.first_position < 0:
            raise ValueError(
                f"segments={self.segments}, first_position={self.first_position}: "
                "neither may be negative"
            )

    @property
    def kv_heads(self):
        return self.heads

    @property
    def head_dim(self):
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class Seq2Seq:
    """Shapes and special ids of a translator: a GRU encoder and a GRU decoder."""

    source_vocab: int
    target_vocab: int
    embedding: int = 256
    hidden: int = 256
    dropout: float = 0.0  # of embeddings and decoder states, in training
    pad_id: int = 0  # special ids are the same in both vocabularies
    unk_id: int = 1
    bos_id: int = 2  # the decoder's first input; the encoder never sees it
    eos_id: int = 3

    def __post_init__(self):
        for name in ("source_vocab", "target_vocab", "embedding", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: needs to be positive")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: needs to lie in [0, 1)")
        names = ("pad_id", "unk_id", "bos_id", "eos_id")
        ids = {name: getattr(self, name) for name in names}
        vocab = min(self.source_vocab, self.target_vocab)
        if len(set(ids.values())) < 4 or not all(0 <= i < vocab for i in ids.values()):
            shown = ", ".join(f"{name}={i}" for name, i in ids.items())
            raise ValueError(
                f"{shown}: choose four different ids from 0 to {vocab - 1}, which both "
                "vocabularies have"
            )


def _check_shared(c):
    for name, choices in CHOICES.items():
        if getattr(c, name) not in choices:
            raise ValueError(f"{name}={getattr(c, name)!r}: choose one of {choices}")
    for name in ("vocab_size", "width", "layers", "heads", "max_length", "hidden"):
        if getattr(c, name) < 1:
            raise ValueError(f"{name}={getattr(c, name)}: needs to be positive")
    if c.attention == "cudnn" and c.score_cap is not None:
        raise ValueError(
            f"attention='cudnn' cannot cap scores (score_cap={c.score_cap}): set "
            "attention='auto'"
        )
    if c.attention == "cudnn" and c.dtype == "float32":
        raise ValueError(
            "attention='cudnn' computes in half precision: set dtype='bfloat16', "
            "or attention='auto'"
        )


def _check_rotary(c):
    if c.rotary_dim is None and c.head_dim % 2:
        raise ValueError(
            f"head_dim={c.head_dim} is odd: rotary positions rotate pairs; "
            "choose width and heads so that width / heads is even"
        )
    rotated = c.rotary_dim
    if rotated is not None and (rotated % 2 or not 0 < rotated <= c.head_dim):
        raise ValueError(
            f"rotary_dim={rotated}: rotary positions rotate pairs of a head's "
            f"{c.head_dim} dimensions; choose an even number up to that"
        )


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
    "micro": {"width": 64, "layers": 2, "heads": 4},
    "small": {"width": 96, "layers": 3, "heads": 4},
    "large": {"width": 128, "layers": 4, "heads": 4},
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
