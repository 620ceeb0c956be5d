"""What an iteration is given besides its settings, and what it carries."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import elastic_reset, kl, ranges, training, trees


class Networks(NamedTuple):
    """The modules an iteration applies; `value` reads tokens, or the policy's hidden
    states when the trunk is shared.

    initial: π₀'s weights, where the state does not hold them. A state is donated, so it
    cannot share the buffers of weights that others read as well.
    """

    policy: Any
    value: Any = None
    initial: Any = None


class State(NamedTuple):
    """Everything an iteration carries; no field has a device axis."""

    learner: training.State  # params {"policy": ..., "value": ...}
    elastic: elastic_reset.State  # EMA and π₀ of the policy; () for what is not held
    initial_value: Any  # the critic's start, {} when not kept
    controller: kl.Controller  # β
    key: jax.Array  # [] typed, constant: every iteration folds its number in
    iteration: jax.Array  # [] int32
    masking: Any = ()  # weights of the policy that masks, () where nothing is masked


class Batch(NamedTuple):
    """The prompts of an iteration, with the global id of each row."""

    tokens: jax.Array  # [B, P] int32, left-padded
    mask: jax.Array  # [B, P] int32
    row_ids: jax.Array  # [B] int32


class Experience(NamedTuple):
    """A scored rollout, ready to learn from; N rows of all devices."""

    tokens: jax.Array  # [N, S] int32
    mask: jax.Array  # [N, S] int32
    response_mask: jax.Array  # [N, T] int32
    logps: jax.Array  # [N, T] float32, of the policy that wrote them
    reference_logps: jax.Array  # [N, T] float32
    values: jax.Array  # [N, T] float32
    scores: jax.Array  # [N] float32, after the missing-EOS rule
    ended: jax.Array  # [N] bool
    allowed: Any = ()  # [N, T, ⌈V/8⌉] uint8, bits of what could be drawn; (): anything
    free_logps: Any = ()  # [N, T] float32, `logps` without the mask
    weights: Any = ()  # [N, T] float32, of importance sampling; (): all are 1

    @property
    def unmasked(self):
        """log π of the tokens, whatever was allowed: what a KL penalty compares."""
        return self.logps if isinstance(self.allowed, tuple) else self.free_logps


class Targets(NamedTuple):
    """What the losses read besides the tokens; N rows."""

    advantages: jax.Array  # [N, T] float32
    returns: jax.Array  # [N, T] float32


def elastic(state, networks):
    """EMA and π₀ of a `State`, wherever π₀ is held: `elastic_reset.State`."""
    if networks.initial is None:
        return state.elastic
    return state.elastic._replace(initial=networks.initial)


def init(params, tx, hyper, key, *, config, hold_initial=True):
    """The state before the first iteration; shares no buffer with its arguments.

    Args: params {"policy": pytree, "value": pytree} float32 (no value is kept where
    none is learned); tx from `optim.transformation(config.optimizer)`; key [] typed;
    hold_initial: False where `Networks.initial` has π₀.
    Raises ValueError for scalars that are out of their range, or that need weights
    which are not held.
    """
    ranges.check(hyper)
    _check_held(hyper, config)
    value = params["value"] if config.learns_value else {}
    params = trees.copy({"policy": params["policy"], "value": value})
    return State(
        learner=training.init(params, tx),
        elastic=_elastic(params["policy"], config.keep_average, hold_initial),
        initial_value=trees.copy(value) if config.keep_initial_value else {},
        controller=kl.init(hyper.kl_coef),
        key=jnp.array(key, copy=True),
        iteration=jnp.zeros((), jnp.int32),
        masking=trees.copy(params["policy"]) if config.masked else (),
    )


def _elastic(policy, average, initial):
    held = elastic_reset.init(policy)
    held = held if average else held._replace(average=())
    return held if initial else held._replace(initial=())


def _check_held(hyper, config):
    def asks(value):
        return not isinstance(value, jax.core.Tracer) and np.any(value)

    if not config.keep_initial_value and asks(hyper.reset_value):
        raise ValueError(
            "reset_value=True resets the critic to its start, which "
            "keep_initial_value=False throws away; set keep_initial_value=True"
        )
    for name in ("reset_every", "reset_first", "reference_average"):
        if not config.keep_average and asks(getattr(hyper, name)):
            raise ValueError(
                f"{name}={getattr(hyper, name)} needs the EMA, which "
                "keep_average=False does not hold; set keep_average=True"
            )
