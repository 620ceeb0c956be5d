"""Labelling: what is written, what a killed job asks again, and what is refused."""

import json
import os
import sys

import judging_labelers
import numpy as np
import pytest
import small_recipes

from experiments import label, reward_model, rlaif
from experiments.rlaif import spent
from rlhf_jax import huggingface
from rlhf_jax.cli import options
from rlhf_jax.feedback import ledger, pairings
from rlhf_jax.tasks import pairs

pytest.importorskip("transformers")
ROWS = [
    {"prompt": "Say one:", "chosen": " a much longer text", "rejected": " no"},
    {"prompt": "Say two:", "chosen": " no", "rejected": " quite a long text"},
    {"prompt": "Say three:", "chosen": " same", "rejected": " same"},
]
LENGTHS = [(18, 2), (2, 17), (4, 4)]


@pytest.fixture(autouse=True)
def devices(monkeypatch):
    small_recipes.share(monkeypatch)


def labels(folder, judge=judging_labelers.likes_length, *, asked=None, **flags):
    stop = flags.pop("stop", None)
    made = judging_labelers.labeler(judge, asked, stop=stop)
    flags = {"labeler": made, "dataset": ROWS, "template": "helpful_base", **flags}
    return label.label(output=str(folder), quiet=True, **flags)


def written(folder, name="labels.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_labels_by_hand(tmp_path):
    """p = 0.8 share of the length + 0.1; what the slot adds cancels."""
    made = labels(tmp_path)
    p = [0.8 * (a + 1) / (a + b + 2) + 0.1 for a, b in LENGTHS]
    rows = made.rows
    assert rows == written(tmp_path) and made.failed == []
    found = [row["preference"] for row in rows]
    np.testing.assert_allclose(found, [p[0], 1 - p[1], 0.5], atol=2e-6)
    assert [row["chosen"] for row in rows] == [
        ROWS[0]["chosen"],
        ROWS[1]["rejected"],
        ROWS[2]["chosen"],
    ]
    assert [row["given"] for row in rows] == [1, 0, 1]
    for row in rows:
        average = (row["p_ab"] + 1 - row["p_ba"]) / 2
        assert row["preference"] == pytest.approx(average, abs=2e-6)
        assert row["outside"] == pytest.approx(0.1, abs=1e-6)
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["agreement"]["share"] == pytest.approx(0.5)  # right, wrong, a tie
    assert told["position_bias"]["gap"] == pytest.approx(0.2, abs=1e-6)
    assert told["spent"]["a function"]["calls"] == 5  # equal texts are asked once
    page = (tmp_path / "report.md").read_text()
    assert "50.0% [" in page and "anything but a label: 0.1" in page


def test_a_killed_job_asks_only_the_rest_and_ends_byte_equal(tmp_path):
    whole, first, rest = [], [], []
    labels(tmp_path / "whole", asked=whole)
    with pytest.raises(KeyboardInterrupt):
        labels(tmp_path / "killed", asked=first, stop=2)
    assert not (tmp_path / "killed" / "labels.jsonl").exists()
    with pytest.raises(ValueError, match="holds a run already: pass --resume"):
        labels(tmp_path / "killed")
    labels(tmp_path / "killed", asked=rest, resume=True)
    assert first == whole[:2] and rest == whole[2:]
    one, other = (tmp_path / x / "labels.jsonl" for x in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()
    with pytest.raises(ValueError, match="--shots 0 there, 1 here"):
        labels(tmp_path / "killed", resume=True, shots=1)
    labels(tmp_path / "killed", resume=True, limits={"concurrency": 3})


def test_a_row_that_failed_is_kept_apart_and_asked_again(tmp_path):
    made = labels(tmp_path, judging_labelers.fails("Say two"))
    assert [row["row"] for row in made.rows] == [0, 2]
    (lost,) = written(tmp_path, "failed.jsonl")
    assert lost["failure"] == "order ab: timed out" and lost["row"] == 1
    assert made.results["failures"] == {"timed out": 1}
    assert "1 row without a label: timed out" in (tmp_path / "report.md").read_text()
    asked = []
    again = labels(tmp_path, asked=asked, resume=True)
    assert len(asked) == 2 and all("Say two" in prompt for prompt in asked)
    assert len(again.rows) == 3 and not (tmp_path / "failed.jsonl").exists()
    with pytest.raises(ValueError, match="none of 3 pairs got a label; row 0: .*timed"):
        labels(tmp_path / "none", judging_labelers.fails("Say"))


def test_messages_stay_messages_and_other_columns_do(tmp_path):
    turns = [{"role": "user", "content": "Say it"}]
    answers = [[{"role": "assistant", "content": x}] for x in ("a b c d", "e")]
    row = {"prompt": turns, "response_a": answers[1], "response_b": answers[0]}
    asked = []
    made = labels(tmp_path, dataset=[row] * 2, asked=asked, limit=1)
    (found,) = made.rows
    assert found["prompt"] == turns and found["chosen"] == answers[0]
    assert "given" not in found and "agreement" not in made.results
    assert "Context - Human: Say it\n" in asked[0]
    assert sorted(judging_labelers.texts(asked[0])) == [" a b c d", " e"]


def test_a_chain_of_thought_is_kept_for_both_orders(tmp_path):
    how = {"chain_of_thought": True, "samples": 2, "temperature": 0.5}
    made = labels(tmp_path, dataset=ROWS[:2], **how)
    thoughts = ["thought 0", "thought 1"]
    for row in made.rows:
        assert row["rationales_ab"] == row["rationales_ba"] == thoughts
    assert made.results["spent"]["a function"]["calls"] == 2 * 2 * 4
    book = ledger.open_file(tmp_path / "ledger.sqlite")
    ((p_ab, p_ba),) = pairings.probabilities(book).values()
    # The gap of a pair is the same whichever of its texts is called the first.
    gaps = [abs(row["p_ab"] + row["p_ba"] - 1) for row in made.rows]
    np.testing.assert_allclose(np.sort(abs(p_ab + p_ba - 1)), np.sort(gaps), atol=3e-6)


def test_a_ledger_tells_what_was_spent_and_how_biased_the_judge_was(
    tmp_path, monkeypatch, capsys
):
    labels(tmp_path, judging_labelers.fails("Say two"), dataset=ROWS[:2])
    name, *lines = spent.read(tmp_path / "ledger.sqlite")
    text = "\n".join(lines)
    assert name == "a function" and "4 calls, 2 answered, 2 failed" in text
    assert "failed 2 times: timed out" in text
    assert "p_ba)| 0.200, beyond 0.1 in 100% of 1 pairs" in text
    command = ["rlaif", "--ledger", str(tmp_path / "ledger.sqlite")]
    monkeypatch.setattr(sys, "argv", command)
    rlaif.main()
    assert "4 calls, 2 answered, 2 failed" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--ledger .*none: there is no such file"):
        spent.read(tmp_path / "none")


def test_soft_labels_are_those_of_a_reward_model(tmp_path):
    model = small_recipes.model(tmp_path)
    rows = [row | {"prompt": f"{i} {row['prompt']}"} for row in ROWS for i in range(4)]
    labels(tmp_path / "labels", dataset=rows)
    dataset = str(tmp_path / "labels" / "labels.jsonl")
    network, _, words = huggingface.load(model)
    train, held, _ = pairs.read(dataset, options.Data(), network, words)
    read = np.concatenate([train.pairs.preference, held.pairs.preference])
    soft = [row["preference"] for row in written(tmp_path / "labels")]
    np.testing.assert_allclose(np.sort(read), np.sort(soft))
    assert min(soft) == 0.5 and 0.5 < max(soft) < 1
    judge = reward_model.train(
        model=model,
        dataset=dataset,
        fit={"steps": 1, "rows": 4},
        output=str(tmp_path / "judge"),
        devices=1,
        quiet=True,
    )
    assert np.isfinite(judge.metrics["eval/loss"])


def test_a_dry_run_asks_nothing_and_writes_nothing(tmp_path):
    asked = []
    flags = {"dry_run": True, "limits": {"prices": (1.0, 2.0)}}
    lines = labels(tmp_path / "run", asked=asked, **flags)
    assert not asked and not (tmp_path / "run").exists()
    # The two orders of equal texts are one prompt, which is asked once.
    assert "3 pairs" in lines[0] and "5 calls" in lines[1] and "in money" in lines[1]


ENDPOINT = {"labeler": "http://localhost:1/v1"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"labeler": ""}, "--labeler is needed"),
        ({"dataset": ""}, "--dataset is needed"),
        ({"template": "helpful"}, "there is no prompt 'helpful'; known are"),
        ({"template": "helpful_rating"}, "is of kind rating, and pair is needed"),
        ({"shots": 99}, "99 shots, and the prompt helpful_base has"),
        ({"samples": 2}, "--samples 2 and --no-chain-of-thought"),
        ({"dataset": [{"question": "a"}]}, "columns question: needed are prompt, cho"),
        ({"dataset": [ROWS[0] | {"preference": 2}]}, "row 0 .*2 is no probability"),
        (ENDPOINT, "needs the server's name of the model: --endpoint.model"),
        ({"endpoint": {"model": "m"}}, "endpoint settings .* go with a URL"),
        ({"limits": {"budget_money": 1.0}}, "--limits.budget-money .* is not known"),
        ({"labeler": "policy"}, "there is no policy here"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_asked(tmp_path, flags, said):
    with pytest.raises(ValueError, match=said) as refused:
        labels(tmp_path / "run", **flags)
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_a_key_is_in_no_file_and_no_message(tmp_path, monkeypatch):
    pytest.importorskip("openai", reason="needs the extra [feedback]")
    import fake_endpoint

    key = "sk-never-to-be-seen-0123456789"
    monkeypatch.setenv("JUDGE_KEY", key)
    with fake_endpoint.serving() as server:
        flags = {"labeler": server.url, "dataset": ROWS, "quiet": True}
        flags |= {"limits": {"retries": 0}, "output": str(tmp_path / "run")}
        asked = {"model": "m", "key_env": "JUDGE_KEY", "kind": "completions"}
        label.label(endpoint=asked, template="helpful_base", **flags)
        count = len(server.asked)
        again = label.label(
            endpoint=asked, template="helpful_base", resume=True, **flags
        )
        assert len(server.asked) == count  # the probe is not repeated either
    assert len(again.rows) + len(again.failed) == 3
    for place, _, names in os.walk(tmp_path):
        for name in names:
            assert key.encode() not in open(os.path.join(place, name), "rb").read()
    for name in (key, "NOT_SET"):
        endpoint = {"model": "m", "key_env": name}
        with pytest.raises(ValueError, match="key_env names no") as refused:
            labels(tmp_path / "x", labeler=server.url, endpoint=endpoint)
        assert key not in str(refused.value)
    with pytest.raises(ValueError, match="scheme, host and path alone") as refused:
        labels(tmp_path / "x", labeler=f"https://me:{key}@host/v1")
    assert key not in str(refused.value)
