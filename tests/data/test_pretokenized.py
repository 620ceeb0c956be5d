"""Rows that are tokens already are taken as they are, and checked."""

import numpy as np
import pytest

from rlhf_jax.data import pretokenized

datasets = pytest.importorskip("datasets")

IDS = [4, 5, 6, 7]


def read(*rows):
    return pretokenized.read(datasets.Dataset.from_list(list(rows)), vocab_size=10)


@pytest.mark.parametrize(
    ("columns", "learned"),
    [
        ({}, [1, 1, 1, 1]),
        ({"labels": [-100, -100, 6, 7]}, [0, 0, 1, 1]),
        ({"completion_mask": [0, 0, 0, 1]}, [0, 0, 0, 1]),
        ({"assistant_masks": [0, 1, 0, 1]}, [0, 1, 0, 1]),
        ({"completion_mask": [0, 0, 1, 1], "assistant_masks": [0, 1, 1, 0]}, None),
    ],
)
def test_what_is_learned_is_what_the_columns_say(columns, learned):
    rows = read({"input_ids": IDS, **columns}, {"input_ids": IDS, **columns})
    for ids, targets in zip(rows.ids, rows.learned, strict=True):
        assert ids.tolist() == IDS and ids.dtype == targets.dtype == np.int32
        assert targets.tolist() == (learned or [0, 0, 1, 0])


def test_padding_is_left_out():
    rows = read({"input_ids": IDS, "attention_mask": [0, 1, 1, 1]})
    assert rows.ids[0].tolist() == IDS[1:] and rows.learned[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"input_ids": [4, 10]}, "input_ids has 10 at position 1; .* ids 0 to 9"),
        ({"input_ids": [-1, 3]}, "input_ids has -1 at position 0"),
        ({"input_ids": [2**40, 3]}, "input_ids has 1099511627776 at position 0"),
        ({"input_ids": []}, "input_ids is empty"),
        ({"input_ids": None}, "input_ids is null; it must be a list"),
        ({"input_ids": IDS, "labels": [4, 5]}, "labels has 2 numbers, input_ids 4"),
        ({"input_ids": IDS, "labels": [5, 6, 7, -100]}, "labels has 5 at position 0"),
        ({"input_ids": IDS, "completion_mask": [0, 2, 1, 1]}, "neither 0 nor 1"),
    ],
)
def test_rows_that_do_not_fit_are_named(row, said):
    good = {"input_ids": [1, 2], **{name: [1, 1] for name in row if name[0] == "c"}}
    good |= {name: [1, 2] for name in row if name == "labels"}
    with pytest.raises(ValueError, match=f"^row 1 .*: .*{said}"):
        read(good, row)


def test_numbers_that_are_not_whole_are_named():
    with pytest.raises(ValueError, match=r"row 0 .*: input_ids is a list, \[0.5\]"):
        read({"input_ids": [0.5]})
