"""The game's shell: rows by length, pretraining pieces, sections of the report."""

import dataclasses

import numpy as np
import pytest

from experiments.pivot_translation import (
    decoding,
    methods,
    pretraining,
    sections,
)
from rlhf_jax.data.translation import corpora, subwords
from rlhf_jax.reporting import endpoints

# Rows of like length together


def rows_of(lengths):
    """Right-padded rows whose every token is the row's number + 1."""
    width = max(lengths)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int32)
    return mask * (np.arange(len(lengths))[:, None] + 1).astype(np.int32), mask


def test_rows_come_back_in_their_order_and_nothing_but_padding_is_cut():
    lengths = [3, 60, 17, 41, 16, 1, 24, 25] * 40
    seen = []

    def program(rows):
        tokens, mask = rows
        seen.append(tokens.shape)
        assert not (tokens * (1 - mask)).any()
        return tokens.max(-1), tokens.sum(-1)

    tokens, mask = rows_of(lengths)
    first, total = decoding.by_length(program, (tokens, mask), mask)
    np.testing.assert_array_equal(first, np.arange(len(lengths)) + 1)
    np.testing.assert_array_equal(total, tokens.sum(-1))
    assert {width for _, width in seen} == {16, 24, 32, 41, 60}
    assert all(rows % 128 == 0 for rows, _ in seen)


def test_results_as_wide_as_their_rows_are_padded_with_zeros():
    tokens, mask = rows_of([2, 20, 5])
    found = decoding.by_length(lambda rows: rows[0], (tokens, mask), mask)
    np.testing.assert_array_equal(found, tokens)


# Pretraining


def test_the_rate_falls_linearly_to_the_final_one_and_stays():
    config = pretraining.Config(
        steps=100, learning_rate=1.0, final_rate=0.2, decay_steps=10
    )
    found = [pretraining.rate(config, step) for step in (0, 5, 10, 99)]
    assert found == pytest.approx([1.0, 0.6, 0.2, 0.2])
    whole = dataclasses.replace(config, decay_steps=None)
    assert pretraining.rate(whole, 50) == pytest.approx(0.6)


def parallel(rows):
    """`Parallel` of French and English rows, one word of the vocabulary each."""
    english = [f"e{i % 20}" for i in range(rows)]
    texts = {"fr": [f"f{i}" for i in range(rows)], "en": english}
    ids = {
        "fr": subwords.ragged([[4 + i % 9, 5, 3][i % 2 :] for i in range(rows)]),
        "en": subwords.ragged([[4 + i % 20, 3] for i in range(rows)]),
    }
    return corpora.Parallel(texts, texts, ids)


def test_held_out_english_is_never_trained_on():
    train, dev = pretraining.split(parallel(60), 5)
    assert len(dev) == 5
    assert not set(train.texts["en"]) & set(dev.texts["en"])
    assert len(train) < 55  # the same English with other French is left out too
    again = pretraining.split(parallel(60), 5)[1]
    assert again.texts == dev.texts


def test_holding_out_everything_is_one_error():
    with pytest.raises(ValueError, match="lower --pretrain.dev-rows"):
        pretraining.split(parallel(20), 20)


def batches(seed=0):
    return pretraining.Batches(
        parallel(40), "fr", "en", tokens=12, classes=2, seed=seed, multiple=2
    )


def test_batches_are_a_function_of_the_step_with_keys_of_their_own():
    one, other = batches(), batches()
    for step in (0, 3, 50):
        found, again = one.keyed(step), other.keyed(step)
        for x, y in zip(found, again, strict=True):
            np.testing.assert_array_equal(x, y)
        assert found.keys.shape == (found.source.shape[0], 2)
        assert found.source.shape[0] % 2 == 0
        assert one.plain(step).keys is None
    first = {tuple(key) for key in one.keyed(0).keys}
    for others in (one.keyed(1).keys, batches(1).keyed(0).keys):
        assert first.isdisjoint(map(tuple, others))


def test_the_judge_reads_a_beginning_and_does_not_learn_to_say_it():
    tokens, mask = rows_of([2, 3])
    text = pretraining.begun(tokens, mask)
    assert (text.tokens[:, 0] == subwords.BOS).all() and text.mask[:, 0].all()
    assert not text.target_mask[:, 0].any()
    np.testing.assert_array_equal(text.target_mask[:, 1:], mask)


def test_weights_are_found_again_by_settings_and_text_alone():
    ids = parallel(10).ids
    first = pretraining.digest("a", ids["fr"])
    assert pretraining.digest("a", ids["fr"]) == first
    assert pretraining.digest("b", ids["fr"]) != first
    assert pretraining.digest("a", ids["en"]) != first


# Sections of the report


def record(method, step, phase, german, english, seed=0, **more):
    both = {}
    for name, value in (("eval/reward", german), ("eval/bleu_en", english)):
        both |= {name: value, f"{name}_a": value + 1, f"{name}_b": value - 1}
    lost = {f"drift/bleu_en{half}": 20.0 - english for half in ("", "_a", "_b")}
    place = {"method": method, "seed": seed, "step": step, "eval/phase": phase}
    return {**place, **both, **lost, **more}


RECORDS = [
    record("frozen_sender", 0, "start", 5.0, 20.0),
    record("frozen_sender", 9, "final", 9.0, 20.0, **{"test/bleu_de": 8.5}),
    record("reinforce", 0, "start", 5.0, 20.0),
    record("reinforce", 4, "train", 11.0, 19.0),
    record("reinforce", 9, "final", 10.0, 15.0, **{"test/bleu_de": 9.5}),
    {"method": "reinforce", "seed": 0, "step": 9, "best/bleu_de": 10.5},
]


def test_the_best_is_chosen_on_half_a_and_read_on_half_b_and_on_the_test():
    row = sections.best(RECORDS)["reinforce", (0, 0)]
    assert row["step"] == 4 and row["eval/reward_b"] == 10.0
    assert row["best/bleu_de"] == 10.5
    last = sections.final(RECORDS)["reinforce", (0, 0)]
    assert last["step"] == 9 and last["test/bleu_de"] == 9.5


def test_gates_are_the_signs_of_the_papers():
    passed = {name: fine for name, _, _, fine in sections.gates(RECORDS)}
    assert passed == {"frozen sender, seed 0": True, "REINFORCE, seed 0": True}


@pytest.mark.parametrize(
    ("german", "english"), [(4.0, 10.0), (10.0, 18.5), (10.0, 21.0)]
)
def test_a_gate_that_is_not_passed_is_told(german, english):
    rows = [RECORDS[2], record("reinforce", 9, "final", german, english)]
    ((_, _, what, fine),) = sections.gates(rows)
    assert not fine and f"BLEU-De {german - 5:+.1f}" in what


def test_tables_show_both_selections_and_who_learned_from_what():
    records = [*RECORDS, record("s2p_1", 0, "start", 5.0, 20.0)]
    records.append(record("s2p_1", 9, "final", 8.0, 19.0))
    text = "\n".join(sections.tables(records, methods.LABELS))
    best, end = text.split("## At the end")
    assert "| REINFORCE | none | 4 [4, 4] | 10 [10, 10] |" in best
    assert "| REINFORCE | none | 10 [10, 10] | 15 [15, 15] |" in end
    assert f"| S2P, α = 1 | {methods.PRETRAINING} |" in end
    assert (
        best.count("| pretrained | none |") == end.count("| pretrained | none |") == 1
    )


def sample(method, phase, completion):
    row = {"method": method, "seed": 0, "step": 9, "phase": phase}
    texts = {"prompt": "Un chien.", "english": "A dog.", "german": "Ein Hund."}
    return {**row, **texts, "completion": completion, "output": "ein hund ."}


def test_examples_set_every_message_beside_the_human_one():
    rows = [
        sample("reinforce", "start", "a dog ."),
        sample("reinforce", "final", "dog dog ."),
        sample("frozen_sender", "final", "a dog ."),
    ]
    text = "\n".join(sections.examples(rows, methods.LABELS))
    for line in (
        "### Un chien.",
        "| human | A dog. | Ein Hund. |",
        "| pretrained | a dog . | ein hund . |",
        "| REINFORCE | dog dog . | ein hund . |",
    ):
        assert line in text
    assert not list(sections.examples([], methods.LABELS))


def test_the_games_words_hold_for_the_game_alone():
    assert endpoints.parse("reward", sections.MEASURED).title == "BLEU-De"
    assert endpoints.parse("reward", ()).title == "reward"


def test_claims_name_methods_and_axes_that_there_are():
    for claim in sections.CLAIMS:
        assert {claim.method, *claim.others} <= set(methods.STUDY)
        assert endpoints.parse(claim.endpoint, sections.MEASURED).axis in sections.AXES
