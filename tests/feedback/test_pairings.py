"""What a ledger knows of pairs, against what judging said of them."""

import judging_labelers
import numpy as np

from rlhf_jax.feedback import judging, labelers, ledger, pairings, prompts

TEMPLATE = prompts.load("helpful_base")
PAIRS = [
    ("ask", "a long answer", "no"),
    ("say", "b", "three words here"),
    ("x", "c", "c"),
]


def judged(folder, judge, pairs=PAIRS, **how):
    """(ledger, `judging.Preferences`) of pairs whose orders are written down."""
    book = ledger.open_file(folder / "calls.sqlite")
    made = ledger.through(book, judging_labelers.labeler(judge))
    found = judging.prefer(made, TEMPLATE, pairs, **how)
    thought = {"rationales": found.rationales} if how else {}
    for _ in range(2):  # a job that goes on writes down the same
        pairings.record(book, made, TEMPLATE, pairs, **thought)
    return book, found


def same(slots, found):
    """Whether pairs have the same two probabilities, in any order of pairs."""
    one, other = (np.array(x, np.float64).T for x in (slots, (found.p_ab, found.p_ba)))
    one, other = (x[np.lexsort(x.T)] for x in (one, other))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_both_orders_come_back_as_they_were_judged(tmp_path):
    book, found = judged(tmp_path, judging_labelers.likes_length)
    (slots,) = pairings.probabilities(book).values()
    same(slots, found)


def test_rationales_are_averaged_and_equal_ones_count_once(tmp_path):
    decoding = labelers.Decoding(temperature=1.0)
    how = {"chain_of_thought": True, "samples": 2, "decoding": decoding}
    book, found = judged(tmp_path, judging_labelers.likes_length, **how)
    (slots,) = pairings.probabilities(book).values()
    same(slots, found)


def test_an_order_without_an_answer_is_nan_and_a_pair_without_any_is_left_out(tmp_path):
    def judge(prompt):
        shown = judging_labelers.texts(prompt)
        if "b" in shown[1] or "c" in shown[0]:
            return labelers.Failure("timed out")
        return judging_labelers.likes_length(prompt)

    book, found = judged(tmp_path, judge)
    ((p_ab, p_ba),) = pairings.probabilities(book).values()
    assert np.isnan(p_ba).sum() == 1 and len(p_ab) == 2 and not np.isnan(p_ab).any()
    assert sum(reason is not None for reason in found.failures) == 2


def test_a_ledger_whose_orders_nobody_wrote_down_knows_no_pairs(tmp_path):
    book = ledger.open_file(tmp_path / "calls.sqlite")
    made = ledger.through(book, judging_labelers.labeler(judging_labelers.likes_length))
    judging.prefer(made, TEMPLATE, PAIRS)
    assert pairings.probabilities(book) == {}
