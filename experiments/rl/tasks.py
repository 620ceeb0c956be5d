"""What is reinforced: the prompts, the policy, the human text and the reward."""

import dataclasses
import functools

from rlhf_jax.cli import sampled
from rlhf_jax.tasks import models, prompt_rewards, prompts, rows


def make(config, setting):
    """The `Task` of a run."""
    given, layout = setting.given, setting.layout
    learned, gold = map(prompt_rewards.imported, (given.reward, given.gold))
    model, params, tokenizer = models.read_decoder(
        "--policy", given.policy, config.dtype
    )
    train, held, said = rows.parts(given.dataset, given.data, among=("prompt",))
    texts = None
    if given.texts is not None:
        texts = prompts.texts(given.texts, config.texts_split, config.data.eval_rows)
    task = prompts.create(
        model,
        layout.put(params),
        tokenizer,
        train,
        held,
        lengths=(config.data.length, config.max_new_tokens),
        cue=config.data.cue,
        texts=texts,
        temperature=config.temperature,
        **sampled.draws(config, tokenizer),
    )
    how = {"label": config.label, "dtype": config.dtype, "folder": setting.folder}
    how |= {"task": task, "layout": layout, "timeout": config.reward_timeout}
    reward = prompt_rewards.several(
        learned,
        config.rewards,
        config.reward_weights,
        normalized=config.normalizes_rewards,
        **how,
    )
    base, truth = models.base(config.policy, given.policy), None
    if config.gold:
        gold = prompt_rewards.create(*gold, config.gold, **how)
        truth = functools.partial(prompt_rewards.as_gold, task, gold, layout)
    about = [*said, *task.facts.get("about", ())]
    return dataclasses.replace(
        task,
        rewards={"proxy": lambda seed: reward},
        truth=truth,
        facts={"base": base, "about": about},
    )
