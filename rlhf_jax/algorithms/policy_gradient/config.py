"""The settings of an iteration: Config and Hyper.

What decides shapes and branches is in Config; what a sweep changes is in Hyper and
traced, so that PPO, PPO with a KL penalty, Elastic Reset and its ablations are one
compiled program. Details are named after "The N Implementation Details of RLHF with
PPO" (N) and "The N+ Implementation Details of RLHF with PPO" (N+).
"""

import dataclasses
from typing import Annotated, Literal, NamedTuple

from rlhf_jax import elastic_reset, optim, ranges, sampling
from rlhf_jax.algorithms.policy_gradient import variants

GROUPED = variants.GROUPED


@dataclasses.dataclass(frozen=True)
class Config:
    """The statics of an iteration: shapes and branches."""

    sampling: sampling.Config
    algorithm: Literal[tuple(variants.VARIANTS)] = "ppo"
    candidates: ranges.Count = 1
    """K samples a prompt; methods that compare them need at least 2, online_dpo exactly
    2."""
    epochs: ranges.Count = 1  # N 16
    """Passes over a rollout: TRL's num_iterations."""
    minibatches: ranges.Count = 4  # N 16, N+ 18
    """Updates a pass."""
    minibatch_of: Literal["rows", "tokens"] = "rows"
    """tokens: the tokens of all rows are dealt out, as in RL4LMs; an update then costs
    a pass over all rows."""
    transitions: ranges.Natural = 0
    """With tokens: how many of a rollout are learned from, row after row; 0: all."""
    rows_per_slot: ranges.Count = 1
    """Responses that take turns in one row of the batch that is sampled: where one ends
    the next begins, and none waits for the longest; 1: all are sampled side by side.
    With --layout data on one host."""
    micro_batches: ranges.Count = 1
    """Parts over which a minibatch is accumulated, when memory is short."""
    value: Literal["separate", "shared"] = "separate"  # N+ 13, N 11
    """A separate value network, or a head on the shared trunk."""
    value_bias: bool = True
    """Of a separate network's head."""
    loss_type: Literal[tuple(variants.AVERAGE)] | None = None
    """As in TRL. How losses of tokens are averaged: grpo, over a response, then over
    responses; bnpo, over the tokens of a minibatch; dapo, of the rollout; dr_grpo, over
    rows times the maximum length; luspo, summed over a response. Or another loss:
    cispo, sapo, vespo. By default the method's; bnpo for ppo and rloo."""
    scale_rewards: Literal["group", "batch", "none"] | None = None
    """Standard deviation that GRPO and its variants divide advantages by; by default
    group, and none for dr_grpo."""
    importance_sampling_level: Literal["token", "sequence", "sequence_token"] | None = (
        None
    )
    """What a ratio is of; sequence: of a response, per token (GSPO). By default token.
    """
    mask_truncated_completions: bool = False
    """Responses that were cut off carry no loss (DAPO's overlong filtering)."""
    dynamic_sampling: ranges.Count = 1
    """Prompts drawn for each that is learned from: those whose candidates' scores
    differ go first (DAPO); 1: all are learned from. Sampling and scoring cost so many
    times as much."""
    kl_in: Literal["reward", "loss", "none"] | None = None
    """Where the KL penalty is (N 17). By default in the reward; in the loss for grpo
    and reinforce_plus_plus_baseline; dr_grpo, dapo and gspo have none."""
    use_bias_correction_kl: bool = False
    """Multiply the KL in the loss by the ratio, for an unbiased gradient; TRL's default
    is yes."""
    whiten_rewards: bool = False
    """N 18; N+ 20: off."""
    whiten_advantages: Literal["rollout", "minibatch", "none"] | None = None
    """By default over the rollout for PPO and REINFORCE++, and not for the others."""
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
        if self.rows_per_slot > 1 and self.sampling.stop_axis is not None:
            reason = "vmapped runs would take turns at different times; leave one out"
            yield ("rows_per_slot", "sampling.stop_axis"), reason
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
        if self.minibatch_of == "tokens" and not variants.of_tokens(self.variant):
            names = ("loss_type", "importance_sampling_level")
            names = [name for name in names if getattr(self, name) is not None]
            reason = "the loss is of whole responses; set minibatch_of to rows"
            yield ("algorithm", *names, "minibatch_of"), reason
        if self.mask_truncated_completions and not self.sampling.eos_ids:
            reason = (
                "without end tokens every response is cut off, and none would count"
            )
            yield ("mask_truncated_completions", "sampling.eos_ids"), reason
        if self.masked and self.penalty_in == "loss":
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
    def variant(self):
        """What the method is made of: its row, with the fields that are set."""
        return variants.of(self)

    @property
    def penalty_in(self):
        """Where β enters: "reward", "loss", "none"; "objective", online DPO's own."""
        return self.variant.kl_in

    @property
    def oversampling(self):
        """How many times more prompts are drawn than are learned from."""
        return self.dynamic_sampling if self.algorithm in GROUPED else 1

    def prompts(self, rows):
        """How many prompts are drawn so that `rows` samples are learned from."""
        return rows // self.candidates * self.oversampling

    @property
    def learns_value(self):
        """Whether a critic is trained: PPO's, or REINFORCE's learned baseline."""
        return self.variant.advantage == "gae"

    @property
    def whitening(self):
        """Over which rows advantages are whitened; PPO's default is the rollout."""
        if self.pairs or self.algorithm == "rsf":
            return "none"  # likelihoods, whose weights have no mean
        return self.whiten_advantages or self.variant.whitening


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
    clip: ranges.Positive | None = None
    """How far the ratio of new to old probabilities may gain from moving; by default
    0.2, of gspo 3e-4."""
    clip_high: ranges.Positive | None = None
    """The same upwards; by default as clip, or where that is not set either 0.28 of
    dapo and 4e-4 of gspo. With the loss cispo: the most a ratio weighs, by default 5.
    """
    delta: ranges.Limit = float("inf")
    """The most a ratio weighs where a token is made less likely, above 1 + clip_high;
    inf: no bound."""
    off_policy_mask_threshold: ranges.Limit = float("inf")
    """Nats a token by which a response may have become less likely since it was drawn;
    beyond that it carries no loss where its advantage is below 0. inf: no bound."""
    sapo_temperature_pos: ranges.Positive = 1.0
    """Of the loss sapo, where advantages are above 0."""
    sapo_temperature_neg: ranges.Positive = 1.05
    """Of the loss sapo, elsewhere."""
    vespo_k_pos: ranges.Positive = 2.0
    """Power of the ratio in the loss vespo, where advantages are not below 0."""
    vespo_lambda_pos: ranges.Positive = 3.0
    """Decay in the ratio in the loss vespo, where advantages are not below 0."""
    vespo_k_neg: ranges.Positive = 3.0
    """Power of the ratio in the loss vespo, elsewhere."""
    vespo_lambda_neg: ranges.Positive = 2.0
    """Decay in the ratio in the loss vespo, elsewhere."""
    soft_punish_cache: ranges.Natural = 0
    """Tokens before the maximum length over which the score falls by up to 1 (DAPO's
    soft overlong punishment); 0: none."""
    value_clip: ranges.Limit = 0.2  # N 19
    """How far a value may gain from moving; inf: the plain squared error."""
    value_coef: ranges.NonNegative = 0.1  # N 19
    """Of the value loss, which is half a squared error."""
    entropy_coef: ranges.NonNegative = 0.0
    """Of the entropy, per token, in the loss."""
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
