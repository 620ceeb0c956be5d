"""methods: what is asked for is what runs, and a method changes what its line says."""

import dataclasses

import pytest

from rlhf_jax import elastic_reset
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.studies import methods

HYPER = policy_gradient.Hyper(kl_coef=0.3, clip=0.15)
TRAINED = [name for name, m in methods.METHODS.items() if m.trains]
INITIAL = [n for n, m in methods.METHODS.items() if m.untrained or m.best_of]
DERIVED = [name for name, m in methods.METHODS.items() if m.source is not None]


def hyper_of(name, *, decay=0.9, every=4):
    return methods.overlay(HYPER, methods.METHODS[name], decay=decay, every=every)


# Choosing.


def test_methods_come_in_the_order_of_the_table():
    asked = ("elastic_reset", "sft", "ppo")
    assert methods.choose(asked) == ("sft", "ppo", "elastic_reset")


def test_all_is_the_whole_table():
    assert methods.choose(("all",)) == tuple(methods.METHODS)
    assert methods.choose(("ppo", "all")) == tuple(methods.METHODS)


def test_a_source_that_was_not_asked_for_comes_first():
    assert methods.choose(("ppo_ma50",)) == ("ppo", "ppo_ma50")
    for name in DERIVED:
        chosen = methods.choose((name,))
        assert chosen.index(methods.METHODS[name].source) < chosen.index(name)


def test_nothing_is_chosen_twice():
    assert methods.choose(("ppo", "ppo", "ppo_average")) == ("ppo", "ppo_average")


@pytest.mark.parametrize("names", [("pppo",), ("ppo", "pppo"), ("all", "pppo")])
def test_an_unknown_method_is_named_with_those_there_are(names):
    with pytest.raises(ValueError, match="--methods pppo: unknown.*elastic_reset.*all"):
        methods.choose(names)


def test_the_defaults_exist():
    assert methods.choose(methods.DEFAULT) == methods.DEFAULT


# The table.


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_change_names_a_field_that_exists(name):
    method = methods.METHODS[name]
    assert set(method.hyper) <= set(policy_gradient.Hyper._fields)
    fields = {field.name for field in dataclasses.fields(policy_gradient.Config)}
    assert set(method.static) <= fields
    assert method.summary and method.label == methods.LABELS[name]


def test_labels_tell_methods_apart():
    assert len(set(methods.LABELS.values())) == len(methods.METHODS)


@pytest.mark.parametrize("name", DERIVED)
def test_derived_methods_change_nothing_and_come_from_what_is_trained(name):
    method = methods.METHODS[name]
    assert method.source in TRAINED
    assert not method.hyper and not method.static and not method.resets
    assert method.weight is None or 0 < method.weight < 1


@pytest.mark.parametrize("name", INITIAL)
def test_methods_of_the_initial_policy_change_nothing(name):
    method = methods.METHODS[name]
    assert not method.trains and method.source is None
    assert not method.hyper and not method.static and not method.resets


def test_every_method_is_of_one_kind():
    kinds = TRAINED + INITIAL + DERIVED
    assert sorted(kinds) == sorted(methods.METHODS)
    assert [methods.METHODS[f"best_of_{n}"].best_of for n in (2, 4, 8, 16)] == [
        2,
        4,
        8,
        16,
    ]


def test_programs_are_few():
    """Methods that share their statics share a program: these are all there are."""
    statics = {tuple(sorted(methods.METHODS[name].static.items())) for name in TRAINED}
    assert statics == {
        (),
        (("algorithm", "reinforce"),),
        (("algorithm", "rloo"),),
        (("algorithm", "grpo"), ("kl_in", "loss")),
        (("algorithm", "rsf"),),
        (("masked", True),),
    }


def test_a_twin_is_the_method_it_is_named_after():
    twins = {n: m.twin for n, m in methods.METHODS.items() if m.twin}
    assert twins == {"ppo_kl_matched": "ppo_kl"}
    for name, twin in twins.items():
        assert hyper_of(name) == hyper_of(twin)


# Overlays.


def test_ppo_is_the_run_without_the_penalty():
    assert hyper_of("ppo") == HYPER._replace(kl_coef=0.0, decay=0.9)
    assert hyper_of("ppo_kl") == HYPER._replace(decay=0.9)


def test_elastic_reset_is_ppo_with_a_calendar():
    changes = {"reset_every": 4, "reset_weight": 1 - 0.9**4}
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
    assert hyper.reset_every == 0


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
        reset_every=4,
        reset_target=elastic_reset.INTERPOLATION,
        reset_weight=1.0,
        reset_average=False,
        reset_optimizer=True,
    )
    assert hyper_of("ppo_chi2") == hyper_of("ppo_kl")._replace(chi2_weight=1.0)
    assert hyper_of("ppo_chi2_kl") == hyper_of("ppo_kl")._replace(chi2_weight=0.5)
    assert hyper_of("ppo_bounded") == hyper_of("ppo")._replace(reward_bound=2.0)
    assert {methods.METHODS[f"warp_{n}"].source for n in (25, 50, 75)} == {"kl_average"}


@pytest.mark.parametrize("name", TRAINED)
def test_the_calendar_reaches_only_methods_that_reset(name):
    every = 4 if methods.METHODS[name].resets else 0
    assert hyper_of(name).reset_every == every
    assert hyper_of(name, every=0).reset_every == 0


# Overrides.


def test_overrides_are_read_by_method_and_type():
    words = (
        "ppo_kl.kl_coef=0.1",
        "ppo_kl.kl_target=0.5",
        "elastic_reset.reference_average=true",
        "nlpo.mask_every=50",
        "ppo.kl_horizon=inf",
    )
    assert methods.overrides(words) == {
        "ppo_kl": {"kl_coef": 0.1, "kl_target": 0.5},
        "elastic_reset": {"reference_average": True},
        "nlpo": {"mask_every": 50},
        "ppo": {"kl_horizon": float("inf")},
    }
    assert methods.overrides(()) == {}


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
        methods.overrides((word,))
