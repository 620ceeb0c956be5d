"""Logs of anybody's trainer, and runs of ours, as series."""

import gzip
import json
import pathlib
import struct

import numpy as np
import pytest

from experiments.objective_mismatch.audit import logs, monitors, runs, series
from rlhf_jax.runtime import metrics_log

TRL = pathlib.Path(__file__).parents[1] / "golden" / "trl_trainer_state.json"
ROWS = [
    {"step": i, "reward": float(i), "gold": 5 - abs(i - 5.0), "kl": i / 2}
    for i in range(10)
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path, *columns):
    tables = logs.read(path)
    asked = series.parse(columns)
    return [one for table in tables for one in series.build(table, asked, "run")]


def only(path, *columns):
    (one,) = read(path, *columns)
    return one


def events(folder, scalars, **options):
    """An event file of tensorboardX; scalars: (tag, value, step) each."""
    writer = pytest.importorskip("tensorboardX").SummaryWriter(str(folder), **options)
    for scalar in scalars:
        writer.add_scalar(*scalar)
    writer.close()
    return sorted(folder.glob("*tfevents*"))[-1]


def scalars(rows, prefix=""):
    return [
        (prefix + k, v, row["step"])
        for row in rows
        for k, v in row.items()
        if k != "step"
    ]


# What a log may be


def test_trl_is_read_without_naming_a_column():
    one = only(TRL)
    assert one.columns == {
        "step": "step",
        "proxy": "reward",
        "gold": "rewards/gold/mean",
        "kl": "kl",
        "length": "completions/mean_length",
        "entropy": "entropy",
        "spread": "reward_std",
    }
    history = json.loads(TRL.read_text())["log_history"]
    rows = [row for row in history if "reward" in row]
    np.testing.assert_array_equal(one.steps, [row["step"] for row in rows])
    np.testing.assert_array_equal(
        one.values["gold"], [r["rewards/gold/mean"] for r in rows]
    )
    assert one.kl_unit == "nats a token" and one.notes == ()


def test_jsonl_csv_state_events_and_their_gzips_say_the_same(tmp_path):
    lines = write(tmp_path / "log.jsonl", ROWS)
    table = tmp_path / "log.csv"
    cells = [list(ROWS[0]), *(row.values() for row in ROWS)]
    table.write_text("".join(",".join(map(str, row)) + "\r\n" for row in cells))
    semicolons = tmp_path / "log.txt"
    semicolons.write_text(table.read_text().replace(",", ";"))
    state = tmp_path / "trainer_state.json"
    state.write_text(json.dumps({"log_history": [*ROWS, {"train_runtime": 1.0}]}))
    array = tmp_path / "array.json"
    array.write_text(json.dumps(ROWS))
    event = events(tmp_path / "events", scalars(ROWS))
    packed = tmp_path / "log.gz"
    packed.write_bytes(
        gzip.compress(lines.read_bytes()[:200])
        + gzip.compress(lines.read_bytes()[200:])
    )
    for path in (lines, table, semicolons, state, tmp_path, array, event, packed):
        one = only(path)
        np.testing.assert_array_equal(one.steps, range(10))
        for role, column in {"proxy": "reward", "gold": "gold", "kl": "kl"}.items():
            np.testing.assert_array_equal(one.values[role], [r[column] for r in ROWS])
            assert one.columns[role] == column
        assert one.notes == ()


def test_a_folder_of_checkpoints_is_read_by_its_last(tmp_path):
    for count in (90, 200):
        folder = tmp_path / f"checkpoint-{count}"
        folder.mkdir()
        rows = [row | {"step": count + row["step"]} for row in ROWS]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": rows}))
    assert only(tmp_path).steps[0] == 200


def test_objects_within_objects_are_named_by_slashes(tmp_path):
    rows = [{"step": i, "train": {"reward": {"mean": i}}} for i in range(4)]
    one = only(write(tmp_path / "log", rows), "proxy=train/reward/mean")
    np.testing.assert_array_equal(one.values["proxy"], range(4))


def test_names_that_loggers_prefix_are_known(tmp_path):
    one = only(events(tmp_path, scalars(ROWS, "train/")))
    assert one.columns["proxy"] == "train/reward" and one.columns["kl"] == "train/kl"
    assert one.kl_unit == "nats a token"


def test_a_column_that_was_given_a_role_has_no_other(tmp_path):
    path = write(tmp_path / "log", ROWS)
    one = only(path, "gold=reward", "proxy=gold")
    assert one.columns["gold"] == "reward" and one.columns["proxy"] == "gold"


def test_runs_in_one_file_are_told_apart(tmp_path):
    rows = [row | {"seed": seed} for seed in (3, 4) for row in ROWS]
    one, two = read(write(tmp_path / "log", rows), "run=seed")
    assert (one.name, two.name) == ("run 3", "run 4")
    np.testing.assert_array_equal(one.values["proxy"], two.values["proxy"])
    assert one.notes == ()


# What happens to logs


def test_rows_are_sorted_and_those_of_several_processes_averaged(tmp_path):
    rows = [*ROWS[5:], *ROWS[:5], ROWS[2] | {"reward": 4.0}]
    one = only(write(tmp_path / "log", rows))
    np.testing.assert_array_equal(one.steps, range(10))
    assert one.values["proxy"][2] == 3.0 and one.values["proxy"][3] == 3.0
    assert any("out of order" in note for note in one.notes)
    assert any("1 of 10 steps were logged more than once" in n for n in one.notes)


def test_rows_of_one_step_that_log_other_things_are_joined(tmp_path):
    rows = [{"step": r["step"], k: r[k]} for r in ROWS for k in ("reward", "gold")]
    one = only(write(tmp_path / "log", rows))
    assert len(one.steps) == 10 and one.complete("proxy", "gold").all()
    assert one.notes == ()


def test_missing_numbers_are_nan_and_said(tmp_path):
    rows = [dict(row) for row in ROWS]
    rows[1]["reward"], rows[2]["reward"] = None, float("nan")
    rows[3]["gold"] = float("inf")
    del rows[4]["step"]
    one = only(write(tmp_path / "log", rows))
    assert np.isnan(one.values["proxy"][1:3]).all() and np.isnan(one.values["gold"][3])
    assert len(one.steps) == 9
    assert set(one.notes) == {
        "1 row without a step left out",
        "2 steps without a proxy",
    }
    assert one.complete("proxy", "gold").sum() == 6


def test_numbers_that_were_written_as_texts_are_numbers(tmp_path):
    rows = [{k: str(v) for k, v in row.items()} for row in ROWS]
    np.testing.assert_array_equal(only(write(tmp_path / "l", rows)).steps, range(10))


def test_rows_are_counted_where_there_is_no_step(tmp_path):
    rows = [{"reward": row["reward"]} for row in ROWS]
    one = only(write(tmp_path / "log", rows))
    np.testing.assert_array_equal(one.steps, range(10))
    assert one.notes == ("no column is known to be the step: rows are counted",)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_half_written_last_line_is_left_out_and_said(tmp_path, kind):
    path = tmp_path / "log"
    write(path, ROWS)
    if kind == "csv":
        cells = [list(ROWS[0]), *(row.values() for row in ROWS)]
        path.write_text("".join(",".join(map(str, row)) + "\n" for row in cells))
    path.write_bytes(path.read_bytes()[:-9])
    one = only(path)
    assert len(one.steps) == 9 and "half written" in one.notes[0]


def test_a_gzip_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
    rows = [{"step": i, "reward": np.sin(i)} for i in range(500)]
    data = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    path = tmp_path / "log.gz"
    path.write_bytes(data[: len(data) // 2])
    one = only(path)
    assert 100 < len(one.steps) < 400
    np.testing.assert_array_equal(one.values["proxy"], np.sin(one.steps))
    assert "cut off" in one.notes[0]


# Event files


def test_an_event_file_that_ends_within_a_record_is_read_up_to_it(tmp_path):
    path = events(tmp_path, scalars(ROWS))
    path.write_bytes(path.read_bytes()[:-5])
    one = only(path)
    assert np.isnan(one.values["kl"][-1]) and one.values["kl"][-2] == 4.0
    assert "ends within a record" in one.notes[0]


def test_a_damaged_event_file_says_where(tmp_path):
    path = events(tmp_path, scalars(ROWS))
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    second = 12 + length + 4  # where the next record begins
    data[second] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"damaged at byte {second}:"):
        only(path)


def test_a_continued_run_replaces_what_came_after_its_checkpoint(tmp_path):
    events(tmp_path, scalars(ROWS), filename_suffix=".0")
    later = [row | {"reward": -1.0} for row in ROWS[6:]]
    path = events(tmp_path, scalars(later), filename_suffix=".1", purge_step=6)
    path.rename(path.with_name("events.out.tfevents.9999999999.later"))
    one = only(tmp_path)
    np.testing.assert_array_equal(one.values["proxy"], [*range(6), *[-1.0] * 4])
    assert one.notes == ()


def test_every_folder_of_event_files_is_a_run(tmp_path):
    for name in ("a", "b"):
        events(tmp_path / name, scalars(ROWS))
    assert [pathlib.Path(one.source).name for one in read(tmp_path)] == ["a", "b"]


def test_scalars_that_were_written_as_tensors_are_read(tmp_path):
    tensorboard = pytest.importorskip("tensorboardX")
    from tensorboardX.proto import event_pb2, summary_pb2, tensor_pb2

    writer = tensorboard.record_writer.RecordWriter(str(tmp_path / "tfevents"))
    for i in range(4):
        packed = struct.pack("<f", i)
        for tag, tensor in (
            ("reward", tensor_pb2.TensorProto(dtype=1, tensor_content=packed)),
            ("gold", tensor_pb2.TensorProto(dtype=1, float_val=[2 * i])),
            ("texts", tensor_pb2.TensorProto(dtype=7, string_val=[b"once"])),
        ):
            value = summary_pb2.Summary.Value(tag=tag, tensor=tensor)
            summary = summary_pb2.Summary(value=[value])
            event = event_pb2.Event(step=i, summary=summary)
            writer.write(event.SerializeToString())
    writer.close()
    one = only(tmp_path / "tfevents")
    np.testing.assert_array_equal(one.values["proxy"], range(4))
    np.testing.assert_array_equal(one.values["gold"], [0, 2, 4, 6])


# Misuse is one line


@pytest.mark.parametrize(
    "words, message",
    [
        (["reward"], "write role=column"),
        (["proxy="], "write role=column"),
        (["prxy=reward"], "'prxy' is no role; there are step, run, proxy, gold"),
        (["proxy=a", "proxy=b"], "proxy stands twice"),
    ],
)
def test_words_that_are_no_columns(words, message):
    with pytest.raises(ValueError, match=message):
        series.parse(words)


@pytest.mark.parametrize(
    "text, columns, message",
    [
        ("", (), "is empty"),
        (" \n\n", (), "is empty"),
        ("step,reward\n", (), "is empty"),
        ('{"step": 1, "reward": 2}\n', (), "1 step of run with a proxy .reward."),
        ('{"step": 1, "loss": 2}\n', (), "name it with --columns proxy=COLUMN"),
        (
            '{"step": 1, "loss": 2}\n',
            ("proxy=r",),
            "no column 'r' for proxy; it has st",
        ),
        ('{"step": 1}\n{"step"\n{"step": 2}\n', (), "line 2, is not JSON"),
        ('{"step": 1}\n3\n', (), "line 2, is no object"),
        ('{"log_history": 3}', (), "must be a list of objects"),
        ("step,reward\n1,2\n2,3,4\n5,6\n", (), "line 3, has 3 cells and the header 2"),
        ("step,step\n1,2\n", (), "a column stands twice"),
        ("step,reward\n1,2\n2,high\n", (), "line 3: reward is 'high', not a number"),
        ('{"step": 1, "reward": [2]}\n', (), r"line 1: reward is \[2\], not a number"),
    ],
)
def test_what_cannot_be_read_says_where_and_why(tmp_path, text, columns, message):
    path = tmp_path / "log"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read(path, *columns)


def test_what_is_no_log_at_all(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        logs.read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="neither trainer_state.json nor event files"):
        logs.read(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(ValueError, match="is no text at byte 0, nor an event file"):
        logs.read(tmp_path / "picture.png")
    write(tmp_path / "metrics.jsonl", ROWS)
    with pytest.raises(ValueError, match="use --run"):
        logs.read(tmp_path)


# Runs of ours


def look(step, reward, *, phase="train", seed=0, **more):
    return {
        "method": "ppo_kl",
        "world": 0,
        "seed": seed,
        "step": step,
        "eval/phase": phase,
        "eval/reward": reward,
        "eval/gold": -reward,
        "drift/kl_initial": step / 2,
        **more,
    }


def test_a_run_of_ours_is_its_evaluations(tmp_path):
    rows = [
        {"method": "ppo_kl", "world": 0, "seed": seed, "step": 1, "objective/scores": 9}
        for seed in (0, 1)
    ]
    rows += [
        look(step, step + seed, seed=seed) for seed in (0, 1) for step in (0, 2, 4)
    ]
    write(tmp_path / "metrics.jsonl", rows)
    (one, two), notes = runs.read(tmp_path)
    assert (one.name, two.name) == ("PPO KL 0/0", "PPO KL 0/1") and not notes
    np.testing.assert_array_equal(one.steps, [0, 2, 4])
    np.testing.assert_array_equal(two.values["proxy"], [1, 3, 5])
    np.testing.assert_array_equal(one.values["gold"], [0, -2, -4])
    assert one.kl_unit == "nats a sample"


def test_at_a_reset_the_look_before_it_counts(tmp_path):
    rows = [look(0, 0.0, phase="start"), look(2, 2.0, phase="before_reset")]
    rows += [look(2, 0.5, phase="after_reset"), look(4, 1.0, phase="final")]
    write(tmp_path / "metrics.jsonl", rows)
    (one,), _ = runs.read(tmp_path)
    np.testing.assert_array_equal(one.values["proxy"], [0, 2, 1])
    assert one.notes == ("1 reset: of these steps the look before it",)


def test_a_run_that_was_hardly_evaluated_is_read_from_training(tmp_path):
    start = {"method": "ppo", "world": 0, "seed": 0}
    log = [
        start | {"step": i, "objective/scores": i, "objective/kl": 2 * i}
        for i in (1, 2, 3)
    ]
    looks = [look(s, 0.0) | {"method": "ppo"} for s in (0, 3)]
    write(tmp_path / "metrics.jsonl", [*log, *looks])
    (one,), _ = runs.read(tmp_path)
    np.testing.assert_array_equal(one.values["kl"], [2, 4, 6])
    assert "gold" not in one.values and "while training" in one.notes[0]


def test_monitors_of_a_run_are_what_it_logged_while_training(tmp_path):
    logged = [
        {"method": "ppo_kl", "world": 0, "seed": 0, "step": i}
        | {
            "objective/scores": i,
            "response/length": 20 + i,
            "objective/entropy": np.nan,
        }
        for i in range(1, 9)
    ]
    looks = [look(s, s, **{"eval/length": 20.0}) for s in (0, 3, 6, 8)]
    write(tmp_path / "metrics.jsonl", [*logged, *looks])
    (one,), _ = runs.read(tmp_path)
    np.testing.assert_array_equal(one.steps, [0, 3, 6, 8])
    np.testing.assert_array_equal(one.values["length"], 20.0)
    steps, length = monitors.of(one)["length"]
    np.testing.assert_array_equal(steps, range(1, 9))
    np.testing.assert_array_equal(length, steps + 20)


def test_another_column_of_a_run_may_be_the_proxy(tmp_path):
    rows = [look(step, 0.0, **{"win/judge": step / 10}) for step in (0, 2, 4)]
    write(tmp_path / "metrics.jsonl", rows)
    (one,), _ = runs.read(tmp_path, asked={"gold": "win/judge"})
    np.testing.assert_array_equal(one.values["gold"], [0, 0.2, 0.4])


def test_what_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="no metrics.jsonl with a line"):
        runs.read(tmp_path)
    write(tmp_path / "metrics.jsonl", ROWS)
    with pytest.raises(ValueError, match="read them with --log"):
        runs.read(tmp_path)
    write(tmp_path / "metrics.jsonl", [look(0, 0.0), look(1, 1.0)])
    with pytest.raises(ValueError, match="--methods dpo: the run has ppo_kl"):
        runs.read(tmp_path, methods=("dpo",))
    with pytest.raises(ValueError, match="an audit needs 3 or more"):
        runs.read(tmp_path)


def test_the_file_of_a_run_of_ours_is_no_log_of_one_run(tmp_path):
    path = write(tmp_path / "metrics.jsonl", [look(0, 0.0)])
    with pytest.raises(ValueError, match=f"several runs: use --run {tmp_path}"):
        logs.read(path)


def test_the_log_of_this_package_is_read_back(tmp_path):
    with metrics_log.Log(tmp_path) as log:
        for i in range(4):
            log.write(
                {"eval/reward": i, "eval/gold": np.nan}, method="m", seed=0, step=i
            )
    (one,), _ = runs.read(tmp_path)
    (two,) = read(tmp_path / "tensorboard")
    np.testing.assert_array_equal(one.values["proxy"], two.values["proxy"])
    assert not one.has("gold") and one.has("proxy")
