"""A ledger: what was answered is not asked again, and every call is accounted for."""

import json
import multiprocessing
import sqlite3

import numpy as np
import pytest
from pyarrow import parquet

from rlhf_jax.feedback import labelers, ledger, prices
from rlhf_jax.feedback.labelers import Decoding, Failure, Reading, Written

LABELS = ("1", "2")
IDENTITY = {"model": "judge", "revision": "r1"}


def reading(prompt):
    """An answer that tells its prompt, with every value that is hard to store."""
    first = np.log(0.1 + len(prompt) / 1000 / 3)
    return Reading(np.array([first, -np.inf]), np.array([True, False]), np.nan, 7, 1)


def a_labeler(asked, *, fails=(), stop=None, identity=None):
    """A labeler that notes what it is asked and answers backwards."""

    def answers(prompts, answer):
        for index in reversed(range(len(prompts))):
            if stop is not None and len(asked) == stop:
                raise KeyboardInterrupt
            asked.append(prompts[index])
            failed = prompts[index] in fails
            yield index, Failure("tired") if failed else answer(prompts[index])

    return labelers.Labeler(
        "a judge",
        identity or IDENTITY,
        lambda prompts, labels: answers(prompts, reading),
        lambda prompts, decoding: answers(
            prompts, lambda prompt: Written(f"{prompt} é\ud83d\n", 5, len(prompt))
        ),
    )


def read(book, labeler, prompts, labels=LABELS, **options):
    through = ledger.through(book, labeler, **options)
    return labelers.in_order(through.read(prompts, labels), len(prompts))


@pytest.fixture
def book(tmp_path):
    return ledger.open_file(tmp_path / "new" / "calls.ledger")


def test_an_answer_is_asked_once_and_comes_back_exactly(book):
    asked = []
    fresh = read(book, a_labeler(asked), ["a", "bb"])
    again = read(book, a_labeler(asked), ["bb", "ccc", "a"])
    assert asked == ["bb", "a", "ccc"]
    for one, other in ((fresh[0], again[2]), (fresh[1], again[0])):
        np.testing.assert_array_equal(one.logps, other.logps)
        np.testing.assert_array_equal(one.told, other.told)
        assert other.logps.dtype == np.float64 and other.told.dtype == bool
        assert np.isnan(other.outside) and other[3:] == one[3:] == (7, 1)


def test_a_text_comes_back_exactly_for_its_decoding_alone(book):
    asked, decoding = [], Decoding(seed=1)
    through = ledger.through(book, a_labeler(asked))
    fresh = labelers.in_order(through.write(["a"], decoding), 1)
    assert labelers.in_order(through.write(["a"], decoding), 1) == fresh
    assert len(asked) == 1
    list(through.write(["a"], Decoding(seed=2)))
    list(through.read(["a"], LABELS))
    assert len(asked) == 3


def test_identical_prompts_of_a_batch_are_asked_once(book):
    asked = []
    answers = read(book, a_labeler(asked), ["a", "b", "a", "a"])
    assert sorted(asked) == ["a", "b"]
    assert answers[0] is answers[2] is answers[3]


def test_other_labels_and_other_labelers_are_other_requests(book):
    asked = []
    read(book, a_labeler(asked), ["a"])
    read(book, a_labeler(asked), ["a"], labels=("2", "1"))
    read(book, a_labeler(asked, identity=IDENTITY | {"revision": "r2"}), ["a"])
    assert asked == ["a"] * 3


def test_the_order_of_an_identitys_fields_does_not_matter(book):
    asked = []
    read(book, a_labeler(asked), ["a"])
    turned = dict(reversed(IDENTITY.items()))
    read(book, a_labeler(asked, identity=turned), ["a"])
    assert asked == ["a"]


def test_requests_have_the_names_that_they_always_had():
    """Answers that were paid for are found by these, whatever becomes of our code."""
    # sha256 of the JSON text, keys sorted, without spaces, ASCII:
    # {"asked":["1","2"],"identity":{"model":"m"},"kind":"read","prompt":"\u00e9"}
    name = ledger.request({"model": "m"}, "read", "é", ("1", "2"))
    assert name == "bccf6df700bcbd79e6d5d61aa1120ce0b3d20c7eef0e83b8d48f68af9418ac95"


def test_a_failure_is_kept_with_its_reason_and_asked_again(book):
    asked = []
    answers = read(book, a_labeler(asked, fails="b"), ["a", "b", "c"])
    assert answers[1] == Failure("tired")
    assert ledger.missing(book, a_labeler([]), ["a", "b", "b"], LABELS) == ["b"]
    answers = read(book, a_labeler(asked), ["a", "b", "c"])
    assert isinstance(answers[1], Reading) and asked == ["c", "b", "a", "b"]
    spent = ledger.summary(book)["judge"]
    assert (spent.calls, spent.answers, spent.failures) == (4, 3, {"tired": 1})


def test_what_arrived_before_a_stop_is_kept(book):
    asked = []
    with pytest.raises(KeyboardInterrupt):
        read(book, a_labeler(asked, stop=2), ["a", "b", "c"])
    read(book, a_labeler(asked), ["a", "b", "c"])
    assert asked == ["c", "b", "a"]


def test_money_and_tokens_are_sums_of_calls_by_model(book):
    costs = prices.Prices(prompt=1e6, completion=2e6)
    read(book, a_labeler([]), ["a", "b"], prices=costs)
    other = a_labeler([], identity={"model": "another"})
    list(ledger.through(book, other, prices=costs).write(["abc"], Decoding()))
    spent = ledger.summary(book)
    assert list(spent) == ["another", "judge"]
    assert spent["judge"][3:] == (14, 2, 2 * (7 + 2 * 1))
    assert spent["another"][3:] == (5, 3, 5 + 2 * 3)


def test_without_prices_nothing_has_a_cost(book):
    read(book, a_labeler([]), ["a"])
    assert ledger.summary(book)["judge"].cost == 0


def test_exports_do_not_depend_on_the_order_of_calls(book, tmp_path):
    other = ledger.open_file(tmp_path / "other.ledger")
    read(book, a_labeler([]), ["a", "b", "c"])
    read(other, a_labeler([], fails="b"), ["b"])
    for prompt in ("c", "b", "a"):
        read(other, a_labeler([]), [prompt])
    for ending in ("jsonl", "parquet"):
        one = ledger.export(book, tmp_path / f"one.{ending}")
        two = ledger.export(other, tmp_path / f"two.{ending}")
        assert one.read_bytes() == two.read_bytes()


def test_exports_hold_what_was_asked_and_answered(book, tmp_path):
    read(book, a_labeler([], fails="b"), ["a"])
    list(ledger.through(book, a_labeler([])).write(["a"], Decoding()))
    lines = ledger.export(book, tmp_path / "calls.jsonl").read_text().splitlines()
    rows = {row["kind"]: row for row in map(json.loads, lines)}
    assert rows["read"]["prompt"] == "a" and rows["read"]["asked"] == ["1", "2"]
    assert rows["read"]["logps"] == [reading("a").logps[0], None]
    assert (
        rows["write"]["text"] == "a é\ud83d\n" and rows["write"]["identity"] == IDENTITY
    )
    assert rows["write"]["asked"]["temperature"] == 0


def test_all_calls_are_exported_in_the_order_of_arrival(book, tmp_path):
    read(book, a_labeler([], fails="b"), ["a", "b"])
    path = ledger.export(book, tmp_path / "calls.parquet", calls=True)
    rows = parquet.read_table(path).to_pylist()
    assert [row["failure"] for row in rows] == ["tired", None]
    assert [row["told"] for row in rows] == [None, [True, False]]
    assert rows[0]["time"] <= rows[1]["time"]


def test_another_ending_is_refused(book, tmp_path):
    with pytest.raises(ValueError, match="jsonl or .parquet"):
        ledger.export(book, tmp_path / "calls.csv")


def _foreign(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE calls (id)")


def _later(path):
    ledger.open_file(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")


def _damaged(path):
    book = ledger.open_file(path)
    read(book, a_labeler([]), [str(number) * 50 for number in range(400)])
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 6] = bytes(range(256)) * 64
    path.write_bytes(data)


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda path: path.write_text("no database at all, but a text" * 9), "file"),
        (_foreign, "another program"),
        (_later, "version 99"),
        (_damaged, ""),
        (lambda path: path.mkdir(), "open"),
    ],
)
def test_a_file_that_is_no_ledger_is_one_clear_error(tmp_path, make, reason):
    path = tmp_path / "calls.ledger"
    make(path)
    with pytest.raises(ValueError, match=f"cannot be used as a ledger.*{reason}"):
        ledger.open_file(path)


def test_a_file_that_was_changed_after_it_was_opened_is_the_same_error(book):
    book.path.write_text("no database at all, but a text" * 9)
    with pytest.raises(ValueError, match="cannot be used as a ledger"):
        read(book, a_labeler([]), ["a"])


def _label(path, prompts, barrier):
    barrier.wait()
    read(ledger.open_file(path), a_labeler([]), prompts)


def test_processes_share_a_ledger(tmp_path):
    """Both start at once, without a file; a third of the prompts are both's."""
    path, context = tmp_path / "calls.ledger", multiprocessing.get_context("fork")
    names = [str(number) for number in range(150)]
    barrier = context.Barrier(2)
    halves = names[:100], names[50:]
    workers = [
        context.Process(target=_label, args=(path, half, barrier)) for half in halves
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    book = ledger.open_file(path)
    assert sorted(row["prompt"] for row in ledger.records(book)) == sorted(names)
    assert 150 <= ledger.summary(book)["judge"].calls <= 200


def test_the_first_of_two_answers_counts(book):
    """Another process answers while this one waits: both are given its answer."""

    def slow(prompts, labels):
        read(book, a_labeler([]), ["a"])
        yield 0, Reading(np.zeros(2), np.ones(2, bool), 0.0, 1, 1)

    inner = labelers.Labeler("a judge", IDENTITY, slow, slow)
    (answer,) = read(book, inner, ["a"])
    np.testing.assert_array_equal(answer.logps, reading("a").logps)
    assert ledger.summary(book)["judge"].calls == 2
