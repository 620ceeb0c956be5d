"""The plain recipes from files to a model that opens, as a TRL user would have them.

Models are tiny, programs shared through a compilation cache: a second run of a recipe
compiles nothing.
"""

import json
import pathlib

import chex
import jax
import numpy as np
import pytest
import small_recipes
import small_study

from experiments import generate, preference, reward_model, rl, sft
from rlhf_jax import huggingface, trees
from rlhf_jax.huggingface import adapters as hf_adapters
from rlhf_jax.models import decoder, heads, lora
from rlhf_jax.reporting import report
from rlhf_jax.runtime import loop, metrics_log

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("programs")
FIT = {"fit__steps": 6, "fit__rows": 4, "fit__learning_rate": 2e-2, "save_every": 2}
HEAVY = ("reinforce", "rloo", "grpo", "dapo")
RL = {
    "steps": 4,
    "rl__rows": 8,
    "rl__minibatches": 2,
    "rl__learning_rate": 1e-2,
    "max_new_tokens": 6,
    "data__length": 40,
    "data__eval_rows": 4,
}


@pytest.fixture(scope="module")
def tuned(home):
    """The folder of a finished run of sft on chats."""
    return small_recipes.folder(
        sft, output=home / "sft", eval_every=2, **given(home), **FIT
    )


def given(home, data="chats"):
    return {"model": home / "model", "dataset": home / f"{data}.jsonl"}


def lines(place):
    """metrics.jsonl without what the clock says."""
    rows = metrics_log.read(place / "metrics.jsonl")
    return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows]


def weights(place):
    return (place / "model" / "model.safetensors").read_bytes()


def measured(place, name):
    return [row[name] for row in lines(place) if name in row]


def resumed(recipe, monkeypatch, place, **flags):
    """The folder of a run that was stopped on its way and went on."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "Signals", lambda: small_study.StopAfter(3))
        with pytest.raises(loop.Interrupted) as stop:
            small_recipes.run(recipe, output=place, **flags)
    assert stop.value.folder == pathlib.Path(place)
    assert not (pathlib.Path(place) / "model").exists()
    steps = [row["step"] for row in lines(pathlib.Path(place))]
    assert 0 < max(steps) < flags.get("steps", flags.get("fit__steps"))
    return small_recipes.again(recipe, output=place, **flags).folder


# Supervised fine-tuning


def test_sft_teaches_answers_and_leaves_a_model_that_opens(tuned, home):
    nll = measured(tuned, "eval/nll")
    assert len(nll) == 4 and nll[-1] < nll[0]  # steps 0, 2, 4, 6
    names = {"nll", "accuracy", "learning_rate", "grad_norm", "epoch"}
    assert names <= set(lines(tuned)[1])
    model, params, tokenizer = huggingface.load(tuned / "model")
    assert isinstance(model, decoder.Decoder) and tokenizer.chat_template
    before = huggingface.load(home / "model")[1]
    assert trees.norm(trees.subtract(params, before)) > 0.1
    said = json.loads((tuned / "model" / "generation_config.json").read_text())
    stops = tokenizer.convert_tokens_to_ids(["<eos>", "<|im_end|>"])
    assert said["eos_token_id"] == sorted(stops)
    assert "| nll |" in (tuned / "report.md").read_text()
    assert json.loads((tuned / "results.json").read_text())["step"] == 6
    assert (tuned / "curves.png").stat().st_size > 10_000


def test_sft_stopped_and_resumed_is_the_same_bit_for_bit(tuned, home, monkeypatch):
    flags = {**given(home), **FIT, "eval_every": 2}
    place = resumed(sft, monkeypatch, home / "stopped", **flags)
    assert lines(place) == lines(tuned)
    assert weights(place) == weights(tuned)


def test_a_traced_bfloat16_run_of_adapters_changes_what_they_reach(home):
    place = small_recipes.folder(
        sft,
        output=home / "lora",
        lora__rank=2,
        dtype="bfloat16",
        profile=1,
        fit__micro_batches=2,
        fit__warmup=2,
        **given(home),
        **{**FIT, "fit__steps": 3},
    )
    rates = measured(place, "learning_rate")
    # Half the peak in warm-up, the peak, and after half the cosine.
    np.testing.assert_allclose(rates[:2], [1e-2, 2e-2], rtol=1e-5)
    assert list((place / "profile").rglob("*.xplane.pb"))
    model, after, _ = huggingface.load(place / "model")
    before = huggingface.load(home / "model")[1]
    adapters, found = hf_adapters.load(place / "adapters", model)
    merged = lora.merge(before, adapters, scale=found.scale)
    chex.assert_trees_all_close(merged, after, atol=1e-6)
    changed = [
        path
        for path, x, y in zip(
            trees.paths(after),
            jax.tree.leaves(after),
            jax.tree.leaves(before),
            strict=True,
        )
        if np.any(np.asarray(x) != np.asarray(y))
    ]
    assert changed and all("query" in path or "value" in path for path in changed)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["data", "fsdp"])
def test_layouts_fit_alike(home, layout):
    """On two devices, in two layouts, against one device."""
    flags = {**given(home), **FIT}
    name = home / f"layout_{layout}"
    place = small_recipes.folder(sft, output=name, **flags, devices=2, layout=layout)
    alone = small_recipes.folder(sft, output=f"{name}_1", **flags)
    found = measured(place, "nll"), measured(alone, "nll")
    np.testing.assert_allclose(*found, rtol=1e-4)


# Reward model


def test_a_reward_model_orders_held_out_pairs(home):
    rows = [{**row, "margin": 0.5, "preference": 0.9} for row in small_recipes.PAIRS]
    small_recipes.lines(home / "graded.jsonl", rows)
    place = small_recipes.folder(
        reward_model, output=home / "rm", **given(home, "graded"), **FIT
    )
    assert measured(place, "eval/accuracy")[-1] == 1.0
    model, params, _ = huggingface.load(place / "model")
    assert isinstance(model, heads.Classifier) and model.labels == 1
    # Llama's scores are not centred: `transformers` would leave out their bias.
    assert not np.any(np.asarray(params["head"]["bias"]))
    assert "scores are not centred" in (place / "report.md").read_text()
    card = (place / "model" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card and "| accuracy | " in card
    assert "prompt + answer + '<|im_end|>'" in card


def test_a_finished_reward_model_is_tested_on_sets_of_another_origin(home):
    flags = {**given(home, "pairs"), **FIT, "output": home / "rm_tested"}
    place = small_recipes.folder(reward_model, **flags)
    before = weights(place)
    turned = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
        for row in small_recipes.PAIRS
    ]
    file = small_recipes.lines(home / "turned.jsonl", turned)
    again = small_recipes.again(reward_model, **flags, test=f"{file}:train")
    assert weights(place) == before  # tested, not trained again
    found = json.loads((place / "results.json").read_text())["tests"]
    own, other = found["sets"]["held-out"], found["sets"]["turned"]
    assert own["accuracy"]["mean"] == again.metrics["eval/accuracy"] == 1.0
    assert own["pairs"] == 4 and other["pairs"] == 40
    assert other["accuracy"]["mean"] < 0.2 and other["nll"] > own["nll"]
    page = (place / "report.md").read_text()
    assert "| turned | 40 | " in page and "(reliability.png)" in page
    assert (place / "reliability.png").stat().st_size > 10_000
    kept = json.loads((place / "tests.json").read_text())
    margins = np.array(kept["turned"]["scores"]) @ [1, -1]
    assert np.logaddexp(0, -margins).mean() == pytest.approx(other["nll"], rel=1e-3)


# Preferences


def test_dpo_with_resets_is_the_same_with_the_reference_asked_on_the_fly(home):
    flags = {
        **given(home, "pairs"),
        **FIT,
        "elastic_reset__every": 3,
        "elastic_reset__decay": 0.9,
    }
    once = small_recipes.folder(preference, output=home / "dpo", **flags)
    fly = small_recipes.folder(
        preference, output=home / "dpo_fly", reference_on_the_fly=True, **flags
    )
    assert lines(once) == lines(fly) and weights(once) == weights(fly)
    assert measured(once, "reset/reset") == [0, 0, 1, 0, 0, 1]
    assert measured(once, "loss")[0] == pytest.approx(np.log(2), abs=1e-4)
    phases = measured(once, "eval/phase")
    assert phases == ["start", *("before_reset", "after_reset") * 2]
    margins = measured(once, "eval/rewards/margins")
    assert margins[0] == pytest.approx(0, abs=1e-5) and margins[-1] > 0
    assert {"rewards/chosen", "rewards/rejected", "rewards/accuracies"} <= set(
        lines(once)[1]
    )
    # After a reset the policy is its EMA: nearer to the reference than before it.
    train = measured(once, "rewards/margins")
    assert abs(train[3]) < abs(train[2])


# Reinforcement


def unit_of_rewards(monkeypatch):
    """A list that fills with the unit of rewards in each report that is written."""
    units, write = [], report.write

    def noted(run_dir, records, about, **options):
        units.append(about.axis("eval/reward").unit)
        return write(run_dir, records, about, **options)

    monkeypatch.setattr(report, "write", noted)
    return units


def test_rl_with_a_trl_reward_on_chats_resets_and_reports_drift(home, monkeypatch):
    units = unit_of_rewards(monkeypatch)
    flags = {
        "policy": home / "model",
        "dataset": home / "prompts.jsonl",
        "reward": "trl_style_rewards:polite",
        "algorithm": "rloo",
        "elastic_reset": True,
        "rl__candidates": 2,
        "rl__reset_every": 2,
        "rl__decay": 0.5,
        **RL,
    }
    place = small_recipes.folder(rl, output=home / "rl", **flags)
    phases = measured(place, "eval/phase")
    assert phases == ["start", "before_reset", "after_reset", "final"]
    drift = measured(place, "drift/kl_initial")
    assert drift[0] == pytest.approx(0, abs=1e-5)
    assert 0 < drift[2] < drift[1] and measured(place, "drift/text_nll")
    assert measured(place, "reset/reset") == [0, 0, 1, 0]
    assert {"objective/kl", "objective/scores"} <= set(lines(place)[1])
    rows = metrics_log.read(place / "samples.jsonl")
    assert {row["method"] for row in rows} == {"rloo_kl_elastic_reset"}
    page = (place / "report.md").read_text()
    assert "RLOO + KL (β 0.1) + Elastic Reset" in page
    assert units == ["own units"]  # of the user's function, which nothing scales
    assert (place / "front.png").exists()
    assert isinstance(huggingface.load(place / "model")[0], decoder.Decoder)


@pytest.mark.parametrize(
    "algorithm",
    ["ppo", *(pytest.param(a, marks=pytest.mark.slow) for a in HEAVY)],
)
def test_rl_with_a_reward_model_resumes_bit_for_bit(home, monkeypatch, algorithm):
    judge = small_recipes.folder(
        reward_model, output=home / f"rm_{algorithm}", **given(home, "pairs"), **FIT
    )
    flags = {
        "policy": home / "model",
        "dataset": home / "pairs.jsonl",
        "reward": judge / "model",
        "algorithm": algorithm,
        "save_every": 1,
        "eval_every": 2,
        **{**RL, "rl__candidates": 2},
        **({"rl__dynamic_sampling": 2} if algorithm == "dapo" else {}),
    }
    units = unit_of_rewards(monkeypatch)
    whole = small_recipes.folder(rl, output=home / algorithm, **flags)
    assert units == ["sd of initial samples"]
    place = resumed(rl, monkeypatch, home / f"{algorithm}_stopped", **flags)
    assert lines(place) == lines(whole) and weights(place) == weights(whole)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{}, {"rl__dynamic_sampling": 2}], ids=str)
def test_a_reward_that_pays_for_brevity_is_learned(home, flags):
    flags = {**RL, "steps": 30, "eval_every": 0, "rl__rows": 32, **flags}
    place = small_recipes.folder(
        rl,
        output=home / f"brief_{len(flags)}",
        policy=home / "model",
        dataset=home / "pairs.jsonl",
        reward="trl_style_rewards:short",
        algorithm="grpo",
        **flags,
    )
    before, after = measured(place, "eval/reward")
    assert after > before + 1


# What follows


def test_generate_answers_chats_files_and_lines(tuned, home, capsys):
    common = {
        "model": str(tuned / "model"),
        "max_new_tokens": 4,
        "temperature": 0.0,
        "devices": 1,
        "rows": 4,
    }
    asked = ("Say red blue:", "Say odd old:")
    output = home / "answers.jsonl"
    found = generate.run(generate.Config(prompts=asked, output=str(output), **common))
    assert metrics_log.read(output) == found
    assert [row["prompt"] for row in found] == list(asked)
    chats = [{"prompt": [{"role": "user", "content": text}]} for text in asked]
    file = small_recipes.lines(home / "asked.jsonl", chats)
    same = generate.run(generate.Config(file=file, **common))
    assert [r["completion"] for r in same] == [r["completion"] for r in found]
    shown = capsys.readouterr().out
    assert asked[0] in shown
    piped = generate.run(generate.Config(samples=2, **common), stdin=iter_lines(asked))
    assert [r["completion"] for r in piped[::2]] == [r["completion"] for r in found]
    assert piped[0] == piped[1]


def iter_lines(texts):
    class Lines(list):
        def isatty(self):
            return False

    return Lines(f"{text}\n" for text in texts)
