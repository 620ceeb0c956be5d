"""A study of the game at its smallest: a made-up language triple, agents of 8 units."""

import dataclasses
import json
import pathlib

import numpy as np

from experiments import pivot_translation
from experiments.pivot_translation import options, pretraining
from experiments.pivot_translation import task as tasks
from rlhf_jax.cli import command, experiment

METHODS = (
    "frozen_sender",
    "reinforce",
    "s2p_1",
    "sil",
    "elastic_reset",
    "reinforce_early_stop",
    "reinforce_ma50",
)
WORDS = {
    "fr": "le un petit grand chien chat homme enfant court dort mange voit".split(),
    "en": "the a small large dog cat man child runs sleeps eats sees".split(),
    "de": "der ein kleine große hund katze mann kind läuft schläft isst sieht".split(),
}


def write(folder, seed=0):
    """Parallel text, one word for one: train, val, test; returns the folder."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for split, rows in (("train", 48), ("val", 8), ("test_2016_flickr", 6)):
        lines = []
        for _ in range(rows):
            picks = [rng.integers(*span) for span in _spans(rng)]
            texts = {
                x: f"{' '.join(words[i] for i in picks).capitalize()}."
                for x, words in WORDS.items()
            }
            lines.append(json.dumps({"translation": texts}, ensure_ascii=False))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _spans(rng):
    """Article, adjective, noun, verb, and sometimes what the verb is about."""
    spans = [(0, 2), (2, 4), (4, 8), (8, 12)]
    return spans + [(0, 2), (4, 8)] * int(rng.integers(2))


def config(data, **changes):
    """The Config of a small study."""
    plain = pivot_translation.Config(
        dataset=str(data),
        pretrain_fr_en=(str(data),),
        pretrain_en_de=(str(data),),
        methods=METHODS,
        steps=6,
        num_evals=5,
        save_every=2,
        devices=1,
        text=tasks.Config(merges=120, classes=1, embedding=8, hidden=8, max_length=12),
        pretrain=pretraining.Config(
            steps=4,
            tokens=100,
            eval_every=2,
            save_every=2,
            dev_rows=4,
            judge="micro",
            judge_steps=2,
            judge_rows=4,
        ),
        rl=options.RL(
            tokens=60, lesson_tokens=60, longest=8, critic_first=1, reset_every=3
        ),
        sil=options.SIL(play=3, imitate=2, tune=1),
    )
    return dataclasses.replace(plain, **changes)


def setting(cache, layout):
    """What a study is told of where it runs, as far as its task needs it."""
    return experiment.Setting(None, layout, cache, None, None, lambda *_, **__: None)


def share(monkeypatch):
    """From here on, studies of this process share a task, and so compiled programs."""
    monkeypatch.setattr(command, "prepare_devices", lambda *_: None)
    monkeypatch.setattr(pivot_translation, "make_task", _task)


_make_task = pivot_translation.make_task
_tasks = {}


def _task(config, setting):
    if not pathlib.Path(config.dataset).exists():
        return _make_task(config, setting)
    key = config.dataset, config.text, config.pretrain
    if key not in _tasks:
        _tasks[key] = _make_task(config, setting)
    return _tasks[key]
