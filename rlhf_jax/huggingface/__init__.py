"""Loading and saving Hugging Face model directories, without torch."""

from rlhf_jax.huggingface.directories import load, load_tokenizer, save

__all__ = ["load", "load_tokenizer", "save"]
