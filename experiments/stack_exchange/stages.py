"""What comes before PPO: a fine-tuned model, a reward model, and a judge.

Each stage is a run of a plain recipe in a folder of its own, and is made once. A stage
that is done is not run again; one that was stopped goes on from its last checkpoint;
one with other flags is refused. What a stage makes is a model directory.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments import reward_model, sft
from experiments.stack_exchange import parts
from rlhf_jax import huggingface
from rlhf_jax.cli import command, experiment, options
from rlhf_jax.data import bpe
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.runtime import loop, processes

SCRATCH = "scratch:"
TRAIN = "train"


class Stages(NamedTuple):
    """What the stages made, and the parts of the data."""

    policy: str  # the fine-tuned model: a directory, or a name on the hub
    reward: str
    judge: str
    parts: parts.Parts


def make(config, setting):
    """`Stages` of an experiment's flags, made where they are not there yet.

    Args: config: of the experiment; setting: `experiment.Setting`, whose folder holds
    a folder for each stage. Raises loop.Interrupted when a signal stopped one of them.
    """
    base = config.policy
    if base.startswith(SCRATCH):
        base = _from_scratch(config, setting)
    tokenizer = huggingface.load_tokenizer(base)
    trains_judge = config.judge == TRAIN
    data = parts.read(config.dataset, config.data, tokenizer, judge=trains_judge)
    files = processes.broadcast_from_first(
        lambda: parts.write(setting.folder / "data", data)
    )
    policy, reward, judge = config.fine_tuned, config.reward, config.judge
    if policy == TRAIN:
        policy = _run(sft, sft_config(config, base, files), "sft", setting)
    if reward == TRAIN:
        stage = reward_config(config, policy, files, "reward")
        reward = _run(reward_model, stage, "reward_model", setting)
    if trains_judge:
        stage = reward_config(config, policy, files, "judge")
        judge = _run(reward_model, stage, "judge", setting)
    return Stages(policy, reward, judge, data)


def check(config):
    """Raises ValueError for misuse that can be told before anything is made."""
    if config.policy.startswith(SCRATCH) and config.sft_lora.rank:
        raise ValueError(
            f"--sft-lora.rank {config.sft_lora.rank}: fresh weights of --policy "
            f"{config.policy} have nothing to adapt; leave the rank at 0"
        )
    options.check(sft_config(config, "", {}))
    options.check(reward_config(config, "", {}, ""))


def sft_config(config, base, files):
    """The flags of the fine-tuning, as `experiments.sft` has them."""
    data = options.Data(eval_dataset=files.get("heldout"), length=config.sft_length)
    what = {"model": base, "dataset": files.get("finetune", ""), "data": data}
    how = {"fit": config.sft, "lora": config.sft_lora, "seed": config.first_seed}
    return sft.Config(**what, **how, pack=True, eval_samples=0, **_shared(config))


def reward_config(config, base, files, name):
    """The flags of a reward model, as `experiments.reward_model` has them.

    name: of the file it learns from, "reward" or "judge".
    """
    data = options.Data(eval_dataset=files.get("evaluation"), length=config.data.length)
    what = {"model": base, "dataset": files.get(name, ""), "data": data}
    how = {"fit": config.reward_fit, "lora": config.reward_lora}
    return reward_model.Config(
        **what,
        **how,
        ended=config.answers.end == "token",
        center=config.center,
        seed=config.first_seed + (name == "judge"),
        **_shared(config),
    )


def _shared(config):
    """Flags that the stages have in common with the whole experiment."""
    names = ("devices", "layout", "dtype", "keep", "cache", "log")
    return {name: getattr(config, name) for name in names}


def _run(recipe, config, name, setting):
    """The model directory of a stage, as text; trained now where it is not there yet.

    Args: recipe: a module of `experiments` with `run(config)`; config: its Config,
    without an output; name: of the stage and of its folder.
    """
    folder = setting.folder / name
    begun = (folder / command.CONFIG).exists()
    config = dataclasses.replace(config, output=str(folder), resume=begun)
    if begun and _done(folder):
        command.run_dir(config, name)  # refuses a stage with other flags
        experiment.say(setting.console, [f"{name}: done already, in {folder}"])
        return str(folder / "model")
    experiment.say(setting.console, ["", name])
    try:
        if stop := loop.stopped(setting.signals):
            raise loop.Interrupted(f"{stop} before the stage {name}")
        recipe.run(config)
    except loop.Interrupted as stop:
        stop.folder = setting.folder  # what goes on is the whole experiment
        raise
    return str(folder / "model")


def _done(folder):
    """Whether the recipe in a folder has written its last file, the report."""
    return (folder / "results.json").exists() and (folder / "report.md").exists()


def _from_scratch(config, setting):
    """A directory with fresh weights and a tokenizer of the texts, made once.

    --policy "scratch:<preset>" names a shape of `models.config`; the fine-tuning is
    what trains it.
    """
    folder = setting.folder / "scratch" / "model"
    if (folder / "config.json").exists():
        return str(folder)
    data, answers = config.data, config.answers
    room = data.prompt_length + answers.longest
    length = max(data.length, room, config.sft_length, answers.window)
    texts = parts.texts(config.dataset, data)
    tokenizer = bpe.train(texts, config.vocabulary, folder.with_name("tokenizer"))
    name = config.policy.removeprefix(SCRATCH)
    shape = model_config.preset(name, vocab_size=len(tokenizer), max_length=length)
    model, key = decoder.Decoder(shape), jax.random.key(config.first_seed)
    start = jax.jit(model.init)(key, jnp.zeros((1, 4), jnp.int32))
    huggingface.save(folder, model, start["params"], tokenizer)
    experiment.say(setting.console, [f"{config.policy}: fresh weights in {folder}"])
    return str(folder)
