"""Recipes and the hub: a card beside every model, --push-to-hub, no network."""

import dataclasses
import io
import types

import directories
import huggingface_hub
import huggingface_hub.constants
import pytest
import rich.console

from experiments import preference, rl, sft
from rlhf_jax import huggingface
from rlhf_jax.cli import experiment, export, hub, library, options
from rlhf_jax.studies import runner
from rlhf_jax.studies.interfaces import Method

TOKEN = "hf_secretsecretsecret"


class Api:
    """A hub that keeps what it is given, or fails."""

    calls: list = []
    error: Exception | None = None

    def create_repo(self, name, **flags):
        Api.calls.append(("create", name, flags))
        if Api.error is not None:
            raise Api.error
        return types.SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, **flags):
        files = sorted(file.name for file in flags["folder_path"].iterdir())
        Api.calls.append(("upload", flags["repo_id"], files))


@pytest.fixture
def online(monkeypatch):
    """The hub, reachable and with a token; its calls."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(Api, "calls", [])
    monkeypatch.setattr(Api, "error", None)
    return Api


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "base"
    folder.mkdir()
    directories.unpack("llama", folder)
    return huggingface.load(folder)


RECORDS = [
    {"step": 0, "eval/phase": "start", "eval/nll": 2.0, "eval/nll_a": 1.9, "seed": 0},
    {"step": 1, "nll": 1.7, "seed": 0},
    {"step": 9, "eval/phase": "final", "eval/nll": 1.5, "eval/nll_a": 1.4, "seed": 0},
]


def finished(tmp_path, whole, **flags):
    """(a recipe that has run and exported, its config, what the run left)."""
    console = rich.console.Console(file=io.StringIO(), width=200)
    folder = tmp_path / "run"
    study = types.SimpleNamespace(
        methods={"sft": Method("Supervised fine-tuning", "")},
        schedule=types.SimpleNamespace(steps=9),
    )

    def finish(config, done):
        huggingface.save(folder / "model", *whole)
        measured = {"eval/nll": 1.5, "eval/nll_a": 1.4}
        return library.Result(*whole, folder, measured, RECORDS)

    made = experiment.Experiment("sft", lambda c: None, None, None, finish)
    config = dataclasses.replace(sft.CONFIG, model="lab/base", dataset="d", **flags)
    done = experiment.Done(folder, study, None, RECORDS, console, 1.0)
    return hub.publishing(made), config, done


def test_every_model_gets_a_card_and_opens_as_before(tmp_path, whole, online):
    recipe_, config, done = finished(tmp_path, whole)
    result = recipe_.finish(config, done)
    card = huggingface_hub.ModelCard.load(result.model_folder / "README.md")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "base_model": "lab/base",
        "datasets": ["d"],
        "pipeline_tag": "text-generation",
        "tags": ["rlhf_jax", "alignment", "sft"],
    }
    assert "| nll | 2 | 1.5 |" in card.text and "nll_a" not in card.text
    assert "Supervised fine-tuning (sft); steps: 9" in card.text
    assert "| `--fit.learning-rate` | `2e-05` |" in card.text
    assert huggingface.load(result.model_folder)[0] == whole[0]
    huggingface.save(result.model_folder, *whole)  # a card is no other content
    assert online.calls == []


def test_a_model_is_pushed_with_its_card_after_the_run(tmp_path, whole, online):
    flags = {"push_to_hub": "mine", "hub_private": True}
    recipe_, config, done = finished(tmp_path, whole, **flags)
    recipe_.check(config)
    recipe_.finish(config, done)
    created, uploaded = online.calls
    assert created == ("create", "mine", {"private": True, "exist_ok": True})
    assert uploaded[:2] == ("upload", "me/mine")
    assert {"README.md", "config.json", "model.safetensors"} <= set(uploaded[2])
    assert "pushed to" in done.console.file.getvalue()


def test_a_push_that_fails_is_one_line_and_leaves_the_run(tmp_path, whole, online):
    recipe_, config, done = finished(tmp_path, whole, push_to_hub="mine")
    online.error = ConnectionError(f"no route\nwith {TOKEN}")
    with pytest.raises(ValueError) as failure:
        recipe_.finish(config, done)
    message = str(failure.value)
    assert message == (
        "--push-to-hub mine failed: no route with (token); the run is whole, and "
        f"`hf upload mine {done.folder / 'model'}` pushes its model"
    )
    assert huggingface.load(done.folder / "model")[0] == whole[0]
    for file in done.folder.rglob("*"):
        assert file.is_dir() or TOKEN.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"push_to_hub": "a/b/c"}, "--push-to-hub a/b/c: no name on the hub: Repo id"),
        ({"push_to_hub": "a b"}, "--push-to-hub a b: no name on the hub"),
        ({"push_to_hub": "../x"}, "--push-to-hub ../x: no name on the hub"),
        ({"hub_private": True}, "--hub-private without --push-to-hub"),
    ],
)
def test_names_are_checked_before_anything_is_loaded(flags, words, online):
    for module in (sft, preference, rl):
        config = dataclasses.replace(module.CONFIG, **flags)
        with pytest.raises(ValueError, match=words) as failure:
            hub.check_flags(config)
        assert "\n" not in str(failure.value)


def test_a_hub_that_cannot_be_reached_is_said_at_once(monkeypatch, online):
    config = options.Supervised(push_to_hub="mine")
    hub.check_flags(config)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="mine: there is no token of the hub: `hf au"):
        hub.check_flags(config)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="mine: HF_HUB_OFFLINE is set"):
        hub.check_flags(config)


def test_every_recipe_checks_its_flags_first(tmp_path, online):
    flags = {"model": "lab/base", "dataset": "d", "push_to_hub": "a b"}
    with pytest.raises(ValueError, match="--push-to-hub a b: no name on the hub"):
        sft.train(output=str(tmp_path / "run"), **flags)
    assert not (tmp_path / "run").exists()


def method(config, label, key):
    return hub.method_of(
        config, types.SimpleNamespace(methods={key: Method(label, "")})
    )


def test_a_method_is_called_by_its_name_with_beta_and_resets():
    config = preference.CONFIG
    assert method(config, "Learning from preferences", "dpo") == (
        "Learning from preferences (dpo), β 0.1"
    )
    resets = options.ElasticReset(every=20, decay=0.9)
    config = dataclasses.replace(config, elastic_reset=resets)
    assert "Elastic Reset every 20, EMA decay 0.9, β" in method(config, "DPO", "dpo")
    assert method(sft.CONFIG, "sft", "sft") == "sft"
    assert method(rl.CONFIG, "PPO + KL", "ppo_kl").endswith(
        f", β {rl.CONFIG.rl.kl_coef:g}"
    )
    free = dataclasses.replace(rl.CONFIG.rl, kl_coef=0.0)
    config = dataclasses.replace(rl.CONFIG, rl=free)
    assert method(config, "RLOO", "rloo") == "RLOO, no KL penalty"
    for name in ("rsf", "dapo"):  # whose β is not paid
        config = dataclasses.replace(rl.CONFIG, algorithm=name)
        assert method(config, name.upper(), name).endswith(", no KL penalty")


# A folder that vanishes


def test_a_run_without_its_checkpoint_says_what_is_lost(tmp_path, monkeypatch):
    study = types.SimpleNamespace(schedule=types.SimpleNamespace(keep=1), digest="x")
    work = runner._Work(study, tmp_path, None, rich.console.Console(), {})
    monkeypatch.setattr(runner.recorder, "restore", lambda *_: None)
    run = types.SimpleNamespace(name="sft-0-0")
    with pytest.raises(ValueError, match="checkpoints/sft-0-0 is gone.*is lost"):
        work.done(run, None)


def test_a_folder_that_vanishes_gets_its_model_and_no_report(tmp_path, monkeypatch):
    run = types.SimpleNamespace(unit=types.SimpleNamespace(seed=0))
    study = types.SimpleNamespace(runs=lambda: [run], select=None)
    console = rich.console.Console(file=io.StringIO())
    measured = [{"seed": 0, "step": 1, "eval/phase": "final", "eval/nll": 1.0}]
    done = experiment.Done(tmp_path / "run", study, None, measured, console, 1.0)
    saved = []
    monkeypatch.setattr(export.runner, "policy", lambda *_, **__: "policy")
    monkeypatch.setattr(export.models, "export", lambda *x: saved.append(x) or "params")
    whole = types.SimpleNamespace(adapter=None, merge=lambda policy: policy)
    given = sft.CONFIG, done, (None, None), lambda seed: whole, None
    with pytest.raises(ValueError, match="run was deleted or moved while the run went"):
        export.results(*given)
    assert saved == [(tmp_path / "run" / "model", None, "policy", None)]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert export.results(*given).params == "params"
