"""Reinforcement learning on your own prompts: PPO, REINFORCE, RLOO or GRPO.

Rows hold a column `prompt`, a text or a list of messages; other columns reach a reward
function by name. The reward is a reward model's directory (one label, or the
probability of --label), or a Python function of your own, TRL's signature:

    # rewards.py
    def short(prompts, completions, **columns):
        return [-float(len(text)) for text in completions]

    python -m experiments.rl --policy path/to/sft --dataset prompts.jsonl \\
        --reward rewards:short --algorithm rloo
    python -m experiments.rl --policy path/to/sft --dataset prompts.jsonl \\
        --reward runs/reward_model/<time>/model --elastic-reset --rl.reset-every 20

One method, one seed. The result is runs/rl/<time>/model, a directory that transformers
opens; report.md says what was gained and at what drift: NLL of human text (--texts, or
held-out completions or prompts) and exact KL from the policy as it was.
"""

import dataclasses
import time
from typing import Literal

import jax
import rich.console

from rlhf_jax import elastic_reset
from rlhf_jax.cli import command, options, recipes
from rlhf_jax.feedback import function
from rlhf_jax.models import lora
from rlhf_jax.reporting import report
from rlhf_jax.runtime import loop, metrics_log, progress
from rlhf_jax.studies import cells, evaluators, methods, session
from rlhf_jax.tasks import Reward, classifiers, models, prompts

AXES = ("drift/text_nll", "drift/kl_initial")


@dataclasses.dataclass(frozen=True)
class Config(recipes.Base):
    """Everything a run depends on."""

    policy: str = ""
    """A model directory, or a name on the hub."""
    dataset: str = ""
    """A hub name, a folder, or a file."""
    reward: str = ""
    """A reward model's directory or hub name, or module:function."""
    algorithm: Literal["ppo", "reinforce", "rloo", "grpo"] = "ppo"
    elastic_reset: bool = False
    """Every --rl.reset-every iterations policy ← EMA, then EMA ← initial."""
    steps: int = 100
    """Iterations."""
    eval_every: int = 20
    save_every: int = 20
    response_length: int = 64
    temperature: float = 1.0
    label: int = 1
    """The class that pays, where the reward is a classifier of several."""
    texts: str | None = None
    """Human text that drift is read on: a data set with a column text."""
    texts_split: str = "train"
    data: recipes.Data = dataclasses.field(default_factory=recipes.Data)
    """--data.length is of a prompt."""
    rl: options.RL = dataclasses.field(
        default_factory=lambda: options.RL(learning_rate=1e-5)
    )
    lora: options.Lora = dataclasses.field(default_factory=options.Lora)
    corner: options.Corner = dataclasses.field(default_factory=options.Corner)

    @property
    def method(self):
        """Its name in metrics.jsonl."""
        return self.algorithm + "_elastic_reset" * self.elastic_reset


CONFIG = Config()


def main():
    config = command.parse(CONFIG, description=__doc__)
    command.main(lambda: run(config))


def run(config):
    """The whole recipe; returns the folder of the run."""
    started = time.monotonic()
    console = rich.console.Console()
    recipes.check(config, needed=("policy", "dataset", "reward"))
    if config.steps < 1:
        raise ValueError(f"--steps {config.steps}: at least 1 is needed")
    options.check(config.rl)
    algorithm = statics(config)
    parts = algorithm.minibatches * algorithm.micro_batches
    batches = (config.rl.rows // parts, config.rl.rows // algorithm.candidates)
    place, layout = recipes.begin(config, "rl", batches)
    with loop.Signals() as signals:
        task = make_task(config, layout)
        algorithm = dataclasses.replace(algorithm, sampling=task.sampling)
        reward = make_reward(config, task, layout)
        adapter = options.adapter(config.lora, task.params)
        work = make_work(config, algorithm, task, reward, layout, adapter)
        command.write_config(place, config, layout)
        session.announce(
            console, about(config, task, adapter), config.steps, layout, place
        )
        state, records = session.run(
            work, config, place, layout=layout, console=console, signals=signals
        )
    policy, network = state.learner.params["policy"], task.model
    if adapter is not None:
        beside = place / "adapters"
        models.export_adapters(beside, network, policy, adapter, config.policy, console)
        policy = lora.merge(task.params, policy, scale=adapter.scale)
    models.export(place / "model", network, policy, task.tokenizer, console)
    finish(config, place, records, console, time.monotonic() - started)
    return place


def statics(config):
    """What is compiled in, the sampling but for the task's."""
    compared = config.algorithm in ("rloo", "grpo")
    return options.algorithm(
        config.rl,
        sampling=None,
        algorithm=config.algorithm,
        candidates=config.rl.candidates if compared else 1,
        kl_in="loss" if config.algorithm == "grpo" else "reward",
    )


def scalars(config):
    """What is traced: `policy_gradient.Hyper` with or without the resets."""
    rl = config.rl
    hyper = options.hyper(rl, config.steps)
    method = methods.METHODS["elastic_reset_kl" if config.elastic_reset else "ppo_kl"]
    return methods.overlay(hyper, method, decay=rl.decay, every=rl.reset_every)


def make_task(config, layout):
    """The prompts, the policy, and the human text."""
    model, params, tokenizer = models.read_decoder(
        "--policy", config.policy, config.dtype
    )
    train, held = recipes.rows(config, needed=("prompt",))
    written = config.texts and prompts.texts(
        config.texts, config.texts_split, config.data.eval_rows
    )
    return prompts.create(
        model,
        layout.place(params),
        tokenizer,
        train,
        held,
        lengths=(config.data.length, config.response_length),
        cue=config.data.cue,
        texts=written,
        temperature=config.temperature,
    )


def make_reward(config, task, layout):
    """What --reward names."""
    if ":" in config.reward:
        return Reward(host=prompts.as_asked(function.load(config.reward)))
    reward = classifiers.loaded(config.reward, task, layout, label=config.label)
    if reward.host is None:
        return reward
    return dataclasses.replace(reward, host=prompts.joined(reward.host))


def make_work(config, algorithm, task, reward, layout, adapter):
    """The trainer and the measurements as `session` drives them."""
    hyper = scalars(config)
    programs = cells.compile_programs(
        task.model, algorithm, layout, score=reward.score, adapter=adapter
    )
    trainer = cells.reinforcement(
        task,
        programs,
        algorithm,
        hyper,
        reward,
        seed=config.seed,
        rows=config.rl.rows,
        layout=layout,
        adapter=adapter,
    )
    judge = evaluators.Evaluator(
        task, layout, key=jax.random.key(config.seed), score=reward.score
    )

    def measure(state):
        return judge(trainer.weights(trainer.policy(state)), reward)

    resets = elastic_reset.calendar(
        config.steps,
        config.rl.reset_every if config.elastic_reset else 0,
        at_zero=config.rl.reset_first,
    )
    return session.Work(
        config.method,
        config.steps,
        trainer.start,
        trainer.advance,
        measure,
        reset=trainer.reset,
        resets=frozenset(resets),
        shown={
            "reward": "objective/scores",
            "kl": "objective/kl",
            "drift": "drift/text_nll",
        },
    )


def about(config, task, adapter):
    """Lines for the reader."""
    count, width = task.prompts.tokens.shape
    rl = config.rl
    lines = [
        f"policy {config.policy}, reward {config.reward}, {config.method}",
        f"{count} prompts of up to {width} tokens, {len(task.eval_prompts.tokens)} "
        f"held out; responses of up to {config.response_length}, {rl.rows} a step",
    ]
    if adapter is not None:
        lines.append(f"adapters of rank {adapter.rank} are trained")
    if config.elastic_reset:
        kept = elastic_reset.retained_weight(rl.decay, rl.reset_every)
        lines.append(
            f"resets every {rl.reset_every} steps, EMA decay {rl.decay:g}: {kept:.2f} "
            "of the way is kept"
        )
    return lines


def finish(config, place, records, console, wall):
    """The report, the table on the console, and where everything is."""
    corners = options.corners(config.corner, records)
    page = report.Study(
        title=f"{config.method} on {config.dataset}",
        question="What was gained, and at what drift?",
        axes=AXES,
        corners={axis: corners[axis] for axis in AXES},
        labels={**methods.LABELS, config.method: label(config)},
        place="these prompts and this policy",
        command=command.command(),
        provenance=command.provenance(config),
        notes=("One run of one seed: read it as descriptive.",),
    )
    rows = metrics_log.read(place / "samples.jsonl")
    found = report.write(place, records, page, rows=rows, wall=wall)
    report.show(found, labels=page.labels, console=console)
    for name in ("model", "front.png", "report.md"):
        console.print(str(place / name), highlight=False, soft_wrap=True)
    console.print(f"done in {progress.duration(wall)}", highlight=False)


def label(config):
    """The method as pictures print it."""
    name = {"ppo": "PPO", "reinforce": "REINFORCE", "rloo": "RLOO", "grpo": "GRPO"}
    return name[config.algorithm] + " + Elastic Reset" * config.elastic_reset


if __name__ == "__main__":
    main()
