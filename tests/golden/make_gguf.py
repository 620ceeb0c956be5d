"""A Llama with a byte-level BPE tokenizer as a float32 GGUF, for llama.cpp to read.

    pip install gguf
    python -m tests.golden.make_gguf FOLDER_OF_TRANSFORMERS model.f32.gguf

With it, a server that others wrote holds the very weights that `huggingface.load`
reads, and labels scored in this process are compared with the server's.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
from safetensors import flax as safetensors

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
SPECIAL, NORMAL = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL


def main(folder, path):
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    write_config(writer, config)
    write_tokenizer(writer, folder, config)
    for name, array in safetensors.load_file(folder / "model.safetensors").items():
        array = np.asarray(array, np.float32)
        writer.add_tensor(*converted(name, array, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_config(writer, config):
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_name(config["architectures"][0])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])


def write_tokenizer(writer, folder, config):
    """Its digits are tokens of their own, as llama.cpp splits them for "smollm"."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {x["id"]: x["content"] for x in tokenizer["added_tokens"]}
    ids = {i: token for token, i in tokenizer["model"]["vocab"].items()} | special
    merges = tokenizer["model"]["merges"]
    merges = [x if isinstance(x, str) else " ".join(x) for x in merges]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([ids[i] for i in range(config["vocab_size"])])
    writer.add_token_types(
        [SPECIAL if i in special else NORMAL for i in range(config["vocab_size"])]
    )
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    template = folder / "chat_template.jinja"
    if template.exists():
        writer.add_chat_template(template.read_text())


def converted(name, array, config):
    """(name, array) of llama.cpp, which rotates neighbours where transformers rotates
    halves: rows of queries and keys are interleaved."""
    if name in WHOLE:
        return WHOLE[name], array
    layer, _, part = name.removeprefix("model.layers.").partition(".")
    part = part.removesuffix(".weight")
    heads = {
        "self_attn.q_proj": config["num_attention_heads"],
        "self_attn.k_proj": config["num_key_value_heads"],
    }.get(part)
    if heads:
        rows, columns = array.shape
        halves = array.reshape(heads, 2, rows // heads // 2, columns)
        array = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
    return f"blk.{layer}.{NAMES[part]}.weight", array


if __name__ == "__main__":
    main(*sys.argv[1:])
