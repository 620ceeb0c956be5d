"""What a run says before it starts."""

import math

from experiments.rl import naming
from rlhf_jax import elastic_reset
from rlhf_jax.cli import recipe


def lines(config, study, layout):
    """What is about to happen, before it does."""
    task, adapter, rl = study.task, study.settings.adapter, config.rl
    count, width = task.prompts.tokens.shape
    said = [
        f"policy {config.policy}, {rewarded(config)}, {config.label_of_method}",
        *[f"gold {config.gold}, which nothing learns from"] * bool(config.gold),
        *judged(task.rewards["proxy"](config.seed)),
        *filter(None, [naming.objective(config)]),
        penalty(config),
        *drawn(config),
        *task.facts.get("about", ()),
        f"{count} prompts of up to {width} tokens, {len(task.eval_prompts.tokens)} "
        f"held out; responses of up to {config.max_new_tokens}, {rl.rows} a step",
        *filtered(config),
    ]
    if adapter is not None:
        said.append(f"adapters of rank {adapter.rank} are trained")
    if config.elastic_reset:
        weight = elastic_reset.retained_weight(rl.decay, rl.reset_every)
        said.append(
            f"resets every {rl.reset_every} steps, EMA decay {rl.decay:g}: "
            f"{weight:.2f} of the way is kept"
        )
    return (*said, recipe.steps_on(study, layout))


def rewarded(config):
    """What is learned from: one reward, or the sum of several by their weights."""
    names = config.rewards
    if len(names) == 1 and not config.reward_weights:
        return f"reward {names[0]}"
    weights = config.reward_weights or (1.0,) * len(names)
    terms = (f"{w:g} · {x}" for w, x in zip(weights, names, strict=True))
    return (
        f"reward {' + '.join(terms)}" + ", each normalised" * config.normalizes_rewards
    )


def judged(reward):
    """Who judges, where a labeler pays."""
    return [f"{reward.facts['judge']}"] if "judge" in reward.facts else []


def penalty(config):
    """The KL penalty, for the reader."""
    rl, where = config.rl, naming.variant(config).kl_in
    if where == "none":
        return "no KL penalty (--rl.kl-in loss adds one)"
    if not rl.kl_coef:
        return "no KL penalty (--rl.kl-coef 0)"
    if config.learns_pairs:
        return f"DPO's β {rl.kl_coef:g} (--rl.kl-coef)"
    text = f"KL penalty in the {where}, β {rl.kl_coef:g} (--rl.kl-coef)"
    if rl.kl_controller == "proportional" or math.isfinite(rl.kl_horizon):
        text += f", then adapted towards {rl.kl_target:g} nats"
    return text


def filtered(config):
    """What keeps tokens from being sampled, and texts that end a response."""
    names = ("top_k", "top_p", "min_p", "repetition_penalty")
    given = [(n, getattr(config, n)) for n in names]
    changed = [(n, x) for n, x in given if x != getattr(type(config), n)]
    if changed:
        said = (f"{name.replace('_', ' ')} {value:g}" for name, value in changed)
        yield f"sampled with {', '.join(said)}"
    if config.stop_strings:
        yield "a response ends with " + " or ".join(map(repr, config.stop_strings))


def drawn(config):
    """Which samples count, where some do not."""
    rl = config.rl
    if rl.dynamic_sampling > 1:
        yield (
            f"{rl.dynamic_sampling} times as many prompts are drawn and scored as are "
            "learned from: groups whose scores differ go first"
        )
    if rl.mask_truncated_completions:
        yield "responses that are cut off carry no loss"
    if rl.soft_punish_cache:
        yield (
            f"the last {rl.soft_punish_cache} tokens before the maximum length cost up "
            "to 1"
        )
