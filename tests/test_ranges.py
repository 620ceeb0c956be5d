"""Ranges are declared on fields, and one walk finds what is outside of them."""

import dataclasses
import math
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import elastic_reset, optim, ranges
from rlhf_jax.algorithms import policy_gradient


class Scalars(NamedTuple):
    clip: ranges.Positive = 0.2
    limit: ranges.Limit = math.inf
    every: ranges.Natural = 0
    on: bool = False


@dataclasses.dataclass(frozen=True)
class Group:
    rows: ranges.Count = 8
    parts: ranges.Count = 2
    share: ranges.Share = 0.5
    half_open: Annotated[float, ranges.Range(above=0, below=1)] = 0.5
    plain: float = 1.0
    mode: Literal["linear", "cosine"] | None = None
    names: tuple[ranges.Text, ...] = ()
    limit: ranges.Limit | None = None
    scalars: Scalars = Scalars()

    def conflicts(self):
        if self.rows % self.parts:
            yield ("rows", "parts"), "they do not divide"


@dataclasses.dataclass(frozen=True)
class Whole:
    output: ranges.Text | None = None
    group: Group = dataclasses.field(default_factory=Group)


def changed(**changes):
    """A Whole whose inner fields are changed; "scalars__clip" is two levels down."""
    inner = {k: v for k, v in changes.items() if "__" not in k}
    deep = {k.split("__")[1]: v for k, v in changes.items() if "__" in k}
    scalars = Scalars()._replace(**deep)
    return Whole(group=Group(**inner, scalars=scalars))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share": 0.0},
        {"share": 1},
        {"mode": "cosine"},
        {"limit": math.inf},
        {"limit": None},
        {"names": ("a", "b")},
        {"rows": np.int64(4)},
        {"plain": np.float32(0.1)},
        {"scalars__clip": jnp.float32(-1.0)},  # an array is a value of the device's
        {"scalars__on": True},
    ],
)
def test_what_is_inside_passes(changes):
    ranges.check(changed(**changes), flags=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": 0}, "--group.rows 0: must be a whole number of at least 1"),
        ({"rows": 2.5}, "--group.rows 2.5: must be a whole number of at least 1"),
        ({"rows": True}, "--group.rows: must be a whole number of at least 1"),
        ({"share": -0.1}, "--group.share -0.1: must be a number of at least 0 and of"),
        ({"share": math.nan}, "--group.share nan: must be a number of at least 0"),
        ({"half_open": 1.0}, "--group.half-open 1.0: must be a number above 0 and bel"),
        ({"plain": math.inf}, "--group.plain inf: must be a finite number"),
        ({"plain": math.nan}, "--group.plain nan: must be a number"),
        ({"plain": "1"}, "--group.plain 1: must be a number"),
        ({"limit": -1.0}, "--group.limit -1.0: must be a number above 0, or inf"),
        ({"mode": "foo"}, "--group.mode foo: must be one of linear, cosine"),
        ({"names": ("a", "")}, "--group.names a : must be a text that is not empty"),
        ({"scalars__clip": math.nan}, "--group.scalars.clip nan: must be a number ab"),
        ({"scalars__every": 2.5}, "--group.scalars.every 2.5: must be a whole number"),
        ({"scalars__on": 1}, "--group.scalars.on 1: must be true or false"),
        ({"rows": 9}, "--group.rows 9 and --group.parts 2: they do not divide"),
    ],
)
def test_what_is_outside_is_named_by_its_flag(changes, said):
    with pytest.raises(ValueError) as caught:
        ranges.check(changed(**changes), flags=True)
    assert str(caught.value).startswith(said)


def test_an_argument_is_named_as_python_names_it():
    with pytest.raises(ValueError, match=r"^group\.rows=0: must be a whole number"):
        ranges.check(changed(rows=0))
    with pytest.raises(ValueError, match="^output='': must be a text that is not"):
        ranges.check(Whole(output=""))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: optim.Config(warmup=-1), "warmup=-1: must be a whole number of at l"),
        (lambda: optim.Config(max_grad_norm=0.0), "max_grad_norm=0.0: must be a numb"),
        (lambda: optim.Config(weight_decay=math.nan), "weight_decay=nan: must be a n"),
        (lambda: optim.Config(schedule="foo"), "schedule='foo': must be one of const"),
        (lambda: optim.Config(beta2=1.0), "beta2=1.0: must be a number of at least 0"),
        (
            lambda: policy_gradient.Config(sampling=None, mask_top_p=0.0),
            "mask_top_p=0.0: must be a number above 0 and of at most 1",
        ),
        (
            lambda: policy_gradient.Config(sampling=None, minibatch_of="token"),
            "minibatch_of='token': must be one of rows, tokens",
        ),
    ],
)
def test_a_configuration_made_in_python_is_checked_as_it_is_made(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"decay": 2, "every": 5}, "decay=2: must be a number of at least 0 and of at"),
        ({"decay": math.nan, "every": 5}, "decay=nan: must be a number"),
        ({"decay": 0.9, "every": -1}, "every=-1: must be a whole number of at least 0"),
        ({"decay": 0.9, "every": 2.5}, "every=2.5: must be a whole number"),
    ],
)
def test_elastic_reset_of_any_optimiser_refuses_what_cannot_be(arguments, said):
    import optax

    with pytest.raises(ValueError, match=said):
        elastic_reset.wrap(optax.sgd(0.1), **arguments)


def test_scalars_that_are_out_of_range_start_no_iteration():
    config = policy_gradient.Config(sampling=None)
    hyper = policy_gradient.Hyper(clip=math.nan)
    with pytest.raises(ValueError, match="clip=nan: must be a number above 0"):
        policy_gradient.init({}, None, hyper, jax.random.key(0), config=config)


def test_every_field_of_the_algorithms_has_a_range_or_choices():
    for structure in (policy_gradient.Config, policy_gradient.Hyper, optim.Config):
        for name, hint in ranges.hints(structure).items():
            assert hint not in (int, float, str), f"{structure.__name__}.{name}"
