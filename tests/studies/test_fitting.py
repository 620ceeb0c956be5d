"""fitting: one call fits, one interrupted and resumed fits the same."""

import checks
import jax
import numpy as np
import pytest
import tiny

from rlhf_jax import optim, training
from rlhf_jax.algorithms import sft
from rlhf_jax.data import batching
from rlhf_jax.runtime import checkpoint, loop, parallel
from rlhf_jax.studies import fitting
from rlhf_jax.types import Tokens

CONFIG = optim.Config(schedule="linear")
LENGTH, N = 6, 20
FIT = {"steps": 6, "rows": 8, "learning_rate": 0.1, "seed": 3}


@pytest.fixture(scope="module")
def data():
    tokens = np.random.default_rng(0).integers(0, tiny.VOCAB, (N, LENGTH))
    ones = np.ones((N, LENGTH), np.int32)
    return Tokens(tokens.astype(np.int32), ones, ones)


@pytest.fixture(scope="module")
def fit():
    loss = sft.make_loss(tiny.BIGRAM)
    return fitting.Fit(loss, sft.count, CONFIG, parallel.data(2))


@pytest.fixture(scope="module")
def whole(fit, data):
    """(params, what was reported) of a fit that nothing stops."""
    told = []
    report = lambda step, metrics: told.append((step, metrics))  # noqa: E731
    return fit(tiny.policy_params(), data, report=report, **FIT), told


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


def test_the_parameters_handed_in_are_left_alone(fit, data, whole):
    params = tiny.policy_params()
    before = np.array(params["table"])
    again = fit(params, data, **FIT)
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


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(
    fit, data, whole, tmp_path
):
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
            **FIT,
        )
    assert checkpoints().steps() == [3]
    told = []
    params = fit(
        tiny.policy_params(seed=9),  # what the checkpoint holds counts
        data,
        report=lambda step, metrics: told.append(step),
        checkpoints=checkpoints(),
        save_every=2,
        **FIT,
    )
    checks.same(params, whole[0])
    assert told == [4, 5, 6] and checkpoints().steps() == [3, 4]


def test_a_fit_that_cannot_learn_says_so(fit, data):
    params = jax.tree.map(lambda x: x * np.nan, tiny.policy_params())
    with pytest.raises(loop.NotFinite, match="step 3: 3 updates in a row"):
        fit(params, data, **FIT)
