"""Suites whose answers are written: what is generated, where it ends, its scores."""

import numpy as np
import pytest
import small_recipes
import tiny_models

from rlhf_jax.benchmarks import generations
from rlhf_jax.data import references
from rlhf_jax.evaluation import answers, translation
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.runtime import parallel

PROMPTS = ["Who is it?", "no", "Is the red cat old, or is it new or cold and tall?"]
LENGTH, NEW = 48, 12


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_recipes.tokenizer(tmp_path_factory.mktemp("words"), template=False)


@pytest.fixture(scope="module")
def policy(tokenizer):
    shape = model_config.llama(
        vocab_size=len(tokenizer), width=8, layers=1, heads=1, max_length=LENGTH
    )
    model = decoder.Decoder(shape)
    return model, tiny_models.draw(model)


def asked(stops=()):
    kind = references.KINDS["references"]._replace(new_tokens=NEW, stops=stops)
    return references.References(PROMPTS, [["the red", "blue"]] * 3, kind)


def loop(policy, prompt, ends):
    """The ids that greedy decoding writes after a prompt, read anew for each."""
    model, params = policy
    apply, ids = tiny_models.compiled(model), list(prompt)
    for _ in range(NEW):
        row = np.zeros((1, LENGTH), np.int32)
        row[0, : len(ids)] = ids
        mask = (np.arange(LENGTH) < len(ids))[None].astype(np.int32)
        logits = np.asarray(apply(params, row, mask))[0, len(ids) - 1]
        ids.append(int(logits.argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def measured(policy, tokenizer, suite, devices=1):
    exercises = generations.tokens(tokenizer, suite, length=LENGTH)
    layout = parallel.layout("data", devices)
    return generations.measure(*policy, exercises, layout=layout)


def test_answers_are_those_of_greedy_decoding(policy, tokenizer):
    _, _, texts = measured(policy, tokenizer, asked())
    room = LENGTH - NEW
    for prompt, text in zip(PROMPTS, texts, strict=True):
        ids = tokenizer(prompt)["input_ids"][-room:]
        written = loop(policy, ids, {tokenizer.eos_token_id})
        assert tokenizer.decode(written, skip_special_tokens=True).strip() == text
    assert len(set(texts)) > 1


def test_an_answer_ends_before_a_stop_string(policy, tokenizer):
    _, _, whole = measured(policy, tokenizer, asked())
    stop = max(whole, key=len)[2:4]
    _, _, texts = measured(policy, tokenizer, asked(stops=(stop,)))
    assert texts == [generations.cut(text, (stop,)).strip() for text in whole]
    assert texts != whole


def test_scores_are_those_of_the_answers(policy, tokenizer):
    metrics, items, texts = measured(policy, tokenizer, asked())
    right = asked().answers
    for name, score in (("exact_match", answers.exact_match), ("f1", answers.f1)):
        expected = [score(*pair) for pair in zip(texts, right, strict=True)]
        assert items[name].tolist() == expected
        assert metrics[name] == pytest.approx(np.mean(expected))
    counts = translation.bleu_counts(texts, right)
    np.testing.assert_array_equal(items["bleu"], counts)
    assert metrics["bleu"] == translation.bleu(counts.sum(0)) / 100
    assert 0 < metrics["distinct_2"] <= 1


def test_answers_do_not_depend_on_the_devices(policy, tokenizer):
    one, four = (measured(policy, tokenizer, asked(), count)[2] for count in (1, 4))
    assert one == four


def test_tokens_that_hold_a_stop_string_end_an_answer(tokenizer):
    config = generations.greedy(tokenizer, 5, ("s",))
    ends = {i for i in range(len(tokenizer)) if "s" in tokenizer.decode([i])}
    assert set(config.eos_ids) == {tokenizer.eos_token_id, *ends}
    assert len(ends) >= 1 and config.temperature == 0
    assert config.pad_id not in config.eos_ids
    assert generations.greedy(tokenizer, 5).eos_ids == (tokenizer.eos_token_id,)


def test_a_text_is_cut_at_the_first_stop():
    assert generations.cut("one\ntwo. three", (".", "\n", "", "x")) == "one"
    assert generations.cut("one", ("\n",)) == "one"


def test_an_answer_takes_at_most_half_of_a_row(tokenizer):
    exercises = generations.tokens(tokenizer, asked(), length=16)
    assert exercises.config.max_new_tokens == 8
    assert exercises.rows.tokens.shape == (3, 8)
    assert tokenizer.decode(exercises.rows.tokens[2]) == PROMPTS[2][-8:]
