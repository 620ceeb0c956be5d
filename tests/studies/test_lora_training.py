"""LoRA in RL and SFT: only adapters move, and they move as the full gradient says."""

import functools
import json
import types

import checks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from rlhf_jax import ema, optim, trees
from rlhf_jax.algorithms import policy_gradient, sft
from rlhf_jax.models import lora
from rlhf_jax.runtime import checkpoint, parallel
from rlhf_jax.studies import methods, programs, supervised
from rlhf_jax.studies import policy_gradient as policy_gradients
from rlhf_jax.studies.task import Reward
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.types import Prompts, Tokens

ADAPTER = lora.Config(rank=2, alpha=4.0)
LAYOUT = parallel.data(1)
HYPER = tiny.HYPER._replace(learning_rate=1e-2)
SHARED = pytest.param("shared", marks=pytest.mark.slow)  # and a score on the host
VALUES = ["separate", SHARED]
TASK = types.SimpleNamespace(
    model=tiny.DECODER,
    params=LAYOUT.put(tiny.policy_params(tiny.DECODER)),
    prompts=Prompts(*tiny.batch()[:2]),
    columns={},
    decode=None,
)
JAX_REWARD = Reward(score=tiny.score, frozen=tiny.FROZEN)
HOST_REWARD = Reward(arrays=lambda rollout: (rollout.tokens == tiny.LUCKY).sum(-1))


def same(a, b):
    """Equal bit for bit, keys as numbers."""

    def plain(x):
        typed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if typed else x)

    checks.same(jax.tree.map(plain, a), jax.tree.map(plain, b))


def compiled(value="separate", adapter=ADAPTER):
    """With a JAX score for the separate critic, without one for the shared trunk."""
    score = tiny.score if value == "separate" else None
    config = tiny.config(value=value)
    return config, programs.compile_programs(
        tiny.DECODER, config, LAYOUT, score=score, adapter=adapter
    )


def trainer(value="separate", adapter=ADAPTER, task=TASK, layout=LAYOUT, **hyper):
    reward = JAX_REWARD if value == "separate" else HOST_REWARD
    member = policy_gradients.Member(
        task,
        tiny.config(value=value),
        HYPER._replace(**hyper),
        reward,
        seed=0,
        rows=tiny.ROWS,
        adapter=adapter,
    )
    return policy_gradients.trainer(member, layout)


@functools.cache
def ran(value="separate", count=3, **hyper):
    """The states after 0, 1, ... iterations, and their metrics. Steps take over the
    buffers of their state: what is kept is a copy."""
    train = trainer(value, **hyper)
    state = train.start()
    states, metrics = [jax.device_get(plain(state))], []
    for number in range(count):
        state, named, _ = train.advance(state, number)
        states.append(jax.device_get(plain(state)))
        metrics.append(jax.device_get(named))
    return states, metrics


def close_trees(a, b):
    chex.assert_trees_all_close(a, b, rtol=1e-5, atol=2e-5)


def plain(state):
    return state._replace(key=jax.random.key_data(state.key))


def names(tree):
    return {path.rpartition("/")[-1] for path in trees.paths(tree)}


# What is trained


@pytest.mark.parametrize("value", VALUES)
def test_nothing_but_adapters_and_the_critic_is_there_to_change(value):
    before = jax.device_get(TASK.params)
    (first, *_, last), metrics = ran(value)
    checks.same(jax.device_get(TASK.params), before)
    params = last.learner.params
    for tree in (params["policy"], last.elastic.average, last.elastic.initial):
        assert names(tree) == {"lora_a", "lora_b"}
    critic = {"kernel", "bias"} | (
        {"lora_a", "lora_b"} if value == "separate" else set()
    )
    assert names(params["value"]) == critic
    moments = trees.size(last.learner.opt_state) - 1
    assert moments == 2 * trees.size(params)
    for path, now, then in zip(
        trees.paths(params),
        jax.tree.leaves(params),
        jax.tree.leaves(first.learner.params),
        strict=True,
    ):
        assert (now != then).any(), path
    assert [m["optim/finite"] for m in metrics] == [1.0] * 3


@pytest.mark.parametrize("value", VALUES)
def test_it_begins_at_the_base_with_a_ratio_of_1(value):
    """The KL reference is the base with the initial adapters, which change nothing."""
    _, metrics = ran(value)
    for name in ("val/ratio_first_error", "objective/kl_token_max"):
        assert metrics[0][name] < 1e-5
    assert metrics[1]["objective/kl_token_max"] > 1e-3
    assert all(m["val/ratio_first_error"] < 1e-5 for m in metrics)


def test_the_first_rollout_is_that_of_the_model_without_adapters():
    """Whose programs ask for no base."""
    batch = LAYOUT.shard_rows(tiny.batch())
    state = trainer().start()
    ours = compiled("separate", ADAPTER)[1].rollout(TASK.params, state, batch)
    config, made = compiled("separate", None)
    start = LAYOUT.put(tiny.start(config, model=tiny.DECODER))
    theirs = made.rollout((), start, batch)
    for name in ("tokens", "mask"):
        checks.same(getattr(ours, name), getattr(theirs, name))
    checks.close(ours.logps, theirs.logps, rtol=1e-6, atol=1e-6)


def test_the_base_is_an_argument_neither_constant_nor_given_away():
    """One program serves any base."""
    train, (_, made) = trainer(), compiled("separate", ADAPTER)
    batch, hyper = LAYOUT.shard_rows(tiny.batch()), tiny.traced(HYPER)
    other = LAYOUT.put(tiny.policy_params(tiny.DECODER, seed=5))
    seen = []
    for base in (TASK.params, other, TASK.params):
        _, _, metrics = made.iteration(base, train.start(), tiny.FROZEN, batch, hyper)
        seen.append(float(metrics["objective/entropy"]))
    assert seen[0] == seen[2] != seen[1]
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(TASK.params))


def test_a_state_shares_no_buffer_with_the_base_nor_with_itself():
    state = trainer().start()
    parts = jax.tree.leaves((TASK.params, state._replace(key=())))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in parts]
    assert len(set(pointers)) == len(pointers)


def test_an_update_of_sft_is_the_chain_rule_through_a_and_b():
    """G being the merged kernel's gradient: dA = s·G Bᵀ, dB = s·Aᵀ G; then Adam."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, tiny.VOCAB, (4, 6)).astype(np.int32)
    texts = Tokens(tokens, np.ones_like(tokens), np.ones_like(tokens))
    config = optim.Config(max_grad_norm=None)
    objective = supervised.Objective(tiny.DECODER, sft.make_loss, sft.count, config)
    train = supervised.trainer(
        Trainable(TASK.params, ADAPTER), texts, objective, rows=4,
        steps=2, learning_rate=1e-2, seed=0, key=jax.random.key(0), layout=LAYOUT,
        prefix="sft/",
    )  # fmt: skip
    state = train.start()
    shaken = jax.device_get(tiny.shake(state.learner.params, 1))
    learner = state.learner._replace(params=shaken)
    state, metrics, _ = train.advance(LAYOUT.put(state._replace(learner=learner)), 0)
    merged = lora.merge(TASK.params, shaken, scale=ADAPTER.scale)
    loss = sft.make_loss(tiny.DECODER)
    count = sft.count(texts)
    (value, _), dense = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        merged, texts, count
    )
    checks.close(metrics["sft/nll"], value, rtol=1e-5, atol=1e-5)

    def chain(part, grad):
        if "lora_a" not in part:
            return {name: chain(part[name], grad[name]) for name in part}
        return {
            "lora_a": ADAPTER.scale
            * jnp.einsum("lio,lro->lir", grad["kernel"], part["lora_b"]),
            "lora_b": ADAPTER.scale
            * jnp.einsum("lir,lio->lro", part["lora_a"], grad["kernel"]),
        }

    grads = chain(shaken, dense)
    adam = optax.adam(1e-2, eps=config.eps)
    updates, _ = adam.update(grads, adam.init(shaken))
    expected = optax.apply_updates(shaken, updates)
    close_trees(train.policy(state), expected)
    assert names(train.policy(state)) == {"lora_a", "lora_b"}
    assert metrics["sft/finite"] == 1.0


def test_the_fresh_critic_adapts_the_base_by_an_a_of_its_own():
    params = jax.device_get(trainer().start().learner.params)
    own = params["value"]["trunk"]["layers"]["attention"]["query"]
    policy = params["policy"]["layers"]["attention"]["query"]
    assert (own["lora_a"] != policy["lora_a"]).all() and not own["lora_b"].any()
    assert not params["value"]["head"]["kernel"].any()  # (N 11)


# Averages and resets


def test_the_average_is_of_a_and_b_apart_and_a_reset_goes_there():
    states, _ = ran()
    initial = states[0].learner.params["policy"]
    expected = initial
    for state in states[1:]:
        policy = state.learner.params["policy"]
        expected = ema.update(expected, policy, decay=HYPER.decay)
        close_trees(state.elastic.average, expected)
    train = trainer()
    state = train.start()
    for number in range(3):
        state, _, _ = train.advance(state, number)
    critic = jax.device_get(state.learner.params["value"])
    moments = jax.device_get(state.learner.opt_state)
    state = train.reset(state)
    checks.same(jax.device_get(train.policy(state)), states[-1].elastic.average)
    checks.same(jax.device_get(train.average(state)), initial)
    checks.same(jax.device_get(state.learner.params["value"]), critic)
    checks.same(jax.device_get(state.learner.opt_state), moments)
    state = train.reset(state)  # the same random A again, and B = 0
    checks.same(jax.device_get(train.policy(state)), initial)
    merged = lora.merge(TASK.params, train.policy(state), scale=ADAPTER.scale)
    checks.same(jax.device_get(merged), jax.device_get(TASK.params))


def test_the_trainer_never_resets_by_itself():
    """Whatever clock its hyperparameters hold: the host loop has the calendar."""
    quiet, asked = trainer(), trainer(reset_every=1, reset_first=True)
    states = [train.advance(train.start(), 0)[0] for train in (quiet, asked)]
    same(*states)


def test_weights_and_mixtures_are_those_of_the_merged_policy():
    train = trainer()
    policy = tiny.shake(train.policy(train.start()), 2)
    merged = functools.partial(lora.merge, TASK.params, scale=ADAPTER.scale)
    joined = train.weights(policy)
    for path in ("embedding", "final_norm"):
        for ours, theirs in zip(
            *map(jax.tree.leaves, (joined[path], TASK.params[path])), strict=True
        ):
            assert ours is theirs  # held once
    checks.same(jax.device_get(lora.split(joined)[0]), jax.device_get(TASK.params))
    between = trees.lerp(TASK.params, merged(policy), 0.25)
    close_trees(merged(train.mix(policy, 0.25)), between)


def test_a_checkpoint_holds_no_base_and_goes_on_bit_for_bit(tmp_path):
    train = trainer()
    state, _, _ = train.advance(train.start(), 0)
    saver = checkpoint.Checkpointer(tmp_path, config_digest="lora")
    saver.save(1, {"state": state, "best": jax.device_get(train.policy(state))})
    (manifest,) = tmp_path.glob("*/manifest.json")
    saved = json.loads(manifest.read_text())["body"]["leaves"]
    saved = {leaf["path"]: np.prod(leaf["shape"]) for leaf in saved}
    arrays = [path for path, size in saved.items() if size > 1]
    assert all("lora_" in path or "value/head" in path for path in arrays)
    assert sum(saved.values()) < trees.size(TASK.params)
    shapes = jax.eval_shape(train.start)
    target = {"state": shapes, "best": jax.eval_shape(train.policy, shapes)}
    step, found, _ = saver.restore(LAYOUT.like(target))
    state = found["state"]
    for number in range(step, 3):
        state, _, _ = train.advance(state, number)
    checks.same(jax.device_get(plain(state)), ran()[0][3])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"rank": 2, "targets": ("q_proj",)}, "--lora: target 'q_proj' matches no lay"),
        ({"rank": 65}, "--lora: rank 65 does not fit layers/attention/query: .*1 to 8"),
        ({"rank": -1}, "rank=-1: must be a whole number of at least 0"),
    ],
)
def test_flags_that_do_not_fit_the_policy_are_one_clear_error(asked, words):
    with pytest.raises(ValueError, match=words):
        lora.adapter(lora.Config(**asked), TASK.params)
    assert lora.adapter(lora.Config(), TASK.params) is None
    assert lora.adapter(lora.Config(rank=2), TASK.params) == ADAPTER


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "fsdp"])
def test_two_devices_train_the_same_adapters(name):
    layout = parallel.layout(name, 2)
    task = types.SimpleNamespace(**{**vars(TASK), "params": layout.put(TASK.params)})
    reward = Reward(score=tiny.score, frozen=layout.put(tiny.FROZEN))
    train = policy_gradients.trainer(
        task, tiny.config(value="separate"), HYPER, reward, seed=0, rows=tiny.ROWS,
        layout=layout, adapter=ADAPTER,
    )  # fmt: skip
    state = train.start()
    for number in range(2):
        state, _, _ = train.advance(state, number)
    states, _ = ran()
    close_trees(jax.device_get(train.policy(state)), states[2].learner.params["policy"])


@pytest.mark.parametrize("name", ["ppo", "reinforce", "rloo", "grpo"])
def test_every_algorithm_has_a_state_under_lora(name):
    config = tiny.config(**{"candidates": 2, **methods.METHODS[name].train.static})

    def start(key):
        policy = Trainable(TASK.params, ADAPTER)
        params = programs.initial_params(tiny.DECODER, policy, config, key)
        tx = optim.transformation(config.optimizer)
        return policy_gradient.init(params, tx, HYPER, key, config=config)

    state = jax.eval_shape(start, jax.random.key(0))
    policy = state.learner.params["policy"]
    assert names(policy) == {"lora_a", "lora_b"}
    assert bool(state.learner.params["value"]) == config.learns_value
    assert trees.size(state.elastic) == 2 * trees.size(policy) + 1
