"""A user's prompts as a task: which columns rewards see, and what is cut."""

import pytest
import small_recipes
import tiny_models

from rlhf_jax.cli import options
from rlhf_jax.models import config, decoder
from rlhf_jax.tasks import prompts, rows

pytest.importorskip("transformers")

GIVEN = [{"prompt": "zq" * n, "answer": n} for n in (2, 3, 4, 40)] * 5


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return small_recipes.tokenizer(tmp_path_factory.mktemp("words"), template=False)


def create(words, given, length=None):
    shape = config.llama(vocab_size=300, width=8, layers=1, heads=1, max_length=64)
    model = decoder.Decoder(shape)
    train, held = rows.read(given, options.Data(), needed=("prompt",))
    lengths = length, 16
    params = tiny_models.draw(model)
    return prompts.create(model, params, words, train, held, lengths=lengths)


def test_prompts_that_are_cut_are_counted(words):
    whole = create(words, GIVEN)
    count = sum(len(text) == 80 for text in whole.columns[prompts.GIVEN])
    assert whole.facts["about"] == [f"{count} prompts cut to 48 tokens"]
    short = create(words, GIVEN, length=7)
    assert short.prompts.tokens.shape[1] == 7
    count = sum(len(text) > 7 for text in short.columns[prompts.GIVEN])
    assert short.facts["about"] == [f"{count} prompts cut to 7 tokens"]
    assert create(words, GIVEN[:3]).facts["about"] == []


def test_rewards_see_the_columns_of_the_data_alone(words):
    task = create(words, GIVEN)
    assert set(task.columns) == set(task.eval_columns) == {"answer", prompts.GIVEN}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"prompt": 3},
            "row 0 .*: prompt is a number, 3; it must be a text, in quotes",
        ),
        (
            {"prompts": "a"},
            "did you mean prompt by prompts.*--data.columns prompt=prom",
        ),
        ({"prompt": " "}, "row 0 .*: no prompt; remove the row or fill it"),
        ({"prompt": ["a"]}, 'row . .*: a message is a text, "a"; a message is'),
    ],
)
def test_prompts_that_cannot_be_read_are_named(words, row, said):
    with pytest.raises(ValueError, match=said):
        create(words, [row] * 20)
