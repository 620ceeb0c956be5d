"""Training a byte-level BPE tokenizer."""

from rlhf_jax.data import tokenization

SPECIAL = ("<pad>", "<eos>")  # ids 0 and 1
_BYTES = 256


def train(texts, vocab_size, folder):
    """A byte-level BPE tokenizer trained on texts, saved in `folder` and returned.

    Its ids are <pad> (0), <eos> (1), the 256 bytes, then the merges: at most
    `vocab_size` in all, fewer if the texts are short. Raises ValueError if the bytes
    and special tokens alone are more.
    """
    import tokenizers
    import transformers

    least = _BYTES + len(SPECIAL)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size={vocab_size}: the bytes and special tokens alone are {least}"
        )
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = level
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(level.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(tokenization.chunks(texts), trainer)
    pad, eos = SPECIAL
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token=pad, eos_token=eos
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
