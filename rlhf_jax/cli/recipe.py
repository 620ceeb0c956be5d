"""Recipes: studies of one method and one unit that end in a model directory.

`experiment.run` runs a recipe like any other study. Supervised recipes also share their
trainer, announcement and report, which are here.
"""

import dataclasses
import fractions
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from rlhf_jax.cli import experiment, export, hub, library, options
from rlhf_jax.data import batching
from rlhf_jax.reporting import single_run
from rlhf_jax.runtime import provenance, terminal
from rlhf_jax.studies import best_model, eval_steps, supervised
from rlhf_jax.studies.interfaces import Method, Patience, Schedule, Study, Unit, never
from rlhf_jax.tasks import models


def entry_points(recipe, config, description):
    """(main, train, run) of a recipe: those of an experiment, and one from Python."""
    recipe = hub.publishing(recipe)
    main, run = experiment.entry_points(recipe, config, description)

    def train(*, quiet=False, **flags):
        """Trains with flags as keywords (`cli.library`); returns a `library.Result`.

        quiet: print nothing. Among the flags, callbacks: functions (step, metrics) ->
        None or "stop"; see `studies.callbacks`.
        """
        console = terminal.console(quiet=True) if quiet else None
        return run(library.configure(config, flags), console=console)

    return main, train, run


def supervised_experiment(
    name, make_study, *, title, metrics, check=None, sections=lambda config, done: ()
):
    """The `Experiment` of a supervised recipe.

    Args: name: of its folder under runs/; title, metrics, sections: of `finish`; check:
    by default what every recipe needs.
    """
    usual = functools.partial(options.check, needed=("model", "dataset"))
    said = {"title": title, "metrics": metrics, "sections": sections}
    return experiment.Experiment(
        name=name,
        check=check or usual,
        study=make_study,
        announce=announce,
        finish=functools.partial(finish, **said),
        batches=batches,
    )


class Work(NamedTuple):
    """What a supervised recipe trains: the task of its study."""

    model: Any
    tokenizer: Any
    trainable: Callable  # seed -> Trainable
    trainer: Callable  # seed -> interfaces.Trainer
    steps: int
    # Steps that a pass over the rows takes; None of a stream.
    epoch: fractions.Fraction | None
    about: tuple[str, ...]  # lines for the reader
    base: str | None  # the model that saved adapters name
    finished: Callable = lambda params: params  # trained params -> those to write
    # (params, `Done`) -> (paragraphs of the report, {name: numbers} of results.json),
    # of the first seed
    beside: Callable = lambda params, done: ((), {})


def batches(config):
    """The row counts that the number of devices must divide."""
    return (config.fit.rows // config.fit.micro_batches,)


def supervise(
    config, setting, loaded, trainable, data, about, make_loss, count, *,
    make_data=None, **training,
):  # fmt: skip
    """`Work` that trains on rows of data.

    Args: loaded: (model, params, tokenizer); trainable: `Trainable`, or seed -> one
    where its start depends on the seed; data: a pytree of [N, ...] on the host;
    about: lines about it; make_loss, count, make_data: as for `supervised.Objective`;
    training: more arguments of `supervised.trainer`.
    """
    model, _, tokenizer = loaded
    fit, rows = config.fit, batching.count(data)
    steps = fit.updates(rows)
    objective = supervised.Objective(
        model, make_loss, count, fit.optimizer, fit.micro_batches, make_data=make_data
    )
    of_seed = trainable if callable(trainable) else lambda seed: trainable

    def trainer(seed):
        return supervised.trainer(
            of_seed(seed),
            data,
            objective,
            rows=fit.rows,
            steps=steps,
            learning_rate=fit.learning_rate,
            seed=seed,
            key=jax.random.key(seed),
            layout=setting.layout,
            **training,
        )

    base = models.base(config.model, setting.given.model)
    trained = of_seed(config.seed).describe()
    lines = (f"model {config.model}; {trained}", *about)
    epoch = None if rows is None else fractions.Fraction(rows, fit.rows)
    return Work(model, tokenizer, of_seed, trainer, steps, epoch, lines, base)


def study(
    config, work, method, evaluate, *, label, shown, best, resets=never, every=0, **more
):
    """The study of one supervised method, called `method` in metrics.jsonl.

    Args: evaluate: interfaces.Evaluator on held-out rows; shown: {name: metric} on the
    progress bar; best: the metric that says which evaluation is, unless a flag does;
    resets: when the method is reset; every: updates between resets; more: fields of
    `Study`, evaluators besides.
    """
    evaluators = (evaluate, *more.pop("evaluators", ()))
    return Study(
        methods={
            method: Method(
                label,
                label,
                train=lambda study, run: study.task.trainer(run.unit.seed),
                resets=resets,
            )
        },
        units=units(config),
        schedule=schedule(config, work.steps, epoch=work.epoch, reset_every=every),
        evaluators=evaluators,
        task=work,
        shown=shown,
        digest=provenance.digest(config),
        **selected(config, best),
        **more,
    )


def units(config):
    """The units of a recipe's study: one world, as many seeds as are asked for."""
    return tuple(Unit(0, config.seed + number) for number in range(config.seeds))


def schedule(config, steps, *, epoch=None, **resets):
    """When a recipe's run evaluates, resets and saves; epoch: steps of a pass over the
    rows, where there are such. Raises ValueError for the epochs of a stream."""
    evaluate = getattr(config, "eval_strategy", "steps")
    save = getattr(config, "save_strategy", "steps")
    for flag, strategy in (("eval", evaluate), ("save", save)):
        if strategy == "epoch" and epoch is None:
            raise ValueError(
                f"--{flag}-strategy epoch: it is not known where a stream ends; count "
                "steps"
            )
    evaluations = eval_steps.at_every(steps, config.eval_every * (evaluate == "steps"))
    if evaluate == "epoch":
        evaluations = eval_steps.at_epochs(steps, epoch)
    return Schedule(
        steps=steps,
        evaluations=evaluations,
        save_every=config.save_every * (save == "steps"),
        saves=eval_steps.epochs(steps, epoch) if save == "epoch" else frozenset(),
        keep=config.keep,
        **resets,
    )


def selected(config, metric):
    """Fields of `Study`: which policy is kept as the best, and when to give up.

    metric: the recipe's own, where no flag names one.
    """
    patience, threshold = (
        config.early_stopping_patience,
        config.early_stopping_threshold,
    )
    if not patience and not config.load_best_model_at_end:
        return {}
    metric = config.metric_for_best_model or metric
    return {
        "select": best_model.selection(metric, config.greater_is_better),
        "patience": Patience(patience, threshold) if patience else None,
    }


def announce(config, study, layout):
    """Lines that describe the run before it starts."""
    del config
    return (*study.task.about, steps_on(study, layout))


def steps_on(study, layout):
    """A line that says how many steps run on which devices."""
    devices = f"{len(layout.devices)} {layout.devices[0].platform} device(s)"
    seeds = f", {len(study.units)} seeds" * (len(study.units) > 1)
    return f"{study.schedule.steps} steps{seeds} on {devices}"


def finish(config, done, *, title, metrics, sections):
    """Writes a supervised recipe's model directories and report; returns its `Result`.

    Args: metrics: names to report, the most important first; sections(config, done) ->
    paragraphs of the report.
    """
    work = done.study.task
    made = export.results(
        config,
        done,
        (work.model, work.tokenizer),
        work.trainable,
        work.base,
        work.finished,
    )
    beside, numbers = work.beside(made.params, done)
    measured = [dataclasses.asdict(axis) for axis in done.study.axes]
    single_run.write(
        done.folder,
        done.records,
        title=title,
        about=work.about,
        names=metrics,
        command=provenance.command(),
        provenance=provenance.summary(config),
        wall=done.wall,
        console=done.console,
        notes=export.notes(config, done),
        exported=export.evaluations(config, done),
        sections=(*sections(config, done), *beside),
        results={**numbers, **({"axes": measured} if measured else {})},
    )
    return made
