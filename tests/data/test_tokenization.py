"""From texts to arrays and back: padding, cuts, masks, end tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data import packing, tokenization

transformers = pytest.importorskip("transformers")

WORDS = "<pad> <eos> <bos> a b c d e f".split()
A, B, C, D, E, F = range(3, 9)


def word_tokenizer(*, before="", after="", **special):
    """One token a word, special tokens around a text as asked for."""
    import tokenizers

    model = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, "<pad>")
    )
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    model.add_special_tokens(WORDS[:3])
    if before or after:
        model.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{before} $A {after}".strip(),
            special_tokens=[(w, i) for i, w in enumerate(WORDS[:3])],
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, eos_token="<eos>", **special
    )


@pytest.fixture(scope="module")
def plain():
    return word_tokenizer(pad_token="<pad>")


@pytest.fixture(scope="module")
def with_bos():
    return word_tokenizer(before="<bos>", pad_token="<pad>", bos_token="<bos>")


def test_prompts_are_padded_on_the_left(plain):
    prompts = tokenization.prompts(plain, ["a b", "c"], length=3)
    np.testing.assert_array_equal(prompts.tokens, [[0, A, B], [0, 0, C]])
    np.testing.assert_array_equal(prompts.mask, [[0, 1, 1], [0, 0, 1]])
    assert prompts.tokens.dtype == prompts.mask.dtype == np.int32
    right = tokenization.prompts(plain, ["a b", "c"], length=3, side="right")
    np.testing.assert_array_equal(right.tokens, [[A, B, 0], [C, 0, 0]])


def test_a_long_prompt_is_cut_as_asked_and_keeps_its_bos(plain, with_bos):
    def cut(tokenizer, truncate):
        rows = tokenization.prompts(tokenizer, ["a b c d"], length=2, truncate=truncate)
        return rows.tokens[0].tolist()

    assert cut(plain, "left") == [C, D]
    assert cut(plain, "right") == [A, B]
    assert cut(with_bos, "left") == [2, D]
    assert cut(with_bos, "right") == [2, A]


def test_a_prompt_never_ends_with_the_tokenizers_eos():
    ending = word_tokenizer(before="<bos>", after="<eos>", pad_token="<pad>")
    prompts = tokenization.prompts(ending, ["a"], length=2)
    np.testing.assert_array_equal(prompts.tokens, [[2, A]])


def test_a_prompt_longer_than_the_context_names_row_and_numbers(plain):
    with pytest.raises(ValueError) as caught:
        tokenization.prompts(plain, ["a", "a b c"], length=2, truncate="error")
    assert "row 1: the prompt has 3 tokens, length=2" in str(caught.value)
    assert "raise length" in str(caught.value)


def test_a_prompt_without_tokens_is_refused(plain, with_bos):
    with pytest.raises(ValueError, match="row 1: the prompt has no tokens"):
        tokenization.prompts(plain, ["a", ""], length=2)
    alone = tokenization.prompts(with_bos, [""], length=2)
    np.testing.assert_array_equal(alone.tokens, [[0, 2]])


def test_all_of_a_text_is_learned_with_its_end(plain):
    rows = tokenization.sft(plain, ["a b", "a b c d"], length=4)
    np.testing.assert_array_equal(rows.tokens, [[A, B, 1, 0], [A, B, C, D]])
    np.testing.assert_array_equal(rows.mask, [[1, 1, 1, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(rows.target_mask, rows.mask)


def test_only_the_completion_is_learned(plain):
    rows = tokenization.sft(plain, ["c", "d e f"], prompts=["a b", "a"], length=5)
    np.testing.assert_array_equal(rows.tokens, [[A, B, C, 1, 0], [A, D, E, F, 1]])
    np.testing.assert_array_equal(rows.mask, [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(rows.target_mask, [[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]])


def test_a_long_completion_loses_its_end_and_a_long_prompt_its_beginning(plain):
    def row(truncate):
        rows = tokenization.sft(
            plain, ["d e f"], prompts=["a b c"], length=5, truncate=truncate
        )
        return rows.tokens[0].tolist(), rows.target_mask[0].tolist()

    assert row("right") == ([A, B, C, D, E], [0, 0, 0, 1, 1])
    assert row("left") == ([C, D, E, F, 1], [0, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="row 0: prompt and answer have 7 tokens"):
        row("error")


def test_a_prompt_that_leaves_no_room_is_refused(plain):
    with pytest.raises(ValueError, match="row 0: prompt and answer have 5 tokens"):
        tokenization.sft(plain, ["d"], prompts=["a b c"], length=3)


@settings(max_examples=25, deadline=None)
@given(
    documents=st.lists(
        st.lists(st.sampled_from(WORDS[3:]), min_size=1, max_size=6), min_size=1
    ),
    length=st.integers(1, 5),
    chunk=st.integers(1, 3),
)
def test_packing_loses_only_the_tail(plain, documents, length, chunk):
    stream = [i for d in documents for i in [*map(WORDS.index, d), 1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenization, "_CHUNK", chunk)
        texts = [" ".join(document) for document in documents]
        if len(stream) < length:
            with pytest.raises(ValueError, match="less than one row of length"):
                packing.documents(plain, texts, length=length)
            return
        rows = packing.documents(plain, texts, length=length)
    assert rows.tokens.shape == (len(stream) // length, length)
    np.testing.assert_array_equal(rows.tokens.ravel(), stream[: rows.tokens.size])
    assert rows.mask.all() and rows.target_mask.all()
    assert rows.mask.shape == rows.tokens.shape


def test_documents_are_packed_with_their_bos(with_bos):
    rows = packing.documents(with_bos, ["a", "b"], length=6)
    np.testing.assert_array_equal(rows.tokens, [[2, A, 1, 2, B, 1]])


def test_classification_keeps_the_tokenizers_special_tokens():
    framed = word_tokenizer(before="<bos>", after="<eos>", pad_token="<pad>")
    rows = tokenization.classification(framed, ["a b c", "d"], [1, 0], length=4)
    np.testing.assert_array_equal(rows.tokens, [[2, A, B, 1], [2, D, 1, 0]])
    np.testing.assert_array_equal(rows.mask, [[1, 1, 1, 1], [1, 1, 1, 0]])
    np.testing.assert_array_equal(rows.labels, [1, 0])
    assert rows.labels.dtype == np.int32


def test_pairs_share_their_prompt_and_end_with_eos(plain):
    rows, _ = tokenization.pairs(
        plain, ["a b", "c"], ["c", "d"], ["d e", "e"], length=5, preference=[0.5, 1]
    )
    np.testing.assert_array_equal(rows.chosen, [[A, B, C, 1, 0], [C, D, 1, 0, 0]])
    np.testing.assert_array_equal(rows.rejected, [[A, B, D, E, 1], [C, E, 1, 0, 0]])
    np.testing.assert_array_equal(rows.rejected_mask.sum(1), [5, 3])
    np.testing.assert_array_equal(rows.preference, np.float32([0.5, 1]))
    default, _ = tokenization.pairs(plain, ["a"], ["b"], ["c"], length=3)
    np.testing.assert_array_equal(default.preference, np.float32([1]))
    open_ended, _ = tokenization.pairs(plain, ["a"], ["b c"], ["d"], length=4, end=())
    np.testing.assert_array_equal(open_ended.chosen, [[A, B, C, 0]])
    np.testing.assert_array_equal(open_ended.rejected_mask, [[1, 1, 0, 0]])


def test_both_answers_of_a_pair_keep_the_same_prompt(plain):
    rows, _ = tokenization.pairs(plain, ["a b c"], ["d"], ["d e"], length=5)
    np.testing.assert_array_equal(rows.chosen, [[B, C, D, 1, 0]])
    np.testing.assert_array_equal(rows.rejected, [[B, C, D, E, 1]])
    rows, _ = tokenization.pairs(plain, ["a b"], ["c"], ["c d e f"], length=3)
    np.testing.assert_array_equal(rows.chosen, [[B, C, 1]])
    np.testing.assert_array_equal(rows.rejected, [[B, C, D]])


def test_texts_come_back(plain):
    texts = ["a b", "c d e"]
    prompts = tokenization.prompts(plain, texts, length=4)
    assert tokenization.texts(plain, *prompts) == texts
    rows = tokenization.sft(plain, texts, length=4)
    assert tokenization.texts(plain, rows.tokens, rows.mask) == texts


def test_without_a_pad_token_another_id_is_hidden(plain):
    assert tokenization.pad_id(plain) == 0
    none = word_tokenizer()
    assert none.pad_token_id is None
    assert tokenization.pad_id(none) == 0
    same = word_tokenizer(pad_token="<eos>")
    assert same.pad_token_id == same.eos_token_id
    assert tokenization.pad_id(same) == 0
    rows = tokenization.sft(same, ["a"], length=4)
    np.testing.assert_array_equal(rows.tokens, [[A, 1, 0, 0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda t: tokenization.prompts(t, "a b", length=3),
            "a list of texts is needed, not one: 'a b'",
        ),
        (lambda t: tokenization.prompts(t, [], length=3), "no texts were given"),
        (
            lambda t: tokenization.prompts(t, ["a b"], length=1, truncate="middle"),
            "truncate='middle': choose 'left'",
        ),
        (
            lambda t: tokenization.prompts(t, ["a"], length=1, side="top"),
            "side='top': choose 'left' or 'right'",
        ),
        (
            lambda t: tokenization.sft(t, ["a"], prompts=["a", "b"], length=4),
            "2 prompts, 1 completions",
        ),
        (
            lambda t: tokenization.classification(t, ["a"], [0.5], length=4),
            "labels are float64; classes are counted from 0",
        ),
        (
            lambda t: tokenization.classification(t, ["a", "b"], [0, -1], length=4),
            "row 1: label -1",
        ),
        (
            lambda t: tokenization.pairs(
                t, ["a"] * 2, ["b"] * 2, ["c"] * 2, length=4, preference=[0, 1.5]
            ),
            "row 1: preference 1.5 is not a probability",
        ),
    ],
)
def test_misuse_names_the_value_and_the_fix(plain, call, message):
    with pytest.raises(ValueError) as caught:
        call(plain)
    assert message in str(caught.value)


def test_a_tokenizer_without_an_end_is_refused(plain):
    bare = word_tokenizer()
    bare.eos_token = None
    with pytest.raises(ValueError, match="has no end token; set tokenizer.eos_token"):
        tokenization.sft(bare, ["a"], length=3)


@pytest.mark.data
def test_a_real_tokenizer_and_real_stories(data_folder):
    from rlhf_jax.data import sources

    path = data_folder / "models" / "stories260k"
    if not path.is_dir():
        pytest.skip(f"no model at {path}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
    stories = sources.load(data_folder / "tinystories_small", split="validation")
    rows = packing.documents(tokenizer, stories["text"], length=128)
    (begins,) = {row[0] for row in tokenizer(list(stories["text"]))["input_ids"]}
    assert rows.tokens[0, 0] == begins
    assert rows.tokens.max() < len(tokenizer)
    (text,) = tokenization.texts(tokenizer, rows.tokens[:1], rows.mask[:1])
    assert " ".join(text.split()[:20]) == " ".join(stories[0]["text"].split()[:20])
    prompts = tokenization.prompts(
        tokenizer, list(stories["text"][:8]), length=16, truncate="right"
    )
    assert prompts.mask.all() and (prompts.tokens[:, 0] == begins).all()


def test_a_continuation_is_encoded_with_its_prompt(plain):
    rows = tokenization.continuations(plain, ["a b", "c"], [" d e", " f"], length=5)
    assert rows.tokens.tolist() == [[A, B, D, E], [C, F, 0, 0]]
    assert rows.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert rows.target_mask.tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]


def test_white_space_before_a_continuation_belongs_to_it():
    made = letters()
    blank, a, b = (made.convert_tokens_to_ids(x) for x in ("Ġ", "a", "b"))
    expected = [[a, blank, b]], [[0, 1, 1]]
    for prompt, text in (("a ", "b"), ("a", " b")):
        rows = tokenization.continuations(made, [prompt], [text], length=3)
        assert (rows.tokens.tolist(), rows.target_mask.tolist()) == expected


def test_a_long_prompt_loses_its_beginning_but_no_bos():
    framed = word_tokenizer(before="<bos>", bos_token="<bos>", pad_token="<pad>")
    rows = tokenization.continuations(framed, ["a b c", ""], [" d", "e"], length=3)
    assert rows.tokens.tolist() == [[2, C, D], [2, E, 0]]
    assert rows.target_mask.tolist() == [[0, 0, 1], [0, 1, 0]]


def test_nothing_is_preceded_by_bos_or_else_by_eos(plain):
    rows = tokenization.continuations(plain, [""], ["e"], length=3)
    assert rows.tokens.tolist() == [[1, E]]
    assert rows.target_mask.tolist() == [[0, 1]]
    assert tokenization.prefix_id(word_tokenizer(bos_token="<bos>")) == 2


@pytest.mark.parametrize(("text", "adds"), [(" d e", 2), (" ", 0)])
def test_a_continuation_that_does_not_fit_or_says_nothing_is_refused(plain, text, adds):
    with pytest.raises(ValueError, match=f"row 1: '{text}' adds {adds} tokens.*for 1"):
        tokenization.continuations(plain, ["a", "b"], [" c", text], length=2)


def letters():
    """A byte-level tokenizer without merges, as of GPT-2."""
    import tokenizers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = {x: i for i, x in enumerate(["<eos>", *alphabet])}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(words, []))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, eos_token="<eos>"
    )
