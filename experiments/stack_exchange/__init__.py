"""Does Elastic Reset make a better chatbot of a Llama at less drift and tax?

StackLLaMA: a language model is fine-tuned on answers, a reward model is trained on
pairs of them, and PPO with LoRA and an adaptive KL penalty follows, with and without
Elastic Reset. Every stage leaves a directory that transformers opens, and is made once.
A second reward model, trained on other questions, judges the answers. Drift is the
perplexity of held-out answers and the exact KL; --suites measure the alignment tax.

    python -m experiments.stack_exchange --policy models/stories260k \\
        --dataset pairs.jsonl --suites commonsense/arc_easy:test \\
        --data.columns question=prompt response_j=chosen response_k=rejected
    python -m experiments.stack_exchange --preset paper     # the hub, GPUs, days

Expected, as published: Elastic Reset's reward is PPO's or more on a reward model that
neither was trained on, its perplexity rises less above the fine-tuned model's, and it
keeps more capabilities.
"""

import dataclasses
import math
from typing import Literal

from experiments.stack_exchange import methods, parts, published, sections, stages
from experiments.stack_exchange import task as answers_task
from rlhf_jax import elastic_reset, ranges
from rlhf_jax.benchmarks import suites
from rlhf_jax.cli import command, experiment, language, options, presets
from rlhf_jax.evaluation import axes
from rlhf_jax.models import lora
from rlhf_jax.reporting import claims

CLAIMS = methods.CLAIMS
_SUITES_LENGTH = 512  # tokens of a question with an option, at most


def _fit(**changes):
    return lambda: options.Fit(schedule="cosine", **changes)


@dataclasses.dataclass(frozen=True)
class Config(options.Language):
    """Everything a run depends on. The defaults are sized for minutes of two cores."""

    dataset: str = ""
    """Pairs: a hub name, a folder, or a file."""
    policy: str = ""
    """A model directory, a hub name, or scratch:<preset> for fresh weights."""
    fine_tuned: ranges.Text = "train"
    """train, or the model of an SFT that is there already."""
    reward: ranges.Text = "train"
    """train, or a reward model's directory or hub name."""
    judge: ranges.Text = "train"
    """The reward model that judges and never trains: train on the other half of the
    pairs, or a directory or hub name."""
    suites: tuple[ranges.Text, ...] = ()
    """Multiple choice, PATH[:SPLIT] each, with columns question, choices and label, or
    text, whose ending is to be found, or questions answered in writing (see
    `rlhf_jax.data.references`): the alignment tax. None: it is not measured."""
    suite_questions: ranges.Count = 200
    """Of each suite, at most."""
    methods: tuple[ranges.Text, ...] = (
        "zero_shot", "ppo_kl", "elastic_reset_kl", "reset_to_initial_kl", "ppo_kl_ma50",
    )  # fmt: skip
    steps: ranges.Count = 60
    eval_every: ranges.Natural = 9
    tick: Literal["iteration", "epoch"] = "epoch"
    """The clock of the EMA: an iteration, or a pass over its rollout."""
    stop_kl: ranges.Limit = 0.15
    """Nats a token from the policy that wrote a rollout, beyond which no more passes
    are made over it; inf: all are."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in; weights and optimiser stay float32."""
    center: bool = True
    """Shift the reward models so that scores of training answers have mean 0."""
    vocabulary: ranges.Count = 1024
    """Of a policy from scratch."""
    save_every: ranges.Natural = 20
    data: parts.Config = dataclasses.field(default_factory=parts.Config)
    sft: options.Fit = dataclasses.field(
        default_factory=_fit(steps=200, learning_rate=1e-3, warmup=10)
    )
    sft_length: ranges.Count = 128
    """Tokens of a row of the fine-tuning; texts are packed."""
    sft_lora: options.Lora = dataclasses.field(default_factory=options.Lora)
    reward_fit: options.Fit = dataclasses.field(
        default_factory=_fit(epochs=2.0, learning_rate=5e-4, warmup=10)
    )
    reward_lora: options.Lora = dataclasses.field(default_factory=options.Lora)
    answers: answers_task.Config = dataclasses.field(
        default_factory=answers_task.Config
    )
    rl: options.RL = dataclasses.field(
        default_factory=lambda: options.RL(
            rows=16, epochs=4, minibatches=1, learning_rate=5e-4, value="shared",
            kl_coef=0.02, kl_target=6.0, kl_horizon=100.0, decay=0.95, reset_every=26,
        )
    )  # fmt: skip
    lora: options.Lora = dataclasses.field(default_factory=lambda: options.Lora(rank=8))
    export: tuple[ranges.Text, ...] = ("ppo_kl", "elastic_reset_kl")

    tuned = None  # no search is made of these methods

    @property
    def ticks(self):
        """Of the EMA, from one reset to the next, where no pass is stopped early."""
        passes = self.rl.epochs if self.tick == "epoch" else 1
        return self.rl.reset_every * passes


CONFIG = Config()
PRESETS = published.PRESETS


def check(config):
    """Misuse that can be told before anything is made."""
    options.check(config)
    for name in ("dataset", "policy"):
        if not getattr(config, name):
            raise ValueError(f"--{name} is needed: --preset paper has the published")
    language.check(config, methods.METHODS)
    stages.check(config)


def batches(config):
    """The row counts that devices share out."""
    rl, fits = config.rl, (config.sft, config.reward_fit)
    stage_rows = [fit.rows // max(fit.micro_batches, 1) for fit in fits]
    return (*stage_rows, rl.rows // max(rl.micro_batches * rl.minibatches, 1), rl.rows)


def make_task(config, setting):
    """The task of the models that the stages make."""
    return answers_task.create(
        config.answers,
        stages.make(config, setting),
        setting.layout,
        dtype=config.dtype,
        prompt_length=config.data.prompt_length,
    )


def make_study(config, setting):
    """The study of that task, in which policies answer the suites besides."""
    questions = suites.read(
        config.suites, count=config.suite_questions, question=config.data.question
    )
    # A run that is stopped in a stage goes on from here.
    command.write_config(setting.folder, config, setting.layout)
    experiment.say(setting.console, presets.describe(config, PRESETS))
    task = make_task(config, setting)
    length = min(task.model.config.max_length, _SUITES_LENGTH)
    tax = suites.tokens(questions, task.tokenizer, length=length)
    task = dataclasses.replace(task, facts=task.facts | {"suites": suites.facts(tax)})
    study = language.study(config, task, methods.METHODS, say=setting.report)
    algorithm = dataclasses.replace(
        study.settings.algorithm,
        tick=config.tick,
        early_stop=math.isfinite(config.stop_kl),
    )
    hyper = study.settings.hyper._replace(stop_kl=config.stop_kl)
    settings = dataclasses.replace(study.settings, algorithm=algorithm, hyper=hyper)
    evaluators = study.evaluators
    if tax:
        evaluators = (*evaluators, suites.evaluator(task.model, tax))
    measured = axes.with_corners(
        methods.measured(tax), dataclasses.asdict(config.corner)
    )
    return dataclasses.replace(
        study,
        settings=settings,
        evaluators=evaluators,
        axes=measured,
        claims=claims.possible(methods.CLAIMS, study.methods, measured),
        sections=sections.of(setting.folder, study),
    )


def announce(config, study, layout):
    """What is about to happen, before it does."""
    task, adapter, rl = study.task, study.settings.adapter, config.rl
    facts, answers = task.facts, config.answers
    weight = elastic_reset.retained_weight(rl.decay, config.ticks)
    trained = "all weights are trained"
    if adapter is not None:
        count = lora.count(task.params, adapter)
        trained = f"adapters of rank {adapter.rank} are trained, {count:,} weights"
    length = f"{answers.shortest} to {answers.longest} tokens, none ends by itself"
    if answers.end == "token":
        length = f"up to {answers.longest} tokens"
    return (
        "",
        f"policy    {facts['policy']}: {task.model.config.layers} layers × "
        f"{task.model.config.width}; {trained}",
        f"data      {config.dataset}: {len(task.prompts.tokens)} questions, "
        f"{len(task.eval_prompts.tokens)} held out; answers of {length}",
        f"reward    {facts['reward']}",
        f"judge     {facts['judge']}",
        *(f"suite     {name}: {line}" for name, line in facts["suites"].items()),
        f"methods   {', '.join(study.methods)}",
        f"run       {config.seeds} seed(s) × {config.steps} iterations × {rl.rows} "
        f"answers on {len(layout.devices)} {layout.devices[0].platform} device(s)",
        f"resets    every {rl.reset_every} iterations, EMA decay {rl.decay:g} once an "
        f"{config.tick}: a reset retains w = {weight:.3f}",
    )


def export(config, done):
    """Model directories of the methods that --export names, on the fine-tuned model."""
    policy = done.study.task.facts["policy"]
    language.export(dataclasses.replace(config, policy=policy), done)


def finish(config, done):
    """The report, the table on the console, and where everything is."""
    notes = sections.notes(config, done.study)
    experiment.report(
        config,
        done,
        title="StackLLaMA: reward against drift",
        question=__doc__.split("\n\n")[0],
        scope="these pairs and models",
        notes=(*notes, *presets.describe(config, PRESETS)),
    )
    return done.folder


EXPERIMENT = experiment.Experiment(
    name="stack_exchange",
    check=check,
    study=make_study,
    announce=announce,
    finish=finish,
    batches=batches,
    export=export,
)
main, run = experiment.entry_points(EXPERIMENT, CONFIG, __doc__, PRESETS)
