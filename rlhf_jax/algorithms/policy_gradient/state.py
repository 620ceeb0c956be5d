"""What an iteration is told and what it carries: Config, Hyper, State and friends.

What decides shapes and branches is in Config; what a sweep changes is in Hyper and
traced, so that PPO, PPO with a KL penalty, Elastic Reset and its ablations are one
compiled program. Details are named after "The N Implementation Details of RLHF with
PPO" (N) and "The N+ Implementation Details of RLHF with PPO" (N+).
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import elastic_reset, kl, optim, sampling, training, trees

GROUPED = ("rloo", "grpo", "rsf")  # compare the candidates of a prompt


@dataclasses.dataclass(frozen=True)
class Config:
    """The statics of an iteration: shapes and branches."""

    sampling: sampling.Config
    algorithm: Literal["ppo", "reinforce", "rloo", "grpo", "rsf"] = "ppo"
    candidates: int = 1  # K rows a prompt; rloo, grpo and rsf need at least 2
    epochs: int = 4  # passes over a rollout (N 16)
    minibatches: int = 1  # updates a pass (N 16, N+ 18)
    minibatch_of: Literal["rows", "tokens"] = "rows"  # RL4LMs deals out tokens
    transitions: int = 0  # tokens learned from, row after row; 0: all (of "tokens")
    micro_batches: int = 1  # parts over which a minibatch is accumulated
    value: Literal["separate", "shared"] = "separate"  # N+ 13, N 11
    value_bias: bool = True  # of a separate network's head
    kl_in: Literal["reward", "loss"] = "reward"  # N 17; GRPO's paper: in the loss
    whiten_rewards: bool = False  # N 18; N+ 20: off
    whiten_advantages: Literal["rollout", "minibatch", "none"] | None = None
    missing_eos: Literal["none", "replace", "subtract"] = "none"  # N+ 16
    entropy_bonus: bool = False  # whether the entropy enters the loss
    recompute_logps: bool = False  # old log-probs from a full pass (N+ 19: no)
    tick: Literal["iteration", "epoch", "update"] = "iteration"  # the EMA's clock
    early_stop: bool = False  # leave out the passes after one that moved too far
    keep_initial_value: bool = False  # hold the critic's start, to reset to it
    masked: bool = False  # draw what a masking policy allows (NLPO)
    mask_top_p: float = 0.9  # its nucleus; 1: everything
    mask_least: int = 100  # tokens that are always allowed
    optimizer: optim.Config = dataclasses.field(default_factory=optim.Config)

    def __post_init__(self):
        if self.algorithm in GROUPED and self.candidates < 2:
            raise ValueError(
                f"{self.algorithm} compares the candidates of a prompt and got "
                f"candidates={self.candidates}; set it to 2 or more"
            )
        for name in ("candidates", "epochs", "minibatches", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is needed")
        if self.transitions and self.minibatch_of != "tokens":
            raise ValueError(
                f"transitions={self.transitions} counts tokens, and minibatches are of "
                'rows here; set minibatch_of="tokens", or transitions=0'
            )
        if self.masked and self.kl_in == "loss":
            raise ValueError(
                'masked=True with kl_in="loss": the loss has no log-probs without the '
                'mask to compare with the reference\'s; set kl_in="reward"'
            )

    @property
    def learns_value(self):
        """Whether a critic is trained: PPO's, or REINFORCE's learned baseline."""
        return self.algorithm in ("ppo", "reinforce")

    @property
    def whitening(self):
        """Over which rows advantages are whitened; PPO's default is the rollout."""
        if self.algorithm == "rsf":  # a likelihood, whose weights have no mean
            return "none"
        if self.whiten_advantages is not None:
            return self.whiten_advantages
        return "rollout" if self.algorithm == "ppo" else "none"


class Hyper(NamedTuple):
    """The traced scalars of an iteration: what a sweep changes without compiling."""

    learning_rate: Any = 2e-4
    total_updates: Any = 1  # until a linear or cosine schedule reaches 0 (N 5)
    kl_coef: Any = 0.05  # β, or where an adaptive β starts
    kl_target: Any = 6.0  # nats a sample (N 20)
    kl_horizon: Any = float("inf")  # samples; infinite: β stays fixed (N+ 18)
    kl_proportional: Any = False  # β as RL4LMs moves it; kl_target in nats a token
    chi2_weight: Any = 0.0  # share of χ² in a penalty on the reward
    reference_average: Any = False  # KL against the EMA, not the initial weights
    clip: Any = 0.2
    value_clip: Any = 0.2  # N 19
    value_coef: Any = 0.1  # N 19
    entropy_coef: Any = 0.0
    gamma: Any = 1.0  # N 15
    lam: Any = 0.95
    missing_eos: Any = 1.0  # the score becomes −this, or loses this
    reward_bound: Any = float("inf")  # scores squeezed between ± this
    decay: Any = 0.95  # the EMA's
    tick_every: Any = 1  # iterations between ticks, where those are its clock
    reset_every: Any = 0  # iterations; 0: never
    reset_first: Any = False  # also at the end of iteration 0
    reset_target: Any = elastic_reset.AVERAGE
    reset_weight: Any = 0.0  # of the policy, where the target is an interpolation
    reset_average: Any = True  # the EMA returns to the initial weights too
    reset_value: Any = False  # the critic too; needs keep_initial_value
    reset_optimizer: Any = False  # the optimiser's moments too
    mask_every: Any = 5  # iterations between copies of the policy that masks
    stop_kl: Any = float("inf")  # nats a token; how far is too far for early_stop


class Networks(NamedTuple):
    """The modules an iteration applies; `value` reads tokens, or the policy's hidden
    states when the trunk is shared."""

    policy: Any
    value: Any = None


class State(NamedTuple):
    """Everything an iteration carries; no field has a device axis."""

    learner: training.State  # params {"policy": ..., "value": ...}
    elastic: elastic_reset.State  # EMA and initial weights of the policy
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

    @property
    def unmasked(self):
        """log π of the tokens, whatever was allowed: what a KL penalty compares."""
        return self.logps if isinstance(self.allowed, tuple) else self.free_logps


class Targets(NamedTuple):
    """What the losses read besides the tokens; N rows."""

    advantages: jax.Array  # [N, T] float32
    returns: jax.Array  # [N, T] float32


def init(params, tx, hyper, key, *, config):
    """The state before the first iteration; shares no buffer with its arguments.

    Args: params {"policy": pytree, "value": pytree} float32 (no value is kept where
    none is learned); tx from `optim.transformation(config.optimizer)`; key [] typed.
    """
    asked = hyper.reset_value
    if not config.keep_initial_value and not isinstance(asked, jax.core.Tracer):
        if np.any(asked):
            raise ValueError(
                "reset_value=True resets the critic to its start, which "
                "keep_initial_value=False throws away; set keep_initial_value=True"
            )
    value = params["value"] if config.learns_value else {}
    params = trees.copy({"policy": params["policy"], "value": value})
    return State(
        learner=training.init(params, tx),
        elastic=elastic_reset.init(params["policy"]),
        initial_value=trees.copy(value) if config.keep_initial_value else {},
        controller=kl.init(hyper.kl_coef),
        key=jnp.array(key, copy=True),
        iteration=jnp.zeros((), jnp.int32),
        masking=trees.copy(params["policy"]) if config.masked else (),
    )
