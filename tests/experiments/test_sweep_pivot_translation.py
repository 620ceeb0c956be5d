"""The game's sweep: unpublished settings, and rates, searched as finely for all.

A runner that trains nothing stands in, but for a small game that is swept for real.
"""

import dataclasses
import json
import types

import numpy as np
import pytest
import small_game

from experiments import pivot_translation
from experiments.pivot_translation import evaluators, methods, options, published
from experiments.sweep import pivot_translation as swept
from rlhf_jax import elastic_reset
from rlhf_jax.cli import command, presets
from rlhf_jax.reporting import plots
from rlhf_jax.runtime import metrics_log, parallel
from rlhf_jax.studies import runner, search
from rlhf_jax.studies.values import Values

METHODS = ("reinforce", "reinforce_kl", "elastic_reset", "reinforce_ma50")
CONFIG = dataclasses.replace(swept.CONFIG, methods=METHODS, seeds=2)
RL = CONFIG.rl
RATES = range(-3, 4)
TRAINED = [name for name, method in methods.METHODS.items() if method.train]


def current(name, config=CONFIG):
    """The `Values` that the flags of the game stand for."""
    return search.current(name, methods.METHODS, config)


def flags(name, values):
    """The flags that give the game these values."""
    return search.flags(name, methods.METHODS, values, RL)


# What a method is tuned in


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("frozen_sender", ("learning_rate",)),
        ("reinforce", ("learning_rate",)),
        ("sil", ("learning_rate",)),
        ("s2p_1", ("learning_rate",)),
        ("reinforce_kl", ("learning_rate", "strength")),
        ("reinforce_l2", ("learning_rate", "strength")),
        ("reinforce_kl_average", ("learning_rate", "strength", "weight")),
        ("elastic_reset", ("learning_rate", "weight", "every")),
        ("elastic_reset_receiver", ("learning_rate", "weight", "every")),
        ("reset_to_interpolation", ("learning_rate", "weight", "every")),
        ("reset_to_initial", ("learning_rate", "every")),
        ("reinforce_ma50", ("learning_rate",)),
        ("reinforce_average", ("learning_rate", "weight")),
    ],
)
def test_a_method_is_tuned_in_what_it_reads(name, fields):
    assert tuple(current(name).known()) == fields


@pytest.fixture
def unmeasured(monkeypatch):
    """Studies of the game that measure nothing, and so need no task."""
    monkeypatch.setattr(evaluators, "validation", lambda *_, **__: ())
    monkeypatch.setattr(evaluators, "on_test", lambda *_, **__: None)


def scalars(name, values):
    """The `translation_game.Hyper` of a method's run with these values."""
    config = dataclasses.replace(CONFIG, methods=(name,))
    study = options.study(config, None, tuned={name: values})
    row = study.methods[name]
    return row.train.scalars(study, resets=row.is_reset)


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "sil"])
def test_the_flags_own_setting_is_the_run_as_it_is(name, unmeasured):
    first, plain = scalars(name, current(name)), scalars(name, Values())
    for field in plain._fields:
        assert getattr(first, field) == pytest.approx(getattr(plain, field), rel=1e-9)


def test_where_an_interval_outlasts_the_average_its_decay_is_tuned():
    config = presets.preset(swept.CONFIG, "paper", swept.PRESETS)
    own = current("elastic_reset", config)
    assert tuple(own.known()) == ("learning_rate", "decay", "every")
    assert own.average(decay=0.1, every=7) == {"decay": 0.99, "every": 23_000}
    assert "--rl.decay 0.99 --rl.reset-every 23000" in flags("elastic_reset", own)


def test_a_run_without_resets_is_no_place_to_tune_them():
    rl = dataclasses.replace(RL, reset_every=0)
    with pytest.raises(ValueError, match="--rl.reset-every 0: reset_to_initial is"):
        current("reset_to_initial", dataclasses.replace(CONFIG, rl=rl))


@pytest.mark.parametrize("name", ["reinforce_kl", "elastic_reset", "reinforce_l2"])
def test_the_flags_of_a_setting_make_the_setting(name):
    first = current(name)
    lines = search.lines(name, first, CONFIG.space, longest=239)
    ends = {line.field: line.grid[-1] for line in lines}
    values = dataclasses.replace(first, **ends)
    words = iter(flags(name, values).split())
    config = CONFIG
    for flag, value in zip(words, words, strict=True):
        part, field = flag.removeprefix("--").replace("-", "_").split(".")
        kind = type(getattr(getattr(config, part), field))
        block = dataclasses.replace(getattr(config, part), **{field: kind(value)})
        config = dataclasses.replace(config, **{part: block})
    again = current(name, config)
    for field, value in values.known().items():
        assert getattr(again, field) == pytest.approx(value, rel=1e-4)


# What is tuned is what runs


def test_every_method_runs_with_what_was_chosen_for_it(unmeasured):
    chosen = {
        "reinforce": Values(learning_rate=0.25),
        "reinforce_kl": Values(strength=0.75),
        "elastic_reset": Values(weight=0.3, every=60),
    }
    study = options.study(CONFIG, None, tuned=chosen)
    found = {
        name: row.train.scalars(study, resets=row.is_reset)
        for name, row in study.methods.items()
        if row.train and not row.at_end
    }
    assert found["reinforce"].learning_rate == 0.25
    assert found["reinforce_kl"].kl_coef == 0.75
    assert found["reinforce_kl"].learning_rate == RL.learning_rate
    reset = found["elastic_reset"]
    weight = elastic_reset.retained_weight(reset.decay, 60)
    assert weight == pytest.approx(0.3) == pytest.approx(reset.reset_weight)
    assert study.resets("elastic_reset") == (60, 120, 180)
    assert study.resets("reinforce") == ()
    assert study.evaluations("elastic_reset") >= {61, 121, 181}


def test_a_setting_has_checkpoints_of_its_own(unmeasured, tmp_path):
    file = tmp_path / "results.json"
    config = dataclasses.replace(pivot_translation.CONFIG, tuned=str(file))
    digests = set()
    for rate in (0.5, 0.75):
        chosen = {"reinforce": {"values": {"learning_rate": rate}}}
        file.write_text(json.dumps({"chosen": chosen}))
        study = options.study(config, None)
        assert study.methods["reinforce"].train.values == Values(learning_rate=rate)
        digests.add(study.digest)
    assert len(digests) == 2


# The plan


@pytest.mark.parametrize("preset", [None, *swept.PRESETS])
def test_every_method_can_be_swept_as_the_presets_have_it(preset):
    config = swept.CONFIG
    if preset:
        config = presets.preset(config, preset, swept.PRESETS)
    assert (config.seeds, config.first_seed) == (3, 900)
    config = dataclasses.replace(config, methods=("all",))
    planned = swept.SUBJECT.plan(config)
    assert list(planned) == list(methods.METHODS)
    for searched in planned.values():
        rates = searched.lines[0].grid
        assert rates == pytest.approx([config.rl.learning_rate * 2.0**n for n in RATES])


def test_what_is_not_published_is_swept_over_what_is_written_down():
    config = presets.preset(swept.CONFIG, "paper", swept.PRESETS)
    tried = {
        "rl.decay": config.space.decay,
        "rl.reset_every": config.space.every,
        **{
            f"strengths.{name}": [
                getattr(config.strengths, name) * x for x in config.space.strength
            ]
            for name in ("kl", "entropy", "l2")
        },
    }
    for name, values in tried.items():
        asked = published.UNKNOWN[name][1]
        assert min(values) <= min(asked) * (1 + 1e-9)
        assert max(values) >= max(asked) * (1 - 1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuned": "results.json"}, "--tuned: a sweep finds it"),
        ({"axis": "drift/none"}, "--axis drift/none: choose from drift/bleu_en"),
        ({"num_evals": 3}, "--num-evals 3: elastic_reset"),
        ({"num_evals": 6}, "--space.every 50: elastic_reset may be reset every 80 to"),
        ({"methods": ("dpo",)}, "--methods dpo: unknown"),
        (
            {"space": swept.Space(every=(400,))},
            "--space.every 400: elastic_reset may be reset every 40 to 239",
        ),
        (
            {"space": swept.Space(decay=(1.0,)), "preset": "paper"},
            "--space.decay 1.0: must be a number above 0 and below 1",
        ),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_made(changes, message):
    config = CONFIG
    if "preset" in changes:
        config = presets.preset(config, changes["preset"], swept.PRESETS)
    with pytest.raises(ValueError, match=message):
        swept.SUBJECT.plan(dataclasses.replace(config, **changes))


# What it leaves


ran = []  # (study, starts) of trials


def fake_run(study, folder, layout, *, console, signals, starts, size):
    """German that a setting decides: most at twice the usual rate, and w of 0.25."""
    ran.append((study, starts))
    (values,) = [row.train.values for row in study.methods.values() if row.train]
    folder.mkdir(parents=True, exist_ok=True)
    with metrics_log.Lines(folder / "metrics.jsonl", resume_offset=0) as log:
        for unit in study.units:
            for name in study.methods:
                for row in rows(name, unit.seed, values):
                    log.append(row)


def rows(name, seed, values):
    rate = values.learning_rate or RL.learning_rate
    peak = 9 - abs(np.log2(rate / (2 * RL.learning_rate)))
    peak -= abs(np.log2((values.weight or 0.25) / 0.25))
    for step in range(0, 241, 80):
        x = step / 240
        phase = "start" if step == 0 else "final" if step == 240 else "train"
        row = {"method": name, "seed": seed, "step": step, "eval/phase": phase}
        for half, scale in (("", 1.0), ("_a", 1.0), ("_b", 0.5)):
            row[f"eval/reward{half}"] = 5 + peak * x * scale
            for axis in ("bleu_en", "text_nll", "message_nll", "kl_initial"):
                row[f"drift/{axis}{half}"] = x
        yield row
        yield {"method": name, "seed": seed, "step": step + 1, "budget/tokens": 9.0}


@pytest.fixture
def done(unmeasured, tmp_path, monkeypatch):
    ran.clear()
    task = types.SimpleNamespace(facts={})
    monkeypatch.setattr(runner, "run", fake_run)
    monkeypatch.setattr(pivot_translation, "make_task", lambda *_: task)
    monkeypatch.setattr(command, "prepare_devices", lambda *_: None)
    monkeypatch.setattr(plots, "fronts", lambda *given, **_: given[2].write_bytes(b""))
    monkeypatch.setattr(parallel, "layout", lambda *_: parallel.data(1))
    place = swept.run(dataclasses.replace(CONFIG, output=str(tmp_path / "sweep")))
    return place, json.loads((place / "results.json").read_text())


def test_the_choice_is_the_most_german_at_least_english_lost(done):
    _, found = done
    for method in METHODS:
        own = [t for t in found["trials"] if t["method"] == method]
        assert all(len(t["per_unit"]) == 2 for t in own)
        best = max(own, key=lambda told: told["mean"])
        assert found["chosen"][method]["trial"] == best["trial"]
        chosen = found["chosen"][method]["values"]
        assert chosen["learning_rate"] == 2 * RL.learning_rate
    assert found["chosen"]["elastic_reset"]["values"]["weight"] == 0.25


def test_trials_share_their_start_and_read_no_test_sentences(done):
    assert len({id(starts) for _, starts in ran}) == 1
    assert len({study.digest for study, _ in ran}) == len(ran)
    for study, _ in ran:
        assert study.at_end == study.of_best == ()
        assert [unit.seed for unit in study.units] == [900, 901]


def test_the_report_names_what_was_tried_in_the_games_words(done):
    place, found = done
    text = (place / "report.md").read_text()
    table = text.split("## All trials")[1]
    header = next(line for line in table.splitlines() if line.startswith("| method"))
    for name in ("learning rate", "w", "interval", "penalty"):
        assert f" {name} " in header
    assert " β " not in header and " decay " not in header
    assert "BLEU-En lost" in text and "experiments.pivot_translation" in text
    assert "Cut: 2 units instead of 3" in text
    for best in found["chosen"].values():
        assert f"`{best['flags']}`" in text


def test_what_was_chosen_is_read_back_by_the_game(done):
    place, found = done
    config = dataclasses.replace(
        pivot_translation.CONFIG, tuned=str(place / "results.json")
    )
    study = options.study(dataclasses.replace(config, methods=METHODS), None)
    for name, best in found["chosen"].items():
        source = study.methods[study.methods[name].source or name]
        assert source.train.values == Values(**best["values"])


# For real


@pytest.mark.slow
def test_a_sweep_chooses_settings_that_a_study_then_runs(tmp_path, monkeypatch):
    small_game.share(monkeypatch)
    data, names = small_game.write(tmp_path / "data"), METHODS[::2] + METHODS[3:]
    small = small_game.config(data, cache=str(tmp_path / "cache"), methods=names)
    fields = {f.name: getattr(small, f.name) for f in dataclasses.fields(small)}
    fields |= {"seeds": 1, "first_seed": 900, "num_evals": 6}
    space = swept.Space((1.0, 2.0), weight=(0.5,), every=(2, 3), extensions=0)
    fields |= {"output": str(tmp_path / "sweep"), "space": space}
    place = swept.run(swept.Config(**fields))
    found = json.loads((place / "results.json").read_text())
    assert set(found["chosen"]) == set(names)
    assert not any(trial["failure"] for trial in found["trials"])
    assert (place / "front.png").read_bytes().startswith(b"\x89PNG")
    folder = place / "trials" / found["trials"][0]["folder"]
    records = metrics_log.read(folder / "study/metrics.jsonl")
    assert not any("test/bleu_de" in record for record in records)
    file, output = str(place / "results.json"), str(tmp_path / "run")
    again = dataclasses.replace(small, tuned=file, num_evals=6, output=output)
    text = (pivot_translation.run(again) / "report.md").read_text()
    assert f"Tuned by {file}: reinforce: --rl.learning-rate" in text
