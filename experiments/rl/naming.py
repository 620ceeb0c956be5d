"""What the method of a run is called, what it is made of, and what it leaves unread."""

import operator
import types

from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import variants
from rlhf_jax.cli import fields

ALGORITHMS = (
    *("ppo", "reinforce", "rloo", "grpo", "dr_grpo", "dapo", "gspo"),
    *("reinforce_plus_plus", "reinforce_plus_plus_baseline", "rsf", "online_dpo"),
)
NAMES = {
    "dr_grpo": "Dr. GRPO",
    "reinforce_plus_plus": "REINFORCE++",
    "reinforce_plus_plus_baseline": "REINFORCE++ baseline",
    "online_dpo": "online DPO",
}
AVERAGED = {
    "grpo": "over each response, then over responses",
    "bnpo": "over the tokens of a minibatch",
    "dapo": "over the tokens of a rollout",
    "dr_grpo": "over responses times the longest possible length",
    "luspo": "over responses, tokens summed",
}
STD = {"group": "std of a group", "batch": "std of the batch", "none": "no std"}
_CLIPPED = ("grpo", "bnpo", "dapo", "dr_grpo", "luspo")  # the others have no clip
_DEFAULT = policy_gradient.Hyper()


def variant(config):
    """The `variants.Variant` that the flags make."""
    given = fields.of(config.rl, policy_gradient.Config)
    return variants.of(types.SimpleNamespace(algorithm=config.algorithm, **given))


def clips(config):
    """(ε, ε upwards) that the flags make."""
    return variants.clips(variant(config), config.rl)


def penalised(config):
    """Whether a KL penalty is paid; online DPO's β is in its objective."""
    return config.rl.kl_coef > 0 and variant(config).kl_in in ("reward", "loss")


def label(config):
    """The name in pictures and tables: "GRPO + KL (β 0.1, no std)"."""
    name = NAMES.get(config.algorithm, config.algorithm.upper())
    if config.algorithm == "dapo" and config.rl.dynamic_sampling == 1:
        name = "DAPO without dynamic sampling"
    said = [f"β {config.beta:g}"] * bool(config.beta)
    said += _differences(config)
    name += " + KL" * penalised(config) + f" ({', '.join(said)})" * bool(said)
    return name + " + Elastic Reset" * config.elastic_reset


def _differences(config):
    """What flags change of the method that --algorithm names, in a few words each."""
    rl, row, plain = config.rl, variant(config), variants.VARIANTS[config.algorithm]
    if row.kl_in != plain.kl_in and rl.kl_coef and row.kl_in != "none":
        yield f"KL in the {row.kl_in}"
    if row.loss_type != plain.loss_type:
        yield f"{row.loss_type} loss"
    if row.scale_rewards != plain.scale_rewards:
        yield STD[row.scale_rewards]
    if row.importance_sampling_level != plain.importance_sampling_level:
        yield f"{row.importance_sampling_level.replace('_', ' ')} ratios"
    low, high = clips(config)
    if (rl.clip, rl.clip_high) != (None, None):
        yield f"clip {low:g}" + f" to {high:g}" * (low != high)
    if rl.delta != _DEFAULT.delta:
        yield f"δ {rl.delta:g}"
    if rl.off_policy_mask_threshold != _DEFAULT.off_policy_mask_threshold:
        yield f"off-policy bound {rl.off_policy_mask_threshold:g}"
    if rl.entropy_coef:
        yield f"entropy {rl.entropy_coef:g}"
    if rl.dynamic_sampling > 1:
        yield f"dynamic sampling {rl.dynamic_sampling}"
    if rl.mask_truncated_completions:
        yield "truncated left out"
    if rl.soft_punish_cache:
        yield f"overlong punished {rl.soft_punish_cache}"


def objective(config):
    """The loss in a line, for the reader."""
    row = variant(config)
    if row.advantage == "best":
        return f"likelihood of the best of {config.candidates} candidates"
    if not row.has_ratio:
        return None
    low, high = clips(config)
    level = row.importance_sampling_level
    of = "a token" if level == "token" else "a response"
    if row.loss_type == "cispo":
        text = f"CISPO, the ratio of {of} weighs {high:g} at most"
    elif row.loss_type in _CLIPPED:
        text = f"ratio of {of} clipped at 1 − {low:g} and 1 + {high:g}"
    else:
        text = f"{row.loss_type.upper()}, which has no clip"
    average = {"cispo": "dapo", "vespo": "dapo", "sapo": "grpo"}
    text += f"; loss averaged {AVERAGED[average.get(row.loss_type, row.loss_type)]}"
    if row.advantage == "group":
        text += f"; advantages: {STD[row.scale_rewards]}"
    return text


def conflicts(config):
    """Flags that contradict the method, or that it would not read, and why."""
    for names, reason in _conflicts(config):
        given = (x for x in names if operator.attrgetter(x)(config) is not None)
        yield tuple(given), reason


def _conflicts(config):
    rl, row = config.rl, variant(config)
    whole = ("algorithm", "rl.loss_type", "rl.importance_sampling_level")
    if rl.minibatch_of == "tokens" and not variants.of_tokens(row):
        reason = "it averages over whole responses; deal out rows"
        yield (*whole, "rl.minibatch_of"), reason
    yield from _unread_by_loss(rl, row)
    if rl.scale_rewards is not None and row.advantage != "group":
        reason = "only GRPO and its variants divide by a standard deviation"
        yield ("algorithm", "rl.scale_rewards"), reason
    if rl.dynamic_sampling > 1 and config.algorithm not in variants.GROUPED:
        reason = "it compares no candidates, so no group is without a signal"
        yield ("algorithm", "rl.dynamic_sampling"), reason
    if rl.kl_in is not None and row.kl_in == "objective":
        yield ("algorithm", "rl.kl_in"), "its β is that of DPO's objective"
    if row.kl_in == "none" and rl.kl_coef not in (0, _DEFAULT.kl_coef):
        reason = "it has no KL penalty; add --rl.kl-in loss or reward"
        yield ("algorithm", "rl.kl_in", "rl.kl_coef"), reason
    if rl.use_bias_correction_kl and row.kl_in != "loss":
        reason = "there is no KL in the loss; add --rl.kl-in loss"
        yield ("algorithm", "rl.kl_in", "rl.use_bias_correction_kl"), reason
    if rl.entropy_coef and row.kl_in == "objective":
        reason = "DPO's loss is of whole responses and has no entropy"
        yield ("algorithm", "rl.entropy_coef"), reason
    if rl.soft_punish_cache > config.max_new_tokens:
        reason = "every response would be punished; choose fewer tokens"
        yield ("rl.soft_punish_cache", "max_new_tokens"), reason


def _unread_by_loss(rl, row):
    """Flags of a surrogate that another loss does not read."""
    names = ("loss_type", "importance_sampling_level", "clip", "clip_high", "delta")
    names += ("off_policy_mask_threshold",)
    unread, reason = names, "its loss has no ratio"
    if row.has_ratio:
        clip = row.loss_type in _CLIPPED
        unread = () if clip else ("clip", "delta")
        unread += ("clip_high",) * (row.loss_type in ("sapo", "vespo"))
        unread += ("importance_sampling_level",) * (row.loss_type == "vespo")
        for loss in ("sapo", "vespo"):
            of_loss = [x for x in _DEFAULT._fields if x.startswith(f"{loss}_")]
            unread += tuple(of_loss) if row.loss_type != loss else ()
        reason = "this loss does not read it"
    for name in unread:
        if getattr(rl, name) != getattr(_DEFAULT, name, None):
            yield ("algorithm", *dict.fromkeys(("rl.loss_type", f"rl.{name}"))), reason
    high = 1 + variants.clips(row, rl)[1]
    if rl.delta <= high:
        reason = f"δ bounds ratios beyond the clip; choose more than {high:g}"
        yield ("rl.delta", "rl.clip_high", "rl.clip"), reason
