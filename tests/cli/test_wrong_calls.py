"""The same from Python: keywords out of their range, and of a type that is none."""

import math
import random
import typing

import numpy as np
import optax
import pytest
import wrong_inputs
from commands import config, module

from rlhf_jax import (
    advantages,
    averaging,
    elastic_reset,
    heterogeneous,
    merging,
    optim,
    ranges,
    sampling,
)
from rlhf_jax.algorithms import policy_gradient

NEEDED = {
    "sft": {"model": "m", "dataset": "d"},
    "reward_model": {"model": "m", "dataset": "d"},
    "preference": {"model": "m", "dataset": "d"},
    "rl": {"policy": "m", "dataset": "d", "reward": "r"},
}


def wrong_keywords(name):
    """[(path, value)] that a recipe's `train` has to refuse."""
    made = []
    for path, structure in ranges.structures(config(name)):
        for field, hint in ranges.hints(structure).items():
            kind, _ = wrong_inputs.bare(hint)
            values = wrong_inputs.outside(hint)
            if kind in (int, float):
                many = typing.get_origin(ranges.plain(hint)) is tuple
                values += [True, "1"] + [[1]] * (not many)
            elif kind is bool:
                optional = type(None) in typing.get_args(hint)
                values = ["yes", 1] + [None] * (not optional)
            elif kind is str:
                values += [3]
            made += [(path + field, value) for value in values]
    return made


ALL = [(name, *wrong) for name in NEEDED for wrong in wrong_keywords(name)]


def faults(name, path, value):
    """What is wrong with how a recipe refuses a keyword, None if nothing is."""
    *groups, field = path.split(".")
    flags = {field: value}
    for group in reversed(groups):
        flags = {group: flags}
    try:
        module(name).train(**{**NEEDED[name], **flags}, quiet=True)
    except ValueError as error:
        said = str(error)
        known = f"--{path.replace('_', '-')}" in said or "no-" in said
        fixed = "must be" in said or "is needed" in said
        return None if known and fixed and "\n" not in said else said
    except Exception as error:  # noqa: BLE001 what a user would see as a traceback
        return f"{type(error).__name__}: {error}"
    return "it was not refused"


@pytest.mark.parametrize(("name", "path", "value"), random.Random(0).sample(ALL, 50))
def test_keywords_of_a_recipe(name, path, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert faults(name, path, value) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDED)
def test_all_keywords_of_a_recipe(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = [(*case, faults(*case)) for case in ALL if case[0] == name]
    assert len(wrong) > 50
    assert not [case for case in wrong if case[-1] is not None]
    assert not list(tmp_path.iterdir())


# What notebooks call without a recipe


PARAMS = {"w": np.ones((2, 2), np.float32)}
OTHER = {"v": np.ones((2, 2), np.float32)}
ADAM = optax.adam(1e-3)
CALLS = {
    "wrap, decay 2": lambda: elastic_reset.wrap(ADAM, decay=2, every=5),
    "wrap, decay nan": lambda: elastic_reset.wrap(ADAM, decay=math.nan, every=5),
    "wrap, every -1": lambda: elastic_reset.wrap(ADAM, decay=0.9, every=-1),
    "wrap, every 2.5": lambda: elastic_reset.wrap(ADAM, decay=0.9, every=2.5),
    "wrap, no params": lambda: elastic_reset.wrap(ADAM, decay=0.9, every=2).update(
        PARAMS, elastic_reset.wrap(ADAM, decay=0.9, every=2).init(PARAMS)
    ),
    "merges of nothing": lambda: merging.combine([], []),
    "weights of fewer": lambda: merging.combine([PARAMS, PARAMS], [1.0]),
    "models of two kinds": lambda: merging.combine([PARAMS, OTHER], [0.5, 0.5]),
    "ties, density 0": lambda: merging.ties([PARAMS], [1.0], density=0.0),
    "ties, density nan": lambda: merging.ties([PARAMS], [1.0], density=math.nan),
    "ties, densities": lambda: merging.ties([PARAMS], [1.0], density=[0.1, 0.2]),
    "one model's stock": lambda: merging.model_stock([PARAMS]),
    "graft, 1.5": lambda: averaging.graft(PARAMS, PARAMS, 1.5),
    "graft, nan": lambda: averaging.graft(PARAMS, PARAMS, math.nan),
    "average of two kinds": lambda: averaging.interpolate(PARAMS, OTHER, 0.5),
    "soup of nothing": lambda: averaging.soup([]),
    "soup, weights": lambda: averaging.soup([PARAMS, PARAMS], [1.0]),
    "leave one out of 1": lambda: advantages.leave_one_out(np.ones((3, 1))),
    "groups of 1": lambda: advantages.group_normalized(np.ones((3, 1))),
    "blocks of layers": lambda: heterogeneous.split(4, 5),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_cannot_be(name):
    with pytest.raises(ValueError) as caught:
        CALLS[name]()
    assert str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        (sampling.Config, {"max_new_tokens": 4}),
        (policy_gradient.Config, {"sampling": None}),
        (optim.Config, {}),
    ],
)
def test_a_structure_out_of_its_ranges(kind, needed):
    tried = 0
    for field, hint in ranges.hints(kind).items():
        for value in wrong_inputs.outside(hint):
            tried += 1
            with pytest.raises(ValueError, match=f"{field}=.*: must be "):
                kind(**{**needed, field: value})
    assert tried > 5


def test_scalars_out_of_their_ranges():
    for field, hint in ranges.hints(policy_gradient.Hyper).items():
        for value in wrong_inputs.outside(hint):
            with pytest.raises(ValueError, match=f"{field}=.*: must be "):
                ranges.check(policy_gradient.Hyper(**{field: value}))
