"""The in-process labeler against a full forward pass of one text at a time."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import small_recipes
import tiny_models

from rlhf_jax import huggingface
from rlhf_jax.feedback import in_process, labelers
from rlhf_jax.models import config, decoder
from rlhf_jax.runtime import parallel

LENGTH = 160
TASK = "Which of two texts is better? Answer with its number, 1 or 2."
WORDS = ("red", "an old cat", "", "a cold and rather long text about nothing", "b", "c")
PROMPTS = [
    f"{TASK}\n1: {a}\n2: {b}\nBetter="
    for a, b in zip(WORDS, reversed(WORDS), strict=True)
]
LABELS = ("1", "2", "10", "no one")  # one token a letter


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_recipes.tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def model(tokenizer):
    size = dict(width=16, layers=2, heads=4, kv_heads=2, max_length=LENGTH)
    return decoder.Decoder(config.llama(vocab_size=len(tokenizer), **size))


@pytest.fixture(scope="module")
def params(model):
    return tiny_models.draw(model)


@pytest.fixture(scope="module")
def made(model, params, tokenizer):
    return in_process.labeler(model, params, tokenizer, layout=parallel.data(1))


def oracle(model, params, tokenizer):
    """(prompt, label) → Σ log p of the label's tokens, by a forward pass, float64."""
    forward = tiny_models.compiled(model)
    length = model.config.max_length

    def score(prompt, label):
        before, ids = (
            tokenizer(text)["input_ids"] for text in (prompt, prompt + label)
        )
        row = np.zeros((1, length), np.int32)
        row[0, : len(ids)] = ids
        logits = np.asarray(forward(params, row, np.arange(length)[None] < len(ids)))
        logits = logits[0].astype(np.float64)
        logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return sum(logps[t - 1, ids[t]] for t in range(len(before), len(ids)))

    return score


@pytest.fixture(scope="module")
def score(model, params, tokenizer):
    return oracle(model, params, tokenizer)


def read(labeler, prompts, labels=LABELS):
    return labelers.in_order(labeler.read(prompts, labels), len(prompts))


def assert_same(some, others, atol=1e-5):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_allclose(one.logps, other.logps, atol=atol, rtol=0)
        assert one.outside == pytest.approx(other.outside, abs=1e-6)
        assert one.prompt_tokens == other.prompt_tokens


def test_whole_labels_are_read_as_in_a_full_forward_pass(made, score, tokenizer):
    for prompt, one in zip(PROMPTS, read(made, PROMPTS), strict=True):
        expected = np.array([score(prompt, label) for label in LABELS])
        p = np.exp(expected)
        p[0] -= p[2]  # a 1 that a 0 follows is a 10
        np.testing.assert_allclose(one.logps, np.log(p), atol=1e-4, rtol=0)
        assert one.outside == pytest.approx(1 - p.sum(), abs=1e-6)
        assert one.prompt_tokens == len(tokenizer(prompt)["input_ids"])
        assert one.told.all() and one.logps.dtype == np.float64


def test_the_order_of_prompts_changes_nothing(made):
    assert_same(read(made, PROMPTS[::-1])[::-1], read(made, PROMPTS))


def test_prompts_of_different_lengths_are_read_as_one_by_one(made):
    alone = [read(made, [prompt])[0] for prompt in PROMPTS]
    assert_same(read(made, PROMPTS), alone)


def test_small_batches_and_several_devices_change_nothing(
    model, params, tokenizer, made
):
    four = in_process.labeler(
        model, params, tokenizer, layout=parallel.data(4), batch=300
    )
    assert_same(read(four, PROMPTS), read(made, PROMPTS))


class Counted:
    """A layout that counts the tokens of rows that its programs are given."""

    def __init__(self):
        self.layout, self.tokens = parallel.data(1), []
        self.devices = self.layout.devices

    def put(self, tree):
        return self.layout.put(tree)

    def over_rows(self, fn, **options):
        program = self.layout.over_rows(fn, **options)

        def counted(*args):
            self.tokens.append(args[-1][0].size)
            return program(*args)

        return counted


def test_what_all_prompts_begin_with_is_read_once(
    model, params, tokenizer, made, monkeypatch
):
    prompts = [f"{TASK}{letter}" for letter in "abcdefgh"]
    common = Counted()
    labeler = in_process.labeler(model, params, tokenizer, layout=common)
    shared = read(labeler, prompts, ("1", "2"))
    assert common.tokens == [64, 8 * 8]  # the task, and what is each one's own
    monkeypatch.setattr(in_process, "_LEAST", LENGTH)
    assert_same(shared, read(made, prompts, ("1", "2")))


def test_a_prompt_that_is_too_long_fails_alone(made):
    prompts = [PROMPTS[0], "b" * LENGTH, "c" * (LENGTH + 1), PROMPTS[1]]
    first, full, long, last = read(made, prompts, ("1", "2"))
    assert isinstance(long, labelers.Failure)
    assert f"{LENGTH + 1} tokens" in long.reason and f"of {LENGTH}" in long.reason
    others = [prompts[0], prompts[1], prompts[3]]
    alone = [read(made, [prompt], ("1", "2"))[0] for prompt in others]
    assert_same([first, full, last], alone)


def test_weights_that_are_not_numbers_are_failures(model, params, tokenizer):
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), params)
    labeler = in_process.labeler(model, broken, tokenizer, layout=parallel.data(1))
    (one,) = read(labeler, PROMPTS[:1])
    assert isinstance(one, labelers.Failure) and "NaN" in one.reason


def test_a_chat_asks_in_a_users_turn(model, params, tokenizer, made):
    chat = in_process.labeler(
        model, params, tokenizer, layout=parallel.data(1), chat=True
    )
    turns = [
        f"<|im_start|>user\n{p}<|im_end|>\n<|im_start|>assistant\n" for p in PROMPTS
    ]
    assert_same(read(chat, PROMPTS), read(made, turns))
    assert chat.identity != made.identity


def test_a_chat_needs_a_template(model, params, tmp_path):
    plain = small_recipes.tokenizer(tmp_path, template=False)
    with pytest.raises(ValueError, match="no chat template"):
        in_process.labeler(model, params, plain, chat=True)


def test_no_prompts_have_no_answers(made):
    assert not list(made.read([], LABELS))
    assert not list(made.write([], labelers.Decoding()))


def write(labeler, prompts, **decoding):
    decoding = labelers.Decoding(**{"max_tokens": 5, **decoding})
    return labelers.in_order(labeler.write(prompts, decoding), len(prompts))


def test_greedy_texts_take_the_likeliest_token_again_and_again(
    made, model, params, tokenizer
):
    forward = tiny_models.compiled(model)
    for prompt, one in zip(PROMPTS[:2], write(made, PROMPTS[:2]), strict=True):
        ids = tokenizer(prompt)["input_ids"]
        start = len(ids)
        for _ in range(5):
            row = np.zeros((1, LENGTH), np.int32)
            row[0, : len(ids)] = ids
            logits = forward(params, row, np.arange(LENGTH)[None] < len(ids))
            ids.append(int(logits[0, len(ids) - 1].argmax()))
        expected = tokenizer.decode(ids[start:], skip_special_tokens=True)
        assert one.text == expected and one.prompt_tokens == start
        assert one.completion_tokens == 5


def test_samples_depend_on_seed_and_prompt_alone(made):
    sampled = write(made, PROMPTS, temperature=1.0, top_k=40, seed=3)
    assert (
        write(made, PROMPTS[::-1], temperature=1.0, top_k=40, seed=3) == (sampled[::-1])
    )
    assert write(made, PROMPTS, temperature=1.0, top_k=40, seed=4) != sampled


def test_a_text_ends_before_a_stop_string(made):
    (whole,) = write(made, PROMPTS[:1])
    stop = whole.text[2]
    (cut,) = write(made, PROMPTS[:1], stop=(stop,))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.completion_tokens < whole.completion_tokens


def test_a_text_without_room_fails_alone(made):
    good, long = write(made, [PROMPTS[0], "b" * (LENGTH - 4)])
    assert isinstance(good, labelers.Written)
    assert isinstance(long, labelers.Failure)
    assert f"{LENGTH - 4} tokens" in long.reason and "5 new ones" in long.reason


def test_identity_is_what_determines_the_answers(model, params, tokenizer, made):
    def identity(model=model, params=params, **options):
        return in_process.labeler(model, params, tokenizer, **options).identity

    assert json.loads(json.dumps(made.identity)) == identity(
        layout=parallel.data(4), name="other", batch=64
    )
    half = decoder.Decoder(dataclasses.replace(model.config, dtype="bfloat16"))
    moved = jax.tree.map(lambda x: 1.001 * x, params)
    others = [identity(half), identity(params=moved), identity(chat=True)]
    tokenizer(["a", "b"], padding=True, truncation=True, max_length=1)
    assert identity() == made.identity  # whatever state a tokenizer keeps
    assert made.identity not in others


def test_a_real_model_rates_as_in_a_full_forward_pass(data_folder):
    model, params, words = huggingface.load(data_folder / "models" / "stories260k")
    labeler = in_process.labeler(model, params, words, layout=parallel.data(1))
    stories = ("Tim had a big red ball.", "Lily saw a dog.", "One day, a cat ran far.")
    task = "Rate the story from 1 to 10, where 10 is perfect.\nStory: "
    prompts = [f"{task}{story}\nScore: " for story in stories]
    labels = tuple(map(str, range(1, 11)))
    score = oracle(model, params, words)
    for prompt, one in zip(prompts, read(labeler, prompts, labels), strict=True):
        p = np.exp([score(prompt, label) for label in labels])
        p[0] -= p[9]
        np.testing.assert_allclose(one.logps, np.log(p), atol=1e-4, rtol=0)
        assert one.outside == pytest.approx(1 - p.sum(), abs=1e-5)
