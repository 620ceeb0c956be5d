import io
import json
import math
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

from rlhf_jax.reporting import samples
from rlhf_jax.runtime import metrics_log

PLACE = {"method": "ppo", "seed": 0}


def _log(folder, **options):
    return metrics_log.Log(folder, tensorboard=False, **options)


def test_numbers_of_every_kind_become_json(tmp_path):
    with _log(tmp_path) as log:
        log.write(
            {
                "jax": jnp.float32(0.5),
                "bf16": jnp.bfloat16(0.5),
                "one": np.array([[2.0]]),
                "int": np.int32(3),
                "bool": np.bool_(True),
                "text": "start",
            },
            step=np.int64(7),
            **PLACE,
        )
    (row,) = metrics_log.read(tmp_path / "metrics.jsonl")
    assert row == {
        **PLACE,
        **{
            "world": 0,
            "step": 7,
            "jax": 0.5,
            "bf16": 0.5,
            "one": 2.0,
            "int": 3,
            "bool": True,
        },
        "text": "start",
    }
    assert isinstance(row["int"], int)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, jnp.float32(np.nan)])
def test_what_is_not_finite_is_null_in_valid_json_and_nan_when_read(tmp_path, value):
    with _log(tmp_path) as log:
        log.write({"loss": value}, step=1, **PLACE)
    text = (tmp_path / "metrics.jsonl").read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(text, parse_constant=refuse)["loss"] is None
    assert math.isnan(metrics_log.read(tmp_path / "metrics.jsonl")[0]["loss"])


@pytest.mark.parametrize("value", [np.zeros(3), np.zeros((0,)), object()])
def test_what_is_no_number_is_named(tmp_path, value):
    with _log(tmp_path) as log, pytest.raises(ValueError, match="'rows'"):
        log.write({"rows": value}, step=1, **PLACE)


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path):
    with _log(tmp_path) as log:
        log.write({"a": 1.0}, step=1, **PLACE)
        assert len(metrics_log.read(log.path)) == 1


def test_resuming_at_an_offset_gives_the_file_of_an_uninterrupted_run(tmp_path):
    def steps(log, first, last):
        for step in range(first, last):
            log.write({"reward": step / 3}, step=step, **PLACE)

    with _log(tmp_path / "whole") as log:
        steps(log, 0, 6)
    with _log(tmp_path / "cut") as log:
        steps(log, 0, 3)
        offset = log.offset()
        steps(log, 3, 5)
    with (tmp_path / "cut" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"method": "ppo", "se')  # the process was killed here
    with _log(tmp_path / "cut", resume_offset=offset) as log:
        assert log.offset() == offset
        steps(log, 3, 6)
    whole, cut = (tmp_path / name / "metrics.jsonl" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_a_half_written_line_is_not_read_and_goes_when_writing_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a":')
    assert [row["a"] for row in metrics_log.read(path)] == [1, 2]
    metrics_log.truncate(path)
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'


def test_truncating_inside_a_line_goes_back_to_its_start(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n')
    metrics_log.truncate(path, 12)
    assert path.read_bytes() == b'{"a": 1}\n'
    metrics_log.truncate(path, 0)
    assert path.read_bytes() == b""


def test_a_file_shorter_than_the_checkpoint_says_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds 0 bytes"):
        _log(tmp_path, resume_offset=10)


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n{"a": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        metrics_log.read(path)


def test_a_folder_that_vanishes_during_a_run_is_named(tmp_path):
    folder = tmp_path / "run"
    with metrics_log.Lines(folder / "metrics.jsonl") as lines:
        lines.append({"step": 1})
        folder.rename(tmp_path / "moved")
        with pytest.raises(FileNotFoundError, match="run/metrics.jsonl has vanished"):
            lines.append({"step": 2})
    assert len(metrics_log.read(tmp_path / "moved" / "metrics.jsonl")) == 1


def test_no_file_holds_no_rows(tmp_path):
    assert metrics_log.read(tmp_path / "none.jsonl") == []


def test_tensorboard_gets_a_run_for_each_method_and_unit(tmp_path):
    with metrics_log.Log(tmp_path) as log:
        for method, seed in (("ppo", 0), ("ppo", 1), ("sft", 0)):
            log.write({"reward": 1.0, "phase": "x"}, method=method, seed=seed, step=0)
        log.write({"reward": 1.0}, method="ppo", world=2, seed=1, step=0)
        log.offset()
        found = {
            str(p.parent.relative_to(tmp_path / "tensorboard"))
            for p in (tmp_path / "tensorboard").rglob("events*")
        }
    of_world = {"ppo/world_0_seed_0", "ppo/world_0_seed_1", "sft/world_0_seed_0"}
    assert found == {*of_world, "ppo/world_2_seed_1"}


class _Run:
    def __init__(self, options):
        self.options, self.rows, self.finished = options, [], False

    def log(self, row, step):
        self.rows.append((step, row))

    def finish(self):
        self.finished = True


def test_wandb_gets_a_run_for_each_method_and_seed(tmp_path, monkeypatch):
    runs = []

    def init(**options):
        runs.append(_Run(options))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with _log(tmp_path / "mine", wandb={"project": "p"}) as log:
        for seed in (0, 1, 0):
            log.write({"a": 1.0, "text": "x"}, method="ppo", seed=seed, step=seed)
    assert [run.options["name"] for run in runs] == [
        "ppo-world0-seed0",
        "ppo-world0-seed1",
    ]
    assert {(r.options["project"], r.options["group"]) for r in runs} == {("p", "mine")}
    assert runs[0].rows == [(0, {"a": 1.0}), (0, {"a": 1.0})]
    assert runs[0].options["id"] != runs[1].options["id"]
    assert all(run.finished for run in runs)


def test_a_missing_wandb_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install 'rlhf_jax\[wandb\]'"):
        _log(tmp_path, wandb={})


ROWS = [
    {"prompt": f"p{i} " * 60, "completion": f"[c{i}] " * 200, "score": i / 7}
    for i in range(9)
]


def test_the_sample_table_shows_texts_as_they_are_and_fits(tmp_path):
    console = rich.console.Console(width=80, record=True, file=io.StringIO())
    samples.show(ROWS, console=console, limit=2, width=60)
    text = console.export_text()
    assert "[c0]" in text  # square brackets are text, not markup
    assert "[c2]" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_long_texts_keep_their_start_and_end():
    assert samples.shorten("a  b\nc", 10) == "a b c"
    short = samples.shorten("x" * 100 + "end", 20)
    assert len(short) == 20
    assert short.startswith("xx") and short.endswith("end")


def test_unselected_rows_are_the_same_each_time():
    assert samples.unselected(ROWS, 3) == samples.unselected(ROWS, 3)
    assert len(samples.unselected(ROWS, 20)) == 9
