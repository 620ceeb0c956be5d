"""NLPO: what a masking policy allows is what is drawn, learned from and kept up."""

import dataclasses
import functools

import checks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_models
from checks import close

from rlhf_jax import sampling
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import token_mask
from rlhf_jax.runtime import parallel
from rlhf_jax.types import Prompts

FREE = tiny.config(masked=True, mask_top_p=1.0)
MASKED = tiny.config(masked=True, mask_top_p=0.6, mask_least=3)
PPO = tiny.config(recompute_logps=True)
EVERY_2 = tiny.HYPER._replace(mask_every=2)


def mask_by_hand(logits, top_p, least):
    """Ids allowed by one row of logits: the nucleus without the end token, and that."""
    weights = np.exp(np.asarray(logits, np.float64))
    weights[tiny.EOS] = 0.0
    order, mass, kept = np.argsort(-weights), 0.0, {tiny.EOS}
    for rank, token in enumerate(order):
        if mass >= top_p and rank >= least:
            break
        kept.add(int(token))
        mass += weights[token] / weights.sum()
    return kept


@pytest.mark.parametrize("top_p, least", [(0.6, 1), (0.6, 5), (1e-6, 2), (0.95, 1)])
def test_the_mask_is_the_nucleus_no_smaller_than_it_may_be(rng, top_p, least):
    config = tiny.config(masked=True, mask_top_p=top_p, mask_least=least)
    logits = 2 * rng.normal(size=(3, 4, tiny.VOCAB)).astype(np.float32)
    result = np.asarray(token_mask.allowed(jnp.asarray(logits), config=config))
    for row, mask in zip(
        logits.reshape(-1, tiny.VOCAB), result.reshape(-1, tiny.VOCAB), strict=True
    ):
        assert set(np.flatnonzero(mask)) == mask_by_hand(row, top_p, least)


def test_an_end_token_is_never_all_there_is():
    """Where no response may end yet, a mask of the end alone would leave nothing."""
    config = tiny.config(masked=True, mask_top_p=0.5, mask_least=1)
    logits = jnp.zeros((1, tiny.VOCAB)).at[0, tiny.EOS].set(50.0)
    assert token_mask.allowed(logits, config=config).sum() >= 2


def test_masks_survive_packing_and_what_was_drawn_is_allowed(rng):
    mask = jnp.asarray(rng.integers(0, 2, (2, 3, tiny.VOCAB)), bool)
    tokens = jnp.asarray(rng.integers(0, tiny.VOCAB, (2, 3)))
    result = token_mask.unpack(token_mask.pack(mask, tokens), tiny.VOCAB)
    drawn = np.arange(tiny.VOCAB) == np.asarray(tokens)[..., None]
    np.testing.assert_array_equal(result, np.asarray(mask) | drawn)


def start(config):
    """A state whose masking policy is not its policy."""
    state = tiny.moved(config)
    return state._replace(masking=tiny.shake(state.masking, 9, size=1.0))


@functools.cache
def scored():
    """(state, rollout, experience) under a mask that forbids something."""
    state = start(MASKED)
    drawn = tiny.rollout(MASKED)(state, tiny.batch())
    scores = np.linspace(-1.0, 2.0, tiny.ROWS).astype(np.float32)
    return state, drawn, tiny.experience(MASKED)(state, drawn, scores, tiny.traced())


def masks_of(state, drawn):
    """The mask at each state of a rollout, by hand: [B][T] sets of ids."""
    table = np.asarray(state.masking["table"])
    last = np.asarray(drawn.tokens)[:, tiny.PROMPT - 1 : -1]
    each = [mask_by_hand(row, MASKED.mask_top_p, MASKED.mask_least) for row in table]
    return [[each[token] for token in row] for row in last]


def test_only_what_the_mask_allows_is_drawn():
    state, drawn, _ = scored()
    free = tiny.rollout(FREE)(start(FREE), tiny.batch())
    outside = {"masked": 0, "free": 0}
    for name, rollout in (("masked", drawn), ("free", free)):
        tokens = np.asarray(rollout.tokens)[:, tiny.PROMPT :]
        valid = np.asarray(rollout.response_mask)
        for row, masks in enumerate(masks_of(state, rollout)):
            for t, mask in enumerate(masks):
                outside[name] += bool(valid[row, t]) and tokens[row, t] not in mask
    assert outside["masked"] == 0 and outside["free"] > 0


def test_copies_of_a_prompt_are_drawn_under_the_mask_of_each():
    weights = [tiny_models.draw(tiny.DECODER, seed=seed) for seed in (0, 1)]
    model, pair = token_mask.Masked(tiny.DECODER, MASKED), token_mask.Pair(*weights)
    batch = tiny.batch()
    prompts = Prompts(batch.tokens, batch.mask)
    every = Prompts(*(jnp.repeat(x, 2, axis=0) for x in prompts))
    keys = sampling.row_keys(jax.random.key(3), jnp.arange(len(every.tokens)))
    run = functools.partial(sampling.generate, model, config=MASKED.sampling)
    result = jax.jit(functools.partial(run, copies=2))(pair, prompts, keys)
    expected = jax.jit(run)(pair, every, keys)
    chex.assert_trees_all_close(result, expected, atol=1e-5, rtol=1e-5)


def test_log_probs_are_normalised_over_the_mask_and_the_penalty_is_not():
    state, drawn, data = scored()
    table = np.asarray(state.learner.params["policy"]["table"], np.float64)
    tokens = np.asarray(drawn.tokens)
    expected = np.zeros((tiny.ROWS, tiny.NEW))
    for row, masks in enumerate(masks_of(state, drawn)):
        for t, mask in enumerate(masks):
            at = tiny.PROMPT + t
            logits, token = table[tokens[row, at - 1]], tokens[row, at]
            ids = sorted({*mask, int(token)})
            expected[row, t] = logits[token] - np.log(np.exp(logits[ids]).sum())
    expected *= np.asarray(drawn.response_mask)
    close(data.logps, expected, rtol=1e-5, atol=1e-6)
    close(drawn.logps, expected, rtol=1e-5, atol=1e-6)
    unmasked = tiny.logps_by_hand(table, drawn)
    close(data.unmasked, unmasked, rtol=1e-5, atol=1e-6)
    assert (expected - unmasked).max() > 0.1
    close(
        data.reference_logps,
        tiny.logps_by_hand(state.elastic.initial["table"], drawn),
        rtol=1e-5,
        atol=1e-6,
    )


def test_learning_under_a_mask_starts_at_ratios_of_1_and_stays_finite():
    states, metrics = tiny.run(MASKED, 4, EVERY_2, state=start(MASKED))
    for named in metrics:
        assert named["val/ratio_first_error"] <= 1e-5 and named["optim/finite"] == 1
    moved = states[-1].learner.params["policy"]["table"]
    assert (moved != states[0].learner.params["policy"]["table"]).any()


def test_the_masking_policy_is_the_policy_every_so_often():
    states, _ = tiny.run(MASKED, 5, EVERY_2, state=start(MASKED))
    for number, (before, after) in enumerate(zip(states, states[1:], strict=False)):
        due = number % 2 == 1
        expected = after.learner.params["policy"] if due else before.masking
        checks.same(after.masking, expected)
    never = tiny.run(MASKED, 2, tiny.HYPER._replace(mask_every=0))[0]
    checks.same(never[-1].masking, tiny.policy_params())


def test_a_mask_that_allows_everything_is_ppo_bit_for_bit():
    free, named = tiny.run(FREE, 3, EVERY_2)
    plain, metrics = tiny.run(PPO, 3, EVERY_2)
    for one, other in zip(free, plain, strict=True):
        checks.same(one.learner, other.learner)
        checks.same(one.elastic, other.elastic)
    for one, other in zip(named, metrics, strict=True):
        checks.same(one, other)


def test_devices_agree_under_a_mask_and_on_dealt_out_tokens():
    config = dataclasses.replace(
        MASKED, minibatch_of="tokens", minibatches=3, whiten_advantages="minibatch"
    )
    state, drawn, _ = scored()
    scores = np.linspace(-1.0, 2.0, tiny.ROWS).astype(np.float32)
    learn = functools.partial(policy_gradient.learn, **tiny.fixed(config))
    alone, metrics = jax.jit(learn)(state, drawn, scores, tiny.traced(EVERY_2))
    layout = parallel.data(2)
    program = layout.compile(learn, rows_in=(1, 2))
    rows = layout.shard_rows(jax.device_get((drawn, scores)))
    shared, named = program(state, *rows, tiny.traced(EVERY_2))
    for part in ("params", "opt_state"):
        jax.tree.map(
            lambda x, y: close(x, y, rtol=1e-5, atol=1e-5),
            getattr(shared.learner, part),
            getattr(alone.learner, part),
        )
    for name in metrics:
        close(named[name], metrics[name], rtol=1e-4, atol=1e-5)


def test_a_mask_wants_its_penalty_in_the_reward():
    with pytest.raises(ValueError, match="masked=True and kl_in='loss'.*\"reward\""):
        tiny.config(masked=True, kl_in="loss")
