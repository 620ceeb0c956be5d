"""A study under LoRA: what it saves, what it exports, that stopping costs nothing."""

import json

import chex
import jax
import numpy as np
import pytest
import small_study

from rlhf_jax import huggingface, trees
from rlhf_jax.huggingface import adapters as hf_adapters
from rlhf_jax.models import lora
from rlhf_jax.runtime import loop, parallel

FLAGS = {
    "lora__rank": 2,
    "lora__targets": ("attention/(query|value)", "mlp/up"),
    "steps": 4,
    "save_every": 1,
    "eval_every": 2,
    "export": ("elastic_reset", "ppo_ma50"),
    "methods": ("sft", "ppo", "elastic_reset", "ppo_average", "ppo_ma50"),
}

pytestmark = pytest.mark.slow  # quick twins of these checks are in test_lora_training


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    small_study.share(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted study."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    return small_study.run_shared(folder, **FLAGS)


@pytest.fixture(scope="module")
def task():
    config = small_study.config()
    layout = parallel.data(1)
    return small_study.task_of(
        config.microworld, config.policy, small_study.CACHE, layout
    )


def leaves(folder, cell):
    """{path: elements} of a cell's newest checkpoint."""
    newest = max((folder / "checkpoints" / cell).glob("step_*"))
    body = json.loads((newest / "manifest.json").read_text())["body"]
    return {leaf["path"]: int(np.prod(leaf["shape"])) for leaf in body["leaves"]}


def test_checkpoints_hold_adapters_and_the_critic_head_but_no_base(whole, task):
    adapter = lora.Config(2, 4.0, FLAGS["lora__targets"])
    own = lora.count(task.params, adapter)
    assert own < trees.size(task.params) / 20
    for cell in (
        "sft-0-0",
        "ppo-0-0",
        "elastic_reset-0-0",
        "ppo_average-0-0",
        "ppo_ma50-0-0",
    ):
        saved = leaves(whole, cell)
        whole_ones = [p for p in saved if "lora_" not in p and saved[p] > 1]
        assert all("value/head" in path or path == "state/key" for path in whole_ones)
        assert any("lora_a" in path for path in saved)
    # Policy and critic with two moments each, the average, the initial ones, the best.
    width = task.model.config.width
    assert sum(leaves(whole, "ppo-0-0").values()) < 9 * own + 3 * (width + 1) + 20
    assert sum(leaves(whole, "ppo_ma50-0-0").values()) == own


def test_both_sides_of_a_reset_and_averages_are_measured(whole):
    rows = [r for r in small_study.lines(whole) if "eval/phase" in r]
    phases = {(r["method"], r["step"], r["eval/phase"]) for r in rows}
    for side in ("before", "after"):
        assert ("'elastic_reset'", "3", f"'{side}_reset'") in phases
    assert ("'ppo_ma50'", "4", "'final'") in phases
    first = {r["drift/text_nll"] for r in rows if r["step"] == "0"}
    assert len(first) == 1  # adapters change nothing at first
    drift = {
        r["method"]: float(r["drift/kl_initial"])
        for r in rows
        if r["eval/phase"] == "'final'"
    }
    assert 0 < drift["'ppo_ma50'"] < drift["'ppo'"]


def test_an_exported_policy_is_the_base_merged_with_the_exported_adapters(whole, task):
    for name in FLAGS["export"]:
        model, params, _ = huggingface.load(whole / "models" / name)
        beside = whole / "models" / f"{name}-adapters"
        adapters, config = hf_adapters.load(beside, model)
        assert (config.rank, config.alpha) == (2, 4.0)
        merged = lora.merge(task.params, adapters, scale=config.scale)
        chex.assert_trees_all_close(params, jax.device_get(merged), rtol=0, atol=1e-6)
        moved = jax.tree.leaves(adapters["layers"]["mlp"]["up"])
        assert all(np.asarray(leaf).any() for leaf in moved)


def test_the_report_says_what_was_trained(whole):
    assert "LoRA of rank 2: adapters alone" in (whole / "report.md").read_text()


@pytest.mark.parametrize("looks", [3, 9])
def test_a_stopped_study_goes_on_bit_for_bit(looks, whole, tmp_path, monkeypatch):
    small_study.without_report(monkeypatch)
    place = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(loop, "Signals", lambda: small_study.StopAfter(looks))
        with pytest.raises(loop.Interrupted):
            small_study.run(output=place, **FLAGS)
    small_study.run(output=place, resume=True, **FLAGS)
    small_study.assert_same(place, whole)
