"""Texts in parts: answers tokenised as a model writes them, rows cut and counted."""

import numpy as np
import pytest

from rlhf_jax.data import spans, tokenization

transformers = pytest.importorskip("transformers")

PIECES = ("▁", "▁yes", "yes", "▁no", "no", "▁Q:", "[/I]", "▁[I]", "[I]", "\n", ".")


def sentencepiece(scheme):
    """A tokenizer that marks the start of a text as SentencePiece does."""
    import tokenizers

    letters = [chr(code) for code in range(32, 127) if chr(code) not in "."]
    vocab = ["<unk>", "<s>", "</s>", *PIECES, *letters]
    model = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(w, -float(i > 13)) for i, w in enumerate(vocab)], 0)
    )
    mark = {"replacement": "▁", "prepend_scheme": scheme}
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(**mark, split=False)
    model.decoder = tokenizers.decoders.Metaspace(**mark)
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module", params=["always", "first"])
def words(request):
    return sentencepiece(request.param)


def ids(words, text):
    return words(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("asked", "answer", "first"),
    [
        ("[I]Q:[/I]", " yes", "▁yes"),
        ("[I]Q:[/I]", "yes", "yes"),
        ("[I]Q:\n", "no", "no"),
        ("Q:", " no\nyes", "▁no"),
        ("Q: ", "no", "no"),  # its blank and "no" would be one token
    ],
)
def test_an_answer_is_tokenised_as_a_model_writes_it_after_its_prompt(
    words, asked, answer, first
):
    (found,) = tokenization.encode_after(words, [asked], [answer])
    assert words.convert_ids_to_tokens(found[:1].tolist()) == [first]
    whole = ids(words, asked) + found.tolist()
    assert words.decode(whole) == asked + answer


def test_all_ways_to_join_agree(words):
    asked, answer = "[I]Q:[/I]", "yes"
    end = words.eos_token_id
    wanted = [1, *ids(words, asked + answer), end]
    tokens = spans.tokens(words, [[(asked, False), (answer, True)]], length=30)
    row = tokens.tokens[0][tokens.mask[0] != 0].tolist()
    assert row == wanted and tokens.target_mask.sum() == 2
    learned = tokenization.sft(words, [answer], prompts=[asked], length=30)
    np.testing.assert_array_equal(learned.tokens[learned.mask != 0], wanted)
    pairs, _ = tokenization.pairs(words, [asked], [answer], ["no"], length=30)
    np.testing.assert_array_equal(pairs.chosen[pairs.chosen_mask != 0], wanted)
    prompts = tokenization.prompts(words, [asked], length=30)
    assert prompts.tokens[prompts.mask != 0].tolist() == wanted[:-2]


def test_later_turns_follow_all_before_them(words):
    parts = [("[I]Q:[/I]", False), ("yes", True), ("[I]no[/I]", False), ("no", True)]
    rows = spans.encode(words, [parts, parts[:2]])
    text = "".join(part for part, _ in parts)
    assert rows.ids[0].tolist() == [1, *ids(words, text), words.eos_token_id]
    learned = rows.ids[0][rows.learned[0] != 0]
    assert words.convert_ids_to_tokens(learned.tolist()) == ["yes", "no", "</s>"]
    assert rows.start == 1


def test_cut_rows_are_counted_and_keep_their_first_token(words):
    rows = spans.encode(words, [[("no" * n, True)] for n in (1, 8, 9)])
    short, count = spans.shorten(rows, 6)
    assert count == 2 and [len(row) for row in short.ids] == [3, 6, 6]
    left, count = spans.shorten(rows, 6, truncate="left")
    assert count == 2
    for row in (*short.ids, *left.ids):
        assert row[0] == words.bos_token_id
    assert left.ids[1][-1] == words.eos_token_id != short.ids[1][-1]
    with pytest.raises(ValueError, match="^number 1: the text has 10 tokens, length=6"):
        spans.shorten(rows, 6, truncate="error", words="number {}".format)
    same, count = spans.shorten(rows, 20)
    assert count == 0 and same.ids == rows.ids


def test_rows_with_nothing_to_learn_are_left_out():
    one = [np.arange(3, dtype=np.int32)] * 3
    learned = [np.int32(x) for x in ([1, 0, 0], [0, 0, 1], [0, 0, 0])]
    assert spans.useful(spans.Rows(one, learned)).learned == [learned[1]]


def test_rows_too_long_for_a_length_are_counted(words):
    prompts = ["Q:" + "no" * n for n in (1, 5, 9)]
    chosen, rejected = ["yes"] * 3, ["no" * 4] * 3
    pairs, _ = tokenization.pairs(words, prompts, rejected, chosen, length=60)
    rows = pairs.chosen_mask.sum(-1)  # the longer side
    for length in range(rows[0] - 1, rows[2] + 2):
        count = spans.count_long(words, prompts, chosen, rejected, length=length)
        assert count == sum(n > length for n in rows)
    alone = [1 + len(ids(words, prompt)) for prompt in prompts]
    for length in range(alone[0] - 1, alone[2] + 1):
        count = spans.count_long(words, prompts, length=length, end=0)
        assert count == sum(n > length for n in alone)


@pytest.mark.data
def test_real_answers_follow_their_prompt_as_one_text(data_folder):
    words = transformers.AutoTokenizer.from_pretrained(
        data_folder / "models" / "stories260k"
    )
    asked, answer = "Once upon a time, there was", " a little girl named Lily."
    found = tokenization.encode_after(words, [asked], [answer])[0].tolist()
    assert ids(words, asked) + found == ids(words, asked + answer)
    assert ids(words, asked) + ids(words, answer) != ids(words, asked + answer)
