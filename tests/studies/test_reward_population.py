"""population: a member of many is what it would have become alone."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rlhf_jax import optim
from rlhf_jax.algorithms import reward_model
from rlhf_jax.models import heads
from rlhf_jax.runtime import parallel, population
from rlhf_jax.studies import reward_population, supervised
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.types import Preferences

N, S, ROWS, STEPS = 20, 6, 8, 7
MODEL = heads.Classifier(tiny.DECODER.config, labels=1)
CONFIG = optim.Config(schedule="linear", weight_decay=0.01)
OBJECTIVE = supervised.Objective(
    MODEL, reward_model.make_pair_loss, reward_model.count, CONFIG
)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    ones = np.ones((N, S), np.int32)
    texts = [rng.integers(0, tiny.VOCAB, (N, S)).astype(np.int32) for _ in range(2)]
    return Preferences(texts[0], ones, texts[1], ones, None)


@pytest.fixture(scope="module")
def members():
    tokens = jnp.zeros((1, S), jnp.int32)
    init = jax.jit(lambda key: MODEL.init(key, tokens)["params"])
    labels = np.random.default_rng(1).integers(0, 2, (3, N)).astype(np.float32)
    return reward_population.Members(
        params=population.stack([init(jax.random.key(i)) for i in range(3)]),
        labels=labels,
        counts=(N, 9, N),
        seeds=(0, 1, 2),
        rates=(1e-2, 1e-2, 3e-3),
    )


@pytest.fixture(scope="module")
def trained(members, pairs):
    return reward_population.fit(members, pairs, OBJECTIVE, rows=ROWS, steps=STEPS)


@pytest.mark.parametrize("number", range(3))
def test_a_member_is_what_it_would_be_alone(members, pairs, trained, number):
    count, layout = members.counts[number], parallel.data(1)
    data = pairs._replace(preference=members.labels[number])
    alone = supervised.trainer(
        Trainable(population.member(members.params, number)),
        jax.tree.map(lambda x: x[:count], data),
        OBJECTIVE,
        rows=ROWS,
        steps=STEPS,
        learning_rate=members.rates[number],
        seed=members.seeds[number],
        layout=layout,
    )
    expected = supervised.fit(alone, steps=STEPS, layout=layout)
    jax.tree.map(
        lambda x, y: checks.close(x, y, 1e-5, 1e-5),
        population.member(trained[0], number),
        expected,
    )


def test_metrics_are_of_every_update_and_member(trained):
    _, metrics = trained
    assert {"loss", "accuracy", "grad_norm"} <= set(metrics)
    assert metrics["loss"].shape == (STEPS, 3)
    assert np.isfinite(metrics["loss"]).all() and metrics["finite"].all()


def test_the_weights_handed_in_are_left_alone(members, trained):
    moved = jax.tree.map(lambda x, y: np.any(x != y), members.params, trained[0])
    assert any(jax.tree.leaves(moved))


def test_stacked_weights_are_members_again(members):
    parts = [population.member(members.params, number) for number in range(3)]
    checks.same(population.stack(parts), members.params)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"counts": (N, N + 1, N)}, "member 1 asks for 21 pairs of 20"),
        ({"counts": (N, 0, N)}, "member 1 asks for 0 pairs"),
        ({"seeds": (0, 1)}, "2 seeds for 3 members"),
        ({"rates": (1e-3,)}, "1 rates for 3 members"),
        ({"labels": np.zeros((2, N))}, "2 labels for 3 members"),
    ],
)
def test_members_that_do_not_fit_are_named(members, pairs, change, message):
    with pytest.raises(ValueError, match=message):
        reward_population.fit(
            members._replace(**change), pairs, OBJECTIVE, rows=ROWS, steps=STEPS
        )


def test_a_penalty_is_refused(members, pairs):
    objective = OBJECTIVE._replace(make_penalty=lambda model, start: None)
    with pytest.raises(ValueError, match="no penalty"):
        reward_population.fit(members, pairs, objective, rows=ROWS, steps=STEPS)
