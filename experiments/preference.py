"""Learning from preferences without a reward model: DPO and its family, and KTO.

Rows hold `prompt`, `chosen` and `rejected`, texts or lists of messages (or two whole
conversations that begin alike); a column `preference` holds soft labels.

    python -m experiments.preference --model path/to/sft --dataset pairs.jsonl
    python -m experiments.preference --model path/to/sft --dataset pairs.jsonl \\
        --loss ipo --beta 0.1 --elastic-reset.every 200 --elastic-reset.decay 0.99

--loss takes TRL's names: sigmoid (dpo is the same), sigmoid_norm, hinge, ipo, exo_pair,
nca_pair, robust, bco_pair, sppo_hard, aot, aot_unpaired, apo_zero, apo_down, discopop
and, without a reference, simpo, cpo and orpo. Several are added up (MPO):

    ... --loss sigmoid bco_pair sft --loss-weights 0.8 0.2 1.0

aot and aot_unpaired sort the rows of a micro-batch on a device among themselves.
kto and apo_zero_unpaired learn from single answers: rows of `prompt`, `completion` and
`label` (true: desirable), or pairs, whose chosen answers are desirable and whose
rejected ones are not.

The reference is the model as it was, or --reference; what it says of the rows that are
learned from is computed before training, or with --reference-on-the-fly before each
step. The result is runs/preference/<time>/model, a directory that transformers opens.
Metrics have TRL's names: rewards/chosen, rewards/rejected, rewards/margins,
rewards/accuracies.

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
from typing import Any, Literal, NamedTuple

import numpy as np

from rlhf_jax import ranges
from rlhf_jax.algorithms import preference, unpaired
from rlhf_jax.cli import fields, options, policy, recipe
from rlhf_jax.data import batching, kinds, preferences
from rlhf_jax.models import lora
from rlhf_jax.studies import eval_steps, interfaces
from rlhf_jax.tasks import held_out_prompts, models, pairs, rows
from rlhf_jax.tasks import unpaired as answers

TITLE = "Learning from preferences"
METRICS = (
    "rewards/accuracies", "loss", "rewards/margins", "rewards/chosen",
    "rewards/rejected", "logps/chosen", "logps/rejected", "kl", "nll",
    *policy.NAMES,
)  # fmt: skip
_TAKEN = {
    preference.Settings: preference.Settings._fields,
    unpaired.Settings: ("desirable_weight", "undesirable_weight"),
}


@dataclasses.dataclass(frozen=True)
class Config(fields.group(_TAKEN), policy.Flags):
    """Everything a run depends on."""

    essential = (
        *options.Supervised.essential, "loss", "beta", "label_smoothing", "reference",
        "chat", "elastic_reset.every", "elastic_reset.decay",
    )  # fmt: skip
    loss: tuple[Literal[preference.LOSSES + unpaired.LOSSES], ...] = ("dpo",)
    """One loss or several to add up, by TRL's names; dpo is TRL's sigmoid."""
    reference: ranges.Text | None = None
    """A model directory or hub name; by default the model as it was."""
    reference_on_the_fly: bool = False
    """Ask the reference before each step, not about the run's rows at the start."""
    chat: bool = False
    """Prompts that are texts are a user's turn in the model's chat template."""
    fit: options.Fit = dataclasses.field(
        default_factory=lambda: options.Fit(learning_rate=1e-6)
    )
    elastic_reset: options.ElasticReset = dataclasses.field(
        default_factory=options.ElasticReset
    )

    def __post_init__(self):
        for name, one in (("loss", str), ("loss_weights", int | float)):
            value = getattr(self, name)  # one, or a list, from Python
            value = (value,) if isinstance(value, one) else value
            value = tuple(value) if isinstance(value, list) else value
            object.__setattr__(self, name, value)

    @property
    def single(self):
        """The loss of single answers, None where it is of pairs."""
        return next((name for name in self.loss if name in unpaired.LOSSES), None)

    @property
    def settings(self):
        """`preference.Settings`, or `unpaired.Settings` of single answers."""
        if self.single is None:
            return preference.Settings(
                self.loss, **fields.of(self, preference.Settings)
            )
        weights = fields.of(self, unpaired.Settings)
        return unpaired.Settings(self.single, self.beta, **weights)

    @property
    def refers(self):
        """Whether a reference is asked."""
        return self.single is not None or self.settings.refers()

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if self.single is not None and len(self.loss) > 1:
            reason = f"{self.single} learns from single answers, others from pairs"
            yield ("loss",), f"{reason}; run it by itself"
        yield from self._without_effect()
        yield from self.settings.conflicts()
        if self.fit.steps and self.elastic_reset.every > self.fit.steps:
            yield ("elastic_reset.every", "fit.steps"), "no reset would ever come"
        yield from policy.Flags.conflicts(self)

    def _without_effect(self):
        """Flags that the chosen losses do not read."""
        idle = {}
        if self.single is None:
            reason = f"without effect; {' and '.join(unpaired.LOSSES)} take it"
            idle = dict.fromkeys(fields.of(self, unpaired.Settings), reason)
        else:
            reason = f"without effect; {self.single} learns from single answers"
            taken = fields.of(self, preference.Settings)
            idle = dict.fromkeys(set(taken) - {"beta"}, reason)
            idle["chat"] = f"{reason}, whose prompts may be messages"
        if not self.refers:
            reason = "without effect; no reference is asked"
            idle |= dict.fromkeys(("reference", "reference_on_the_fly"), reason)
        for name, reason in sorted(idle.items()):
            if getattr(self, name) != getattr(type(self), name):
                yield (name, "loss"), reason


CONFIG = Config()


class Task(NamedTuple):
    """What one kind of rows is learned by."""

    train: Any  # a batch of all training rows, without what the reference says
    held: Any  # of all held-out rows
    about: list
    ask: Any  # (params, batch) -> a pytree of [N, ...]: what a policy says of rows
    refer: Any  # what it said -> [N, 2]: of that the reference's log-probs
    measure: Any  # (what it said, held) -> metrics
    objective: dict  # make_loss, count and make_data of `supervised.Objective`


def describe(config):
    """A line for the reader: the losses, their parameters, and whom they ask."""
    settings = config.settings
    words = "loss " + config.loss[0]
    taken, parameters = ("desirable_weight", "undesirable_weight"), []
    if config.single is None:
        parts = settings.parts()
        if len(parts) > 1:
            words = "loss " + " + ".join(f"{w:g} {name}" for name, _, w in parts)
        taken = dict.fromkeys(name for _, kind, _ in parts for _, name in kind.takes)
        parameters = ["pairs weighted as in WPO"] * settings.use_weighting
    known = [(n, getattr(config, n)) for n in taken]
    values = [f"{name.replace('_', ' ')} {x:g}" for name, x in known if x]
    parameters = [f"β {config.beta:g}", *values, *parameters]
    whom = "no reference is asked"
    if config.refers:
        whom = f"reference {config.reference or 'the model as it was'}"
    return f"{words}; {', '.join(parameters)}; {whom}"


def make_study(config, setting):
    """The study of one run of one loss, or of several added up."""
    given, layout = setting.given, setting.layout
    loaded = models.read_decoder("--model", given.model, config.dtype)
    model, params, tokenizer = loaded
    single = config.single is not None
    read, among = (_answers, kinds.KINDS) if single else (_pairs, preferences.KINDS)
    found = rows.parts(given.dataset, given.data, among=tuple(among))
    task = read(config, found, given.data, model, tokenizer)
    check_resets(config, len(task.train.reference))
    trainable = models.trainable(params, lora.adapter(config.lora, params), layout)
    asked = functools.partial(held_out_prompts.of_pairs, chat=config.chat)
    besides = policy.measured(config, setting, loaded, found, asked)
    ask = layout.over_rows(task.ask, replicated=1, chunk=recipe.batches(config)[0])
    train, held, prepare = task.train, task.held, None
    if config.refers:
        if config.reference is not None:
            params = _reference(config, given.reference, model, tokenizer)
        refer = functools.partial(_refer, task.refer, ask, layout.put(params))
        train, held, prepare = compared(config, setting, refer, train, held)
    resets = config.elastic_reset
    work = recipe.supervise(
        config,
        setting,
        loaded,
        trainable,
        train,
        (describe(config), *task.about, *besides.about),
        **task.objective,
        decay=resets.decay if resets.every else None,
        prepare=prepare,
    )

    def evaluate(params, run):
        metrics = task.measure(ask(params, held), held)
        return {f"eval/{name}": float(metrics[name]) for name in metrics}, []

    return recipe.study(
        config,
        work,
        "+".join(config.loss),
        evaluate,
        label="+".join(config.loss).upper(),
        shown={"loss": "loss", "margin": "rewards/margins"},
        best="loss",
        resets=eval_steps.at_multiples if resets.every else interfaces.never,
        every=resets.every,
        evaluators=besides.evaluators,
        axes=besides.axes,
    )


def _pairs(config, found, data, model, tokenizer):
    """The `Task` of preference pairs."""
    settings = config.settings
    *parts, about = pairs.read(found, data, model, tokenizer, chat=config.chat)
    for part in parts:
        preference.check_labels(settings, part.pairs.preference)
    unknown = (np.zeros((len(part.starts), 2), np.float32) for part in parts)
    batches = map(preference.Batch, *zip(*parts, strict=True), unknown)

    def ask(params, batch):
        how = {"weighting": settings.use_weighting}
        return preference.read_answers(model, params, batch.pairs, batch.starts, **how)

    def measure(said, held):
        labels = held.pairs.preference
        return preference.compare(said, held.reference, labels, settings)[1]

    make_loss = functools.partial(preference.make_loss, **settings._asdict())
    objective = {"make_loss": make_loss, "count": preference.count}
    return Task(
        *batches, about, ask, lambda said: np.asarray(said.logps), measure, objective
    )


def _answers(config, found, data, model, tokenizer):
    """The `Task` of single answers."""
    settings = config.settings
    *parts, about = answers.read(found, data, model, tokenizer)

    def ask(params, batch):
        return unpaired.both_logps(model, params, batch)

    def measure(said, held):
        if settings.loss == "kto":
            held = unpaired.with_baseline(held, said[:, 1])
        return unpaired.compare(said[:, 0], held, settings)[1]

    objective = {
        "make_loss": functools.partial(unpaired.make_loss, **settings._asdict()),
        "count": unpaired.count,
        "make_data": unpaired.make_baseline if settings.loss == "kto" else None,
    }
    return Task(*parts, about, ask, np.asarray, measure, objective)


def compared(config, setting, refer, train, held):
    """(training batch, held-out batch, what prepares a batch for its update).

    refer(batch) -> the batch with what the reference says of its answers.
    """
    setting.report("asking the reference about held-out rows ...")
    held = refer(held)
    if config.reference_on_the_fly:
        return train, held, refer
    return _referred(config, setting, refer, train), held, None


def _referred(config, setting, refer, train):
    """The training batch with what the reference says of all rows that some update
    learns from; NaN in the others."""
    count, fit = len(train.reference), config.fit
    orders = (
        batching.Epochs(count, fit.rows, config.seed + number)
        for number in range(config.seeds)
    )
    steps = fit.updates(count)
    used = np.unique(np.concatenate([order.used(steps) for order in orders]))
    reference = np.full_like(train.reference, np.nan)
    size = recipe.batches(config)[0]
    # Whole batches, so that one program asks for all: the first rows are asked again.
    asked = np.resize(used, -(-len(used) // size) * size)
    for start in range(0, len(asked), size):
        rows = asked[start : start + size]
        reference[rows] = refer(batching.take(train, rows)).reference
        done = min(start + size, len(used))
        setting.report("asking the reference", done=done, total=len(used))
    return train._replace(reference=reference)


def _refer(read, ask, params, batch):
    return batch._replace(reference=read(ask(params, batch)))


def check_resets(config, count):
    """Raises ValueError where updates on `count` rows end before the first reset."""
    every, updates = config.elastic_reset.every, config.fit.updates(count)
    if every > updates:
        raise ValueError(
            f"--elastic-reset.every {every}: no reset would ever come, {count} rows "
            f"make {updates} updates; reset earlier, or raise --fit.epochs"
        )


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
