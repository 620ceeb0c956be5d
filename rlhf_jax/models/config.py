"""What a network is made of: one frozen description for every decoder, one for every
encoder, one for every pair of GRUs that translates."""

import dataclasses
from typing import ClassVar, NamedTuple


class RopeScaling(NamedTuple):
    """Rotary frequencies stretched to a longer context: all of them ("linear"), or
    Llama 3's, where `original_length` is given, the slow ones alone."""

    factor: float
    low_frequency: float = 1.0  # cycles in `original_length`; slower ones are stretched
    high_frequency: float = 4.0  # faster ones are left alone
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
    """Shapes and branches of a decoder; hashable, so it can be static under jit."""

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
    dtype: str = "float32"  # compute; parameters keep their own type
    remat: str = "none"  # what a backward pass recomputes: nothing, layers, cheap ops
    attention: str = "auto"  # "cudnn": flash attention, on NVIDIA in half precision
    rotary_dim: int | None = None  # the first so many of a head are turned; None: all
    head_norm: bool = False  # queries and keys are normalised, each head by itself
    output_bias: bool | None = None  # of the attention's output; None: as the others
    parallel: bool = False  # attention and feed-forward layer read the same x
    window: int | None = None  # how many tokens one sees, itself included; None: all
    windowed: tuple[bool, ...] | None = None  # which layers have the window; None: all
    window_theta: float | None = None  # of those layers, unscaled; None: as the others
    unit_offset: bool = False  # norms multiply by 1 + their scale
    post_norm: bool = False  # what a layer adds to x is normalised as well
    scaled_embedding: bool = False  # token vectors count √width times
    score_dim: int | None = None  # scores are divided by its root; None: of head_dim
    score_cap: float | None = None  # scores become cap · tanh(score / cap)
    logit_cap: float | None = None  # logits likewise

    def __post_init__(self):
        _check_shared(self)
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} is no multiple of kv_heads={self.kv_heads}: "
                "every key-value head serves an equal number of query heads"
            )
        if self.positions == "rotary":
            _check_turned(self)
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
        """Does the window bind? One bool a layer."""
        return self.windowed or (self.window is not None,) * self.layers


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Shapes and branches of a classifying encoder: DistilBERT, BERT, RoBERTa.

    Learned positions, LayerNorm after each residual sum, biases everywhere.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    hidden: int  # width of the feed-forward layer
    max_length: int  # longest text, special tokens included
    segments: int = 0  # rows of the table of segments, of which a text is the first
    first_position: int = 0  # RoBERTa counts from 2, its table holds as many more rows
    pooling: str = "tanh"  # activation between the first token and the classes
    norm_eps: float = 1e-12
    activation: str = "gelu"
    dtype: str = "float32"  # compute; parameters keep their own type
    remat: str = "none"
    attention: str = "auto"
    # What the layers ask, and what no encoder here varies.
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
    """Shapes and special ids of a translator, a GRU that reads and one that writes."""

    source_vocab: int
    target_vocab: int
    embedding: int = 256
    hidden: int = 256
    dropout: float = 0.0  # of embeddings and of the states that attend, in training
    pad_id: int = 0  # the special ids are those of both vocabularies
    unk_id: int = 1
    bos_id: int = 2  # fed to the decoder first, never to the encoder
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
                f"{shown}: choose four different ids of both vocabularies, from 0 to "
                f"{vocab - 1}"
            )


def _check_shared(c):
    for name, choices in CHOICES.items():
        if getattr(c, name) not in choices:
            raise ValueError(f"{name}={getattr(c, name)!r}: choose one of {choices}")
    for name in ("vocab_size", "width", "layers", "heads", "max_length", "hidden"):
        if getattr(c, name) < 1:
            raise ValueError(f"{name}={getattr(c, name)}: needs to be positive")
    if c.attention == "cudnn" and c.score_cap is not None:
        raise ValueError("attention='cudnn' caps no scores: set attention='auto'")
    if c.attention == "cudnn" and c.dtype == "float32":
        raise ValueError(
            "attention='cudnn' computes in half precision: set dtype='bfloat16', "
            "or attention='auto'"
        )


def _check_turned(c):
    if c.rotary_dim is None and c.head_dim % 2:
        raise ValueError(
            f"head_dim={c.head_dim} is odd: rotary positions turn pairs; "
            "choose width and heads so that width / heads is even"
        )
    turned = c.rotary_dim
    if turned is not None and (turned % 2 or not 0 < turned <= c.head_dim):
        raise ValueError(
            f"rotary_dim={turned}: rotary positions turn pairs of a head's "
            f"{c.head_dim} numbers; choose an even number up to that"
        )


def gpt2(
    *, vocab_size=50257, width=768, layers=12, heads=12, max_length=1024, **changes
):
    """GPT-2: learned positions, LayerNorm, tanh-GELU, biases. The defaults: 124M.

    `changes` are fields of `Decoder`.
    """
    shape = {
        "kv_heads": heads,
        "head_dim": _head_dim(width, heads),
        "hidden": 4 * width,
        "positions": "learned",
        "norm": "layer",
        "activation": "gelu_new",
        "gated": False,
        "attention_bias": True,
        "mlp_bias": True,
    }
    return Decoder(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        heads=heads,
        max_length=max_length,
        **(shape | changes),
    )


def llama(
    *, vocab_size=32000, width=4096, layers=32, heads=32, max_length=4096, **changes
):
    """Llama: rotary positions, RMSNorm, SwiGLU, no biases. The defaults: Llama 2 7B.

    `changes` are fields of `Decoder`.
    """
    shape = {
        "kv_heads": heads,
        "head_dim": _head_dim(width, heads),
        "hidden": -(-8 * width // 3 // 4) * 4,  # 8/3 of the width, in whole fours
        "tied": False,
    }
    return Decoder(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        heads=heads,
        max_length=max_length,
        **(shape | changes),
    )


def neox(
    *, vocab_size=50304, width=768, layers=12, heads=12, max_length=2048, **changes
):
    """GPT-NeoX: a quarter of each head turned, attention and feed-forward layer side by
    side, LayerNorm, GELU, biases. The defaults: Pythia 160M.

    `changes` are fields of `Decoder`.
    """
    head_dim = _head_dim(width, heads)
    shape = {
        "kv_heads": heads,
        "head_dim": head_dim,
        "hidden": 4 * width,
        "rotary_dim": head_dim // 4,
        "norm": "layer",
        "activation": "gelu",
        "gated": False,
        "attention_bias": True,
        "mlp_bias": True,
        "parallel": True,
        "tied": False,
    }
    return Decoder(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        heads=heads,
        max_length=max_length,
        **(shape | changes),
    )


def _head_dim(width, heads):
    if width % heads:
        raise ValueError(f"width={width} is no multiple of heads={heads}")
    return width // heads


# Small models to train from scratch: Llamas, and GPT-2s where the name says so; tied,
# so that a small vocabulary stays small.
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
    """The configuration `PRESETS` names, for a vocabulary and a context."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}: choose one of {tuple(PRESETS)}")
    shape = {"tied": True} | PRESETS[name] | changes
    family = gpt2 if name.startswith("gpt2-") else llama
    return family(vocab_size=vocab_size, max_length=max_length, **shape)
