"""experiments.preference over its family: mixtures, no reference, single answers."""

import json

import numpy as np
import pytest
import small_recipes

from experiments import preference
from rlhf_jax.runtime import metrics_log

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("programs")
FIT = {"fit__steps": 3, "fit__rows": 4, "fit__learning_rate": 2e-2, "save_every": 2}
UNPAIRED = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in small_recipes.PAIRS
    for side in ("chosen", "rejected")
]


@pytest.fixture(scope="module")
def home(home):
    """A folder with a model, pairs and single answers."""
    small_recipes.lines(home / "unpaired.jsonl", UNPAIRED)
    return home


def run(home, name, dataset="pairs", **flags):
    """(folder, records of metrics.jsonl) of a run."""
    place = small_recipes.folder(
        preference,
        model=home / "model",
        dataset=home / f"{dataset}.jsonl",
        output=home / name,
        **FIT,
        **flags,
    )
    return place, metrics_log.read(place / "metrics.jsonl")


def measured(records, name):
    return [record[name] for record in records if name in record]


def test_a_mixture_trains_and_says_what_it_is(home, capsys):
    names = ("sigmoid", "bco_pair", "sft")
    place, records = run(home, "mpo", loss=names, loss_weights=(0.8, 0.2, 1.0))
    line = (
        "loss 0.8 sigmoid + 0.2 bco_pair + 1 sft; β 0.1; reference the model as it was"
    )
    page, said = (place / "report.md").read_text(), capsys.readouterr().out
    assert line in page and line in " ".join(said.split())
    assert records[-1]["method"] == "sigmoid+bco_pair+sft"
    step = next(r for r in records if "loss/sft" in r)
    parts = [step[f"loss/{name}"] for name in names]
    assert step["loss"] == pytest.approx(np.dot([0.8, 0.2, 1.0], parts), rel=1e-4)
    assert parts[:2] == pytest.approx([np.log(2), 2 * np.log(2)], abs=1e-3)
    nll = measured(records, "eval/loss/sft")
    assert nll[-1] < nll[0]


def test_the_reference_is_asked_about_rows_that_an_update_uses(home, monkeypatch):
    asked, refer = [], preference._refer

    def counted(read, ask, params, batch):
        asked.append(len(batch.reference))
        return refer(read, ask, params, batch)

    monkeypatch.setattr(preference, "_refer", counted)
    _, records = run(home, "few", loss="sigmoid")
    held, *trained = asked
    assert trained == [FIT["fit__rows"]] * FIT["fit__steps"]
    assert sum(trained) < len(small_recipes.PAIRS) - held
    losses = measured(records, "loss")
    assert len(losses) == FIT["fit__steps"] and np.isfinite(losses).all()


def test_prompts_of_a_chat_are_a_users_turns(home):
    rows = [
        {**row, "prompt": [{"role": "user", "content": row["prompt"]}]}
        for row in small_recipes.PAIRS
    ]
    small_recipes.lines(home / "turns.jsonl", rows)
    drawn = {"eval_samples": 2, "max_new_tokens": 4}
    plain, told = run(home, "plain")[1], run(home, "chat", chat=True, **drawn)[1]
    place, turns = run(home, "turns", dataset="turns", **drawn)
    for name in ("loss", "eval/loss", "drift/text_nll"):
        assert measured(told, name) == measured(turns, name) != []
    assert measured(told, "logps/chosen") != measured(plain, "logps/chosen")
    samples = [
        [row["prompt"] for row in metrics_log.read(folder / "samples.jsonl")]
        for folder in (home / "chat", place)
    ]
    assert samples[0] == samples[1] != []


def test_without_a_reference_none_is_asked(home, capsys, monkeypatch):
    monkeypatch.setattr(preference, "_refer", None)  # asking would fail
    place, records = run(home, "simpo", loss="simpo", beta=2.0, simpo_gamma=1.0)
    said = capsys.readouterr().out
    assert "asking the reference" not in said
    line = "loss simpo; β 2, simpo gamma 1; no reference is asked"
    assert line in said and line in (place / "report.md").read_text()
    margins = measured(records, "eval/rewards/margins")
    assert margins[-1] > margins[0]


SPLIT = {"devices": 2, "fit__micro_batches": 2, "reference_on_the_fly": True}


def test_kto_learns_from_single_answers(home):
    place, records = run(home, "kto", "unpaired", loss="kto", **SPLIT)
    assert "72 training answers" in (place / "report.md").read_text()
    first, *_, last = measured(records, "eval/rewards/margins")
    assert first == pytest.approx(0, abs=1e-5) and last > 0
    assert measured(records, "eval/loss")[0] == pytest.approx(0.5, abs=1e-5)
    assert measured(records, "eval/kl")[-1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("loss", [*preference.preference.LOSSES, "apo_zero_unpaired"])
def test_every_loss_of_the_family_trains(home, loss):
    """Each raises the chosen answers against the rejected ones, from pairs."""
    flags = {"loss": ("sft", "hinge") if loss == "sft" else loss}
    if loss == "exo_pair":
        flags["label_smoothing"] = 1e-3
    place, records = run(home, loss, **flags)
    margins = measured(records, "eval/rewards/margins")
    assert margins[-1] > margins[0]
    kept = json.loads((place / "config.json").read_text())["config"]
    assert loss in kept["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [SPLIT, {"devices": 2, "layout": "fsdp"}])
def test_kto_on_devices_and_in_parts_is_the_same(home, flags):
    """Its baseline is of a whole minibatch, whatever shares it."""
    weights = {"desirable_weight": 2.0, "undesirable_weight": 0.1}
    weights["loss"] = "kto"  # nearly all answers are made likelier: z₀ is above 0
    names = "_".join(flags)
    _, alone = run(home, f"kto_alone_{names}", "unpaired", **weights)
    _, split = run(home, f"kto_{names}", "unpaired", **weights, **flags)
    assert max(measured(alone, "kl")) > 0
    for name in ("loss", "kl", "rewards/margins", "eval/loss"):
        found = measured(split, name), measured(alone, name)
        np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)


def test_labels_that_a_loss_does_not_take_are_refused(home):
    rows = [{**row, "preference": 0.75} for row in small_recipes.PAIRS]
    small_recipes.lines(home / "soft.jsonl", rows)
    with pytest.raises(ValueError, match="loss aot takes pairs .* is 0.75 in 36"):
        run(home, "refused", "soft", loss="aot")
    with pytest.raises(ValueError, match="preference is 0.75 .* KTO takes"):
        run(home, "refused_kto", "soft", loss="kto")


def test_a_loss_from_python_is_a_name_or_several():
    config = preference.Config(loss="ipo")
    assert config.loss == ("ipo",) and config.settings.loss == ("ipo",)
    assert preference.Config(loss=["dpo", "sft"]).loss == ("dpo", "sft")
    assert preference.Config(loss_weights=2).loss_weights == (2,)
    with pytest.raises(ValueError, match="--loss None: must be a list"):
        preference.train(model="m", dataset="d", loss=None, quiet=True)
    kto = preference.Config(loss="kto", desirable_weight=2.0).settings
    assert (kto.loss, kto.desirable_weight) == ("kto", 2.0)
