"""What `experiments.worlds` writes, how it goes on, what it calls fit; and that worlds
of one shape share all compiled programs."""

import concurrent.futures
import contextlib
import dataclasses
import json
import logging

import jax
import pytest

from experiments import worlds
from rlhf_jax.cli import command
from rlhf_jax.microworld import attacks, skills
from rlhf_jax.tasks import microworld as small_world

SIZES = {
    "pretrain_steps": 2,
    "pretrain_rows": 16,
    "pairs": 16,
    "reward_steps": 2,
    "reward_rows": 8,
    "prompts": 32,
    "eval_prompts": 8,
    "skill_items": 2,
}


class Inline:
    """A pool that works in this process, where programs are compiled already."""

    def submit(self, function, *arguments):
        future = concurrent.futures.Future()
        future.set_result(function(*arguments))
        return future


class Compiled(logging.Handler):
    """`with Compiled() as seen:` collects the names of programs that are compiled."""

    def __enter__(self):
        self.names, self.logger = [], logging.getLogger("jax")
        self.logger.addHandler(self)
        self.logging = jax.log_compiles()
        self.logging.__enter__()
        return self

    def __exit__(self, *error):
        self.logging.__exit__(*error)
        self.logger.removeHandler(self)

    def emit(self, record):
        text = record.getMessage()
        if text.startswith("Finished XLA compilation of "):
            self.names.append(text.split()[4])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two worlds with the contract, the second one measured twice.

    (folder, [(world, programs compiled for it)]).
    """
    folder, measured = tmp_path_factory.mktemp("worlds"), []
    rl = dataclasses.replace(worlds.CONFIG.rl, rows=8, epochs=1, minibatches=1)
    config = worlds.Config(
        worlds=2,
        contract=True,
        steps=1,
        output=str(folder / "run"),
        cache=str(folder / "cache"),
        rl=rl,
        microworld=small_world.Config(**SIZES),
    )
    measure = worlds.measure

    def counted(world, *arguments):
        with Compiled() as seen:
            record = measure(world, *arguments)
        measured.append((world, seen.names))
        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds, "_pool", lambda n: contextlib.nullcontext(Inline()))
        patch.setattr(command, "prepare_devices", lambda *_: None)
        patch.setattr(worlds, "measure", counted)
        patch.setattr(
            attacks, "best_constant", lambda world, rng, prompts: (prompts[0], 0.25)
        )
        worlds.run(config)
        (folder / "run" / "worlds" / "1.json").unlink()
        worlds.run(dataclasses.replace(config, resume=True))
    return folder / "run", measured


def test_a_resumed_run_measures_only_what_is_missing(finished):
    assert [world for world, _ in finished[1]] == [0, 1, 1]


def test_a_second_world_compiles_nothing(finished):
    """Pretraining, a reward model, PPO and all evaluators share their programs."""
    (_, first), (_, second), _ = finished[1]
    assert first and second == []  # other tests may have compiled some


def test_results_hold_every_world_and_the_page_its_row(finished):
    folder, _ = finished
    results = json.loads((folder / "results.json").read_text())
    assert [record["world"] for record in results["worlds"]] == [0, 1]
    for record in results["worlds"]:
        assert {f"skill/{kind}" for kind in skills.KINDS} <= set(record)
        assert [row["step"] for row in record["ppo"]] == [0, 1]
        assert record["ppo"][0] == record["ppo_kl"][0]  # both start at π₀
    page = (folder / "report.md").read_text()
    assert page.count("\n| 0 |") == 3  # its measures, PPO and PPO + KL
    assert "PPO over-optimises: 0 of 2 worlds" in page


def rows(rewards, gold):
    pairs = enumerate(zip(rewards, gold, strict=True))
    return [{"step": i, "reward": r, "gold": g} for i, (r, g) in pairs]


@pytest.mark.parametrize(
    "rewards, gold, expected",
    [
        ((0.0, 1.0, 2.0), (0.2, 0.4, 0.1), True),
        ((0.0, 1.0, 2.0), (0.2, 0.4, 0.4), False),  # gold is kept
        ((0.5, 0.5, 0.5), (0.2, 0.4, 0.1), False),  # the proxy gains nothing
        ((0.0, 0.5, 1.0), (0.4, 0.3, 0.27), True),
    ],
)
def test_over_optimisation_is_a_gain_of_proxy_and_a_loss_of_gold(
    rewards, gold, expected
):
    assert worlds.over_optimised(rows(rewards, gold)) == expected


def test_fitness_counts_worlds():
    good = {"skills": 0.7, "constant": 0.2, "corpus_gold_90": 0.5}
    bad = {"skills": 0.99, "constant": 0.6, "corpus_gold_90": 0.5}
    assert list(worlds.fitness([good, bad, good]).values()) == [2, 2]
