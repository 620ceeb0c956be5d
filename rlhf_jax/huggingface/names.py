"""How Hugging Face names what a network is made of: one table of tensors a family.

A family is the `model_type` of a config.json; `huggingface_configs` reads the rest.
"""

import re
from typing import NamedTuple


class Tensor(NamedTuple):
    """One parameter here, and where it stands in a file."""

    path: str  # in our tree; leaves under "layers/" are stacked
    name: str  # in the file, {} being the layer
    form: str = "same"  # "transposed", or a part of what THIRDS or HEAD_THIRDS join


# How transformers names the classes of a family.
CLASSES = {
    "gpt2": "GPT2",
    "gpt_neox": "GPTNeoX",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3",
    "distilbert": "DistilBert",
    "bert": "Bert",
    "roberta": "Roberta",
}
# A class whose name is not the family's with ForCausalLM or the like behind it.
OTHER_CLASSES = {
    "GPT2ForCausalLM": "GPT2LMHeadModel",
    "Gemma3ForSequenceClassification": "Gemma3TextForSequenceClassification",
}

THIRDS = ("query", "key", "value")  # side by side in the columns (GPT-2)
HEAD_THIRDS = ("head_query", "head_key", "head_value")  # the rows of each head (NeoX)

# Names and forms of the leaves of a module. torch.nn.Linear keeps [outputs, inputs],
# our kernels are [inputs, outputs], as GPT-2's Conv1D is.
_LINEAR = (("kernel", "weight", "transposed"), ("bias", "bias", "same"))
_CONV1D = (("kernel", "weight", "same"), ("bias", "bias", "same"))
_NORM = (("scale", "weight", "same"), ("bias", "bias", "same"))


def _table(prefix, tables, kinds):
    """Tensors of modules {ours: theirs}, theirs without the prefix."""
    embeddings = (
        Tensor(f"embedding/{ours}", f"{prefix}.{theirs}.weight")
        for ours, theirs in tables.items()
    )
    return *embeddings, *(
        Tensor(f"{ours}/{leaf}", f"{prefix}.{theirs}.{torch_leaf}", form)
        for leaves, modules in kinds
        for ours, theirs in modules.items()
        for leaf, torch_leaf, form in leaves
    )


def _fused(name, parts):
    """Query, key and value that share one tensor."""
    return tuple(
        Tensor(f"layers/attention/{ours}/{leaf}", f"{name}.{torch_leaf}", part)
        for ours, part in zip(THIRDS, parts, strict=True)
        for leaf, torch_leaf in (("kernel", "weight"), ("bias", "bias"))
    )


def _llama(norms):
    """Llama and its kin, which differ in the norms around the feed-forward layer."""
    return _table(
        "model",
        {"token": "embed_tokens"},
        (
            (
                _NORM,
                {
                    "layers/attention_norm": "layers.{}.input_layernorm",
                    "layers/attention/query_norm": "layers.{}.self_attn.q_norm",
                    "layers/attention/key_norm": "layers.{}.self_attn.k_norm",
                    "final_norm": "norm",
                }
                | {f"layers/{ours}": f"layers.{{}}.{norms[ours]}" for ours in norms},
            ),
            (
                _LINEAR,
                {
                    "layers/attention/query": "layers.{}.self_attn.q_proj",
                    "layers/attention/key": "layers.{}.self_attn.k_proj",
                    "layers/attention/value": "layers.{}.self_attn.v_proj",
                    "layers/attention/output": "layers.{}.self_attn.o_proj",
                    "layers/mlp/gate": "layers.{}.mlp.gate_proj",
                    "layers/mlp/up": "layers.{}.mlp.up_proj",
                    "layers/mlp/down": "layers.{}.mlp.down_proj",
                },
            ),
        ),
    )


_LLAMA = _llama({"mlp_norm": "post_attention_layernorm"})
_GEMMA = _llama(  # what is Llama's second norm by its name is a third one here
    {
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    }
)

_GPT2 = _table(
    "transformer",
    {"token": "wte", "position": "wpe"},
    (
        (
            _NORM,
            {
                "layers/attention_norm": "h.{}.ln_1",
                "layers/mlp_norm": "h.{}.ln_2",
                "final_norm": "ln_f",
            },
        ),
        (
            _CONV1D,
            {
                "layers/attention/output": "h.{}.attn.c_proj",
                "layers/mlp/up": "h.{}.mlp.c_fc",
                "layers/mlp/down": "h.{}.mlp.c_proj",
            },
        ),
    ),
) + _fused("transformer.h.{}.attn.c_attn", THIRDS)

_NEOX = _table(
    "gpt_neox",
    {"token": "embed_in"},
    (
        (
            _NORM,
            {
                "layers/attention_norm": "layers.{}.input_layernorm",
                "layers/mlp_norm": "layers.{}.post_attention_layernorm",
                "final_norm": "final_layer_norm",
            },
        ),
        (
            _LINEAR,
            {
                "layers/attention/output": "layers.{}.attention.dense",
                "layers/mlp/up": "layers.{}.mlp.dense_h_to_4h",
                "layers/mlp/down": "layers.{}.mlp.dense_4h_to_h",
            },
        ),
    ),
) + _fused("gpt_neox.layers.{}.attention.query_key_value", HEAD_THIRDS)

_DISTILBERT = _table(
    "distilbert",
    {
        "token": "embeddings.word_embeddings",
        "position": "embeddings.position_embeddings",
    },
    (
        (
            _NORM,
            {
                "embedding/norm": "embeddings.LayerNorm",
                "layers/attention_norm": "transformer.layer.{}.sa_layer_norm",
                "layers/mlp_norm": "transformer.layer.{}.output_layer_norm",
            },
        ),
        (
            _LINEAR,
            {
                "layers/attention/query": "transformer.layer.{}.attention.q_lin",
                "layers/attention/key": "transformer.layer.{}.attention.k_lin",
                "layers/attention/value": "transformer.layer.{}.attention.v_lin",
                "layers/attention/output": "transformer.layer.{}.attention.out_lin",
                "layers/mlp/up": "transformer.layer.{}.ffn.lin1",
                "layers/mlp/down": "transformer.layer.{}.ffn.lin2",
            },
        ),
    ),
)


def _bert(prefix):
    """BERT and RoBERTa, whose trunks differ in their prefix."""
    layer = "encoder.layer.{}"
    return _table(
        prefix,
        {
            "token": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
            "segment": "embeddings.token_type_embeddings",
        },
        (
            (
                _NORM,
                {
                    "embedding/norm": "embeddings.LayerNorm",
                    "layers/attention_norm": f"{layer}.attention.output.LayerNorm",
                    "layers/mlp_norm": f"{layer}.output.LayerNorm",
                },
            ),
            (
                _LINEAR,
                {
                    "layers/attention/query": f"{layer}.attention.self.query",
                    "layers/attention/key": f"{layer}.attention.self.key",
                    "layers/attention/value": f"{layer}.attention.self.value",
                    "layers/attention/output": f"{layer}.attention.output.dense",
                    "layers/mlp/up": f"{layer}.intermediate.dense",
                    "layers/mlp/down": f"{layer}.output.dense",
                },
            ),
        ),
    )


def _heads(pooler, head):
    """The two layers between an encoder and its classes."""
    return tuple(
        Tensor(f"{ours}/{leaf}", f"{theirs}.{torch_leaf}", form)
        for ours, theirs in (("pooler", pooler), ("head", head))
        for leaf, torch_leaf, form in _LINEAR
    )


OPTIONAL = "score.bias"  # 0 when absent; `transformers` has no place for it
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
_OTHER = (  # names that not all files have
    (re.compile(r"^embed_out\."), "lm_head."),
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
)
# Causal masks, rotary tables and positions that older files carry along.
_BUFFERS = re.compile(
    r"\.(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$|"
    r"embeddings\.position_ids$"
)


def short(name):
    """A tensor's name in one spelling, without the prefix that a bare trunk's files
    leave out."""
    name = _PREFIX.sub("", name)
    for other, known in _OTHER:
        name = other.sub(known, name)
    return name


def is_buffer(name):
    """Is this a constant that older files store beside the weights?"""
    return _BUFFERS.search(name) is not None
