"""Tiny policies and the RL programs that tests run on them, each compiled once.

The bigram policy looks its logits up in a table: no matmul, so whatever the layout of
rows its logits are equal bit for bit, and everything compiles fast.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import optim, sampling, trees
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder, heads

VOCAB, ROWS, PROMPT, NEW = 11, 8, 3, 5
PAD, EOS, LUCKY = 0, 1, 4
HYPER = policy_gradient.Hyper(learning_rate=1e-3, kl_coef=0.1, decay=0.5)


class Bigram:
    """A generator whose next token depends on the last one alone: logits = table[last].

    Params {"table": [V, V]}.
    """

    def apply(self, variables, *args, method=None, at=slice(None), segments=None):
        table = variables["params"]["table"]
        if method == "prefill":
            return table[args[0][:, -1]], ()
        if method == "step":
            return table[args[0]], ()
        if method in ("repeat", "replace", "take"):
            return args[-1]  # nothing: what comes next depends on the last token alone
        if method == "unembed":
            return args[0]
        return table[args[0][:, at]]  # "hidden", and the logits themselves


class BigramValue:
    """Values by the last token. Params {"values": [V]}."""

    def apply(self, variables, tokens, mask=None, at=slice(None)):
        return variables["params"]["values"][tokens[:, at]]


BIGRAM = Bigram()
DECODER = decoder.Decoder(
    model_config.llama(
        vocab_size=VOCAB,
        width=8,
        layers=1,
        heads=2,
        max_length=PROMPT + NEW,
    )
)


def sampler(**changes):
    """A static sampling.Config of this vocabulary."""
    plain = {"max_new_tokens": NEW, "eos_ids": (EOS,), "pad_id": PAD}
    return sampling.Config(**{**plain, **changes})


def config(algorithm="ppo", sampler_changes=(), **changes):
    """A static policy_gradient.Config; few, small updates unless told otherwise."""
    plain = {"epochs": 2, "minibatches": 2, "candidates": 1, "keep_initial_value": True}
    if algorithm in policy_gradient.GROUPED:
        plain["candidates"] = 2
    return policy_gradient.Config(
        sampling=sampler(**dict(sampler_changes)),
        algorithm=algorithm,
        **{**plain, **changes},
    )


def networks(config, model=BIGRAM):
    """Policy and critic of a Config."""
    if config.value == "shared":
        return policy_gradient.Networks(model, heads.Scalar())
    own = BigramValue() if model is BIGRAM else heads.Value(model.config)
    return policy_gradient.Networks(model, own)


@functools.cache
def policy_params(model=BIGRAM, seed=0):
    """Random weights of a policy."""
    if model is BIGRAM:
        table = np.random.default_rng(seed).normal(size=(VOCAB, VOCAB))
        return {"table": jnp.asarray(table, jnp.float32)}
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(seed), tokens)["params"]
    # Far enough from uniform logits to have something to keep and something to lose.
    return trees.copy(jax.tree.map(lambda x: 1.5 * x, params))


def params(config, model=BIGRAM, seed=0):
    """{"policy", "value"}, the critic not zero, so that it matters."""
    policy = policy_params(model, seed)
    if config.value == "shared":
        width = VOCAB if model is BIGRAM else model.config.width
        value = heads.Scalar().init(jax.random.key(0), jnp.zeros((1, 1, width)))
        value = value["params"]
    elif model is BIGRAM:
        value = {"values": jnp.zeros(VOCAB, jnp.float32)}
    else:
        head = heads.init_head(heads.Value(model.config), jax.random.key(0))
        value = heads.from_decoder(policy, head)
    return {"policy": policy, "value": shake(value, seed + 1, size=0.1)}


def traced(hyper=HYPER, **changes):
    """Hyper as arrays, so that no value of it is a constant of the program."""
    return jax.tree.map(jnp.asarray, hyper._replace(**changes))


def start(config, hyper=HYPER, model=BIGRAM, seed=0):
    """The state before the first iteration."""
    return policy_gradient.init(
        params(config, model, seed),
        optim.transformation(config.optimizer),
        hyper,
        jax.random.key(seed),
        config=config,
    )


def batch(seed=0, rows=ROWS):
    """Left-padded prompts of different lengths, none of them with a LUCKY token."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, PROMPT + 1, rows)
    mask = (np.arange(PROMPT) >= PROMPT - lengths[:, None]).astype(np.int32)
    tokens = rng.integers(LUCKY + 1, VOCAB, (rows, PROMPT)).astype(np.int32)
    ids = np.arange(rows, dtype=np.int32)
    return policy_gradient.Batch(np.where(mask, tokens, PAD), mask, ids)


def score(frozen, tokens, mask):
    """How often the LUCKY token was written, times `frozen`. [b, S] → [b]."""
    return frozen * ((tokens == LUCKY) & (mask != 0)).sum(-1).astype(jnp.float32)


FROZEN = jnp.float32(1.0)


def fixed(config, model=BIGRAM):
    """The static arguments of policy_gradient's functions."""
    return {
        "networks": networks(config, model),
        "tx": optim.transformation(config.optimizer),
        "config": config,
    }


@functools.cache
def iteration(config, model=BIGRAM):
    """`(state, frozen, batch, hyper) -> (state, rows, metrics)`, compiled."""
    return jax.jit(
        functools.partial(
            policy_gradient.iteration, **fixed(config, model), score=score
        )
    )


@functools.cache
def rollout(config, model=BIGRAM):
    """`(state, batch) -> Rollout`, compiled."""
    return jax.jit(
        functools.partial(
            policy_gradient.rollout, networks=networks(config, model), config=config
        )
    )


@functools.cache
def experience(config, model=BIGRAM):
    """`(state, rollout, scores, hyper) -> Experience`, compiled."""
    return jax.jit(
        functools.partial(
            policy_gradient.experience, networks=networks(config, model), config=config
        )
    )


def shake(tree, seed, size=0.3):
    """A pytree with noise on it."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + jnp.asarray(size * rng.normal(size=x.shape), x.dtype), tree
    )


def moved(config, model=BIGRAM):
    """A state of which policy, critic, average and initial weights all differ."""
    state = start(config, model=model)
    learner = state.learner._replace(params=shake(state.learner.params, 3))
    elastic = state.elastic._replace(average=shake(state.elastic.average, 4))
    return state._replace(learner=learner, elastic=elastic)


def run(config, iterations, hyper=HYPER, model=BIGRAM, state=None, seed=0):
    """The states after 0, 1, ... iterations, and the metrics of each."""
    state = start(config, hyper, model, seed) if state is None else state
    states, metrics = [state], []
    for number in range(iterations):
        state, _, named = iteration(config, model)(
            states[-1], FROZEN, batch(number), traced(hyper)
        )
        states.append(state)
        metrics.append(jax.device_get(named))
    return states, metrics


@functools.cache
def recorded(config):
    """A state off its reference, a rollout of it, scores, and what they become."""
    state = moved(config)
    drawn = rollout(config)(state, batch())
    scores = np.linspace(-1.0, 2.0, drawn.tokens.shape[0]).astype(np.float32)
    data = experience(config)(state, drawn, scores, traced())
    return state, drawn, scores, data


def logps_by_hand(table, rollout, temperature=1.0):
    """log π of the response tokens under a bigram table, in float64. [B, T]."""
    table = np.asarray(table, np.float64) / temperature
    logps = table - np.log(np.exp(table).sum(-1, keepdims=True))
    tokens = np.asarray(rollout.tokens)
    drawn = logps[tokens[:, PROMPT - 1 : -1], tokens[:, PROMPT:]]
    return drawn * np.asarray(rollout.response_mask)


def whitened(x, valid):
    """x with mean 0 and variance 1 over what is valid, in float64."""
    valid = np.asarray(valid)
    inside = x[valid != 0]
    return (x - inside.mean()) / np.sqrt(inside.var() + 1e-8) * valid
