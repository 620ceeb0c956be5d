"""The game's table of methods, its flags, and the published settings."""

import dataclasses
import re
import types

import pytest

from experiments import pivot_translation
from experiments.pivot_translation import methods, options, published
from experiments.pivot_translation import task as tasks
from rlhf_jax import elastic_reset
from rlhf_jax.algorithms import translation_game as game
from rlhf_jax.algorithms.translation_game import imitation
from rlhf_jax.cli import presets
from rlhf_jax.studies.values import Values

STRENGTHS = options.Strengths()
TRAINED = [name for name, method in methods.METHODS.items() if method.train]


def configured(**changes):
    """The flags of a run of 40 steps that resets every 10, with decay 0.9."""
    rl = options.RL(reset_every=10, decay=0.9)
    changes = {"steps": 40, "methods": ("all",), "rl": rl, **changes}
    return dataclasses.replace(pivot_translation.CONFIG, **changes)


def study_of(config, tuned=None):
    """The study of some flags, of a task without sentences."""
    pairs = _Pairs()
    task = types.SimpleNamespace(val=pairs, test=pairs)
    return options.study(config, task, tuned=tuned)


class _Pairs:
    """No sentences in no language."""

    ids, words, texts = {}, {}, {}

    def __len__(self):
        return 0


def scalars(name, tuned=None, **changes):
    """The Hyper that a method is trained with."""
    study = study_of(configured(**changes), tuned)
    method = study.methods[name]
    train = getattr(method.train, "play", method.train)
    return train.scalars(study, resets=method.is_reset and train is method.train)


BASE = game.Hyper(
    learning_rate=5e-4, total_updates=40, sender_rate=0.2, critic_first=40
)


def test_a_method_changes_what_its_row_says_and_nothing_else():
    said = {
        "reinforce": {},
        "frozen_sender": {"train_sender": 0.0},
        "reinforce_kl": {"kl_coef": STRENGTHS.kl},
        "reinforce_entropy": {"entropy_coef": STRENGTHS.entropy},
        "reinforce_l2": {"l2_coef": STRENGTHS.l2},
        "sil": {},
        "elastic_reset": {},
        "elastic_reset_receiver": {"reset_receiver": True},
        "reset_policy_only": {"reset_average": False},
        "reset_to_initial": {"reset_target": elastic_reset.INITIAL},
    }
    for name, changes in said.items():
        found = scalars(name)._asdict()
        free = {"decay", "reset_weight"}
        differ = {k for k, v in found.items() if v != getattr(BASE, k)} - free
        assert {k: found[k] for k in differ} == changes, name


def test_rows_that_reset_follow_the_interval_and_sil_its_generations():
    sil = options.SIL(play=15, imitate=2, tune=1)
    study = study_of(configured(sil=sil))
    resets = {name: study.resets(name) for name in study.methods}
    for name in TRAINED:
        every_10 = name.startswith(("elastic_reset", "reset_"))
        expected = (10, 20, 30) if every_10 else (14, 29) if name == "sil" else ()
        assert resets[name] == expected, name


def test_a_row_is_trained_or_read_off_reinforce():
    for name, method in methods.METHODS.items():
        assert (method.train is None) == (method.source == "reinforce"), name
        assert (method.derive is None) == (method.source is None), name
    assert [n for n, m in methods.METHODS.items() if m.at_end] == [
        "reinforce_early_stop"
    ]


def test_what_a_search_chose_is_what_runs():
    tuned = {
        "reinforce": Values(learning_rate=0.25),
        "reinforce_kl": Values(strength=0.75),
        "elastic_reset": Values(weight=0.3, every=5),
        "sil": Values(learning_rate=0.5),
    }
    found = {name: scalars(name, tuned) for name in tuned}
    assert found["reinforce"].learning_rate == 0.25
    assert found["sil"].learning_rate == 0.5
    assert found["reinforce_kl"].kl_coef == 0.75
    assert found["reinforce_kl"].learning_rate == BASE.learning_rate
    decay = found["elastic_reset"].decay
    assert elastic_reset.retained_weight(decay, 5) == pytest.approx(0.3)
    assert found["elastic_reset"].reset_weight == pytest.approx(0.3)
    study = study_of(configured(), tuned)
    assert study.resets("elastic_reset") == (5, 10, 15, 20, 25, 30, 35)
    assert study.resets("reset_to_initial") == (10, 20, 30)


@pytest.mark.parametrize(
    ("name", "fields", "penalty"),
    [
        ("frozen_sender", ("learning_rate",), None),
        ("sil", ("learning_rate",), None),
        ("reinforce", ("learning_rate",), None),
        ("reinforce_l2", ("learning_rate", "strength"), "strengths.l2"),
        (
            "reinforce_kl_average",
            ("learning_rate", "weight", "strength"),
            "strengths.kl",
        ),
        ("elastic_reset", ("learning_rate", "weight", "every"), None),
        ("reset_to_initial", ("learning_rate", "every"), None),
    ],
)
def test_a_method_is_tuned_in_what_it_reads(name, fields, penalty):
    method = methods.METHODS[name]
    assert method.tunes == fields
    assert method.train.penalty == penalty
    assert method.train.rate == "learning_rate"


def test_lessons_have_the_published_weights_and_say_whom_they_learn_from():
    taught = [name for name in methods.METHODS if name.startswith("s2p")]
    assert tuple(scalars(n).lesson_coef for n in taught) == published.LESSONS
    assert list(methods.SUPERVISION) == list(methods.METHODS)
    for name, supervision in methods.SUPERVISION.items():
        assert (supervision == methods.PRETRAINING) == (name in taught)


def test_an_average_that_nobody_reads_is_not_kept():
    for name in TRAINED:
        resets = methods.METHODS[name].is_reset and name != "sil"
        reads = resets or name == "reinforce" or "average" in name
        assert (scalars(name).decay == 1.0) != reads, name


def test_the_interpolation_goes_as_far_as_the_average_would():
    weight = scalars("reset_to_interpolation").reset_weight
    assert weight == pytest.approx(1 - 0.9**10)


def test_sources_come_before_what_derives_from_them():
    assert methods.choose(("reinforce_ma50",)) == ("reinforce", "reinforce_ma50")
    chosen = methods.choose(("all",))
    assert chosen == tuple(methods.METHODS)
    for name in chosen:
        source = methods.METHODS[name].source
        assert source is None or chosen.index(source) < chosen.index(name)
    assert set(methods.QUICK) < set(methods.STUDY) < set(chosen)
    assert methods.choose(("study", "sil")) == methods.choose(("study",))


def test_an_unknown_method_is_one_error():
    with pytest.raises(ValueError, match="--methods ppo: unknown; choose from frozen"):
        methods.choose(("ppo",))


# Flags


@pytest.mark.parametrize("name", pivot_translation.PRESETS)
def test_presets_are_flags_of_the_experiment(name):
    known = pivot_translation.PRESETS
    config = presets.preset(pivot_translation.CONFIG, name, known)
    assert config.preset == name
    pivot_translation.check(config)
    assert tuple(options.rows(config, {})) == methods.choose(config.methods)
    plan = options.schedule(config)
    assert plan.steps == config.steps and plan.reset_every == config.rl.reset_every


def test_settings_carry_every_flag_of_the_game():
    config = dataclasses.replace(
        pivot_translation.CONFIG,
        rl=options.RL(learning_rate=0.5, entropy=0.25, value_coef=3.0, longest=9),
        sil=options.SIL(play=7, imitate=2, tune=1, learning_rate=0.125),
    )
    made = options.settings(config)
    assert made.hyper.learning_rate == 0.5 and made.hyper.entropy_coef == 0.25
    assert made.hyper.value_coef == 3.0 and made.student_rate == 0.125
    assert made.algorithm.sampling.max_new_tokens == 9
    row = options.table(config)["sil"]
    assert row.train.generations == imitation.Schedule(7, 2, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "--seeds 0: must be a whole number of at least 1"),
        ({"methods": ("dpo",)}, "--methods dpo: unknown"),
        ({"pretrain_fr_en": ()}, "--pretrain-fr-en: name at least one data set"),
        ({"dataset": "x,y"}, "x,y: y is not known; write PATH"),
        ({"sil": options.SIL(play=0)}, "--sil.play 0: must be a whole number"),
        ({"num_evals": 4}, "--num-evals 4: elastic_reset: 2 resets, both sides"),
        ({"num_evals": 900}, "--num-evals 900: frozen_sender: 900 evaluations of 240"),
    ],
)
def test_misuse_is_told_before_anything_is_made(changes, message):
    config = dataclasses.replace(pivot_translation.CONFIG, **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        pivot_translation.check(config)


def test_a_corpus_is_a_path_a_configuration_a_split_and_a_mark():
    found = tasks.corpus("a/b@c-d:train+dev,tokenized")
    assert (found.path, found.config, found.split) == ("a/b", "c-d", "train+dev")
    assert found.tokenized
    plain = tasks.corpus("data/x")
    assert (plain.config, plain.split, plain.tokenized) == (None, "train", False)


# What was published


@pytest.fixture(scope="module")
def paper(data_folder_of_papers):
    return data_folder_of_papers.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def data_folder_of_papers(data_folder):
    file = data_folder.parent / "papers" / "elastic_reset.md"
    if not file.is_file():
        pytest.skip(f"no notes on the paper at {file}")
    return file


# flag: how the notes say it; the numbers of the groups are the flag's.
SAID = {
    "text.merges": r"([\d,]+) merges, learned on Multi30k",
    "text.embedding": r"Embedding (\d+); 1-layer",
    "text.hidden": r"GRU encoder, hidden (\d+)",
    "pretrain.learning_rate": r"lr (3e-4) linearly to 1e-5 over 500k steps",
    "pretrain.final_rate": r"linearly to (1e-5) over",
    "pretrain.decay_steps": r"over (500k) steps, max",
    "pretrain.steps": r"max (1M) steps",
    "pretrain.dropout_fr_en": r"dropout Fr-En ([\d.]+),",
    "pretrain.dropout_en_de": r"En-De ([\d.]+); keep",
    "pretrain.tokens": r"batch_size (\d+) counts \*\*tokens",
    "rl.tokens": r"batch (\d+) \(same token-count rule",
    "rl.learning_rate": r"lr \*\*(1e-5) constant",
    "rl.max_grad_norm": r"grad clip ([\d.]+), dropout 0, evaluation",
    "rl.policy_coef": r"coefficients \*\*pg ([\d.]+),",
    "rl.value_coef": r"pg 1.0, value ([\d.]+),",
    "rl.entropy": r"entropy ([\d.]+)\*\*; sampling in training",
    "rl.receiver_coef": r"`ce_co` ([\d.]+)",
    "rl.longest": r"Messages: max (\d+), min 3",
    "rl.shortest": r"max 40, min (\d+) tokens",
    "eval_every": r"evaluation every (\d+) steps, 100k",
    "steps": r"evaluation every 500 steps, (100k) steps",
    "sil.play": r"k1 = (\d+) interactive",
    "sil.imitate": r"imitation: sender (\d+) steps",
    "sil.tune": r"receiver (\d+) steps, lr 1e-4",
    "sil.learning_rate": r"receiver 400 steps, lr (1e-4)",
    "seeds": r"BLEU-De trade-off \((\d) seeds\)|De-vs-En trade-off \((\d) seeds\)",
}


def number(text):
    text = text.replace(",", "").rstrip(".")
    scale = {"k": 1e3, "M": 1e6}.get(text[-1], 1)
    return float(text.rstrip("kM")) * scale


@pytest.mark.parametrize("flag", SAID)
def test_the_paper_preset_is_what_the_notes_on_the_paper_say(flag, paper):
    found = re.search(SAID[flag], paper)
    assert found, f"the notes say nothing like {SAID[flag]!r}"
    said = next(group for group in found.groups() if group)
    assert published.FLAGS[flag] == number(said)


def test_all_published_numbers_are_compared_with_the_notes_or_explained():
    # A switch, nothing of ours, one rate for all, and a part of "1e-5 constant".
    known = {"text.paper_merges", "rl.critic_first", "rl.sender_rate", "rl.schedule"}
    assert set(published.FLAGS) == set(SAID) | known


def test_adam_vocabularies_and_lessons_are_those_of_the_notes(paper):
    betas = re.search(r"Adam betas \(([\d.]+), ([\d.]+)\), eps (\S+);", paper)
    assert tuple(map(number, betas.groups())) == tuple(published.ADAM.values())
    sizes = re.search(r"En ([\d,]+); Fr ([\d,]+); De ([\d,]+)\*\*", paper)
    assert [number(x) for x in sizes.groups()] == [
        published.VOCABULARIES[x] for x in ("en", "fr", "de")
    ]
    alphas = re.findall(r"S2P a=([\d.]+)", paper)
    assert tuple(map(number, alphas)) == published.LESSONS


def test_what_is_unknown_is_in_the_preset_marked_so_and_swept_by_a_flag():
    preset = pivot_translation.PRESETS["paper"]
    config = presets.preset(pivot_translation.CONFIG, "paper", {"paper": preset})
    told = " ".join(preset.notes)
    for name, (value, sweep) in published.UNKNOWN.items():
        assert name not in published.FLAGS
        assert preset.flags[name] == value and len(sweep) > 1
        assert f"--{name.replace('_', '-')} {value:g}" in told
        now = config
        for part in name.split("."):
            now = getattr(now, part)
        assert now == value
    for every in published.UNKNOWN["rl.reset_every"][1]:
        resets = elastic_reset.calendar(published.FLAGS["steps"], every)
        assert len(resets) >= 2
