"""Tuning: what a method is searched in, over which grids, and what a setting means."""

import types

import pytest

from experiments import sentiment
from rlhf_jax.cli import options
from rlhf_jax.studies import methods, search, tables
from rlhf_jax.studies.interfaces import Schedule
from rlhf_jax.studies.values import Values

RL, SPACE = options.RL(), search.Space()
TRAINED = [name for name, m in methods.METHODS.items() if m.train]
PLAYED = [name for name in TRAINED if hasattr(methods.METHODS[name].train, "hyper")]
DERIVED = [name for name, m in methods.METHODS.items() if m.source]


def current(name, *, rl=RL, override=None):
    """The `Values` of a method's run, with the settings that flags give it alone."""
    return search.current(name, table(override or {}), sentiment.Config(rl=rl))


def table(override):
    """The methods, some of which have settings of their own."""
    return tables.with_overrides(methods.METHODS, override)


def lines(name, *, space=SPACE, first=None, **options):
    options = {"longest": 49, **options}
    return search.lines(name, first or current(name), space, **options)


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
        # What is read off a run has that run's parameters, and the EMA's of an EMA.
        ("ppo_ma50", ("learning_rate",)),
        ("ppo_early_stop", ("learning_rate",)),
        ("ppo_average", ("learning_rate", "weight")),
        ("warp_50", ("learning_rate", "kl_coef", "weight")),
    ],
)
def test_a_method_is_tuned_in_what_it_reads(name, fields):
    assert search.tuned_in(name, methods.METHODS) == fields
    assert tuple(current(name).known()) == fields
    assert tuple(line.field for line in lines(name)) == fields


def test_what_only_is_measured_is_not_tuned():
    assert current("best_of_4") == Values()
    with pytest.raises(ValueError, match="best_of_4 trains nothing of its own"):
        lines("best_of_4")


@pytest.mark.parametrize("name", TRAINED)
def test_the_first_setting_is_the_run_as_its_flags_have_it(name):
    first = current(name)
    found = first.average(decay=RL.decay, every=RL.reset_every)
    assert found["decay"] == pytest.approx(RL.decay, rel=1e-12)
    assert found["every"] == RL.reset_every
    rate = methods.METHODS[name].train.rate
    assert first.learning_rate == getattr(RL, rate)


@pytest.mark.parametrize("name", PLAYED)
def test_the_first_setting_trains_with_the_runs_own_scalars(name):
    first, plain = scalars(name, current(name)), scalars(name, Values())
    given = {name: x for name, x in plain._asdict().items() if x is not None}
    assert {name: getattr(first, name) for name in given} == pytest.approx(
        given, rel=1e-9
    )
    assert {name for name, x in first._asdict().items() if x is not None} == set(given)


def test_what_a_run_overrides_is_where_a_method_starts_from():
    own = {"elastic_reset": {"kl_coef": 0.5, "decay": 0.9, "learning_rate": 7.0}}
    first = current("elastic_reset", override=own)
    assert tuple(first.known()) == ("learning_rate", "kl_coef", "every")
    assert (first.learning_rate, first.kl_coef) == (7.0, 0.5)
    (grid,) = [x.grid for x in lines("elastic_reset", first=first)[1:2]]
    assert grid == pytest.approx([0.5 * x for x in SPACE.kl_coef])
    fixed = current("ppo_average", override={"ppo": {"decay": 0.9}})
    assert tuple(fixed.known()) == ("learning_rate",)


def test_where_an_interval_outlasts_the_average_its_decay_is_tuned():
    rl = options.RL(decay=0.99, reset_every=23_000)
    first = current("elastic_reset", rl=rl)
    assert tuple(first.known()) == ("learning_rate", "decay", "every")
    assert first.average(decay=0.1, every=7) == {"decay": 0.99, "every": 23_000}
    found = lines("elastic_reset", first=first)
    assert {x.field: x.grid for x in found}["decay"] == SPACE.decay


# Grids


@pytest.mark.parametrize("name", [*TRAINED, *DERIVED])
def test_every_method_begins_with_the_same_multiples_of_its_rate(name):
    first = current(name)
    rates = lines(name)[0]
    assert rates.field == "learning_rate" and len(rates.grid) == 7
    found = [rate / first.learning_rate for rate in rates.grid]
    assert found == pytest.approx([2.0**n for n in range(-3, 4)])


def test_penalties_are_multiples_of_the_runs_own():
    rl = options.RL(learning_rate=1e-6, kl_coef=0.001)
    found = {x.field: x.grid for x in lines("ppo_kl", first=current("ppo_kl", rl=rl))}
    assert found["kl_coef"] == pytest.approx([0.001 * x for x in SPACE.kl_coef])
    assert found["learning_rate"] == pytest.approx(
        [1e-6 * x for x in SPACE.learning_rate]
    )
    # Supervised steps have a rate of their own.
    assert current("sft", rl=rl) == current("sft")


def test_a_penalty_of_nothing_has_no_multiples():
    first = current("ppo_kl", rl=options.RL(kl_coef=0.0))
    assert lines("ppo_kl", first=first)[1].grid == (0.0,)


def test_a_grid_ascends_and_has_each_value_once():
    space = search.Space(learning_rate=(2.0, 1.0, 2.0), weight=(0.9, 0.2))
    found = lines("elastic_reset", space=space)
    rate = RL.learning_rate
    assert found[0].grid == pytest.approx((rate, 2 * rate))
    assert found[1].grid == (0.2, 0.9)


def test_intervals_may_grow_to_one_reset_in_a_run():
    every = lines("elastic_reset", shortest=3)[-1]
    assert (every.low, every.high) == (3, 49)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"longest": 13}, "--space.every 14: elastic_reset may be reset every 1 to 13"),
        ({"shortest": 8}, "--space.every 7: .* every 8 to 49"),
        (
            {"space": search.Space(learning_rate=(0.0,))},
            "learning_rate=.*0.0.*: must be a number above",
        ),
        (
            {"space": search.Space(weight=(1.0,))},
            "weight=.*1.0.*: must be a number above 0 and below 1",
        ),
    ],
)
def test_spaces_that_cannot_be_searched_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lines("elastic_reset", **options)


def test_a_run_without_resets_is_no_place_to_tune_them():
    with pytest.raises(ValueError, match="--rl.reset-every 0: reset_to_initial is"):
        current("reset_to_initial", rl=options.RL(reset_every=0))


# Runs that methods share


def test_methods_read_off_one_source_share_its_runs():
    def run(name, values):
        return search.trained(name, methods.METHODS, values, current(name))

    own = current("ppo_average").weight
    assert run("ppo_ma50", Values(0.3)) == run("ppo", Values(0.3)) == Values(0.3)
    assert run("ppo_average", Values(0.3, weight=own)) == Values(0.3)
    other = Values(0.3, weight=0.75)
    assert run("ppo_average", other) == other
    # A source that is tuned in w has it in its own values too.
    warp = current("warp_50")
    assert run("warp_50", warp) == run("kl_average", warp) == warp
    assert run("elastic_reset", current("elastic_reset")) == current("elastic_reset")


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


def test_a_note_says_what_was_tuned_and_what_follows():
    tuned = {"ppo": Values(0.3)}
    rows = {
        name: methods.METHODS[name] for name in ("ppo", "ppo_ma50", "ppo_gold", "sft")
    }
    written = search.note("x.json", tuned, rows, lambda name: "--flags")
    assert written == (
        "Tuned by x.json: ppo: --flags. With the settings of these: ppo_ma50, "
        "ppo_gold. As the flags have them: sft."
    )
