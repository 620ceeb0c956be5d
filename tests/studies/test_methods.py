"""methods: what is asked for is what runs, and a method changes what its line says."""

import dataclasses

import pytest

from rlhf_jax import elastic_reset
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.studies import methods, tables
from rlhf_jax.studies import policy_gradient as policy_gradients
from rlhf_jax.studies.interfaces import Schedule, Study
from rlhf_jax.studies.values import Values

HYPER = policy_gradient.Hyper(kl_coef=0.3, clip=0.15)
ROWS = methods.METHODS
TRAINED = [name for name, m in ROWS.items() if hasattr(m.train, "scalars")]
SUPERVISED = [name for name, m in ROWS.items() if m.train and name not in TRAINED]
INITIAL = [name for name, m in ROWS.items() if not m.train and not m.source]
DERIVED = [name for name, m in ROWS.items() if m.source is not None]


def study(*, decay=0.9, every=4, steps=12):
    """A study as far as hyperparameters read it."""
    settings = policy_gradients.Settings(None, HYPER, rows=4, candidates=2, decay=decay)
    schedule = Schedule(steps, None, reset_every=every)
    return Study({}, (), schedule, (), settings=settings)


def hyper_of(name, **changes):
    return ROWS[name].train.scalars(study(**changes), ROWS[name])


def calendar(name, **changes):
    return list(ROWS[name].resets(study(**changes).schedule))


# Choosing.


def test_methods_come_in_the_order_of_the_table():
    asked = ("elastic_reset", "sft", "ppo")
    assert tables.choose(asked, ROWS) == ("sft", "ppo", "elastic_reset")


def test_all_is_the_whole_table():
    assert tables.choose(("all",), ROWS) == tuple(ROWS)
    assert tables.choose(("ppo", "all"), ROWS) == tuple(ROWS)


def test_a_source_that_was_not_asked_for_comes_first():
    assert tables.choose(("ppo_ma50",), ROWS) == ("ppo", "ppo_ma50")
    for name in DERIVED:
        chosen = tables.choose((name,), ROWS)
        assert chosen.index(ROWS[name].source) < chosen.index(name)


def test_nothing_is_chosen_twice():
    assert tables.choose(("ppo", "ppo", "ppo_average"), ROWS) == ("ppo", "ppo_average")


@pytest.mark.parametrize("names", [("pppo",), ("ppo", "pppo"), ("all", "pppo")])
def test_an_unknown_method_is_named_with_those_there_are(names):
    with pytest.raises(ValueError, match="--methods pppo: unknown.*elastic_reset.*all"):
        tables.choose(names, ROWS)


def test_the_defaults_exist():
    assert tables.choose(methods.DEFAULT, ROWS) == methods.DEFAULT


# The table.


@pytest.mark.parametrize("name", ROWS)
def test_every_change_names_a_field_that_exists(name):
    method = ROWS[name]
    changes = method.train if name in TRAINED else policy_gradients.PolicyGradient()
    assert set(changes.hyper) <= set(policy_gradient.Hyper._fields)
    fields = {field.name for field in dataclasses.fields(policy_gradient.Config)}
    assert set(changes.static) <= fields
    assert method.summary and method.label == methods.LABELS[name]
    assert set(method.tunes) <= {field.name for field in dataclasses.fields(Values)}


def test_labels_tell_methods_apart():
    assert len(set(methods.LABELS.values())) == len(ROWS)


@pytest.mark.parametrize("name", DERIVED)
def test_derived_methods_change_nothing_and_come_from_what_is_trained(name):
    method = ROWS[name]
    assert method.source in TRAINED and callable(method.derive)
    assert method.train is None and method.measure is None and not method.is_reset


@pytest.mark.parametrize("name", INITIAL)
def test_methods_of_the_initial_policy_change_nothing(name):
    method = ROWS[name]
    assert method.train is None and method.source is None and not method.is_reset


def test_every_method_is_of_one_kind():
    kinds = TRAINED + SUPERVISED + INITIAL + DERIVED
    assert sorted(kinds) == sorted(ROWS)
    assert SUPERVISED == ["sft", "sft_placebo"]
    counts = (2, 4, 8, 16)
    assert tuple(ROWS[f"best_of_{n}"].measure.n for n in counts) == counts


def test_the_best_of_any_number_has_a_row_when_it_is_asked_for():
    found = methods.table(("best_of_64", "ppo", "best_of_1", "best_of_0"))
    assert set(found) - set(ROWS) == {"best_of_1", "best_of_64"}
    last = [(name, row.measure.n) for name, row in list(found.items())[-6:]]
    assert last == [(f"best_of_{n}", n) for n in (1, 2, 4, 8, 16, 64)]
    assert methods.table(()) == ROWS


def test_programs_are_few():
    """Methods that share their statics share a program: these are all there are."""
    statics = {tuple(sorted(ROWS[name].train.static.items())) for name in TRAINED}
    assert statics == {
        (),
        (("algorithm", "reinforce"),),
        (("algorithm", "rloo"),),
        (("algorithm", "grpo"),),
        (("algorithm", "dr_grpo"),),
        (("algorithm", "dapo"),),
        (("algorithm", "gspo"),),
        (("algorithm", "reinforce_plus_plus"),),
        (("algorithm", "rsf"),),
        (("algorithm", "online_dpo"), ("candidates", 2)),
        (("masked", True),),
    }


def test_a_twin_is_the_method_it_is_named_after():
    twins = {n: m.twin for n, m in ROWS.items() if m.twin}
    assert twins == {"ppo_kl_matched": "ppo_kl"}
    for name, twin in twins.items():
        assert hyper_of(name) == hyper_of(twin)


# Overlays.


def test_ppo_is_the_run_without_the_penalty():
    assert hyper_of("ppo") == HYPER._replace(kl_coef=0.0, decay=0.9)
    assert hyper_of("ppo_kl") == HYPER._replace(decay=0.9)


def test_elastic_reset_is_ppo_with_a_calendar():
    changes = {"reset_weight": 1 - 0.9**4}
    assert hyper_of("elastic_reset") == hyper_of("ppo")._replace(**changes)
    assert hyper_of("elastic_reset_kl") == hyper_of("ppo_kl")._replace(**changes)


def test_ablations_differ_from_elastic_reset_in_what_they_name():
    base = hyper_of("elastic_reset")
    expected = {
        "reset_policy_only": {"reset_average": False},
        "reset_to_initial": {"reset_target": elastic_reset.INITIAL},
        "reset_to_interpolation": {"reset_target": elastic_reset.INTERPOLATION},
        "elastic_reset_value": {"reset_value": True},
        "elastic_reset_optimizer": {"reset_optimizer": True},
        "elastic_reset_both": {"reset_value": True, "reset_optimizer": True},
    }
    for name, change in expected.items():
        assert hyper_of(name) == base._replace(**change)


def test_the_null_without_resets_keeps_the_average_as_its_reference():
    hyper = hyper_of("kl_average")
    assert hyper == HYPER._replace(reference_average=True, decay=0.9)
    assert calendar("kl_average") == []


def test_an_interpolation_keeps_as_much_of_the_policy_as_the_average_would():
    hyper = hyper_of("reset_to_interpolation", decay=0.5, every=3)
    assert hyper.reset_weight == 0.875


def test_relatives_differ_from_ppo_with_kl_in_their_rule():
    """The average ticks once an interval and is the reference; nothing is reset."""
    base = hyper_of("ppo_kl")._replace(reference_average=True, tick_every=4)
    assert hyper_of("trdpo_soft") == base._replace(decay=0.4)
    assert hyper_of("trdpo_hard") == base._replace(decay=0.0)
    assert hyper_of("reference_reset") == base._replace(
        decay=0.0,
        reset_target=elastic_reset.INTERPOLATION,
        reset_weight=1.0,
        reset_average=False,
        reset_optimizer=True,
    )
    assert hyper_of("ppo_chi2") == hyper_of("ppo_kl")._replace(chi2_weight=1.0)
    assert hyper_of("ppo_chi2_kl") == hyper_of("ppo_kl")._replace(chi2_weight=0.5)
    assert hyper_of("ppo_bounded") == hyper_of("ppo")._replace(reward_bound=2.0)
    assert {ROWS[f"warp_{n}"].source for n in (25, 50, 75)} == {"kl_average"}


@pytest.mark.parametrize("name", TRAINED)
def test_only_the_host_loop_resets_and_only_methods_that_reset(name):
    """The traced clock stands still; the calendar is the row's."""
    assert hyper_of(name).reset_every == HYPER.reset_every == 0
    assert calendar(name) == ([4, 8] if ROWS[name].is_reset else [])
    assert calendar(name, every=0) == []


# Settings of one method


def test_an_override_is_another_row():
    asked = {"ppo": {"kl_coef": 0.5}, "elastic_reset": {"reset_value": True}}
    changed = tables.with_overrides(ROWS, asked)
    ppo = changed["ppo"].train.scalars(study(), changed["ppo"])
    assert ppo == hyper_of("ppo")._replace(kl_coef=0.5)
    assert changed["ppo"].tunes == ("learning_rate", "kl_coef")
    assert ROWS["ppo"].tunes == ("learning_rate",)
    rest = {name: row for name, row in changed.items() if name not in asked}
    assert rest == {name: row for name, row in ROWS.items() if name not in asked}


def test_what_a_search_chose_is_another_row():
    values = {"elastic_reset": Values(learning_rate=1e-3, weight=0.75, every=2)}
    row = tables.with_values(ROWS, values)["elastic_reset"]
    hyper = row.train.scalars(study(), row)
    assert hyper.learning_rate == 1e-3 and hyper.reset_weight == pytest.approx(0.75)
    assert hyper.decay == pytest.approx(0.5)
    assert list(row.resets(study().schedule)) == [2, 4, 6, 8, 10]


def test_ablations_of_one_part_and_controls_have_what_their_method_was_given():
    values = {"elastic_reset": Values(1e-3, weight=0.5, every=20)}
    changed = tables.with_values(methods.METHODS, values)
    followers = [n for n, m in changed.items() if m.follows == "elastic_reset"]
    assert {"elastic_reset_copy", "reset_policy_only"} < {*followers}
    for name in followers:
        assert changed[name].train.values == values["elastic_reset"]
        assert changed[name].resets is not methods.METHODS[name].resets
    assert changed["reset_to_initial"] is methods.METHODS["reset_to_initial"]


def test_what_is_tuned_otherwise_than_its_source_reads_a_run_that_is_not_listed():
    values = dict.fromkeys(("ppo_early_stop", "ppo_ma25", "ppo_ma50"), Values(2e-3))
    values["ppo_ma75"] = Values(4e-3)
    changed = tables.with_values(ROWS, values)
    sources = {name: changed[name].source for name in values}
    shared, own = "ppo_for_ppo_early_stop", "ppo_for_ppo_ma75"
    assert sources == {**dict.fromkeys(list(values)[:3], shared), "ppo_ma75": own}
    for name, rate in ((shared, 2e-3), (own, 4e-3)):
        row = changed[name]
        assert row.train.values == Values(rate) and not row.listed
        assert row.resets is ROWS["ppo"].resets
    assert changed["ppo"] == ROWS["ppo"]
    assert changed["ppo_average"] == ROWS["ppo_average"]
    assert list(tables.listed(changed)) == list(ROWS)


def test_what_is_tuned_as_its_source_is_reads_it():
    alike = {"ppo": Values(2e-3), "ppo_ma50": Values(2e-3)}
    changed = tables.with_values(ROWS, alike)
    assert changed["ppo_ma50"].source == "ppo" and list(changed) == list(ROWS)


def test_a_control_has_what_was_chosen_for_the_method_that_it_follows():
    values = {
        "ppo": Values(2e-3),
        "elastic_reset": Values(1e-3, weight=0.75, every=2),
        "sft": Values(4e-3),
    }
    changed = tables.with_values(ROWS, values)
    for name, followed in (
        ("ppo_gold", "ppo"),
        ("ppo_random", "ppo"),
        ("elastic_reset_copy", "elastic_reset"),
        ("sft_placebo", "sft"),
    ):
        assert changed[name].train.values == values[followed]
    schedule = study().schedule
    copy, original = (changed[n] for n in ("elastic_reset_copy", "elastic_reset"))
    assert copy.resets(schedule) == original.resets(schedule)
    assert changed["ppo_kl"] == ROWS["ppo_kl"]


def test_rows_come_with_the_sources_that_they_read():
    changed = tables.with_values(ROWS, {"ppo_ma50": Values(2e-3)})
    found = tables.rows(("ppo_ma50", "sft"), changed)
    assert tuple(found) == ("sft", "ppo_for_ppo_ma50", "ppo_ma50")
    assert tuple(tables.rows(("ppo_ma25",), changed)) == ("ppo", "ppo_ma25")


# Overrides.


def test_overrides_are_read_by_method_and_type():
    words = (
        "ppo_kl.kl_coef=0.1",
        "ppo_kl.kl_target=0.5",
        "elastic_reset.reference_average=true",
        "nlpo.mask_every=50",
        "ppo.kl_horizon=inf",
        "dapo.clip_high=0.3",
    )
    assert tables.overrides(words, ROWS) == {
        "ppo_kl": {"kl_coef": 0.1, "kl_target": 0.5},
        "elastic_reset": {"reference_average": True},
        "nlpo": {"mask_every": 50},
        "ppo": {"kl_horizon": float("inf")},
        "dapo": {"clip_high": 0.3},
    }
    assert tables.overrides((), ROWS) == {}


@pytest.mark.parametrize(
    "word, said",
    [
        ("ppo_kl", "write method.field=value"),
        ("ppo_kl.kl_coef", "write method.field=value"),
        ("pppo.kl_coef=1", "there is no method pppo; choose from.*ppo_kl"),
        ("all.kl_coef=1", "there is no method all"),
        ("sft.learning_rate=1", "sft takes no such settings"),
        ("ppo_ma50.clip=1", "ppo_ma50 takes no such settings"),
        ("zero_shot.clip=1", "zero_shot takes no such settings"),
        ("ppo.beta=1", "beta is no setting of a method; choose from.*kl_coef"),
        ("elastic_reset.reset_every=3", "reset_every is no setting"),
        ("ppo.kl_coef=much", "'much' is not a number"),
        ("ppo.kl_coef=nan", "'nan' is not a number"),
        ("nlpo.mask_every=1.5", "'1.5' is not a number"),
        ("ppo.reference_average=1", "'1' is not true or false"),
    ],
)
def test_an_override_that_is_none_is_named(word, said):
    with pytest.raises(ValueError, match=f"--override {word}: .*{said}"):
        tables.overrides((word,), ROWS)
