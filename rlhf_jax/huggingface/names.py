"""Hugging Face's names of parameters: one table of tensors per family.

A family is the `model_type` of a config.json; `read_config` reads the rest.
"""

import re
from typing import NamedTuple


class Tensor(NamedTuple):
    """One of our parameters, and its tensor in a file."""

    path: str  # in our tree; leaves under "layers/" are stacked
    name: str  # in the file; {} stands for the layer
    form: str = "same"  # or "transposed", or a part named in THIRDS or HEAD_THIRDS


# Prefixes of a family's classes in transformers.
CLASSES = {
    "gpt2": "GPT2", "gpt_neox": "GPTNeoX", "llama": "Llama", "mistral": "Mistral",
    "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma2", "gemma3_text": "Gemma3",
    "distilbert": "DistilBert", "bert": "Bert", "roberta": "Roberta",
}  # fmt: skip
# Classes whose name is not the prefix followed by ForCausalLM or the like.
OTHER_CLASSES = {
    "GPT2ForCausalLM": "GPT2LMHeadModel",
    "Gemma3ForSequenceClassification": "Gemma3TextForSequenceClassification",
}

THIRDS = ("query", "key", "value")  # concatenated along columns (GPT-2)
HEAD_THIRDS = ("head_query", "head_key", "head_value")  # rows, head by head (NeoX)

# Names and forms of a module's leaves. torch.nn.Linear has [outputs, inputs]; our
# kernels and GPT-2's Conv1D have [inputs, outputs].
_LINEAR = (("kernel", "weight", "transposed"), ("bias", "bias", "same"))
_CONV1D = (("kernel", "weight", "same"), ("bias", "bias", "same"))
_NORM = (("scale", "weight", "same"), ("bias", "bias", "same"))


def _table(prefix, embeddings, norms, matrices, leaves=_LINEAR):
    """Tensors of modules {our path: their name without the prefix}.

    leaves: of the matrices.
    """
    modules = [(norms, _NORM), (matrices, leaves)]
    return *(
        Tensor(f"embedding/{ours}", f"{prefix}.{theirs}.weight")
        for ours, theirs in embeddings.items()
    ), *(
        Tensor(f"{ours}/{leaf}", f"{prefix}.{theirs}.{torch_leaf}", form)
        for paths, kind in modules
        for ours, theirs in paths.items()
        for leaf, torch_leaf, form in kind
    )


def _fused(name, parts):
    """Query, key and value in one tensor."""
    return tuple(
        Tensor(f"layers/attention/{ours}/{leaf}", f"{name}.{torch_leaf}", part)
        for ours, part in zip(THIRDS, parts, strict=True)
        for leaf, torch_leaf in (("kernel", "weight"), ("bias", "bias"))
    )


def _llama(norms):
    """Llama and its relatives, which differ in the norms around the MLP."""
    return _table(
        "model",
        embeddings={"token": "embed_tokens"},
        norms={
            "layers/attention_norm": "layers.{}.input_layernorm",
            "layers/attention/query_norm": "layers.{}.self_attn.q_norm",
            "layers/attention/key_norm": "layers.{}.self_attn.k_norm",
            "final_norm": "norm",
        }
        | {f"layers/{ours}": f"layers.{{}}.{norms[ours]}" for ours in norms},
        matrices={
            "layers/attention/query": "layers.{}.self_attn.q_proj",
            "layers/attention/key": "layers.{}.self_attn.k_proj",
            "layers/attention/value": "layers.{}.self_attn.v_proj",
            "layers/attention/output": "layers.{}.self_attn.o_proj",
            "layers/mlp/gate": "layers.{}.mlp.gate_proj",
            "layers/mlp/up": "layers.{}.mlp.up_proj",
            "layers/mlp/down": "layers.{}.mlp.down_proj",
        },
    )


_LLAMA = _llama({"mlp_norm": "post_attention_layernorm"})
_GEMMA = _llama(  # post_attention_layernorm is Llama's mlp_norm, but not here
    {
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    }
)

_GPT2 = _table(
    "transformer",
    embeddings={"token": "wte", "position": "wpe"},
    norms={
        "layers/attention_norm": "h.{}.ln_1",
        "layers/mlp_norm": "h.{}.ln_2",
        "final_norm": "ln_f",
    },
    matrices={
        "layers/attention/output": "h.{}.attn.c_proj",
        "layers/mlp/up": "h.{}.mlp.c_fc",
        "layers/mlp/down": "h.{}.mlp.c_proj",
    },
    leaves=_CONV1D,
) + _fused("transformer.h.{}.attn.c_attn", THIRDS)

_NEOX = _table(
    "gpt_neox",
    embeddings={"token": "embed_in"},
    norms={
        "layers/attention_norm": "layers.{}.input_layernorm",
        "layers/mlp_norm": "layers.{}.post_attention_layernorm",
        "final_norm": "final_layer_norm",
    },
    matrices={
        "layers/attention/output": "layers.{}.attention.dense",
        "layers/mlp/up": "layers.{}.mlp.dense_h_to_4h",
        "layers/mlp/down": "layers.{}.mlp.dense_4h_to_h",
    },
) + _fused("gpt_neox.layers.{}.attention.query_key_value", HEAD_THIRDS)

_EMBEDDINGS = {
    "token": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
}
_DISTILBERT = _table(
    "distilbert",
    embeddings=_EMBEDDINGS,
    norms={
        "embedding/norm": "embeddings.LayerNorm",
        "layers/attention_norm": "transformer.layer.{}.sa_layer_norm",
        "layers/mlp_norm": "transformer.layer.{}.output_layer_norm",
    },
    matrices={
        "layers/attention/query": "transformer.layer.{}.attention.q_lin",
        "layers/attention/key": "transformer.layer.{}.attention.k_lin",
        "layers/attention/value": "transformer.layer.{}.attention.v_lin",
        "layers/attention/output": "transformer.layer.{}.attention.out_lin",
        "layers/mlp/up": "transformer.layer.{}.ffn.lin1",
        "layers/mlp/down": "transformer.layer.{}.ffn.lin2",
    },
)


def _bert(prefix):
    """BERT and RoBERTa, which differ in their prefix."""
    return _table(
        prefix,
        embeddings=_EMBEDDINGS | {"segment": "embeddings.token_type_embeddings"},
        norms={
            "embedding/norm": "embeddings.LayerNorm",
            "layers/attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
            "layers/mlp_norm": "encoder.layer.{}.output.LayerNorm",
        },
        matrices={
            "layers/attention/query": "encoder.layer.{}.attention.self.query",
            "layers/attention/key": "encoder.layer.{}.attention.self.key",
            "layers/attention/value": "encoder.layer.{}.attention.self.value",
            "layers/attention/output": "encoder.layer.{}.attention.output.dense",
            "layers/mlp/up": "encoder.layer.{}.intermediate.dense",
            "layers/mlp/down": "encoder.layer.{}.output.dense",
        },
    )


def _heads(pooler, head):
    """The pooler and head of an encoder."""
    return tuple(
        Tensor(f"{ours}/{leaf}", f"{theirs}.{torch_leaf}", form)
        for ours, theirs in (("pooler", pooler), ("head", head))
        for leaf, torch_leaf, form in _LINEAR
    )


OPTIONAL = "score.bias"  # 0 if absent; `transformers` has no such parameter
_SCORE = (
    Tensor("head/kernel", "score.weight", "transposed"),
    Tensor("head/bias", OPTIONAL),
)
_UNEMBED = (Tensor("unembedding/kernel", "lm_head.weight", "transposed"),) + _SCORE
_EMBED_OUT = (Tensor("unembedding/kernel", "embed_out.weight", "transposed"),) + _SCORE

TENSORS = {
    family: {tensor.path: tensor for tensor in table}
    for family, table in {
        "gpt2": _GPT2 + _UNEMBED,
        "llama": _LLAMA + _UNEMBED,
        "mistral": _LLAMA + _UNEMBED,
        "qwen2": _LLAMA + _UNEMBED,
        "qwen3": _LLAMA + _UNEMBED,
        "gemma2": _GEMMA + _UNEMBED,
        "gemma3_text": _GEMMA + _UNEMBED,
        "gpt_neox": _NEOX + _EMBED_OUT,
        "distilbert": _DISTILBERT + _heads("pre_classifier", "classifier"),
        "bert": _bert("bert") + _heads("bert.pooler.dense", "classifier"),
        "roberta": _bert("roberta") + _heads("classifier.dense", "classifier.out_proj"),
    }.items()
}

_PREFIX = re.compile(r"^(model|transformer|gpt_neox|distilbert|bert|roberta)\.")
_OTHER = (  # alternative spellings in some files
    (re.compile(r"^embed_out\."), "lm_head."),
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
)
# Causal masks, rotary tables and positions, stored in older files.
BUFFERS = re.compile(
    r"\.(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$|"
    r"embeddings\.position_ids$"
)


def inner(path):
    """A parameter's path without the "trunk/" that classifiers put before it."""
    return path.removeprefix("trunk/")


def short(name):
    """A tensor's name in its standard spelling, without the model's prefix.

    Files of a bare trunk lack that prefix.
    """
    name = _PREFIX.sub("", name)
    for other, known in _OTHER:
        name = other.sub(known, name)
    return name
