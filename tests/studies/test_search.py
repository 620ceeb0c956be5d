"""Tuning: as many trials for every method, evenly drawn, chosen as was declared."""

import collections
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from rlhf_jax import elastic_reset
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.cli import options
from rlhf_jax.studies import methods, search

RL, SPACE = options.RL(), search.Space()
TRAINED = [name for name, m in methods.METHODS.items() if m.trains]


def trials(name, *, space=SPACE, rl=RL, override=None, **options):
    options = {"count": 9, "steps": 50, **options}
    first = search.own(name, methods.METHODS[name], rl, override)
    return search.trials(name, first, space, **options)


# What a method can be tuned in


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("sft", ("learning_rate",)),
        ("ppo", ("learning_rate",)),
        ("ppo_kl", ("learning_rate", "kl_coef")),
        ("elastic_reset", ("learning_rate", "weight", "every")),
        ("elastic_reset_kl", ("learning_rate", "kl_coef", "weight", "every")),
        ("reset_to_initial", ("learning_rate", "every")),
        ("reset_to_interpolation", ("learning_rate", "weight", "every")),
        ("kl_average", ("learning_rate", "kl_coef", "weight")),
        ("trdpo_soft", ("learning_rate", "kl_coef", "every")),
        ("reference_reset", ("learning_rate", "kl_coef", "every")),
        ("ppo_ma50", ()),
        ("best_of_4", ()),
    ],
)
def test_a_method_is_tuned_in_what_it_reads(name, fields):
    assert search.dimensions(name, methods.METHODS[name]) == fields


# Trials


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("count", [1, 4, 9])
def test_every_method_has_as_many_different_trials(name, count):
    found = trials(name, count=count)
    assert len(set(found)) == len(found) == count
    assert len({tuple(values.known()) for values in found}) == 1


@pytest.mark.parametrize("name", TRAINED)
def test_the_first_trial_is_the_run_as_its_flags_have_it(name):
    method, base = methods.METHODS[name], policy_gradient.Hyper(kl_coef=RL.kl_coef)
    base = base._replace(learning_rate=RL.learning_rate)
    first = trials(name)[0]
    plain = {"decay": RL.decay, "every": RL.reset_every}
    found = first.average(**plain)
    assert found["decay"] == pytest.approx(RL.decay, rel=1e-12)
    assert found["every"] == RL.reset_every
    if name not in methods.SUPERVISED:
        assert first.hyper(base) == base
        one = methods.overlay(first.hyper(base), method, **found)
        assert one.reset_every == methods.overlay(base, method, **plain).reset_every


def test_the_other_trials_use_every_value_as_often_give_or_take_one():
    found = trials("elastic_reset_kl")[1:]
    for field in ("learning_rate", "kl_coef", "weight", "every"):
        counts = collections.Counter(getattr(values, field) for values in found)
        used = [counts.get(v, 0) for v in _values(field)]
        assert sum(used) == 8 and max(used) - min(used) <= 1


def _values(field):
    scale = getattr(RL, field) if field in ("learning_rate", "kl_coef") else None
    values = getattr(SPACE, field)
    return [v * scale for v in values] if scale is not None else values


def test_rates_and_penalties_are_multiples_of_the_runs_own():
    rl = options.RL(learning_rate=1e-6, kl_coef=0.001)
    for one, other in zip(trials("ppo_kl", rl=rl), trials("ppo_kl"), strict=True):
        ratio = one.learning_rate / other.learning_rate
        assert ratio == pytest.approx(1e-6 / RL.learning_rate)
        assert one.kl_coef / other.kl_coef == pytest.approx(0.001 / RL.kl_coef)
    for one, other in zip(trials("sft", rl=rl), trials("sft"), strict=True):
        assert one == other  # supervised steps have a rate of their own


def test_trials_are_the_same_each_time_and_others_with_another_seed():
    assert trials("elastic_reset") == trials("elastic_reset")
    other = trials("elastic_reset", seed=1)
    assert other[0] == trials("elastic_reset")[0]
    assert other[1:] != trials("elastic_reset")[1:]


def test_a_space_as_large_as_the_trials_is_a_grid():
    space = search.Space(learning_rate=(1.0,), weight=(0.2, 0.5), every=(5, 10))
    found = trials("elastic_reset", space=space, count=5)[1:]
    assert {(v.weight, v.every) for v in found} == {
        (w, e) for w in (0.2, 0.5) for e in (5, 10)
    }


def test_the_own_setting_is_not_tried_twice():
    own = elastic_reset.retained_weight(RL.decay, RL.reset_every)
    space = search.Space(
        learning_rate=(1.0,), weight=(own, 0.5), every=(RL.reset_every,)
    )
    found = trials("elastic_reset", space=space, count=2)
    assert [v.weight for v in found] == [own, 0.5]


def test_what_a_run_overrides_is_where_a_method_starts_from():
    own = {"kl_coef": 0.5, "decay": 0.9, "learning_rate": 7.0}
    method = methods.METHODS["elastic_reset"]
    fields = search.dimensions("elastic_reset", method, own)
    assert fields == ("learning_rate", "kl_coef", "every")
    found = trials("elastic_reset", override=own)
    assert (found[0].learning_rate, found[0].kl_coef) == (7.0, 0.5)
    assert {v.kl_coef for v in found} <= {0.5 * x for x in SPACE.kl_coef}


def test_a_penalty_of_nothing_has_no_multiples():
    rl = options.RL(kl_coef=0.0)
    assert {v.kl_coef for v in trials("ppo_kl", rl=rl)} == {0.0}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ppo", {"count": 10}, "9 combinations of learning_rate, and 10 trials.*space"),
        ("elastic_reset", {"steps": 14}, "--space.every 14: a run of 14 steps"),
        ("ppo_ma50", {}, "ppo_ma50 trains nothing of its own"),
        ("reset_to_initial", {"rl": options.RL(reset_every=0)}, "--rl.reset-every 0"),
        ("ppo", {"space": search.Space(learning_rate=(0.0,))}, "learning-rate 0: must"),
        (
            "elastic_reset",
            {"space": search.Space(weight=(1.0,))},
            "--space.weight 1: must be above 0 and below 1",
        ),
    ],
)
def test_spaces_that_cannot_be_searched_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        trials(name, **options)


# What a setting does


def test_the_decay_is_derived_from_the_retained_weight():
    found = search.Values(weight=0.5, every=4).average(decay=0.9, every=99)
    assert found["every"] == 4
    assert 1 - found["decay"] ** 4 == pytest.approx(0.5)
    assert search.Values(every=4).average(decay=0.9, every=99) == {
        "decay": 0.9,
        "every": 4,
    }
    assert search.Values().average(decay=0.9, every=99) == {"decay": 0.9, "every": 99}


def test_a_setting_leaves_what_a_method_fixes():
    values = search.Values(learning_rate=7.0, kl_coef=3.0, weight=0.5, every=4)
    base = values.hyper(policy_gradient.Hyper())
    average = values.average(decay=0.9, every=99)
    found = methods.overlay(base, methods.METHODS["elastic_reset"], **average)
    assert (found.learning_rate, found.kl_coef) == (7.0, 0.0)
    assert (found.reset_every, found.reset_weight) == (4, pytest.approx(0.5))


def test_flags_of_a_setting_stand_for_it():
    values = search.Values(learning_rate=0.0005, kl_coef=0.1, weight=0.75, every=2)
    assert search.command(values, "elastic_reset_kl", RL) == (
        "--rl.learning-rate 0.0005 --rl.kl-coef 0.1 --rl.decay 0.5 --rl.reset-every 2"
    )
    assert search.command(search.Values(0.3), "sft", RL) == (
        "--rl.sft-learning-rate 0.3"
    )


# The choice


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    st.lists(st.none() | st.just(float("nan")) | st.integers(-3, 3).map(float))
)
def test_the_first_of_the_largest_is_chosen_and_no_failure(values):
    fine = [v for v in values if v is not None and v == v]
    best = search.choose(values)
    if not fine:
        assert best is None
    else:
        assert values[best] == max(fine)
        assert all(v != max(fine) for v in values[:best])


# What a sweep leaves to other runs


def test_what_was_chosen_is_read_back(tmp_path):
    path = tmp_path / "results.json"
    chosen = {"ppo": {"trial": 3, "values": {"learning_rate": 0.25}}}
    path.write_text(json.dumps({"chosen": chosen}))
    assert search.read(path) == {"ppo": search.Values(learning_rate=0.25)}
    assert search.read(None) == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"chosen": {"ppo": {"values": {"lr": 1}}}}']
)
def test_a_file_of_something_else_is_refused(text, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="--tuned .*results.json: not the results"):
        search.read(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="--tuned .*nowhere.json: .*FileNotFound"):
        search.read(tmp_path / "nowhere.json")


def test_the_digest_moves_with_what_is_tuned():
    one = {"ppo": search.Values(learning_rate=0.1)}
    other = {"ppo": search.Values(learning_rate=0.2)}
    found = {search.digest("0123456789ab", t) for t in ({}, one, other)}
    assert len(found) == 3 and "0123456789ab" in found
    assert all(len(text) == 12 for text in found)
