"""The schedule of a recipe: when its one run evaluates and resets."""

import dataclasses

from rlhf_jax.cli import options, recipe
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
