"""The game's sweep: unpublished settings, and rates, tried at equal cost for all.

A study that trains nothing stands in; `test_pivot_study` sweeps the game itself.
"""

import dataclasses
import json
import types

import checks
import numpy as np
import pytest

from experiments import pivot_sweep, pivot_translation
from experiments.pivot_translation import (
    methods,
    options,
    published,
    study,
    trainers,
    tuned,
)
from rlhf_jax import elastic_reset
from rlhf_jax.cli import command, presets
from rlhf_jax.reporting import plots
from rlhf_jax.runtime import metrics_log, parallel
from rlhf_jax.studies import search

METHODS = ("reinforce", "reinforce_kl", "elastic_reset", "reinforce_ma50")
CONFIG = dataclasses.replace(pivot_sweep.CONFIG, methods=METHODS, trials=4, seeds=2)
RL, STRENGTHS = CONFIG.rl, CONFIG.strengths
TRAINED = [name for name, method in methods.METHODS.items() if method.trains]


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
        ("reinforce_kl_average", ("learning_rate", "weight", "strength")),
        ("elastic_reset", ("learning_rate", "weight", "every")),
        ("elastic_reset_receiver", ("learning_rate", "weight", "every")),
        ("reset_to_interpolation", ("learning_rate", "weight", "every")),
        ("reset_to_initial", ("learning_rate", "every")),
        ("reinforce_ma50", ()),
    ],
)
def test_a_method_is_tuned_in_what_it_reads(name, fields):
    own = tuned.own(methods.METHODS[name], RL, STRENGTHS)
    assert tuple(own.known()) == fields


def overlaid(name, values, config=CONFIG):
    """The Hyper of a method with a setting, as `study.Game` makes it."""
    settings = options.settings(config)
    return methods.overlay(
        settings.hyper,
        methods.METHODS[name],
        settings.strengths,
        strength=values.strength,
        **values.average(decay=settings.decay, every=settings.reset_every),
    )


@pytest.mark.parametrize("name", TRAINED)
def test_the_flags_own_setting_is_the_run_as_it_is(name):
    own = tuned.own(methods.METHODS[name], RL, STRENGTHS)
    found, plain = overlaid(name, own), overlaid(name, search.Values())
    for field in plain._fields:
        assert getattr(found, field) == pytest.approx(getattr(plain, field), rel=1e-9)


def test_where_an_interval_outlasts_the_average_its_decay_is_tuned():
    config = presets.preset(pivot_sweep.CONFIG, "paper", pivot_sweep.PRESETS)
    method = methods.METHODS["elastic_reset"]
    own = tuned.own(method, config.rl, config.strengths)
    assert tuple(own.known()) == ("learning_rate", "every", "decay")
    assert own.average(decay=0.1, every=7) == {"decay": 0.99, "every": 23_000}
    assert "--rl.decay 0.99 --rl.reset-every 23000" in tuned.command(
        own, method, config.rl
    )


def test_a_run_without_resets_is_no_place_to_tune_them():
    rl = dataclasses.replace(RL, reset_every=0)
    with pytest.raises(ValueError, match="--rl.reset-every 0: methods that reset"):
        tuned.own(methods.METHODS["reset_to_initial"], rl, STRENGTHS)


@pytest.mark.parametrize("name", ["reinforce_kl", "elastic_reset", "reinforce_l2"])
def test_the_flags_of_a_setting_make_the_setting(name):
    method = methods.METHODS[name]
    own = tuned.own(method, RL, STRENGTHS)
    values = search.trials(name, own, CONFIG.space, count=4, steps=240)[3]
    words = iter(tuned.command(values, method, RL).split())
    config = CONFIG
    for flag, value in zip(words, words, strict=True):
        part, field = flag.removeprefix("--").replace("-", "_").split(".")
        kind = type(getattr(getattr(config, part), field))
        block = dataclasses.replace(getattr(config, part), **{field: kind(value)})
        config = dataclasses.replace(config, **{part: block})
    again = tuned.own(method, config.rl, config.strengths)
    for field, value in values.known().items():
        assert getattr(again, field) == pytest.approx(value, rel=1e-4)


# What is tuned is what runs


@pytest.fixture
def game(tmp_path, monkeypatch):
    """A `study.Game` of tuned methods whose trainers are (method's Hyper)."""
    monkeypatch.setattr(trainers, "compile_programs", lambda *_: None)
    monkeypatch.setattr(trainers, "greedy", lambda _: None)
    monkeypatch.setattr(trainers, "trainer", lambda *given, **_: given[3])
    values = {
        "reinforce": search.Values(learning_rate=0.25),
        "reinforce_kl": search.Values(strength=0.75),
        "elastic_reset": search.Values(weight=0.3, every=60),
    }
    settings = dataclasses.replace(options.settings(CONFIG), tuned=values)
    task = types.SimpleNamespace(networks=None)
    return study.Game(task, settings, parallel.data(1), tmp_path, console=None)


def test_every_method_runs_with_what_was_chosen_for_it(game):
    found = {name: game.trainer(cells(name)) for name in METHODS[:3]}
    assert found["reinforce"].learning_rate == 0.25
    assert found["reinforce_kl"].kl_coef == 0.75
    assert found["reinforce_kl"].learning_rate == RL.learning_rate
    reset = found["elastic_reset"]
    weight = elastic_reset.retained_weight(reset.decay, 60)
    assert reset.reset_every == 60 and weight == pytest.approx(0.3)
    assert reset.reset_weight == pytest.approx(0.3)
    assert game.calendar("elastic_reset") == [60, 120, 180]
    assert game.calendar("reinforce") == []
    assert set(game.evaluations("elastic_reset")) >= {61, 121, 181}


def cells(name):
    return types.SimpleNamespace(method=name, seed=0, name=f"{name}-0")


def test_a_setting_has_checkpoints_of_its_own(tmp_path):
    file = tmp_path / "results.json"
    text = {"chosen": {"reinforce": {"values": {"learning_rate": 0.5}}}}
    file.write_text(json.dumps(text))
    config = dataclasses.replace(pivot_translation.CONFIG, tuned=str(file))
    made = options.settings(config)
    assert made.tuned == {"reinforce": search.Values(learning_rate=0.5)}
    text["chosen"]["reinforce"]["values"]["learning_rate"] = 0.75
    file.write_text(json.dumps(text))
    assert options.settings(config).digest != made.digest
    told = options.tuned_note(config)
    assert "reinforce: --rl.learning-rate 0.75" in told
    assert "As the flags have them: frozen_sender" in told
    assert "Nothing is tuned" in options.tuned_note(pivot_translation.CONFIG)


# The plan


def test_trials_come_in_rounds_and_every_method_has_as_many():
    checks.in_rounds(pivot_sweep.plan(CONFIG), METHODS[:3], count=4)


@pytest.mark.parametrize("preset", [None, *pivot_sweep.PRESETS])
def test_every_method_can_be_swept_as_the_presets_have_it(preset):
    config = pivot_sweep.CONFIG
    if preset:
        config = presets.preset(config, preset, pivot_sweep.PRESETS)
    assert (config.trials, config.seeds, config.first_seed) == (9, 3, 900)
    config = dataclasses.replace(config, methods=("all",))
    assert len(pivot_sweep.plan(config)) == 9 * len(TRAINED)


def test_what_is_not_published_is_swept_over_what_is_written_down():
    config = presets.preset(pivot_sweep.CONFIG, "paper", pivot_sweep.PRESETS)
    swept = {
        "rl.decay": config.space.decay,
        "rl.reset_every": config.space.every,
        **{
            f"strengths.{name}": [
                getattr(config.strengths, name) * x for x in config.space.strength
            ]
            for name in ("kl", "entropy", "l2")
        },
    }
    for name, values in swept.items():
        asked = published.UNKNOWN[name][1]
        assert min(values) <= min(asked) * (1 + 1e-9)
        assert max(values) >= max(asked) * (1 - 1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuned": "results.json"}, "--tuned: a sweep finds it"),
        ({"axis": "drift/none"}, "--axis drift/none: choose from drift/bleu_en"),
        ({"trials": 0}, "--trials 0: at least 1"),
        ({"trials": 10}, "reinforce has 9 combinations"),
        ({"looks": 3}, "--looks 3: elastic_reset"),
        ({"looks": 6, "trials": 9}, "--looks 6: elastic_reset"),
        ({"methods": ("dpo",)}, "--methods dpo: unknown"),
        (
            {"space": tuned.Space(every=(400,)), "trials": 2},
            "--space.every 400: a run of 240 steps",
        ),
        ({"space": tuned.Space(decay=(1.0,)), "preset": "paper"}, "--space.decay 1"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_made(changes, message):
    config = CONFIG
    if "preset" in changes:
        config = presets.preset(config, changes["preset"], pivot_sweep.PRESETS)
    with pytest.raises(ValueError, match=message):
        pivot_sweep.plan(dataclasses.replace(config, **changes))


# What it leaves


class Fake:
    """German that a setting decides: most at twice the usual rate, and w of 0.3."""

    made = []

    def __init__(self, task, settings, layout, folder, *, console, made):
        Fake.made.append(self)
        self.settings, self.folder, self.programs = settings, folder, made

    def run(self, signals):
        (values,) = self.settings.tuned.values()
        self.folder.mkdir(parents=True)
        with metrics_log.Lines(self.folder / "metrics.jsonl", resume_offset=0) as log:
            for seed in self.settings.seeds:
                for name in self.settings.methods:
                    for row in rows(name, seed, values):
                        log.append(row)


def rows(name, seed, values):
    rate = values.learning_rate or RL.learning_rate
    peak = 9 - abs(np.log2(rate / (2 * RL.learning_rate)))
    peak -= abs(np.log2((values.weight or 0.3) / 0.3))
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
def done(tmp_path, monkeypatch):
    Fake.made = []
    task = types.SimpleNamespace(facts={})
    monkeypatch.setattr(study, "Game", Fake)
    monkeypatch.setattr(pivot_translation, "make_task", lambda *_: task)
    monkeypatch.setattr(command, "prepare_devices", lambda *_: None)
    monkeypatch.setattr(plots, "fronts", lambda *given, **_: given[2].write_bytes(b""))
    monkeypatch.setattr(parallel, "layout", lambda *_: parallel.data(1))
    place = pivot_sweep.run(dataclasses.replace(CONFIG, output=str(tmp_path / "sweep")))
    return place, json.loads((place / "results.json").read_text())


def test_the_choice_is_the_most_german_at_least_english_lost_on_half_a(done):
    _, found = done
    for method in METHODS:
        own = [t for t in found["trials"] if t["method"] == method]
        assert len(own) == 4 and all(len(t["per_seed"]) == 2 for t in own)
        best = max(own, key=lambda told: told["validation"])
        assert found["chosen"][method]["trial"] == best["trial"]
        assert best["other_half"] < best["validation"]


def test_trials_share_programs_and_read_no_test_sentences(done):
    assert len(Fake.made) == 12
    assert len({id(made.programs) for made in Fake.made}) == 1
    assert len({made.settings.digest for made in Fake.made}) == 12
    assert not any(made.settings.tested for made in Fake.made)
    assert all(made.settings.seeds == (900, 901) for made in Fake.made)


def test_the_page_names_what_was_tried_in_the_games_words(done):
    place, found = done
    text = (place / "report.md").read_text()
    header = next(line for line in text.splitlines() if line.startswith("| method"))
    for name in ("learning rate", "w", "interval", "penalty"):
        assert f" {name} " in header
    assert " β " not in header and " decay " not in header
    assert "BLEU-En lost" in text and "experiments.pivot_translation" in text
    assert "trials 4 instead of 9, calibration seeds 2 instead of 3" in text
    for best in found["chosen"].values():
        assert f"`{best['flags']}`" in text


def test_what_was_chosen_is_read_back_by_the_game(done):
    place, found = done
    config = dataclasses.replace(
        pivot_translation.CONFIG, tuned=str(place / "results.json")
    )
    assert set(options.settings(config).tuned) == set(found["chosen"])
