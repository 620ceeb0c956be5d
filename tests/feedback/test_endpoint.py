"""A labeler behind an endpoint: every way to score, and the key that nobody sees."""

import logging
import math
import sys
import threading
import time

import fake_endpoint as fake
import numpy as np
import pytest

from rlhf_jax.feedback import endpoint, labelers, ledger, pacing
from rlhf_jax.feedback.labelers import Decoding, Failure, Reading, Written

pytest.importorskip("openai", reason="needs the extra [feedback]: the openai client")

KEY = "sk-canary-0123456789abcdef"
LABELS = (" A", " B", "1", "10")
PROMPTS = [f"Question {number}: which of them?" for number in range(6)]
QUICK = {"retries": 3, "backoff": 0.01, "timeout": 10.0}
FACTS = {
    "echo": {"kind": "completions", "way": "echo"},
    "ids": {"kind": "completions", "way": "ids", "top": 1},
    "top": {"kind": "completions", "way": "top", "top": 5},
    "chat": {"kind": "chat", "way": "top", "top": 5},
    "votes": {"kind": "chat", "way": "votes", "many": True},
}


def a_labeler(running, way="echo", **options):
    return endpoint.labeler(
        "m", base_url=running.url, facts=FACTS[way], **(QUICK | options)
    )


def exclusive(prompt, labels=LABELS):
    """log p of each label alone: where "10" is "1" and "0", a "1" is no "10"."""
    p = {label: np.exp(fake.label_logp(prompt, label)) for label in labels}
    if "10" in p:
        p["1"] -= p["10"]
    return np.log(list(p.values()))


def read(labeler, prompts=PROMPTS, labels=LABELS):
    return labelers.in_order(labeler.read(prompts, labels), len(prompts))


# What a server can do.


@pytest.mark.parametrize(
    "server, kind, way",
    [
        ({}, "completions", "echo"),
        ({"logprobs": 20}, "completions", "echo"),
        ({"named": True}, "completions", "ids"),
        ({"echo": False}, "completions", "top"),
        ({"echo": "shifted"}, "completions", "top"),
        ({"completions": False}, "chat", "top"),
        ({"logprobs": 0}, "completions", "votes"),
        ({"completions": False, "logprobs": 0}, "chat", "votes"),
    ],
)
def test_the_probe_takes_the_best_way_that_a_server_offers(server, kind, way):
    with fake.serving(**server) as running:
        facts = endpoint.probe("m", base_url=running.url, **QUICK)
    assert (facts["kind"], facts["way"]) == (kind, way)
    assert facts["why"] and "works" in facts["tried"].values()
    if way == "top":
        assert facts["top"] == 5


def test_the_probe_says_why_an_echo_is_not_used():
    with fake.serving(echo="shifted") as running:
        shifted = endpoint.probe("m", base_url=running.url, **QUICK)["tried"]
    with fake.serving(echo=False) as running:
        ignored = endpoint.probe("m", base_url=running.url, **QUICK)["tried"]
    assert any("as a next token" in outcome for outcome in shifted.values())
    assert "the prompt is not echoed" in ignored.values()


def test_a_kind_that_is_asked_for_is_the_only_one_tried():
    with fake.serving() as running:
        facts = endpoint.probe("m", base_url=running.url, kind="chat", **QUICK)
        assert facts["kind"] == "chat"
        assert all("messages" in body for body in running.bodies)
    with pytest.raises(ValueError, match="kind='talk'"):
        endpoint.probe("m", base_url=running.url, kind="talk", **QUICK)


def test_a_server_that_is_not_there_is_one_error():
    with pytest.raises(ValueError, match="cannot be probed: no connection"):
        endpoint.probe("m", base_url="http://127.0.0.1:9/v1", **QUICK)


def test_a_server_that_answers_nothing_of_use_is_one_error():
    with (
        fake.serving(chat=False, completions=False) as running,
        pytest.raises(ValueError, match="HTTP 404"),
    ):
        endpoint.probe("m", base_url=running.url, **QUICK)


# Scores.


def test_an_echo_scores_whole_labels_exactly():
    with fake.serving() as running:
        readings = read(a_labeler(running))
    for prompt, reading in zip(PROMPTS, readings, strict=True):
        wanted = exclusive(prompt)
        np.testing.assert_allclose(reading.logps, wanted, rtol=1e-5)
        assert reading.outside == pytest.approx(1 - np.exp(wanted).sum(), abs=1e-6)
        size = len(fake.tokens(prompt))
        assert reading.prompt_tokens == 4 * size + 5 and reading.completion_tokens == 4


def test_named_tokens_score_whole_labels_exactly_in_fewer_requests():
    """One request for " A", " B" and "1", and one for the "0" of "10"; how labels are
    spelled is asked after the first prompts alone."""
    with fake.serving(named=True) as running:
        readings = read(a_labeler(running, "ids", concurrency=1))
        asked = [body for body in running.bodies if "max_tokens" in body]
        assert len(asked) == 2 * len(PROMPTS)
        assert len(running.bodies) == len(asked) + 2 * len(LABELS)
    for prompt, reading in zip(PROMPTS, readings, strict=True):
        wanted = exclusive(prompt)
        np.testing.assert_allclose(reading.logps, wanted, rtol=1e-5)
        assert reading.prompt_tokens == 2 * len(fake.tokens(prompt)) + 1


def test_a_server_that_ignores_the_names_of_tokens_is_noticed():
    with fake.serving() as running:
        running.routes["/tokenize"] = True
        facts = endpoint.probe("m", base_url=running.url, **QUICK)
    assert facts["way"] == "echo"
    assert facts["tried"]["logprob_token_ids"].startswith("ignored")


def test_a_shifted_echo_is_refused_even_without_a_probe():
    with fake.serving(echo="shifted") as running:
        results = read(a_labeler(running))
    assert {type(result) for result in results} == {Failure}
    assert "not those after the prompt" in results[0].reason


def test_the_likeliest_tokens_score_what_they_tell_and_say_what_they_do_not():
    with fake.serving() as running:
        readings = read(a_labeler(running, "top"), PROMPTS * 4)
    for prompt, reading in zip(PROMPTS * 4, readings, strict=True):
        table = fake._best(prompt, 5)
        for label, logp, told in zip(LABELS[:3], *reading[:2], strict=False):
            assert told == (label in table)
            assert logp == (table[label] if told else -math.inf)
        assert math.isnan(reading.outside) or reading.told.all()


def likely_digits(count):
    """Prompts after which "1" and then "0" are among the five likeliest tokens."""
    numbers = (f"Rate {number}:" for number in range(10**6))
    found = (x for x in numbers if "1" in fake._best(x, 5))
    found = (x for x in found if "0" in fake._best(f"{x}1", 5))
    return [next(found) for _ in range(count)]


def test_a_label_of_two_tokens_is_read_piece_by_piece():
    prompts = likely_digits(3)
    with fake.serving() as running:
        readings = read(a_labeler(running, "top"), prompts, ("1", "10"))
    for prompt, reading in zip(prompts, readings, strict=True):
        wanted = exclusive(prompt, ("1", "10"))
        np.testing.assert_allclose(reading.logps, wanted, rtol=1e-5)
        assert reading.outside == pytest.approx(1 - np.exp(wanted).sum(), abs=1e-6)


@pytest.mark.parametrize("way, usage", [("chat", True), ("top", False)])
def test_a_label_of_unknown_spelling_is_not_told(way, usage):
    """Chat answers are not continued; without counts, "10" may be one token."""
    with fake.serving(usage=usage) as running:
        (reading,) = read(a_labeler(running, way), likely_digits(1), ("1", "10"))
    assert reading.told.tolist() == [True, False]


def test_votes_are_asked_in_one_request_where_that_is_possible():
    samples = (" A", " A.", "B", "neither")
    with fake.serving(samples=samples) as running:
        (reading,) = read(a_labeler(running, "votes", votes=8), PROMPTS[:1])
        assert len(running.asked) == 1
    np.testing.assert_allclose(np.exp(reading.logps[0]), 0.5)
    with fake.serving(samples=samples) as running:
        facts = FACTS["votes"] | {"many": False}
        single = endpoint.labeler("m", base_url=running.url, facts=facts, votes=3)
        read(single, PROMPTS[:1])
        assert [body["seed"] for body in running.bodies] == [0, 1, 2]


def test_a_text_is_written_by_its_decoding():
    decoding = Decoding(9, 0.7, 4, ("\n\n",), 3)
    with fake.serving() as running:
        written = list(a_labeler(running).write(PROMPTS[:1], decoding))
        (body,) = running.bodies
    assert isinstance(written[0][1], Written) and written[0][1].text
    wanted = {"max_tokens": 9, "temperature": 0.7, "top_k": 4, "seed": 3, "model": "m"}
    assert body == wanted | {"stop": ["\n\n"], "prompt": PROMPTS[0]}


def test_a_system_message_is_for_chat():
    with fake.serving() as running:
        list(a_labeler(running, "chat", system="Judge.").write(PROMPTS[:1], Decoding()))
        assert [turn["role"] for turn in running.bodies[0]["messages"]] == [
            "system",
            "user",
        ]


def test_a_server_that_moves_may_have_a_lasting_name():
    with fake.serving() as one, fake.serving() as other:
        assert a_labeler(one).identity["server"] == one.url
        named = [a_labeler(x, server="ours").identity for x in (one, other)]
    assert named[0] == named[1] and named[0] != a_labeler(one).identity


def test_the_identity_tells_apart_what_answers_differently_and_nothing_else():
    with fake.serving() as running:
        plain = a_labeler(running).identity
        assert plain == a_labeler(running, concurrency=2, retries=1).identity
        others = [a_labeler(running, way).identity for way in FACTS if way != "echo"]
        others += [a_labeler(running, revision="r2").identity]
        others += [a_labeler(running, "votes", votes=4).identity]
    names = {ledger.request(x, "read", "a", LABELS) for x in (plain, *others)}
    assert len(names) == 7


# Limits.


@pytest.mark.parametrize(
    "limit",
    # A prompt of 26 bytes is taken for 9 tokens, and 1 is written.
    [{"requests_per_minute": 600}, {"tokens_per_minute": 6000}],
)
def test_requests_and_tokens_a_minute_are_kept(limit):
    """Six requests, 0.1 s apart."""
    with fake.serving() as running:
        labeler, start = a_labeler(running, "top", **limit), time.monotonic()
        read(labeler, PROMPTS, (" A",))
        assert running.times[-1] - start >= 0.5


def test_as_many_requests_are_open_as_were_asked_for():
    with fake.serving(delay=0.3) as running:
        read(a_labeler(running, "top", concurrency=3), PROMPTS, (" A",))
        assert 1 < running.most <= 3


def test_a_budget_stops_the_job_and_says_so():
    with fake.serving() as running:
        labeler = a_labeler(running, "top", budget_tokens=30, concurrency=1)
        results = read(labeler, PROMPTS, (" A",))
    used = sum(sum(result[3:]) for result in results if isinstance(result, Reading))
    failed = [result for result in results if isinstance(result, Failure)]
    assert 0 < used <= 30 and failed
    assert {x.reason for x in failed} == {"budget of 30 tokens is spent"}


def test_a_budget_of_money_counts_what_prices_say():
    prices = (1e6, 2e6)  # 1 a token read, 2 a token written
    with fake.serving() as running:
        options = {"budget_money": 30, "prices": prices, "concurrency": 4}
        results = read(a_labeler(running, "top", **options), PROMPTS, (" A",))
    spent = sum(x[3] + 2 * x[4] for x in results if isinstance(x, Reading))
    assert 0 < spent <= 30 and Failure("budget of 30 in money is spent") in results
    with pytest.raises(ValueError, match="needs prices"):
        pacing.Limits(budget_money=1.0)


def test_an_estimate_by_hand():
    count = {"abc": 3, "de": 2, "A": 1, "10": 2}.get
    prompts = ["abc", "de", "abc"]
    echo = endpoint.estimate(prompts, ("A", "10"), count=count, prices=(1e6, 2e6))
    assert echo == (4, 2 * 5 + 2 * 3, 4, 16 + 8)
    assert endpoint.estimate(prompts, ("A",), way="top", count=count)[:3] == (2, 5, 2)
    votes = endpoint.estimate(prompts, ("A",), way="votes", votes=3, count=count)
    assert votes[:3] == (2, 5, 2 * 3 * 8)
    written = endpoint.estimate(prompts, Decoding(max_tokens=7), count=count)
    assert written == (2, 5, 14, 0)


def test_an_estimate_is_no_less_than_what_is_used():
    with fake.serving() as running:
        readings = read(a_labeler(running))
    guess = endpoint.estimate(PROMPTS, LABELS)
    assert guess.calls == len(running.asked)
    assert guess.prompt_tokens >= sum(x.prompt_tokens for x in readings)
    assert guess.completion_tokens == sum(x.completion_tokens for x in readings)


def test_requests_that_wait_end_when_the_caller_stops():
    faults = {prompt: "500" for prompt in PROMPTS[1:]}
    with fake.serving(faults=lambda prompt, before: faults.get(prompt)) as running:
        labeler = a_labeler(running, "top", retries=9, backoff=30.0)
        before = set(threading.enumerate())
        results = labeler.read(PROMPTS, (" A",))
        index, result = next(results)
        assert index == 0 and isinstance(result, Reading)
        waiting = set(threading.enumerate()) - before
        results.close()
        workers = [x for x in waiting if x.name.startswith("ThreadPoolExecutor")]
        for worker in workers:
            worker.join(5.0)
        assert workers and not any(worker.is_alive() for worker in workers)


# The key.


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    return "JUDGE_KEY"


def test_the_key_reaches_the_server_and_nothing_else(key, tmp_path, caplog, capfd):
    """Not even where a server writes it into its answers and errors."""
    caplog.set_level(logging.DEBUG)
    faults = {PROMPTS[0]: "401", PROMPTS[1]: "500", PROMPTS[2]: "key"}
    with fake.serving(faults=lambda prompt, before: faults.get(prompt)) as running:
        labeler = a_labeler(running, key_env=key, retries=1)
        book = ledger.open_file(tmp_path / "calls.ledger")
        through = ledger.through(book, labeler)
        order = PROMPTS[::-1][-3:]  # the refused account last
        results = [list(through.write([prompt], Decoding())) for prompt in order]
        reading = list(through.read(PROMPTS[3:], LABELS))
    reasons = [x[0][1].reason for x in results[1:]]
    assert results[0][0][1].text == "I know Bearer [key]"
    assert reasons == [
        "HTTP 500: no, Bearer [key], 2 times",
        "HTTP 401: no, Bearer [key]",
    ]
    seen = [repr(labeler), str(labeler), repr(labeler.identity), repr(results)]
    seen += [repr(reading), caplog.text, *capfd.readouterr()]
    seen += [path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()]
    assert not [text for text in seen if KEY in text]


def test_an_account_that_is_refused_is_not_asked_again(key):
    with fake.serving(faults=lambda prompt, before: "401") as running:
        results = read(a_labeler(running, key_env=key, concurrency=1))
        assert len(running.asked) == 1
    assert {result.reason for result in results} == {"HTTP 401: no, Bearer [key]"}


def test_an_error_in_the_probe_does_not_tell_the_key(key):
    with (
        fake.serving(faults=lambda prompt, before: "403") as running,
        pytest.raises(ValueError, match="HTTP 403") as error,
    ):
        endpoint.probe("m", base_url=running.url, key_env=key, **QUICK)
    chain = [error.value, error.value.__cause__]
    assert KEY not in "".join(map(repr, chain)) and error.value.__suppress_context__


@pytest.mark.parametrize("name", ["JUDGE_KEY_THAT_IS_NOT_SET", KEY, "sk_LIKE_A_NAME"])
def test_a_key_in_place_of_its_variables_name_is_not_repeated(name):
    with pytest.raises(
        ValueError, match="no environment variable that is set"
    ) as error:
        endpoint.labeler("m", key_env=name, facts=FACTS["echo"])
    assert (name in str(error.value)) == name.isupper()


@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "http://host/v1?k=secret"])
def test_a_url_that_holds_a_secret_is_refused_unrepeated(url):
    with pytest.raises(ValueError, match="a password or a query") as error:
        endpoint.labeler("m", base_url=url, facts=FACTS["echo"])
    assert "secret" not in str(error.value)


def test_a_server_of_ones_own_needs_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with fake.serving() as running:
        assert isinstance(read(a_labeler(running))[0], Reading)
        assert isinstance(read(a_labeler(running, key_env=None))[0], Reading)
    with pytest.raises(ValueError, match="OPENAI_API_KEY names no environment"):
        endpoint.labeler("m", facts=FACTS["echo"])


def test_without_the_client_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"pip install 'rlhf_jax\[feedback\]'"):
        endpoint.labeler("m", base_url="http://127.0.0.1:9/v1", facts=FACTS["echo"])


def test_limits_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="concurrency=0"):
        pacing.Limits(concurrency=0)
