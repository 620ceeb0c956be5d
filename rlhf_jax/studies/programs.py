"""The compiled programs of policy-gradient runs, and what they start from.

Programs depend on a static configuration alone: methods, seeds and studies that share
it share them. Their first argument is the base, the weights a task starts from, held
once for all who read them: adapters are trained beside it; where all weights are
trained, it is the KL reference and where a reset leads back to.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import optim, trees
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.models import heads, lora
from rlhf_jax.runtime import loop
from rlhf_jax.studies import trainable


class Programs(NamedTuple):
    """Compiled once for a static configuration; each takes the base first."""

    networks: Any
    tx: Any
    iteration: (
        Callable | None
    )  # (base, state, frozen, batch, hyper); None: no JAX score
    rollout: Callable  # (base, state, batch)
    learn: Callable  # (base, state, rollout, scores, hyper)
    reset: Callable  # (base, state, hyper)


@functools.lru_cache(maxsize=32)
def compile_programs(model, config, layout, *, score=None, adapter=None):
    """The programs of `policy_gradient` on a layout; state is donated.

    Args: config: policy_gradient.Config; score(frozen, tokens, mask) -> [B], where the
    reward is a JAX function; adapter: lora.Config, or None.
    """
    networks, tx = _parts(model, config)
    bind = functools.partial(networks_on, networks, config, adapter)
    iteration, draw, learn, reset = _steps(bind, tx, config, score)
    fused = None
    if score is not None:
        fused = layout.compile(
            iteration, rows_in=(3,), rows_out=(1,), outputs=3, donate=(1,)
        )
    return Programs(
        networks=networks,
        tx=tx,
        iteration=fused,
        rollout=layout.compile(draw, rows_in=(2,), rows_out=(0,), outputs=1),
        learn=layout.compile(learn, rows_in=(2, 3), outputs=2, donate=(1,)),
        reset=jax.jit(reset, donate_argnums=1),
    )


def _parts(model, config):
    """(the networks of a configuration, the transformation of their gradients)."""
    value = heads.Value(model.config, config.value_bias)
    if config.value == "shared":
        value = heads.Scalar()
    tx = optim.transformation(config.optimizer)
    return policy_gradient.Networks(model, value), tx


def _steps(bind, tx, config, score):
    """(iteration, rollout, learn, reset) of `policy_gradient`, the base as their first
    argument; bind(base) -> Networks."""
    fixed = {"tx": tx, "config": config}

    def iteration(base, state, frozen, batch, hyper, *, axis_name):
        given = {"networks": bind(base), "score": score, "axis_name": axis_name}
        return policy_gradient.iteration(state, frozen, batch, hyper, **given, **fixed)

    def draw(base, state, batch, *, axis_name):
        del axis_name
        return policy_gradient.rollout(state, batch, networks=bind(base), config=config)

    def learn(base, state, rollout, scores, hyper, *, axis_name):
        given = {"networks": bind(base), "axis_name": axis_name}
        return policy_gradient.learn(state, rollout, scores, hyper, **given, **fixed)

    def reset(base, state, hyper):
        return policy_gradient.reset(state, hyper, networks=bind(base), **fixed)

    return iteration, draw, learn, reset


# What members of a population have one each of (0), and what they share (None).
STATE = policy_gradient.State(0, 0, 0, 0, 0, iteration=None, masking=0)
_BATCH = policy_gradient.Batch(0, 0, row_ids=None)
_CALENDAR = ("reset_every", "reset_first")  # 0 and False for all: the host resets
HYPER = policy_gradient.Hyper(
    *(None if name in _CALENDAR else 0 for name in policy_gradient.Hyper._fields)
)


@functools.lru_cache(maxsize=32)
def compile_population(model, config, layout, *, score, adapter, base, frozen):
    """The `Programs` of a population; `reset` takes besides who is due, [N] bool.

    A member with `loop.MAX_SKIPPED` updates in a row that were not finite no longer
    changes.

    Args: layout: `population.Population`; base, frozen: 0 where members have one each,
    None where they share it; the others as of `compile_programs`.
    """
    networks, tx = _parts(model, config)
    sampling = dataclasses.replace(config.sampling, stop_axis=layout.axis_name)
    config = dataclasses.replace(config, sampling=sampling)
    bind = functools.partial(networks_on, networks, config, adapter)
    iteration, draw, learn, reset = _steps(bind, tx, config, score)

    def one_iteration(base, state, *rest):
        new, rows, metrics = iteration(base, state, *rest, axis_name=None)
        return _unless_lost(state, new), rows, metrics

    def one_learn(base, state, *rest):
        new, metrics = learn(base, state, *rest, axis_name=None)
        return _unless_lost(state, new), metrics

    def reset_due(base, state, hyper, due):
        found = trees.where(due, reset(base, state, hyper), state)
        return found._replace(iteration=state.iteration)

    compile_ = functools.partial(layout.compile, donate=(1,))
    given = (base, STATE)
    fused = None
    if score is not None:
        axes = {"axes_in": (*given, frozen, _BATCH, HYPER), "axes_out": (STATE, 0, 0)}
        fused = compile_(one_iteration, **axes, whole=(2,))
    return Programs(
        networks=networks,
        tx=tx,
        iteration=fused,
        rollout=layout.compile(
            functools.partial(draw, axis_name=None),
            axes_in=(*given, _BATCH),
            axes_out=0,
        ),
        learn=compile_(
            one_learn,
            axes_in=(*given, 0, 0, HYPER),
            axes_out=(STATE, 0),
            whole=(1,),
        ),
        reset=compile_(reset_due, axes_in=(*given, HYPER, 0), axes_out=STATE),
    )


def _unless_lost(state, new):
    """The state after an iteration, of a lost member the one before."""
    kept = trees.where(state.learner.skipped < loop.MAX_SKIPPED, new, state)
    return kept._replace(iteration=new.iteration)


def networks_on(networks, config, adapter, base):
    """The networks on a base: π₀, or what adapters and the critic's are beside."""
    if adapter is None:
        return networks._replace(initial=base)
    policy, value = networks.policy, networks.value
    if config.value == "separate":
        value = lora.Bound(value, {"trunk": _trunk(base)}, adapter.scale)
    policy = trainable.bind(policy, base, adapter)
    return policy_gradient.Networks(policy, value)


def _trunk(params):
    return {name: part for name, part in params.items() if name != "unembedding"}


def initial_params(model, policy, config, key):
    """{"policy": π₀, "value": a critic on π₀'s trunk with a zero head} (N 11).

    Args: policy: `Trainable` of the policy; key: of fresh adapters. With adapters:
    those of each that change nothing yet, and the critic's head.
    """
    params = policy.params if policy.adapter is None else policy.start(key)
    if not config.learns_value:
        return {"policy": params, "value": {}}
    if config.value == "shared":
        hidden = jnp.zeros((1, 1, model.config.width))
        return {"policy": params, "value": heads.Scalar().init(key, hidden)["params"]}
    critic = heads.Value(model.config, config.value_bias)
    head = heads.init_head(critic, key)
    if policy.adapter is None:
        value = heads.from_decoder(policy.params, head)
    else:
        trunk = policy.start(jax.random.fold_in(key, 1))
        value = {"trunk": trunk, "head": head}
    return {"policy": params, "value": value}
