"""--plan --table: rows are written as they are made, and resumed, refusals included."""

import json

import jax
import pytest

from experiments import results
from experiments.results import plans
from experiments.throughput import benchmark, compiled, roofline, table, workloads
from rlhf_jax.models import config as model_config
from rlhf_jax.runtime import topologies

TARGETS = ("tpu:v5e:2x2", "tpu:v6e:2x2")
FACTS = compiled.Facts(
    {"arguments": 2**30, "temporaries": 2**29, "total": 3 * 2**29},
    {"all-gather": (3, 1.5), "all-reduce": (1, 0.25)},
    7.0,
)


@pytest.fixture
def seen(monkeypatch):
    """A table of four rows of a tiny workload, and the layouts compiled for so far."""
    shape = model_config.llama(
        vocab_size=16, width=8, layers=1, heads=2, max_length=8, tied=True
    )
    work = workloads.Workload("", shape, rows=8, prompt_length=3, new_tokens=5)
    programs = [table.Program("w", "rloo", x, TARGETS, 2) for x in ("data", "fsdp")]
    seen = []

    def compile_for(layout, started):
        seen.append(layout)
        if len(seen) == 2:
            raise compiled.DoesNotFit("needs 32 GiB of 16 GiB a device")
        return FACTS

    monkeypatch.setattr(workloads, "WORKLOADS", {"w": work})
    monkeypatch.setattr(table, "PROGRAMS", programs)
    monkeypatch.setattr(table, "lower", lambda work, algorithm, layout: layout)
    monkeypatch.setattr(topologies, "devices", lambda target: jax.devices()[:4])
    monkeypatch.setattr(topologies, "version", lambda: "0.0")
    monkeypatch.setattr(compiled, "compile_for", compile_for)
    return seen


def config(folder, **changes):
    return benchmark.Config(plan=True, table=True, output=str(folder), **changes)


def programs(folder):
    return json.loads((folder / table.RESULTS).read_text())["programs"]


def test_a_row_holds_bytes_collectives_and_the_least_time(seen, tmp_path):
    benchmark.run(config(tmp_path))
    row, refused, *_ = programs(tmp_path)
    assert (row["workload"], row["layout"], row["devices"]) == ("w", "data", 4)
    assert row["rows"] == 16 and row["total"] == 3 * 2**29
    assert row["collectives"] == {"all-gather": [3, 1.5], "all-reduce": [1, 0.25]}
    load = table.workload(table.PROGRAMS[0])
    work = roofline.Work(load, critic=False, copies=load.candidates)
    least = roofline.bound(work, topologies.CHIPS["v5e"], devices=4)
    assert row["seconds"] == pytest.approx(least.seconds)
    assert refused["target"] == TARGETS[1] and "total" not in refused
    assert refused["refused"] == "needs 32 GiB of 16 GiB a device"


def test_a_table_goes_on_with_the_rows_that_it_lacks(seen, tmp_path):
    benchmark.run(config(tmp_path))
    whole, file = programs(tmp_path), tmp_path / table.RESULTS
    file.write_text(json.dumps({"libtpu": "0.0", "programs": whole[:3]}))
    seen.clear()
    benchmark.run(config(tmp_path, resume=True))
    assert len(seen) == 1 and seen[0].name == "fsdp:4"
    names = [[row[k] for k in ("layout", "target")] for row in programs(tmp_path)]
    assert names == [[x, target] for x in ("data", "fsdp") for target in TARGETS]


def test_with_a_target_all_programs_are_compiled_for_it(seen, tmp_path):
    benchmark.run(config(tmp_path, target="tpu:v5p:2x2x1"))
    assert {row["target"] for row in programs(tmp_path)} == {"tpu:v5p:2x2x1"}
    assert len(seen) == 2


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"plan": False}, "--table is for --plan"),
        ({"table": False, "resume": True}, "--resume is for --plan --table"),
    ],
)
def test_flags_that_belong_together_are_named(changes, said, tmp_path):
    asked = {"plan": True, "table": True, "output": str(tmp_path / "run")} | changes
    with pytest.raises(ValueError, match=said):
        benchmark.run(benchmark.Config(**asked))
    assert not list(tmp_path.iterdir())


def test_a_quoted_table_has_a_line_a_row_with_what_was_refused(seen, tmp_path):
    benchmark.run(config(tmp_path))
    about = {"versions": {"jax": "0.10"}, "date": "2026-11-29T07:00:00"}
    kept = {"about": about, "libtpu": "0.0", "programs": programs(tmp_path)}
    lines = plans.programs(kept).splitlines()
    assert lines[2].startswith("| w, 16 rows, rloo | data | v5e:2x2 | 1 | 0.5 | 1.5 |")
    assert "3 all-gather (1.5), 1 all-reduce (0.25)" in lines[2]
    assert "| refused: needs 32 GiB of 16 GiB a device |" in lines[3]
    assert lines[-1].endswith("libtpu 0.0, jax 0.10, 2026-11-29.")


def test_the_kept_table_adds_up_and_its_least_times_are_computed_anew():
    kept = results.report(plans.PROGRAMS)["programs"]
    assert len({table._key(row) for row in kept}) == len(kept)
    listed = {(*program[:3], t): program for program, t in table._cases(None)}
    for row in kept:
        program = listed[table._key(row)]
        bound = table.least(program, row["target"], row["devices"], row["shards"])
        assert row["seconds"] == pytest.approx(bound.seconds, rel=1e-5)
        assert row["rows"] == table.workload(program).rows
        if "refused" not in row:
            parts = ("arguments", "temporaries", "results", "program")
            assert row["total"] == sum(row[part] for part in parts)


def test_every_listed_program_names_what_there_is():
    for program in table.PROGRAMS:
        work = table.workload(program)
        assert work.algorithm(program.algorithm).algorithm == program.algorithm
        for target in program.targets:
            topologies.parse(target)
