"""Tuning: as many trials for every method, evenly drawn, chosen as was declared."""

import collections
import types

import hypothesis
import pytest
from hypothesis import strategies as st

from experiments import sentiment
from rlhf_jax import elastic_reset
from rlhf_jax.cli import options
from rlhf_jax.studies import methods, search, tables
from rlhf_jax.studies.interfaces import Schedule
from rlhf_jax.studies.values import Values

RL, SPACE = options.RL(), search.Space()
TRAINED = [name for name, m in methods.METHODS.items() if m.train]
PLAYED = [name for name in TRAINED if hasattr(methods.METHODS[name].train, "hyper")]


def current(name, *, rl=RL, override=None):
    """The `Values` of a method's run, with the settings that flags give it alone."""
    asked = {name: override} if override else {}
    row = tables.with_overrides(methods.METHODS, asked)[name]
    return search.current(name, row, sentiment.Config(rl=rl))


def trials(name, *, space=SPACE, rl=RL, override=None, **options):
    options = {"count": 9, "steps": 50, **options}
    first = current(name, rl=rl, override=override)
    return search.trials(name, first, space, **options)


def scalars(name, values, rl=RL):
    """The `policy_gradient.Hyper` of a method's run with these values."""
    study = types.SimpleNamespace(
        schedule=Schedule(50, lambda *_: frozenset(), reset_every=rl.reset_every),
        settings=types.SimpleNamespace(decay=rl.decay, hyper=options.hyper(rl, 50)),
    )
    row = tables.with_values(methods.METHODS, {name: values})[name]
    return row.train.scalars(study, row)


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
    assert methods.METHODS[name].tunes == fields
    assert tuple(current(name).known()) == fields


# Trials


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("count", [1, 4, 9])
def test_every_method_has_as_many_different_trials(name, count):
    found = trials(name, count=count)
    assert len(set(found)) == len(found) == count
    assert len({tuple(values.known()) for values in found}) == 1


@pytest.mark.parametrize("name", TRAINED)
def test_the_first_trial_is_the_run_as_its_flags_have_it(name):
    first = trials(name)[0]
    found = first.average(decay=RL.decay, every=RL.reset_every)
    assert found["decay"] == pytest.approx(RL.decay, rel=1e-12)
    assert found["every"] == RL.reset_every
    rate = methods.METHODS[name].train.rate
    assert first.learning_rate == getattr(RL, rate)


@pytest.mark.parametrize("name", PLAYED)
def test_the_first_trial_trains_with_the_runs_own_scalars(name):
    first, plain = scalars(name, trials(name)[0]), scalars(name, Values())
    for field in plain._fields:
        assert getattr(first, field) == pytest.approx(getattr(plain, field), rel=1e-9)


@pytest.mark.parametrize("name", ["ppo", "ppo_kl", "elastic_reset_kl"])
@pytest.mark.parametrize("count", [4, 9])
def test_the_other_trials_use_every_value_as_often_give_or_take_one(name, count):
    for seed in range(5):
        found = trials(name, count=count, seed=seed)[1:]
        for field in methods.METHODS[name].tunes:
            counts = collections.Counter(getattr(values, field) for values in found)
            used = [counts.get(v, 0) for v in _values(field)]
            assert sum(used) == count - 1 and max(used) - min(used) <= 1


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
    found = trials("elastic_reset", override=own)
    assert tuple(found[0].known()) == ("learning_rate", "kl_coef", "every")
    assert (found[0].learning_rate, found[0].kl_coef) == (7.0, 0.5)
    assert {v.kl_coef for v in found} <= {0.5 * x for x in SPACE.kl_coef}


def test_where_an_interval_outlasts_the_average_its_decay_is_tuned():
    rl = options.RL(decay=0.99, reset_every=23_000)
    first = current("elastic_reset", rl=rl)
    assert tuple(first.known()) == ("learning_rate", "every", "decay")
    assert first.average(decay=0.1, every=7) == {"decay": 0.99, "every": 23_000}
    found = trials("elastic_reset", rl=rl)
    assert {v.decay for v in found} <= {0.99, *SPACE.decay}


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
        (
            "ppo",
            {"space": search.Space(learning_rate=(0.0,))},
            "learning_rate=.*0.0.*: must be a number above",
        ),
        (
            "elastic_reset",
            {"space": search.Space(weight=(1.0,))},
            "weight=.*1.0.*: must be a number above 0 and below 1",
        ),
    ],
)
def test_spaces_that_cannot_be_searched_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        trials(name, **options)


# What a setting does


def test_the_decay_is_derived_from_the_retained_weight():
    found = Values(weight=0.5, every=4).average(decay=0.9, every=99)
    assert found["every"] == 4
    assert 1 - found["decay"] ** 4 == pytest.approx(0.5)
    assert Values(every=4).average(decay=0.9, every=99) == {
        "decay": 0.9,
        "every": 4,
    }
    assert Values().average(decay=0.9, every=99) == {"decay": 0.9, "every": 99}


def test_a_setting_leaves_what_a_method_fixes():
    values = Values(learning_rate=7.0, weight=0.5, every=4)
    found = scalars("elastic_reset", values)
    assert (found.learning_rate, found.kl_coef) == (7.0, 0.0)
    assert found.reset_weight == pytest.approx(0.5)
    row = tables.with_values(methods.METHODS, {"elastic_reset": values})
    schedule = Schedule(12, lambda *_: frozenset(), reset_every=RL.reset_every)
    assert tuple(row["elastic_reset"].resets(schedule)) == (4, 8)


def test_flags_of_a_setting_stand_for_it():
    values = Values(learning_rate=0.0005, kl_coef=0.1, weight=0.75, every=2)
    assert search.flags("elastic_reset_kl", methods.METHODS, values, RL) == (
        "--rl.learning-rate 0.0005 --rl.kl-coef 0.1 --rl.decay 0.5 --rl.reset-every 2"
    )
    assert search.flags("sft", methods.METHODS, Values(0.3), RL) == (
        "--rl.sft-learning-rate 0.3"
    )


def test_flags_of_a_derived_method_are_those_of_its_source_trained_apart_or_not():
    tuned = tables.with_values(methods.METHODS, {"ppo_ma50": Values(0.3)})
    for table in (methods.METHODS, tuned):
        written = search.flags("ppo_ma50", table, Values(0.3), RL)
        assert written == "--rl.learning-rate 0.3"


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
