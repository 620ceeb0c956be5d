"""reward_specs: a text is a spec and the other way round; mistakes are named."""

import math

import pytest
from checks import examples
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.tasks import reward_specs
from rlhf_jax.tasks.reward_specs import Spec

specs = st.builds(
    Spec,
    family=st.sampled_from(sorted(reward_specs.FIELDS)),
    size=st.sampled_from(["small", "medium", "large", "trunk"]),
    pairs=st.integers(1, 20_000),
    labels=st.sampled_from(["people", "gold", "flipped"]),
    member=st.integers(0, 30),
    members=st.integers(2, 9),
    weight=st.sampled_from([0.0, 0.5, 2.0]),
    beta=st.sampled_from([0.0, 1.0, math.inf]),
    scale=st.sampled_from([0.0, 1.5]),
)


@examples
@given(specs)
def test_a_spec_is_read_from_its_own_text(spec):
    again = reward_specs.parse(str(spec))
    for name in ("family", *reward_specs.FIELDS[spec.family]):
        assert getattr(again, name) == getattr(spec, name)
    assert str(again) == str(spec)
    assert reward_specs.parse(spec) is spec


def test_what_is_left_out_has_a_default():
    text = "rm:size=medium,pairs=1000,labels=people,member=0"
    assert str(reward_specs.parse("rm")) == str(reward_specs.parse("rm:")) == text
    assert reward_specs.parse("uncertainty").weight == 0.5
    assert reward_specs.parse("length_penalized").weight == 0.1
    assert reward_specs.parse("entropic:beta=inf").beta == math.inf
    assert reward_specs.parse("worst:size=small,members=3").members == 3


@pytest.mark.parametrize(
    "text, words",
    [
        ("best:size=small", ["'best'", "rm, odin", "heavy_tailed"]),
        ("rm:depth=3", ["'depth'", "not read by rm", "size, pairs, labels, member"]),
        ("rm:members=3", ["'members'", "member"]),
        ("rm:pairs=10,pairs=20", ["'pairs'", "twice"]),
        ("rm:size=huge", ["size='huge'", "small, medium, large, trunk"]),
        ("rm:labels=mine", ["labels='mine'", "people, gold, flipped"]),
        ("rm:pairs=many", ["pairs=many", "whole number"]),
        ("rm:pairs=0", ["pairs=0", "at least 1"]),
        ("mean:members=1", ["members=1", "at least 2"]),
        ("uncertainty:weight=-1", ["weight=-1", "at least 0"]),
        ("entropic:beta=nan", ["beta=nan"]),
        ("rm:pairs", ["pairs=", "whole number"]),
    ],
)
def test_a_mistake_is_named_beside_what_exists(text, words):
    with pytest.raises(ValueError) as error:
        reward_specs.parse(text)
    for word in (f"--reward {text}", *words):
        assert word in str(error.value)


@pytest.mark.parametrize("text", ["rm", "worst:size=small", "odin:"])
def test_families_are_known_by_name(text):
    assert reward_specs.named(text)


@pytest.mark.parametrize("text", ["train", "rewards:short", "ai:policy", len])
def test_other_rewards_are_not(text):
    assert not reward_specs.named(text)
