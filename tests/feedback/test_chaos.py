"""Servers that fail in every way, and jobs that are killed: nothing is lost, nothing is
paid for twice, and the order of results is kept."""

import email.utils
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import fake_endpoint as fake
import numpy as np
import pytest

from rlhf_jax.feedback import endpoint, labelers, ledger
from rlhf_jax.feedback.labelers import Failure, Reading

pytest.importorskip("openai", reason="needs the extra [feedback]: the openai client")

ROOT = pathlib.Path(__file__).resolve().parents[2]
LABELS = (" A", " B")
PROMPTS = [f"Question {number}: which of them?" for number in range(5)]
FACTS = {"kind": "completions", "way": "echo"}
LOST = [  # before anything was answered as a whole
    *("429", "500", "503", "truncated", "broken off", "reset", "timeout", "drip"),
    (429, {"Retry-After": "0.05"}),
    (429, {"Retry-After-Ms": "50"}),
    (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    (429, {"Retry-After": "soon"}),
]
PAID = [
    *("no log-probs", "short", "wrong token", "another answer", "two answers"),
    *("a list",),
]
HARMLESS = ["duplicated", "reordered"]


def a_labeler(server, **options):
    options = {"retries": 4, "backoff": 0.01, "timeout": 10.0} | options
    return endpoint.labeler("m", base_url=server.url, facts=FACTS, **options)


def read(labeler, prompts=PROMPTS):
    return labelers.in_order(labeler.read(prompts, LABELS), len(prompts))


def check(prompts, readings):
    for prompt, reading in zip(prompts, readings, strict=True):
        wanted = [fake.label_logp(prompt, label) for label in LABELS]
        np.testing.assert_allclose(reading.logps, wanted, rtol=1e-12)


@pytest.mark.parametrize("fault", [*LOST, *PAID, *HARMLESS], ids=str)
def test_a_fault_of_every_first_attempt_changes_no_result(fault):
    def faults(prompt, before):
        return fault if before == 0 else None

    late, requests = fault in ("timeout", "drip"), len(PROMPTS) * len(LABELS)
    with fake.serving(faults=faults) as running:
        check(PROMPTS, read(a_labeler(running, timeout=0.7 if late else 10.0)))
        if late:  # a busy machine may be late once more
            assert len(running.asked) >= 2 * requests
            return
        again = requests if fault in PAID else 0
        assert len(running.answered) == requests + again
        assert len(running.asked) == requests * (1 if fault in HARMLESS else 2)


def test_the_server_is_left_alone_for_as_long_as_it_asks():
    def faults(prompt, before):
        return (429, {"Retry-After": "0.6"}) if len(running.asked) == 1 else None

    with fake.serving(faults=faults) as running:
        check(PROMPTS, read(a_labeler(running, concurrency=1)))
        assert running.times[1] - running.times[0] >= 0.6


def test_a_date_to_retry_after_is_honoured():
    date = email.utils.formatdate(time.time() + 2, usegmt=True)

    def faults(prompt, before):
        return (503, {"Retry-After": date}) if len(running.asked) == 1 else None

    with fake.serving(faults=faults) as running:
        read(a_labeler(running, concurrency=1), PROMPTS[:1])
        assert 0.8 <= running.times[1] - running.times[0]  # dates are whole seconds


def test_a_server_that_asks_to_wait_for_an_hour_is_a_failure():
    wait = (429, {"Retry-After": "3600"})
    with fake.serving(faults=lambda prompt, before: wait) as running:
        (result,) = read(a_labeler(running), PROMPTS[:1])
    assert result == Failure("HTTP 429: asks to wait for 3600 s")


@pytest.mark.parametrize(
    "fault, attempts, reason",
    [
        ("500", 5, "HTTP 500: no, Bearer no-key, 5 times"),
        ("reset", 5, "no connection"),
        ("truncated", 5, "cut off"),
        ("broken off", 5, "cut off"),
        ("no log-probs", 2, "no log-probs"),
        ("another answer", 2, "not echoed"),
        ("a list", 2, "another form"),
        ("quota", 1, "HTTP 429: pay"),
        ((400, {}), 1, "HTTP 400: wait"),
    ],
    ids=str,
)
def test_a_fault_that_stays_costs_one_prompt_and_says_why(fault, attempts, reason):
    spoiled = PROMPTS[-1]

    def faults(prompt, before):
        return fault if prompt.startswith(spoiled) else None

    with fake.serving(faults=faults) as running:
        results = read(a_labeler(running, concurrency=1))
        assert sum(x.startswith(spoiled) for x in running.asked) == attempts
    assert isinstance(results[-1], Failure) and reason in results[-1].reason
    check(PROMPTS[:-1], results[:-1])


def test_chaos_is_survived_and_the_next_run_asks_only_for_what_failed(tmp_path):
    """Each of the first three attempts at a request meets a fault of its own, or none;
    what is unusable twice fails, and is asked again."""
    prompts = [f"Question {number}: which of them?" for number in range(24)]
    kinds = ["500", "429", "truncated", "reset", "duplicated", *PAID, None, None]

    def faults(prompt, before):
        draw = random.Random(f"{prompt} {before}").choice(kinds)
        return draw if before < 3 else None

    book = ledger.open_file(tmp_path / "calls.ledger")
    with fake.serving(faults=faults) as running:
        labeler = ledger.through(book, a_labeler(running))
        known, failed = set(), 0
        for _ in range(4):
            running.asked.clear(), running.answered.clear()
            results = read(labeler, prompts)
            assert not known & {text.split("?")[0] for text in running.asked}
            known = {
                prompt.split("?")[0]
                for prompt, result in zip(prompts, results, strict=True)
                if isinstance(result, Reading)
            }
            failed += len(prompts) - len(known)
            faults = running.faults = lambda prompt, before: None
        check(prompts, results)
    assert failed > 0
    spent = ledger.summary(book)["m"]
    assert spent.answers == len(prompts) and sum(spent.failures.values()) == failed


def test_little_is_asked_ahead_of_a_slow_caller():
    """A caller that records slowly loses few answers when it is killed."""
    with fake.serving() as running:
        results = a_labeler(running, concurrency=2).read(PROMPTS, LABELS)
        for taken, _ in enumerate(results):
            time.sleep(0.1)
            prompts = {text.split("?")[0] for text in running.asked}
            assert len(prompts) <= taken + 2
        assert len(prompts) == len(PROMPTS)


# Killed jobs.

KEY = "sk-canary-0123456789abcdef"
JOB = """
import sys
from rlhf_jax.feedback import endpoint, labelers, ledger
url, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
judge = endpoint.labeler(
    "m", base_url=url, key_env="JUDGE_KEY", concurrency=4, backoff=0.01, timeout=20,
    facts={"kind": "completions", "way": "echo"},
)
judge = ledger.through(ledger.open_file(path), judge)
prompts = [f"Question {number % count}: which of them?" for number in range(count + 9)]
readings = labelers.in_order(judge.read(prompts, (" A", " B")), len(prompts))
texts = list(judge.write(prompts[:9], labelers.Decoding()))
assert len(texts) == 9
"""


def start(server, path, count):
    command = [sys.executable, "-c", JOB, server.url, str(path), str(count)]
    environment = os.environ | {"JUDGE_KEY": KEY, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment)


def kill_at_random(server, path, count, kills, rng):
    """Kills the job so often, after some more requests each time; then it may finish.
    Returns what was asked although it was recorded when the job was killed."""
    known, again = set(), []
    for _ in range(kills):
        until = len(server.asked) + rng.randint(1, 10)
        seen, job = len(server.asked), start(server, path, count)
        while len(server.asked) < until and job.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.03))
        command = pathlib.Path(f"/proc/{job.pid}/cmdline")
        assert not command.exists() or KEY not in command.read_text()
        job.send_signal(signal.SIGKILL)
        job.wait()
        again += [x for x in server.asked[seen:] if (x, server.url) in known]
        known = {
            (row["prompt"] + label, server.url)
            for row in ledger.records(ledger.open_file(path))
            for label in (LABELS if row["kind"] == "read" else ("",))
        }
    seen, job = len(server.asked), start(server, path, count)
    assert job.wait() == 0
    return again + [x for x in server.asked[seen:] if (x, server.url) in known]


@pytest.mark.parametrize(
    "kills, count", [(3, 16), pytest.param(20, 80, marks=pytest.mark.slow)]
)
def test_a_killed_job_resumes_to_the_same_bytes_and_pays_for_nothing_twice(
    tmp_path, kills, count
):
    with fake.serving(delay=0.01) as running:
        assert start(running, tmp_path / "whole.ledger", count).wait() == 0
        requests, seen = len(running.asked), set(running.asked)
        running.asked.clear(), running.answered.clear()
        path = tmp_path / "killed.ledger"
        again = kill_at_random(running, path, count, kills, random.Random(0))
        assert not again and set(running.asked) == seen
        # Of four prompts, each with its labels: in flight, or not recorded yet.
        assert requests <= len(running.asked) <= requests + kills * 4 * len(LABELS)
    books = [ledger.open_file(tmp_path / f"{x}.ledger") for x in ("whole", "killed")]
    for ending in ("jsonl", "parquet"):
        whole, killed = (
            ledger.export(book, book.path.with_suffix(f".{ending}")).read_bytes()
            for book in books
        )
        assert whole == killed
    files = [file.read_bytes() for file in tmp_path.iterdir()]
    assert not any(KEY.encode() in data for data in files)
