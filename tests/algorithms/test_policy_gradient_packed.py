"""policy_gradient: groups that are read as one row learn what their rows would."""

import dataclasses

import checks
import jax
import numpy as np
import pytest
import tiny

from rlhf_jax.algorithms.policy_gradient import update
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder

LLAMA = decoder.Decoder(
    model_config.llama(
        vocab_size=tiny.VOCAB, width=16, layers=2, heads=2, kv_heads=1, hidden=24,
        max_length=tiny.PROMPT + tiny.NEW,
    )
)  # fmt: skip
ROWS = tiny.config("grpo", epochs=1, minibatches=1, kl_in="loss")
PACKED = dataclasses.replace(ROWS, packed=True)


def test_an_iteration_on_packed_groups_is_one_on_their_rows():
    """The same samples and scores; log-probs and weights differ by rounding only."""
    results = []
    for config in (ROWS, PACKED):
        state = tiny.start(config, model=LLAMA)
        state, (drawn, scores), metrics = tiny.iteration(config, LLAMA)(
            state, tiny.FROZEN, tiny.batch(), tiny.traced()
        )
        results.append((drawn.tokens, scores, state.learner.params, metrics))
    (tokens, scores, params, metrics), other = results
    checks.same((tokens, scores), other[:2])
    assert other[3]["val/ratio_first_error"] <= 1e-5
    checks.close(metrics["optim/grad_norm"], other[3]["optim/grad_norm"], 1e-4)
    # Adam's first step is ± the learning rate, whatever rounding did to a gradient.
    rate = float(tiny.HYPER.learning_rate)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).mean(), params, other[2])
    assert max(jax.tree.leaves(moved)) <= 0.01 * rate


def test_minibatches_of_packed_groups_are_whole_groups_each_once():
    config = dataclasses.replace(PACKED, epochs=2, minibatches=2, candidates=4)
    order = np.asarray(update.orders(tiny.start(config), 16, config=config))
    assert order.shape == (2, 2, 8)
    for epoch in order:
        groups = epoch.reshape(-1, 4)
        assert (groups[:, 0] % 4 == 0).all() and (np.diff(groups) == 1).all()
        assert sorted(groups[:, 0]) == [0, 4, 8, 12]
    assert (order[0] != order[1]).any()


def test_groups_that_a_minibatch_would_cut_are_refused():
    config = dataclasses.replace(PACKED, minibatches=2 * tiny.ROWS)
    with pytest.raises(ValueError, match="2 of a prompt together"):
        tiny.iteration(config, LLAMA)(
            tiny.start(config, model=LLAMA), tiny.FROZEN, tiny.batch(3), tiny.traced()
        )
