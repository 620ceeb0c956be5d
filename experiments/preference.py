"""Learning from pairs without a reward model: DPO or IPO, with or without resets.

Rows hold `prompt`, `chosen` and `rejected`, texts or lists of messages (or two whole
conversations that begin alike); a column `preference` holds soft labels.

    python -m experiments.preference --model path/to/sft --dataset pairs.jsonl
    python -m experiments.preference --model path/to/sft --dataset pairs.jsonl \\
        --loss ipo --beta 0.1 --elastic-reset.every 200 --elastic-reset.decay 0.99

The reference is the model as it was, or --reference; what it says of every row is
computed once before training, or with --reference-on-the-fly before each step. The
result is runs/preference/<time>/model, a directory that transformers opens. Metrics
have TRL's names: rewards/chosen, rewards/rejected, rewards/margins, rewards/accuracies.

Held-out prompts are completed at every evaluation: samples.jsonl has the texts, and the
report how far the policy has drifted. --reward R measures a reward on them that nothing
learns from, as named for experiments.rl: `python -m experiments.compare
runs/preference/a runs/rl/b` then draws both on one front.

From Python, with rows as a list of dictionaries or a `datasets.Dataset`:

    aligned = preference.train(model="path/to/sft", dataset=rows, loss="ipo")
    aligned.metrics["eval/rewards/accuracies"]
"""

import dataclasses
import functools
from typing import Annotated, Literal

import numpy as np

from rlhf_jax import ranges
from rlhf_jax.algorithms import preference
from rlhf_jax.cli import options, policy, recipe
from rlhf_jax.models import lora
from rlhf_jax.studies import eval_steps, interfaces
from rlhf_jax.tasks import held_out_prompts, models, pairs

TITLE = "Learning from preferences"
METRICS = (
    "rewards/accuracies", "loss", "rewards/margins", "rewards/chosen",
    "rewards/rejected", "logps/chosen", "logps/rejected", *policy.NAMES,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(policy.Flags):
    """Everything a run depends on."""

    loss: Literal["dpo", "ipo"] = "dpo"
    beta: ranges.Positive = 0.1
    """β of the implicit reward, β(log π − log ρ)."""
    label_smoothing: Annotated[float, ranges.Range(at_least=0, below=0.5)] = 0.0
    """How often labels are wrong (cDPO)."""
    reference: ranges.Text | None = None
    """A model directory or hub name; by default the model as it was."""
    reference_on_the_fly: bool = False
    """Ask the reference before each step, not about all rows at the start."""
    fit: options.Fit = dataclasses.field(
        default_factory=lambda: options.Fit(learning_rate=1e-6)
    )
    elastic_reset: options.ElasticReset = dataclasses.field(
        default_factory=options.ElasticReset
    )

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if self.loss == "ipo" and self.label_smoothing:
            reason = "IPO takes soft labels alone, from a column preference"
            yield ("loss", "label_smoothing"), reason
        if self.fit.steps and self.elastic_reset.every > self.fit.steps:
            yield ("elastic_reset.every", "fit.steps"), "no reset would ever come"
        yield from super().conflicts()


CONFIG = Config()


def kind(config):
    """Which loss it is, as arguments of `preference.make_loss`."""
    names = ("loss", "beta", "label_smoothing")
    return {name: getattr(config, name) for name in names}


def make_study(config, setting):
    """The study of one run of DPO or IPO."""
    given, layout = setting.given, setting.layout
    loaded = models.read_decoder("--model", given.model, config.dtype)
    model, params, tokenizer = loaded
    train, held, about = pairs.read(given.dataset, given.data, model, tokenizer)
    check_resets(config, len(train.starts))
    besides = policy.measured(config, setting, loaded, held_out_prompts.of_pairs)
    trainable = models.trainable(params, lora.adapter(config.lora, params), layout)
    ask = functools.partial(_logps, model, config.loss == "ipo")
    ask = layout.over_rows(ask, replicated=1, chunk=recipe.batches(config)[0])
    if config.reference is not None:
        params = _reference(config, given.reference, model, tokenizer)
    refer = functools.partial(ask, layout.put(params))
    train, held, prepare = compared(config, setting, refer, train, held)
    resets = config.elastic_reset
    work = recipe.supervise(
        config,
        setting,
        loaded,
        trainable,
        train,
        (*about, *besides.about),
        functools.partial(preference.make_loss, **kind(config)),
        preference.count,
        decay=resets.decay if resets.every else None,
        prepare=prepare,
    )

    def evaluate(params, run):
        logps = ask(params, pairs.Pairs(held.pairs, held.starts))
        _, metrics = preference.compare(
            logps, held.reference, held.pairs.preference, **kind(config)
        )
        return {f"eval/{name}": float(metrics[name]) for name in metrics}, []

    return recipe.study(
        config,
        work,
        config.loss,
        evaluate,
        label=config.loss.upper(),
        shown={"loss": "loss", "margin": "rewards/margins"},
        best="loss",
        resets=eval_steps.at_multiples if resets.every else interfaces.never,
        every=resets.every,
        evaluators=besides.evaluators,
        axes=besides.axes,
    )


def compared(config, setting, refer, train, held):
    """(training `Batch`, held-out `Batch`, what prepares a batch for its update).

    refer(rows) -> [N, 2]: what the reference says of both answers.
    """
    setting.report("asking the reference about held-out rows ...")
    held = preference.Batch(*held, refer(held))
    if config.reference_on_the_fly:
        unknown = np.zeros((len(train.starts), 2))
        prepare = functools.partial(_with_reference, refer)
        return preference.Batch(*train, unknown), held, prepare
    setting.report("asking the reference about training rows ...")
    return preference.Batch(*train, refer(train)), held, None


def check_resets(config, count):
    """Raises ValueError where updates on `count` rows end before the first reset."""
    every, updates = config.elastic_reset.every, config.fit.updates(count)
    if every > updates:
        raise ValueError(
            f"--elastic-reset.every {every}: no reset would ever come, {count} rows "
            f"make {updates} updates; reset earlier, or raise --fit.epochs"
        )


def _logps(model, mean, params, rows):
    return preference.sequence_logps(model, params, *rows, mean=mean)


def _with_reference(refer, batch):
    return batch._replace(reference=refer(pairs.Pairs(batch.pairs, batch.starts)))


def _reference(config, source, model, tokenizer):
    """Parameters of --reference, which must be of the model's kind."""
    other, params, words = models.read_decoder("--reference", source, config.dtype)
    if other.config != model.config or words.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"--reference {config.reference} differs from --model {config.model} in "
            "shape or tokenizer: give an earlier state of the same model"
        )
    return params


RECIPE = recipe.supervised_experiment(
    "preference",
    make_study,
    title=TITLE,
    metrics=METRICS,
    check=policy.check,
    sections=policy.sections,
)
main, train, run = recipe.entry_points(RECIPE, CONFIG, __doc__)

if __name__ == "__main__":
    main()
