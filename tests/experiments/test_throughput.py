"""Speed measurement: counts of work by hand, clocks, peers' processes, the command."""

import dataclasses
import json
import pathlib
import sys
import time
import types

import numpy as np
import pytest
import small_recipes

from experiments.throughput import benchmark as throughput
from experiments.throughput import (
    measure,
    operations,
    ours,
    peers,
    planning,
    race,
    ragged,
    weights,
    worker,
    workloads,
)
from rlhf_jax.models import config as model_config
from rlhf_jax.runtime import parallel

TINY = workloads.Workload(
    "tiny",
    model_config.llama(vocab_size=29, width=8, layers=1, heads=2, max_length=9),
    rows=8,
    prompt_length=4,
    new_tokens=5,
)
MULTIPLIED = 2 * (4 * 8 * 8 + 3 * 8 * 24)  # operations of one token in the one layer


# Work


def test_operations_are_two_a_weight_and_token_and_attention_by_hand():
    c = TINY.decoder
    assert operations.kernels(c) == 4 * 8 * 8 + 3 * 8 * 24
    found = operations.forward(c, tokens=10, context=3, asked=10)
    assert found == 10 * (MULTIPLIED + 4 * 3 * 8) + 10 * 2 * 8 * 29


def test_the_last_layer_keeps_keys_and_values_of_what_nobody_asks_for():
    c = TINY.decoder
    found = operations.forward(c, tokens=10, context=3, asked=2, logits=False)
    assert found == 2 * (MULTIPLIED + 4 * 3 * 8) + 8 * 2 * (2 * 8 * 8)
    deeper = dataclasses.replace(c, layers=3)
    more = operations.forward(deeper, tokens=10, context=3, asked=2, logits=False)
    assert more == 2 * 10 * (MULTIPLIED + 4 * 3 * 8) + found


def test_grouped_queries_and_plain_feed_forward_layers_have_fewer_weights():
    shape = {"vocab_size": 11, "width": 16, "layers": 1, "heads": 4, "max_length": 8}
    grouped = model_config.llama(**shape, kv_heads=1, hidden=20)
    assert operations.kernels(grouped) == 2 * 16 * 16 + 2 * 16 * 4 + 3 * 16 * 20
    assert operations.kernels(model_config.gpt2(**shape)) == 4 * 16**2 + 8 * 16**2


def test_an_update_is_three_forwards_and_an_iteration_the_sum_of_its_passes():
    def over_rows(asked, **options):
        return operations.forward(TINY.decoder, 8 * 9, 4.5, asked, **options)

    policy, score = over_rows(8 * 5), over_rows(8, logits=False)
    values = over_rows(8 * 5, logits=False)
    assert operations.update(TINY) == 3 * policy
    assert operations.update(TINY, critic=True) == 3 * (policy + values)
    rest = operations.iteration(TINY) - operations.generate(TINY)
    assert rest == score + policy + 3 * policy
    alone, shared = (operations.iteration(TINY, copies=k) for k in (1, 4))
    assert alone - shared == 0.75 * operations.prefill(TINY)
    more = operations.iteration(TINY, critic=True) - operations.iteration(TINY)
    assert more == values + 3 * values


def test_a_rollout_feeds_back_every_token_but_the_last():
    fed = operations.generate(TINY) - operations.prefill(TINY)
    assert fed == operations.forward(TINY.decoder, 8 * 4, 4 + 2.5, 8 * 4)


def test_decoding_reads_all_weights_and_half_the_responses_cache_a_step():
    weights = 4 * 8 * 8 + 3 * 8 * 24 + 8 * 29
    cache = 2 * 8 * (4 + 2.5) * 8
    assert operations.decode_bytes(TINY) == 4 * 4 * (weights + cache)


# Workloads


def test_workloads_write_all_their_tokens_and_no_end():
    for work in workloads.WORKLOADS.values():
        sampler = work.algorithm("ppo").sampling
        assert sampler.max_new_tokens == work.new_tokens
        assert min(sampler.eos_ids) >= work.decoder.vocab_size
        assert work.length <= work.decoder.max_length
        for name in ("ppo", "rloo", "grpo"):
            config = work.algorithm(name)
            assert work.rows % (config.candidates * config.minibatches) == 0


def test_a_twin_has_the_same_work_within_a_tenth():
    for work in workloads.WORKLOADS.values():
        if work.twin is not None:
            twin = workloads.WORKLOADS[work.twin]
            ratio = operations.iteration(twin) / operations.iteration(work)
            assert abs(ratio - 1) < 0.1
            assert dataclasses.replace(
                twin, decoder=work.decoder, summary=work.summary, twin=work.twin
            ) == work  # fmt: skip


def test_microworld_is_the_default_run():
    from experiments import sentiment
    from rlhf_jax import microworld
    from rlhf_jax.microworld import reviews
    from rlhf_jax.tasks import microworld as task

    work, default = workloads.WORKLOADS["microworld"], sentiment.CONFIG
    world = microworld.create(default.microworld.world)
    preset = default.policy.removeprefix("scratch:")
    rng = np.random.default_rng(0)
    width = reviews.prompts(world, rng, 8, split="train")[0].shape[1]
    assert work.decoder == model_config.preset(
        preset, vocab_size=len(world.vocabulary), max_length=task.CONTEXT
    )
    assert (work.rows, work.minibatches) == (default.rl.rows, default.rl.minibatches)
    assert (work.prompt_length, work.new_tokens) == (width, reviews.RESPONSE)


# Clocks


def test_rounds_alternate_and_who_is_first_changes():
    order = []
    calls = {name: lambda n=name: float(order.append(n) or len(order)) for name in "ab"}
    times = measure.alternate(calls, 3)
    assert "".join(order) == "abbaab"
    assert times == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_ratios_pair_the_rounds_that_met_the_same_load():
    found = measure.ratios([1.0, 10.0, 2.0], [3.0, 30.0, 4.0])
    assert found == {"median": 3.0, "low": 2.0, "high": 3.0}


def test_the_peak_is_what_was_held_since_it_was_forgotten():
    if not pathlib.Path("/proc/self/clear_refs").exists():
        pytest.skip("the system does not tell")
    measure.start_peak()
    before = measure.peak_bytes()
    held = np.ones(64 * 1024**2, np.uint8)
    grown = measure.peak_bytes() - before
    assert 0.9 * held.nbytes < grown < 1.5 * held.nbytes


def test_processor_seconds_tell_work_from_waiting():
    clock = worker.Clock()
    time.sleep(0.2)
    read = clock.read()
    assert read["seconds"] >= 0.2 and read["cpu_seconds"] < 0.15


def test_what_rounds_say_is_arithmetic():
    times = {"iteration": [2.0, 4.0, 3.0], "generate": [1.5], "prefill": [0.5]}
    times |= {"train": [1.0], "bookkeeping": [0.03]}
    facts = ours.describe(TINY, "rloo", times, matmul=1e6, bandwidth=1e5)
    assert facts["iteration_seconds"] == 3.0
    assert facts["relative_range"] == 2.0 / 3.0
    assert facts["generate_tokens_per_second"] == 8 * 5 / 1.5
    assert facts["train_tokens_per_second"] == 8 * 9
    assert facts["decode_tokens_per_second"] == 8 * 4
    assert facts["decode_bandwidth_share"] == operations.decode_bytes(TINY) / 1e5
    done = operations.iteration(TINY, copies=TINY.candidates)
    assert facts["iteration_utilisation"] == done / 3.0 / 1e6
    assert facts["bookkeeping_share"] == pytest.approx(0.01)


# Peers


def test_texts_of_a_peer_join_as_tokens_do(tmp_path):
    tokenizer = peers.save_tokenizer(tmp_path, 300)
    rng = np.random.default_rng(0)
    ids = rng.integers(2, 300, (4, 6)).tolist()
    texts = tokenizer.batch_decode(ids)
    assert texts == ["".join(map(peers.character, row)) for row in ids]
    assert tokenizer(texts)["input_ids"] == ids
    assert tokenizer(texts[0] + texts[1])["input_ids"] == ids[0] + ids[1]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)


PEER = """
from experiments.throughput import worker

def main(channel, spec):
    print("what a library prints is no answer")
    channel.answer(versions={"peer": "1"})
    for _ in range(spec["rounds"]):
        channel.rounds({"generate": lambda: None}, "iteration")
        channel.answer(seconds=0.5, cpu_seconds=0.25, peak_bytes=1024)
    if spec["missing"]:
        import no_such_library
    raise RuntimeError("it broke")

worker.run(main)
"""


@pytest.fixture
def started(tmp_path, monkeypatch):
    (tmp_path / "a_peer.py").write_text(PEER)
    monkeypatch.setitem(peers.PEERS, "trl", ("a_peer", "rloo", "some-package==1"))
    monkeypatch.setattr(peers, "PATH", (str(tmp_path), *peers.PATH))

    def start(**spec):
        spec = {"rounds": 1, "missing": False, **spec}
        return peers.Peer("trl", None, spec, tmp_path)

    return start


def test_a_peer_answers_round_by_round_and_its_prints_do_not_disturb(started):
    with started() as peer:
        assert peer.ask("") == {"versions": {"peer": "1"}}
        asked = peer.ask("generate")
        assert set(asked) == {"seconds", "cpu_seconds", "peak_bytes"}
        assert peer.ask("iteration")["peak_bytes"] == 1024
        with pytest.raises(ValueError, match="--against trl: RuntimeError: it broke"):
            peer.ask("iteration")
        assert "no answer" in peer.log.read_text()


def test_a_peer_that_is_not_installed_is_one_line_on_how_to_install_it(started):
    with started(rounds=0, missing=True) as peer:
        peer.ask("")
        with pytest.raises(ValueError) as caught:
            peer.ask("iteration")
    line = str(caught.value)
    assert "has no no_such_library" in line and "\n" not in line
    assert "-m pip install some-package==1" in line and "--peer-python" in line


def test_a_python_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="--peer-python /no/python"):
        peers.Peer("trl", "/no/python", {}, tmp_path)


def test_a_peer_is_left_when_we_leave(started):
    with started() as peer:
        peer.ask("")
    assert peer._process.poll() is not None


def test_tunix_runs_the_llama_of_a_gpt2(monkeypatch):
    name, work = race.fitting("tunix", "reference")
    assert name == "reference-llama" and work.decoder.positions == "rotary"
    assert race.fitting("trl", "reference")[0] == "reference"
    assert race.fitting("tunix", "microworld")[0] == "microworld"


# The command


def test_misuse_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = {
        "--workloads big": {"workloads": ("big",)},
        "--against vllm": {"against": ("vllm",)},
        "--rounds 0": {"rounds": 0},
        "--against trl runs on a CPU": {
            "workloads": ("llama-1b",),
            "against": ("trl",),
        },
    }
    for said, changes in cases.items():
        with pytest.raises(ValueError, match=said):
            throughput.run(throughput.Config(**changes))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def quick(monkeypatch):
    """A tiny workload, a machine whose peaks need no measuring, a peer that is us."""
    monkeypatch.setitem(workloads.WORKLOADS, "tiny", TINY)
    monkeypatch.setattr(ours, "PARTS", ("iteration", "checkpoint"))
    monkeypatch.setitem(race.RACED, "trl", ("iteration",))
    monkeypatch.setattr(measure, "matmul_flops", lambda *_: 1e9)
    monkeypatch.setattr(measure, "bandwidth", lambda *_: 1e9)
    monkeypatch.setattr(throughput, "prepare", lambda *_: None)
    answers = {"seconds": 8.0, "cpu_seconds": 8.0, "peak_bytes": 1024**3}
    peer = types.SimpleNamespace(ask=lambda part: answers if part else {"threads": 2})

    class Fake:
        def __init__(self, name, python, spec, folder):
            assert pathlib.Path(spec["policy"], "config.json").exists()
            assert len(spec["prompts"]) == TINY.rows

        def __enter__(self):
            return peer

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(peers, "Peer", Fake)
    kept = {}
    make = ours.Ours
    monkeypatch.setattr(
        ours,
        "Ours",
        lambda work, algorithm, layout: (
            kept.setdefault(algorithm, make(work, algorithm, layout))
            if algorithm not in kept
            else kept[algorithm]
        ),
    )


def test_a_run_writes_what_it_measured(quick, tmp_path, capsys):
    config = throughput.Config(
        workloads=("tiny",),
        algorithms=("rloo",),
        against=("trl",),
        rounds=2,
        devices=2,
        output=str(tmp_path / "out"),
    )
    place = throughput.run(config)
    found = json.loads((place / "results.json").read_text())
    entry = found["workloads"]["tiny"]
    mine = entry["ours"]
    assert mine["algorithm"] == "rloo" and mine["devices"] == 2
    assert mine["iteration_seconds"] > 0 and mine["checkpoint_seconds"] > 0
    assert mine["compile_seconds"]["iteration"] > mine["iteration_seconds"]
    assert mine["peak_gib"] > 0
    assert entry["trl"]["iteration_seconds"] == 8.0
    assert entry["trl"]["peak_gib"] == 1.0
    ratio = entry["ratios"]["trl"]["iteration"]
    again = 8.0 / entry["ours_against_trl"]["iteration_seconds"]
    assert ratio["low"] <= again <= ratio["high"]
    said = capsys.readouterr().out
    assert "times as fast as trl: iteration" in said
    assert (place / "config.json").exists()


def test_averages_are_timed_against_a_copy(quick, tmp_path, capsys):
    config = throughput.Config(averages=1e-4, rounds=2, output=str(tmp_path / "out"))
    place = throughput.run(config)
    found = json.loads((place / "results.json").read_text())
    assert found["workloads"] == {}
    assert list(found["averages"]) == list(weights.OPERATIONS)
    for facts in found["averages"].values():
        assert facts["seconds"] > 0 and facts["gib_per_second"] > 0
    assert found["averages"]["copy"]["of_copy"]["median"] == 1.0
    assert "interpolate" in capsys.readouterr().out


def test_labels_are_timed_against_a_prefill(quick, tmp_path, capsys):
    config = throughput.Config(
        label=small_recipes.model(tmp_path), rows=4, prompt_length=4, rounds=2,
        output=str(tmp_path / "out"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="shorter --prompt-length"):
        throughput.run(dataclasses.replace(config, prompt_length=64))
    found = json.loads((throughput.run(config) / "results.json").read_text())
    labels = found["labels"]
    assert list(labels) == ["prefill", "pair", "rating", "pair, common beginning"]
    assert labels["pair"]["tokens"] == labels["rating"]["tokens"]
    assert labels["pair, common beginning"]["tokens"] > labels["pair"]["tokens"]
    assert labels["prefill"]["of_prefill"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    for facts in labels.values():
        rate = facts["tokens_per_second"]
        assert rate == pytest.approx(facts["tokens"] / facts["seconds"])
    assert "of a prefill's" in capsys.readouterr().out


def test_turns_are_timed_against_a_batch(quick, tmp_path, capsys):
    config = throughput.Config(
        ragged=True, workloads=("tiny",), rounds=2, devices=2,
        output=str(tmp_path / "out"),
    )  # fmt: skip
    place = throughput.run(config)
    found = json.loads((place / "results.json").read_text())
    entry = found["ragged"]["tiny"]
    assert found["workloads"] == {} and entry["same_rows"] == 1.0
    assert entry["rows"] == ragged.ROWS * TINY.rows
    assert 1 < entry["mean_length"] < 0.6 * TINY.new_tokens == 0.6 * entry["longest"]
    tokens = entry["rows"] * entry["mean_length"]
    for who in ("batch", "turns"):
        facts = entry[who]
        assert facts["tokens_per_second"] == pytest.approx(tokens / facts["seconds"])
        assert facts["of_batch"]["low"] <= facts["of_batch"]["high"]
    assert entry["batch"]["of_batch"] == dict.fromkeys(
        ("median", "low", "high", "cpu"), 1.0
    )
    said = capsys.readouterr().out
    assert "100% of responses are the same" in said and "of a batch's" in said


def test_lengths_are_a_third_of_the_longest():
    """Of a uniform model: three ends in T tokens, (1 − e⁻³) T / 3 on average."""
    for name in ("reference", "microworld", "smollm2"):
        work = workloads.WORKLOADS[name]
        sampler = ragged.sampler(work)
        size, longest = work.decoder.vocab_size, work.new_tokens
        share = len(sampler.eos_ids) / size
        mean = (1 - (1 - share) ** longest) / share
        assert mean / longest == pytest.approx(1 / 3, abs=0.03)
        assert workloads.PAD not in sampler.eos_ids and max(sampler.eos_ids) < size


def test_a_model_of_so_many_gib_is_cut_into_leaves(monkeypatch):
    monkeypatch.setattr(weights, "LEAF", 100)
    sizes = [x.size for x in weights.model(1000 / 1024**3, 2.0)]
    assert sizes == [100, 100, 50]


SECONDS = {
    **dict.fromkeys(weights.OPERATIONS, [6.0, 6.0]),
    **{"copy": [2.0, 2.0], "interpolate": [3.0, 3.0]},
}


def test_bytes_per_second_count_every_tree_that_is_read_or_written(monkeypatch):
    """A mixture that takes half as long again as a copy is as fast."""
    monkeypatch.setattr(measure, "alternate", lambda *_: SECONDS)
    found = weights.race(1e-4, 2)
    assert found["interpolate"]["of_copy"]["median"] == pytest.approx(1.0)
    assert found["ema"]["of_copy"]["high"] == pytest.approx(0.5)
    assert found["interpolate"]["gib_per_second"] == pytest.approx(1e-4, rel=1e-2)


def test_a_plan_is_printed_with_its_verdict(capsys, monkeypatch):
    monkeypatch.setattr(planning.memory, "make", lambda *_, **given: PLANNED(given))
    config = throughput.Config(plan=True, policy="gpt2-micro", memory=1.0, rows=8)
    throughput.run(config)
    out = capsys.readouterr().out
    assert "policy" in out and "fits: 0.5 GiB of 1 GiB" in out


def PLANNED(given):
    assert given["rows"] == 8 and given["adapter"] is None
    half = planning.memory.GIB // 4
    return planning.memory.Plan({"policy": half}, half, 0, 0)


# Against the real peers, where they are installed


@pytest.mark.slow
def test_trl_runs_the_same_work():
    pytest.importorskip("trl", reason="needs trl: pip install trl torch")
    found = race.against("trl", TINY, parallel.data(1), python=sys.executable, rounds=2)
    assert set(found["ratios"]) == {"iteration", "generate", "train"}
    assert found["trl"]["iteration_seconds"] > 0
    assert found["trl"]["peak_gib"] > 0.1


@pytest.mark.slow
def test_tunix_runs_the_same_work():
    pytest.importorskip("tunix", reason="needs google-tunix: pip install google-tunix")
    found = race.against(
        "tunix", TINY, parallel.data(1), python=sys.executable, rounds=2
    )
    assert set(found["ratios"]) == {"iteration", "generate"}
    assert found["tunix"]["iteration_seconds"] > 0
