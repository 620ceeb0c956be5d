"""Aligners whose tax is measured, and methods trained on what one of them selected."""

import dataclasses

import jax
import numpy as np
import pytest
import rich.console
import small_study
import tiny

from experiments import sentiment
from rlhf_jax import trees
from rlhf_jax.algorithms import preference, regularization, sft
from rlhf_jax.cli import language
from rlhf_jax.models import lora
from rlhf_jax.runtime import parallel
from rlhf_jax.studies import fine_tuning, post_hoc, runner, selection, tables
from rlhf_jax.studies.fine_tuning import FineTuning
from rlhf_jax.studies.interfaces import Method, Run, Unit
from rlhf_jax.studies.policy_gradient import PolicyGradient
from rlhf_jax.studies.preference_tuning import PreferenceTuning
from rlhf_jax.studies.values import Values
from rlhf_jax.types import Rollout, Tokens

LAYOUT = parallel.data(1)
RSF = selection.RejectionSampling(
    PolicyGradient({"kl_coef": 0.0}, {"algorithm": "rsf"})
)


def selected(label, **fields):
    """A row that learns from what `rsf` selected."""
    return Method(label, "", source="rsf", train=FineTuning("selected", **fields))


TABLE = {
    "rsf": tables.trained("", "RSF", RSF),
    "dpo": Method("DPO", "", train=PreferenceTuning(values=Values(1e-3))),
    "distilled": selected("best of n"),
    "near": selected("L2", make_penalty=regularization.l2, strength=1e3),
    "reminded": selected("replay", replay=1.0),
    "adapted": selected("LoRA", adapter=lora.Config(rank=2, alpha=4.0)),
    "distilled_ma50": tables.derived(
        "", "½", "distilled", post_hoc.interpolate(0.5), at_end=True
    ),
}
STEPS = 3


def make_study(folder, table=TABLE, names=tuple(TABLE)):
    flags = {"methods": (), "steps": STEPS, "rl__candidates": 2, "eval_every": 3}
    flags |= {"rl__reset_every": 0, "rl__sft_learning_rate": 1e-2}
    config = small_study.config(**flags)
    setting = small_study.setting_of(folder, LAYOUT)
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_study.share(monkeypatch)
        tasks = sentiment.make_tasks(config, setting)
    asked = dataclasses.replace(config, methods=names)
    return language.study(asked, tasks, table)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def done(study, tmp_path_factory):
    """(folder, records) of the whole study."""
    folder = tmp_path_factory.mktemp("run")
    console = rich.console.Console(quiet=True)
    return folder, runner.run(study, folder, LAYOUT, console=console)


def policies(study, folder):
    return {
        name: runner.policy(study, folder, LAYOUT, Run(name, Unit(0, 0)))
        for name in study.methods
    }


def moved(study, policy):
    return float(trees.norm(trees.subtract(policy, study.task.params)))


def test_every_row_is_trained_and_measured(study, done):
    folder, records = done
    for name in TABLE:
        rows = [r for r in records if r["method"] == name and "eval/reward" in r]
        assert rows[-1]["step"] == STEPS and np.isfinite(rows[-1]["drift/text_nll"])
    penalties = {
        name: [r["sft/penalty"] for r in records if "sft/penalty" in r]
        for name in ("near",)
    }
    assert all(x >= 0 for x in penalties["near"])


def test_mitigations_stay_closer_than_plain_distillation(study, done):
    found = policies(study, done[0])
    far = moved(study, found["distilled"])
    assert 0 < moved(study, found["near"]) < 0.5 * far
    half = moved(study, found["distilled_ma50"])
    assert half == pytest.approx(0.5 * far, rel=1e-4)
    adapters = jax.tree.leaves(found["adapted"])
    assert sum(x.size for x in adapters) < trees.size(study.task.params) / 4


def test_what_was_selected_is_the_best_of_each_prompt(study, done):
    """The run again, by hand: rollouts of the trainer that collects nothing."""
    folder, _ = done
    run = Run("rsf", Unit(0, 0), LAYOUT)
    work = runner._Work(study, folder, LAYOUT, rich.console.Console(quiet=True), {})
    kept = work.end_of(run, work.trainer(run)).collected
    trainer = RSF.train(study, run)
    state, texts = trainer.start(), []
    for step in range(STEPS):
        state, _, (rollout, scores) = trainer.advance(state, step)
        rollout, scores = LAYOUT.gather(rollout), np.asarray(scores).reshape(-1)
        for first in range(0, len(scores), 2):
            row = first + int(scores[first + 1] > scores[first])
            texts.append((rollout.tokens[row], rollout.response_mask[row].sum()))
    assert len(texts) == len(kept.tokens) == STEPS * 4
    for (tokens, length), row, target in zip(
        texts, kept.tokens, kept.target_mask, strict=True
    ):
        np.testing.assert_array_equal(row, tokens)
        assert target.sum() == length


def test_a_stopped_study_resumes_bit_for_bit(study, done, tmp_path):
    """Stopped within the collecting run: the texts so far are in its checkpoint."""
    names = ("rsf", "distilled")
    small = dataclasses.replace(
        study,
        methods={name: study.methods[name] for name in names},
        schedule=dataclasses.replace(study.schedule, save_every=1),
    )
    console = rich.console.Console(quiet=True)
    with pytest.raises(small_study.loop.Interrupted, match="after step 2"):
        signals = small_study.StopAfter(2)
        runner.run(small, tmp_path, LAYOUT, console=console, signals=signals)
    runner.run(small, tmp_path, LAYOUT, console=console)
    again, whole = policies(small, tmp_path), policies(study, done[0])
    for name in names:
        jax.tree.map(np.testing.assert_array_equal, again[name], whole[name])


def test_sources_are_run_for_those_who_learn_from_them(tmp_path):
    assert tables.choose(["distilled_ma50"], TABLE) == (
        "rsf",
        "distilled",
        "distilled_ma50",
    )


def test_dpo_prefers_what_people_chose(study, done):
    folder, records = done
    rows = [r for r in records if "dpo/rewards/accuracies" in r]
    assert len(rows) == STEPS
    assert rows[0]["dpo/rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert rows[0]["dpo/loss"] == pytest.approx(np.log(2), 1e-4)
    pairs, *_ = study.task.pairs(0)
    starts = np.full(len(pairs.chosen), study.task.prompts.tokens.shape[1])
    one, two = (
        preference.sequence_logps(study.task.model, params, pairs, starts)
        for params in (study.task.params, policies(study, folder)["dpo"])
    )
    gains = np.asarray(two - one)
    assert (gains[:, 0] - gains[:, 1]).mean() > 0.1  # nats in favour of the chosen


def test_replay_is_a_ratio_of_tokens():
    def rows(n, length, width):
        mask = np.zeros((n, width), np.int32)
        mask[:, :length] = 1
        return Tokens(mask * 3, mask, mask)

    for ratio in (0.25, 1.0, 4.0):
        texts, count = fine_tuning.replayed(
            rows(100, 10, 12), lambda n: rows(n, 20, 24), ratio, 8, LAYOUT
        )
        assert texts.tokens.shape[1] == 24
        learned = texts.target_mask[100:].sum() / texts.target_mask[:100].sum()
        assert learned == pytest.approx(ratio, rel=0.05)
        assert count == pytest.approx(8 * (1 + ratio / 2), abs=0.5)


def test_the_first_of_equal_candidates_is_kept():
    tokens = np.arange(24, dtype=np.int32).reshape(4, 6)
    valid = np.ones((4, 2), np.int32)
    logps = np.zeros((4, 2), np.float32)
    rollout = Rollout(tokens, np.ones_like(tokens), valid, logps, logps, valid[:, 0])
    best = selection.best_of(rollout, np.array([1.0, 1.0, 0.0, 2.0]), prompts=2)
    np.testing.assert_array_equal(best.tokens, tokens[[0, 3]])
    assert best.target_mask.tolist() == [[0, 0, 0, 0, 1, 1]] * 2


# Penalties


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, tiny.VOCAB, (6, 5)).astype(np.int32)
    targets = (rng.random((6, 5)) < 0.7).astype(np.int32)
    return Tokens(tokens, np.ones_like(tokens), targets)


PENALTIES = (regularization.l1, regularization.l2, regularization.distillation)


@pytest.mark.parametrize("make", PENALTIES)
def test_shares_of_a_penalty_add_up(make, batch):
    anchor = {"table": jax.random.normal(jax.random.key(0), (tiny.VOCAB, tiny.VOCAB))}
    params = {"table": jax.random.normal(jax.random.key(1), (tiny.VOCAB, tiny.VOCAB))}
    penalty, count = make(tiny.BIGRAM, anchor), sft.count(batch)
    whole = penalty(params, batch, count)
    halves = [
        jax.tree.map(lambda x, s=s: x[s], batch) for s in np.split(np.arange(6), 2)
    ]
    parts = [penalty(params, half, count) for half in halves]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)
    assert penalty(anchor, batch, count) == 0 < whole
    gradient = jax.grad(penalty)(anchor, batch, count)
    np.testing.assert_allclose(gradient["table"], 0, atol=1e-7)


def test_distillation_is_the_squared_distance_of_distributions(batch):
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=(2, tiny.VOCAB, tiny.VOCAB))
    soft = [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (one, two)]
    valid = batch.target_mask[:, 1:] != 0
    expected = np.square(soft[0] - soft[1]).sum(-1)[batch.tokens[:, :-1]][valid].mean()
    penalty = regularization.distillation(tiny.BIGRAM, {"table": two})
    found = penalty({"table": jax.numpy.asarray(one)}, batch, sft.count(batch))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_penalty_beside_adapters_is_refused(study):
    row = selected("", make_penalty=regularization.l2, adapter=lora.Config(rank=2))
    source = runner.interfaces.Source(*[None] * 4, collected=study.task.best)
    run = Run("near", Unit(0, 0), LAYOUT)
    with pytest.raises(ValueError, match="needs all weights to be trained"):
        row.train(study, run, source)
