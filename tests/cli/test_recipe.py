"""The schedule of a recipe: when its one run evaluates and resets."""

import dataclasses
import fractions

import pytest

from rlhf_jax.cli import options, policy, recipe
from rlhf_jax.studies import eval_steps
from rlhf_jax.studies.interfaces import Method, Study, Unit

BASE = options.Base(eval_every=4, save_every=3, keep=2)


def study(config, resets, **changes):
    return Study(
        methods={"sft": Method("", "", resets=resets)},
        units=(Unit(0, 0),),
        schedule=recipe.schedule(config, 10, **changes),
        evaluators=(),
    )


def test_updates_that_are_multiples_end_with_a_reset():
    made = study(BASE, eval_steps.at_multiples, reset_every=3)
    assert made.resets("sft") == (2, 5, 8)  # 0-based: updates 3, 6 and 9
    assert made.evaluations("sft") == {0, 3, 4, 6, 8, 9, 10}
    assert study(BASE, eval_steps.at_multiples).resets("sft") == ()


def test_without_an_interval_only_the_start_resets_and_the_end_are_measured():
    config = dataclasses.replace(BASE, eval_every=0)
    made = study(config, eval_steps.at_multiples, reset_every=8)
    assert made.evaluations("sft") == {0, 8, 10}
    assert (made.schedule.save_every, made.schedule.keep) == (3, 2)


ROWS = options.Supervised(model="m", dataset="d")


def test_evaluations_and_saves_may_follow_the_passes_over_the_rows():
    epoch = fractions.Fraction(5, 2)  # steps of a pass
    config = dataclasses.replace(ROWS, eval_strategy="epoch", save_strategy="epoch")
    made = recipe.schedule(config, 6, epoch=epoch)
    assert made.evaluations((), ()) == {0, 3, 5, 6}
    assert made.saves == {3, 5} and made.save_every == 0
    config = dataclasses.replace(ROWS, eval_strategy="no", save_strategy="no")
    made = recipe.schedule(config, 600, epoch=epoch)
    assert made.evaluations((), ()) == {0, 600}
    assert not made.saves and made.save_every == 0


def test_seeds_are_units_and_the_best_is_chosen_where_that_is_asked_for():
    config = dataclasses.replace(BASE, seed=3, seeds=2)
    assert recipe.units(config) == (Unit(0, 3), Unit(0, 4))
    assert recipe.selected(config, "nll") == {}
    best = dataclasses.replace(config, load_best_model_at_end=True)
    found = recipe.selected(best, "nll")
    assert found["select"].metrics == ("eval/nll",) and found["patience"] is None
    stops = {"early_stopping_patience": 3, "early_stopping_threshold": 0.5}
    found = recipe.selected(
        dataclasses.replace(config, metric_for_best_model="eval_loss", **stops), "nll"
    )
    assert found["select"].metrics == ("eval/loss",) and found["patience"] == (3, 0.5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            {"metric_for_best_model": "nll"},
            "--metric-for-best-model nll and --no-load-best-model-at-end",
        ),
        (
            {"load_best_model_at_end": True, "metric_for_best_model": "eval/length"},
            "--metric-for-best-model eval/length.*not known.*more",
        ),
        ({"greater_is_better": True}, "--greater-is-better and --no-load-best"),
        ({"early_stopping_threshold": 0.1}, "--early-stopping-threshold 0.1 and"),
        (
            {"early_stopping_patience": 2, "eval_every": 0},
            "--early-stopping-patience 2 and --eval-every 0",
        ),
        (
            {"early_stopping_patience": 2, "eval_strategy": "no"},
            "--early-stopping-patience 2 and --eval-strategy no",
        ),
        (
            {"eval_every": 7, "eval_strategy": "epoch"},
            "--eval-every 7 and --eval-strategy epoch: it counts steps",
        ),
        (
            {"save_every": 7, "save_strategy": "no"},
            "--save-every 7 and --save-strategy no: it counts steps",
        ),
        ({"seeds": 0}, "--seeds 0: must be"),
        ({"early_stopping_patience": -1}, "--early-stopping-patience -1: must be"),
        ({"eval_strategy": "never"}, "--eval-strategy never: must be one of"),
        ({"reward": "r:f", "eval_samples": 0}, "--reward r:f and --eval-samples 0"),
        ({"max_new_tokens": 0}, "--max-new-tokens 0: must be"),
        ({"reward": "ai:"}, "--reward ai:"),
    ],
)
def test_flags_that_say_nothing_together_are_refused(flags, said):
    config = policy.Flags(model="m", dataset="d", **flags)
    with pytest.raises(ValueError, match=said):
        policy.check(config)


def test_flags_that_agree_pass():
    policy.check(policy.Flags(model="m", dataset="d", eval_every=0))
    for changes in (
        {"eval_strategy": "no", "eval_every": 0, "save_strategy": "epoch"},
        {"early_stopping_patience": 2, "eval_strategy": "epoch"},
        {"load_best_model_at_end": True, "metric_for_best_model": "drift/text_nll"},
    ):
        policy.check(policy.Flags(model="m", dataset="d", **changes))
