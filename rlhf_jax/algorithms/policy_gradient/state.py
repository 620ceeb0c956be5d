"""What an iteration is given and what it carries: Config, Hyper, State and friends.

What decides shapes and branches is in Config; what a sweep changes is in Hyper and
traced, so that PPO, PPO with a KL penalty, Elastic Reset and its ablations are one
compiled program. Details are named after "The N Implementation Details of RLHF with
PPO" (N) and "The N+ Implementation Details of RLHF with PPO" (N+).
"""

import dataclasses
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import elastic_reset, kl, optim, ranges, sampling, training, trees

GROUPED = ("rloo", "grpo", "rsf", "online_dpo")  # compare the candidates of a prompt


@dataclasses.dataclass(frozen=True)
class Config:
    """The statics of an iteration: shapes and branches."""

    sampling: sampling.Config
    algorithm: Literal["ppo", "reinforce", "rloo", "grpo", "rsf", "online_dpo"] = "ppo"
    candidates: ranges.Count = 1
    """K samples a prompt; rloo, grpo and rsf need at least 2, online_dpo exactly 2."""
    epochs: ranges.Count = 1  # N 16
    """Passes over a rollout."""
    minibatches: ranges.Count = 4  # N 16, N+ 18
    """Updates a pass."""
    minibatch_of: Literal["rows", "tokens"] = "rows"
    """tokens: the tokens of all rows are dealt out, as in RL4LMs; an update then costs
    a pass over all rows."""
    transitions: ranges.Natural = 0
    """With tokens: how many of a rollout are learned from, row after row; 0: all."""
    micro_batches: ranges.Count = 1
    """Parts over which a minibatch is accumulated, when memory is short."""
    value: Literal["separate", "shared"] = "separate"  # N+ 13, N 11
    """A separate value network, or a head on the shared trunk."""
    value_bias: bool = True
    """Of a separate network's head."""
    kl_in: Literal["reward", "loss"] = "reward"
    """N 17; GRPO's paper has the KL in the loss."""
    scale_rewards: Literal["group", "none"] = "group"
    """Of GRPO: scores are divided by the standard deviation of their group, or not."""
    whiten_rewards: bool = False
    """N 18; N+ 20: off."""
    whiten_advantages: Literal["rollout", "minibatch", "none"] | None = None
    """By default over the rollout for PPO, and not for the others."""
    missing_eos: Literal["none", "replace", "subtract"] = "none"  # N+ 16
    """What a response without an end is worth: its score, or the penalty in place of
    it, or its score less the penalty."""
    entropy_bonus: bool = False
    """Whether the entropy enters the loss."""
    recompute_logps: bool = False
    """Old log-probs come from a full pass, not from sampling (N+ 19: no)."""
    importance_sampling_correction: Annotated[
        float, ranges.Range(at_least=0, infinite=True)
    ] = 0.0
    """Weigh each token by the ratio of the policy's to the sampler's probability, where
    top-k, top-p, min-p or a penalty make the two differ: capped at this; 0: do not."""
    tick: Literal["iteration", "epoch", "update"] = "iteration"
    """The EMA's clock."""
    early_stop: bool = False
    """Leave out the passes after one that moved the policy too far."""
    keep_initial_value: bool = False
    """Hold the critic's initial weights, to reset to them."""
    keep_average: bool = True
    """Hold the policy's EMA; without it there are no resets, nor a KL to it."""
    packed: bool = False
    """Learn from the candidates of a prompt as one row, which reads the prompt once;
    updates then take whole groups. Saves time where prompts are long."""
    masked: bool = False
    """Draw only what a masking policy allows (NLPO)."""
    mask_top_p: Annotated[float, ranges.Range(above=0, at_most=1)] = 0.9
    """NLPO draws from the masking policy's nucleus of this probability; 1: from
    everything."""
    mask_least: ranges.Count = 100
    """The nucleus holds at least so many tokens."""
    optimizer: optim.Config = dataclasses.field(default_factory=optim.Config)

    def __post_init__(self):
        ranges.check(self)

    def conflicts(self):
        """Fields that contradict each other, and why."""
        if self.algorithm in GROUPED and self.candidates < 2:
            reason = (
                "it compares the candidates of a prompt; set candidates to 2 or more"
            )
            yield ("algorithm", "candidates"), reason
        if self.pairs and self.candidates != 2:
            yield (
                ("algorithm", "candidates"),
                "it learns from pairs; set candidates to 2",
            )
        if self.pairs and self.minibatch_of == "tokens":
            reason = "it learns from whole responses; deal out rows"
            yield ("algorithm", "minibatch_of"), reason
        if self.pairs and self.early_stop:
            reason = "it learns from a rollout without a ratio that could go too far"
            yield ("algorithm", "early_stop"), reason
        corrected = self.importance_sampling_correction
        if corrected and (self.pairs or self.algorithm == "rsf"):
            reason = "it learns from samples as they are, without a ratio to correct"
            yield ("algorithm", "importance_sampling_correction"), reason
        if self.transitions and self.minibatch_of == "rows":
            reason = "only where tokens are dealt out can some be left out"
            yield ("transitions", "minibatch_of"), reason
        if self.masked and self.kl_in == "loss":
            reason = (
                "the loss has no log-probs without the mask to compare with the "
                'reference\'s; set kl_in="reward"'
            )
            yield ("masked", "kl_in"), reason

    @property
    def together(self):
        """How many adjacent rows are read as one: K where candidates are packed."""
        return self.candidates if self.packed else 1

    @property
    def block(self):
        """How many adjacent rows an update takes together: the candidates of a prompt
        where they are packed, or are a pair."""
        return self.candidates if self.packed or self.pairs else 1

    @property
    def pairs(self):
        """Whether the loss compares two samples of a prompt: online DPO."""
        return self.algorithm == "online_dpo"

    @property
    def penalty_in(self):
        """Where β enters: `kl_in`, or the objective itself, as that of online DPO."""
        return "objective" if self.pairs else self.kl_in

    @property
    def learns_value(self):
        """Whether a critic is trained: PPO's, or REINFORCE's learned baseline."""
        return self.algorithm in ("ppo", "reinforce")

    @property
    def whitening(self):
        """Over which rows advantages are whitened; PPO's default is the rollout."""
        if self.pairs or self.algorithm == "rsf":
            return "none"  # likelihoods, whose weights have no mean
        if self.whiten_advantages is not None:
            return self.whiten_advantages
        return "rollout" if self.algorithm == "ppo" else "none"


class Hyper(NamedTuple):
    """The scalars of an iteration, traced: what a sweep changes without compiling.

    Each is a number or a [] array of that type.
    """

    learning_rate: ranges.Positive = 5e-4
    """Of AdamW, at the peak of its schedule."""
    total_updates: ranges.Count = 1
    """Until a linear or cosine schedule reaches 0 (N 5)."""
    kl_coef: ranges.NonNegative = (
        0.1  # read by `init` alone; the controller has it then
    )
    """β of the methods with a KL penalty, on rewards of standard deviation 1; where an
    adaptive β starts."""
    # On the microworld's seeds 900 to 907 PPO then keeps at least 91% of its best gold.
    kl_target: ranges.Positive = 6.0  # N 20
    """What an adaptive β aims at, in nats a sample; a token for the proportional one.
    """
    kl_horizon: ranges.Limit = float("inf")  # N+ 18
    """Samples over which β adapts; inf keeps it fixed."""
    kl_proportional: bool = False
    """β as RL4LMs moves it."""
    chi2_weight: ranges.Share = 0.0
    """Share of χ² in a penalty on the reward."""
    reference_average: bool = False
    """KL against the EMA, not the initial weights."""
    clip: ranges.Positive = 0.2
    """How far the ratio of new to old probabilities may gain from moving."""
    value_clip: ranges.Limit = 0.2  # N 19
    """How far a value may gain from moving; inf: the plain squared error."""
    value_coef: ranges.NonNegative = 0.1  # N 19
    """Of the value loss, which is half a squared error."""
    entropy_coef: ranges.NonNegative = 0.0
    gamma: ranges.Share = 1.0  # N 15
    """Discount of a reward, once a token."""
    lam: ranges.Share = 0.95
    """λ of generalised advantage estimation."""
    missing_eos: ranges.NonNegative = 1.0
    """The penalty of a response without an end."""
    reward_bound: ranges.Limit = float("inf")
    """Scores are squeezed between ± this."""
    decay: ranges.Share = 0.93
    """Of the EMA, once a tick; 0.93 over 14 iterations retains w = 0.64."""
    tick_every: ranges.Natural = 1
    """Iterations between ticks, where those are its clock."""
    reset_every: ranges.Natural = 0
    """Iterations between resets; 0: never."""
    reset_first: bool = False
    """Also reset at the end of iteration 0, as the authors' IMDB code does."""
    reset_target: Literal[0, 1, 2] = elastic_reset.AVERAGE
    reset_weight: ranges.Share = 0.0
    """Of the policy, where the target is an interpolation."""
    reset_average: bool = True
    """The EMA returns to the initial weights too."""
    reset_value: bool = False
    """The critic is reset too; needs keep_initial_value."""
    reset_optimizer: bool = False
    """The optimiser's moments are reset too."""
    mask_every: ranges.Natural = 5
    """Iterations until the masking policy is the policy again; 0: never."""
    stop_kl: Annotated[float, ranges.Range(infinite=True)] = float("inf")
    """Nats a token from the policy that wrote a rollout; how far is too far for
    early_stop. Below 0 one pass is made, inf: all are."""


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
