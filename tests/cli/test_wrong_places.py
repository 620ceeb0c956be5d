"""Files, models, rewards and folders that are not there or of the wrong kind.

Each command says so in one line, exits with 2 and leaves the folder as it was.
"""

import pathlib
import shutil

import pytest
import small_recipes
from commands import call

SFT = "--model {home}/model --devices 1 --output run --dataset {home}/chats.jsonl"
RL = (
    "--policy {home}/model --devices 1 --output run --dataset {home}/prompts.jsonl "
    "--max-new-tokens 4 --reward trl_style_rewards:short"
)
GENERATE = "--model {home}/model --devices 1 --prompts a"
STUDY = "--output run"
CASES = (
    ("sft", SFT, "--model {home}/nothing", "has no config.json"),
    ("sft", SFT, "--model {home}/chats.jsonl", "give one with a config.json"),
    ("sft", SFT, "--model {home}/no_weights", "has no model.safetensors"),
    ("sft", SFT, "--model {home}/no_tokenizer", "copy there that of the model"),
    ("sft", SFT, "--model {home}/other_kind", "model_type 'mamba' is not one of"),
    ("sft", SFT, "--dataset gone", "give a path that exists or a hub name"),
    ("sft", SFT, "--dataset {home}/nothing", "there is no 'train'"),
    ("sft", SFT, "--dataset {home}/picture.png", "not a .jsonl, .json, .csv or"),
    ("sft", SFT, "--data.split nope", "there is no 'nope'"),
    ("sft", SFT, "--data.eval-split nope", "there is no 'nope'"),
    ("sft", SFT, "--data.eval-dataset nope", "give a path that exists"),
    ("sft", SFT, "--data.columns x", "write needed=yours"),
    ("sft", SFT, "--data.length 100000", "choose from 2 to 64"),
    ("sft", SFT, "--layout foo", "is not data, fsdp or tensor"),
    ("sft", SFT, "--layout fsdp:3", "change the sizes or --devices"),
    ("sft", SFT, "--devices 99", "this host has"),
    ("sft", SFT, "--config nope", "name a config.json"),
    ("sft", SFT, "--config {home}/chats.jsonl", "is no config.json of a run"),
    ("sft", SFT, "--resume", "leave --resume out to start one"),
    ("sft", SFT, "--lora.rank 4 --lora.targets nothing", "choose from layers/"),
    ("sft", SFT, "--lora.rank 4 --lora.targets (", "is not a regular expression"),
    ("sft", SFT, "--lora.rank 100000", "choose from 1 to 16"),
    ("rl", RL, "--reward {home}/model", "a classifier or a reward model"),
    ("rl", RL, "--reward trl_style_rewards:gone", "has no function 'gone'"),
    ("rl", RL, "--reward trl_style_rewards:", "name a function as module:function"),
    ("rl", RL, "--reward nowhere:f", "there is no module 'nowhere'"),
    ("rl", RL, "--reward trl_style_rewards:__doc__", "is not a function"),
    ("rl", RL, "--reward ai:", "Name a model directory"),
    ("rl", RL, "--reward ai:http://localhost:9", "a URL needs the server's name"),
    ("rl", RL, "--reward worst:a", "name two reward models or more"),
    ("rl", RL, "--gold nowhere:f", "there is no module 'nowhere'"),
    ("rl", RL, "--texts nope", "give a path that exists"),
    ("rl", RL, "--max-new-tokens 100", "exceed the model's context of 64"),
    ("rl", RL, "--data.length 63", "exceed the model's context of 64"),
    ("generate", GENERATE, "--file nope", "there is no such file"),
    ("generate", GENERATE, "--max-new-tokens 64", "the model's context is 64"),
    ("generate", GENERATE, "--layout foo", "is not data, fsdp or tensor"),
    ("compare", "", "", "name run folders"),
    ("compare", "", "nope", "holds no run"),
    ("compare", "", "{home} {home}", "named twice"),
    ("objective_mismatch.audit", "", "", "--run or --log is needed"),
    ("objective_mismatch.audit", "", "--log nope", "there is no such file"),
    ("objective_mismatch.audit", "", "--run {home}", "it has no metrics.jsonl"),
    ("rlaif.spent", "", "--ledger nope", "there is no such file"),
    ("rlaif.spent", "", "--ledger {home}/chats.jsonl", "cannot be used as a ledger"),
    ("results.__main__", "", "--name x", "belong together"),
    ("results.__main__", "", "--keep nope --name x", "holds no results.json"),
    ("sentiment", STUDY, "--methods nope", "unknown; choose from"),
    ("sentiment", STUDY, "--override x", "write method.field=value"),
    ("sentiment", STUDY, "--tuned nope", "name one that experiments.sweep wrote"),
    ("sentiment", STUDY, "--reward nope", "on the microworld choose train"),
    ("sentiment", STUDY, "--policy scratch:nope", "choose one of"),
    ("sentiment", STUDY, "--worlds 3 --dataset d", "is one world"),
    ("sentiment", STUDY, "--preset nope", "unknown; choose from"),
    ("pivot_translation", STUDY, "--methods nope", "unknown; choose from"),
    ("pivot_translation", STUDY, "--pretrain-fr-en a,b", "write PATH"),
    ("throughput.benchmark", STUDY, "--workloads nope", "choose from"),
    ("throughput.benchmark", STUDY, "--against nope", "choose from trl, tunix"),
    ("verdicts", "", "--paper nope", "must be one of"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder of a tiny model and its files, and of models that are spoiled."""
    home = small_recipes.home(tmp_path_factory.mktemp("home"))
    (home / "nothing").mkdir()
    (home / "picture.png").write_bytes(b"\x89PNG")
    for name in ("no_weights", "no_tokenizer", "other_kind"):
        shutil.copytree(home / "model", home / name)
    (home / "no_weights" / "model.safetensors").unlink()
    for file in (home / "no_tokenizer").glob("tok*"):
        file.unlink()
    (home / "other_kind" / "config.json").write_text('{"model_type": "mamba"}')
    return home


@pytest.mark.slow
@pytest.mark.parametrize(("name", "usual", "wrong", "said"), CASES)
def test_it_is_named(name, usual, wrong, said, home, monkeypatch, capsys, tmp_path):
    small_recipes.share(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(home))
    before = sorted(pathlib.Path(home).rglob("*"))
    with pytest.raises(SystemExit) as stop:
        call(name, f"{usual} {wrong}".format(home=home).split(), monkeypatch)
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert stop.value.code == 2 and not shown.out
    assert line.startswith("error: ") and said in line, line
    assert "RLHF_JAX_TRACEBACK" not in line
    after = [p for p in sorted(home.rglob("*")) if "__pycache__" not in str(p)]
    assert after == [p for p in before if "__pycache__" not in str(p)]
    assert not list(tmp_path.iterdir())
