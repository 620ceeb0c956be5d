"""What a decoder is made of: one frozen description for GPT-2, Llama and their kin."""

import dataclasses
from typing import NamedTuple


class RopeScaling(NamedTuple):
    """Llama 3's stretching of the slow rotary frequencies to a longer context."""

    factor: float
    low_frequency: float  # cycles in `original_length` below which all is stretched
    high_frequency: float  # cycles above which nothing is
    original_length: int


CHOICES = {
    "positions": ("learned", "rotary"),
    "norm": ("layer", "rms"),
    "activation": ("gelu", "gelu_new", "silu"),
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

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                given = getattr(self, name)
                raise ValueError(f"{name}={given!r}: choose one of {choices}")
        for name in ("vocab_size", "width", "layers", "heads", "max_length", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: needs to be positive")
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} is no multiple of kv_heads={self.kv_heads}: "
                "every key-value head serves an equal number of query heads"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"head_dim={self.head_dim} is odd: rotary positions turn pairs; "
                "choose width and heads so that width / heads is even"
            )
        if self.attention == "cudnn" and self.dtype == "float32":
            raise ValueError(
                "attention='cudnn' computes in half precision: set dtype='bfloat16', "
                "or attention='auto'"
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
