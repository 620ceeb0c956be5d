"""A new idea is one new piece, outside of the package, and the study takes it as it is.

Here are an algorithm, a method row, an evaluator with its axis, a reward by name, and a
merge rule, each a few lines; one study is run with all of them, and they are found in
its results, its picture and its report.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
import small_study

from experiments import sentiment
from rlhf_jax import trees
from rlhf_jax.cli import experiment
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import figure_style
from rlhf_jax.runtime import parallel
from rlhf_jax.studies import methods, post_hoc, runner
from rlhf_jax.studies.interfaces import Method, Trainer
from rlhf_jax.studies.task import Reward

LAYOUT = parallel.data(1)


# An algorithm: random steps in weight space, whatever the reward says.


def wander(study, run):
    """θ ← θ + 0.05 ε: the forgetting of a run that learns nothing."""
    initial, key = study.task.params, jax.random.key(run.unit.seed)

    def advance(state, iteration):
        leaves, shape = jax.tree.flatten(state)
        keys = jax.random.split(jax.random.fold_in(key, iteration), len(leaves))
        noise = [
            jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)
        ]
        noise = jax.tree.unflatten(shape, noise)
        moved = jax.tree.map(lambda x, e: x + 0.05 * e, state, noise)
        return moved, {"wander/norm": trees.norm(noise)}, None

    return Trainer(
        start=lambda: run.layout.put(trees.copy(initial)),
        advance=advance,
        policy=lambda state: state,
        mix=lambda policy, w: trees.lerp(initial, policy, w),
    )


# A merge rule: half of the way, where the way is longer than the mean of its leaf.


def large_half(source):
    """The initial weights, plus half of every change larger than the mean one."""
    start, half = source.mix(source.policy, 0.0), source.mix(source.policy, 0.5)

    def pick(first, middle):
        moved = jnp.abs(middle - first)
        return jnp.where(moved > moved.mean(), middle, first)

    return jax.tree.map(pick, start, half)


# An evaluator with its axis: how flat the policy's embedding has become.


FLATNESS = axes.Axis("drift/flatness", "Flatness of embeddings", "", "less", 1.0)


def flatness(params, run):
    table = np.asarray(jax.tree.leaves(params["embedding"])[0], np.float64)
    return {FLATNESS.key: float(1 / table.std())}, []


# A reward by name: long answers.


def long_answers(seed):
    return Reward(arrays=lambda rollout: np.asarray(rollout.response_mask).sum(-1) / 36)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The sentiment study with all of them in it."""
    config = small_study.config(methods=("ppo",), steps=3, rl__reset_every=2)
    setting = small_study.setting_of(tmp_path_factory.mktemp("setting"), LAYOUT)
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_study.share(monkeypatch)
        base = sentiment.make_study(config, setting)
    rewards = {**base.task.rewards, "long": long_answers}
    longer = methods.trained("PPO for length", "PPO, long", reward="long")
    return dataclasses.replace(
        base,
        task=dataclasses.replace(base.task, rewards=rewards),
        methods={
            "ppo": base.methods["ppo"],
            "ppo_long": longer,
            "wander": Method("Wandering", "random steps", train=wander),
            "wander_large": Method(
                "Wandering, large half", "", source="wander", derive=large_half
            ),
            "wander_early_stop": Method(
                "Wandering, early stop",
                "",
                source="wander",
                derive=post_hoc.best,
                at_end=True,
            ),  # fmt: skip
        },
        evaluators=(*base.evaluators, flatness),
        axes=(*base.axes, FLATNESS),
    )


@pytest.fixture(scope="module")
def done(study, tmp_path_factory):
    """(what the ritual hands to a report, the texts of the pictures it draws)."""
    folder, console = tmp_path_factory.mktemp("run"), rich.console.Console(quiet=True)
    records = runner.run(study, folder, LAYOUT, console=console)
    run, texts = experiment.Done(folder, study, LAYOUT, records, console, 1.0), []
    finish = figure_style.finish

    def read(sheet, *rest):
        texts.extend(text.get_text() for text in sheet.findobj(match=_has_text))
        return finish(sheet, *rest)

    config = small_study.config(output=folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(figure_style, "finish", read)
        experiment.report(
            config, run, title="Toys", question="?", scope="these toys", notes=()
        )
    return run, texts


def _has_text(artist):
    return bool(getattr(artist, "get_text", lambda: "")())


def test_an_algorithm_of_ones_own_is_trained_measured_and_saved(study, done):
    run, _ = done
    rows = [r for r in run.records if r["method"] == "wander"]
    assert [r["step"] for r in rows if "wander/norm" in r] == [1, 2, 3]
    (wandering,) = [r for r in study.runs() if r.method == "wander"]
    policy = runner.policy(study, run.folder, LAYOUT, wandering, console=run.console)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), policy, study.task.params)
    assert min(jax.tree.leaves(moved)) > 0


def values(run, method, key):
    """A metric of a method, in the order it was logged."""
    rows = [r for r in run.records if r["method"] == method]
    return [r[key] for r in rows if key in r]


def test_a_merge_rule_reads_the_run_it_is_derived_from(done):
    run, _ = done
    names = ("wander_large", "wander")
    large, whole = (values(run, name, "drift/kl_initial") for name in names)
    assert len(large) == len(whole) and 0 < large[-1] < whole[-1]


def test_a_reward_by_name_reaches_the_method_that_asks_for_it(done):
    run, _ = done
    plain, longer = (values(run, n, "objective/scores") for n in ("ppo", "ppo_long"))
    lengths = np.array(values(run, "ppo_long", "response/length")) / 36
    assert longer == pytest.approx(lengths, rel=1e-5) and plain != longer


def test_all_of_them_are_found_in_what_is_written(study, done):
    run, texts = done
    found = json.loads((run.folder / "results.json").read_text())
    assert set(found["methods"]) == set(study.methods)
    for method in ("wander", "wander_large", "ppo_long"):
        assert FLATNESS.key in found["methods"][method]["hypervolume"]
    page = (run.folder / "report.md").read_text()
    for name in (FLATNESS.title, "PPO, long", "Wandering", "Wandering, large half"):
        assert name in page
    assert any(FLATNESS.title in text for text in texts)  # a panel of front.png
    assert (run.folder / "front.png").read_bytes().startswith(b"\x89PNG")
