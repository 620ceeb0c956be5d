"""supervised: one trainer; a fit that was interrupted and resumed is the fit."""

import checks
import jax
import numpy as np
import pytest
import tiny

from rlhf_jax import elastic_reset, optim, training
from rlhf_jax.algorithms import sft
from rlhf_jax.data import batching
from rlhf_jax.runtime import checkpoint, loop, parallel
from rlhf_jax.studies import supervised
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.types import Tokens

CONFIG = optim.Config(schedule="linear")
LENGTH, N = 6, 20
FIT = {"steps": 6, "rows": 8, "learning_rate": 0.1, "seed": 3}
LAYOUT = parallel.data(2)
OBJECTIVE = supervised.Objective(tiny.BIGRAM, sft.make_loss, sft.count, CONFIG)


def trainer(params, data, **changes):
    given = {"layout": LAYOUT, **FIT, **changes}
    return supervised.trainer(Trainable(params), data, OBJECTIVE, **given)


def fit(params, data, **options):
    made = trainer(params, data)
    return supervised.fit(made, steps=FIT["steps"], layout=LAYOUT, **options)


@pytest.fixture(scope="module")
def data():
    tokens = np.random.default_rng(0).integers(0, tiny.VOCAB, (N, LENGTH))
    ones = np.ones((N, LENGTH), np.int32)
    return Tokens(tokens.astype(np.int32), ones, ones)


@pytest.fixture(scope="module")
def whole(data):
    """(params, what was reported) of a fit that nothing stops."""
    told = []
    report = lambda step, metrics: told.append((step, metrics))  # noqa: E731
    return fit(tiny.policy_params(), data, report=report), told


def test_a_fit_is_its_steps_by_hand(whole, data):
    """On two devices, against one: the batches of Epochs, one update each."""
    tx = optim.transformation(CONFIG)
    loss = sft.make_loss(tiny.BIGRAM)
    step = jax.jit(training.make_step(loss, tx, config=CONFIG, count=sft.count))
    state = training.init(tiny.policy_params(), tx)
    order = batching.Epochs(N, FIT["rows"], FIT["seed"])
    hyper = training.Hyper(np.float32(0.1), np.int32(6))
    for number in range(FIT["steps"]):
        batch = jax.tree.map(lambda x, i=number: x[order.indices(i)], data)
        state, _ = step(state, batch, hyper)
    checks.close(whole[0]["table"], state.params["table"], rtol=1e-5, atol=1e-5)


def test_every_step_is_reported_and_the_schedule_ends(whole):
    params, told = whole
    assert [step for step, _ in told] == [1, 2, 3, 4, 5, 6]
    rates = [metrics["learning_rate"] for _, metrics in told]
    checks.close(rates, 0.1 * (1 - np.arange(6) / 6), rtol=1e-5)
    assert told[-1][1]["nll"] < told[0][1]["nll"]


def test_the_parameters_handed_in_are_left_alone(data, whole):
    params = tiny.policy_params()
    before = np.array(params["table"])
    again = fit(params, data)
    np.testing.assert_array_equal(params["table"], before)
    checks.same(again, whole[0])


class StopAt:
    """Signals that arrive while a step is under way."""

    received = None

    def __init__(self, step):
        self.step = step

    def report(self, step, metrics):
        if step == self.step:
            self.received = "SIGTERM"


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(data, whole, tmp_path):
    def checkpoints():
        return checkpoint.Checkpointer(tmp_path, config_digest="x")

    signals = StopAt(2)
    with pytest.raises(loop.Interrupted, match="SIGTERM after step 3"):
        fit(
            tiny.policy_params(),
            data,
            report=signals.report,
            checkpoints=checkpoints(),
            signals=signals,
        )
    assert checkpoints().steps() == [3]
    told = []
    params = fit(
        tiny.policy_params(seed=9),  # what the checkpoint holds counts
        data,
        report=lambda step, metrics: told.append(step),
        checkpoints=checkpoints(),
        save_every=2,
    )
    checks.same(params, whole[0])
    assert told == [4, 5, 6] and checkpoints().steps() == [3, 4]


def test_a_fit_that_cannot_learn_says_so(data):
    params = jax.tree.map(lambda x: x * np.nan, tiny.policy_params())
    with pytest.raises(loop.NotFinite, match="step 3: 3 updates in a row"):
        fit(params, data)


def test_a_program_serves_every_seed_and_rate(data):
    one, other = (
        trainer(tiny.policy_params(), data),
        trainer(tiny.policy_params(seed=1), data, seed=4, learning_rate=0.2),
    )
    before = supervised.compile_step.cache_info().misses
    for made in (one, other):
        made.advance(made.start(), 0)
    assert supervised.compile_step.cache_info().misses == before


def test_updates_of_an_iteration_are_updates_of_the_run(data, whole):
    """Two an iteration for three iterations, under names with a prefix."""
    made = trainer(tiny.policy_params(), data, steps=3, updates=2, prefix="sft/")
    state = made.start()
    for iteration in range(3):
        state, metrics, _ = made.advance(state, iteration)
    checks.same(made.policy(state), whole[0])
    assert float(metrics["sft/epoch"]) == 6 * 8 / N and "nll" not in metrics


def test_a_reset_goes_to_the_average_and_the_average_to_the_start(data):
    made = trainer(tiny.policy_params(), data, decay=0.5)
    state = made.start()
    start = jax.device_get(made.policy(state))
    expected = elastic_reset.init(start)
    for iteration in range(3):
        state, _, _ = made.advance(state, iteration)
        expected = elastic_reset.tick(made.policy(state), expected, decay=0.5)
    checks.close(made.average(state)["table"], expected.average["table"], rtol=1e-6)
    average = jax.device_get(made.average(state))
    state = made.reset(state)
    checks.same(jax.device_get(made.policy(state)), average)
    checks.same(jax.device_get(made.average(state)), start)
    state = made.reset(state)
    checks.same(jax.device_get(made.policy(state)), start)
