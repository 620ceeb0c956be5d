"""Recipes: studies of one method and one unit that end in a model directory.

`experiment.run` runs a recipe like any other study. Supervised recipes also share their
trainer, announcement and report, which are here.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from rlhf_jax.cli import command, experiment, hub, library, options
from rlhf_jax.huggingface import adapters as hf_adapters
from rlhf_jax.huggingface import score_bias
from rlhf_jax.reporting import single_run
from rlhf_jax.runtime import provenance, terminal
from rlhf_jax.studies import eval_steps, runner, supervised
from rlhf_jax.studies.interfaces import Method, Schedule, Study, Unit, never
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.tasks import models


def entry_points(recipe, config, description):
    """(main, train, run) of a recipe: those of an experiment, and one from Python."""
    recipe = hub.publishing(recipe)
    main, run = experiment.entry_points(recipe, config, description)

    def train(*, quiet=False, **flags):
        """Trains with flags as keywords (`cli.library`); returns a `library.Result`.

        quiet: print nothing.
        """
        console = terminal.console(quiet=True) if quiet else None
        return run(library.configure(config, flags), console=console)

    return main, train, run


def supervised_experiment(name, make_study, *, title, metrics):
    """The `Experiment` of a supervised recipe.

    Args: name: of its folder under runs/; title, metrics: of `finish`.
    """
    return experiment.Experiment(
        name=name,
        check=functools.partial(options.check, needed=("model", "dataset")),
        study=make_study,
        announce=announce,
        finish=functools.partial(finish, title=title, metrics=metrics),
        batches=batches,
    )


class Work(NamedTuple):
    """What a supervised recipe trains: the task of its study."""

    model: Any
    tokenizer: Any
    trainable: Trainable
    trainer: Any  # interfaces.Trainer
    steps: int
    about: tuple[str, ...]  # lines for the reader
    base: str | None  # the model that saved adapters name
    finished: Callable = lambda params: params  # trained params -> those to write
    # (params, `Done`) -> (paragraphs of the report, {name: numbers} of results.json)
    beside: Callable = lambda params, done: ((), {})


def batches(config):
    """The row counts that the number of devices must divide."""
    return (config.fit.rows // config.fit.micro_batches,)


def supervise(
    config, setting, loaded, trainable, data, about, make_loss, count, **training
):
    """`Work` that trains on rows of data.

    Args: loaded: (model, params, tokenizer); data: a pytree of [N, ...] on the host;
    about: lines about it; make_loss, count: as for `supervised.Objective`;
    training: more arguments of `supervised.trainer`.
    """
    model, _, tokenizer = loaded
    fit, layout = config.fit, setting.layout
    steps = fit.updates(jax.tree.leaves(data)[0].shape[0])
    objective = supervised.Objective(
        model, make_loss, count, fit.optimizer, fit.micro_batches
    )
    trainer = supervised.trainer(
        trainable,
        data,
        objective,
        rows=fit.rows,
        steps=steps,
        learning_rate=fit.learning_rate,
        seed=config.seed,
        key=jax.random.key(config.seed),
        layout=layout,
        **training,
    )
    base = models.base(config.model, setting.given.model)
    lines = (f"model {config.model}; {trainable.describe()}", *about)
    return Work(model, tokenizer, trainable, trainer, steps, lines, base)


def study(config, work, method, evaluate, *, label, shown, resets=never, every=0):
    """The study of one supervised method, called `method` in metrics.jsonl.

    Args: evaluate: interfaces.Evaluator on held-out rows; shown: {name: metric} on the
    progress bar; resets: when the method is reset; every: updates between resets.
    """
    return Study(
        methods={
            method: Method(
                label, label, train=lambda study, run: study.task.trainer, resets=resets
            )
        },
        units=(Unit(0, config.seed),),
        schedule=schedule(config, work.steps, reset_every=every),
        evaluators=(evaluate,),
        task=work,
        shown=shown,
        digest=provenance.digest(config),
    )


def schedule(config, steps, **resets):
    """When a recipe's run evaluates, resets and saves."""
    return Schedule(
        steps=steps,
        evaluations=eval_steps.at_every(steps, config.eval_every),
        save_every=config.save_every,
        keep=config.keep,
        **resets,
    )


def announce(config, study, layout):
    """Lines that describe the run before it starts."""
    del config
    return (*study.task.about, steps_on(study, layout))


def steps_on(study, layout):
    """A line that says how many steps run on which devices."""
    devices = f"{len(layout.devices)} {layout.devices[0].platform} device(s)"
    return f"{study.schedule.steps} steps on {devices}"


def finish(config, done, *, title, metrics):
    """Writes a supervised recipe's model directory and report; returns its `Result`.

    metrics: names to report, the most important first.
    """
    work = done.study.task
    params = export(
        done, work.model, work.tokenizer, work.trainable, work.base, work.finished
    )
    sections, results = work.beside(params, done)
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
        sections=sections,
        results=results,
    )
    return result(done, work.model, params, work.tokenizer)


def export(done, model, tokenizer, trainable, base, finished=lambda params: params):
    """Writes the run's model directory, and its adapters next to it.

    Args: base: the model that adapters name, see `models.base`; finished(params) ->
    the parameters to write. Returns those: plain weights in float32.
    """
    (run,) = done.study.runs()
    place = done.study, done.folder, done.layout
    policy = runner.policy(*place, run, console=done.console)
    merged = trainable.merge(policy)
    params = finished(merged)
    if trainable.adapter is not None:
        beside = done.folder / "adapters"
        weights = score_bias.beside(model, policy, merged, params)
        weights = jax.device_get(weights)
        hf_adapters.save(beside, model, weights, trainable.adapter, base=base)
        experiment.say(done.console, [f"saved {beside}"])
    params = models.export(done.folder / "model", model, params, tokenizer)
    experiment.say(done.console, [f"saved {done.folder / 'model'}"])
    _check_whole(done.folder)
    return params


def _check_whole(folder):
    """Raises ValueError where a report would lack what the run wrote before."""
    if not (folder / command.CONFIG).is_file():
        raise ValueError(
            f"{folder} was deleted or moved while the run went on: its model is in "
            f"{folder / 'model'} again, without a report"
        )


def result(done, model, params, tokenizer):
    """The `library.Result` of a finished run."""
    measured = [record for record in done.records if "eval/phase" in record]
    known = ("method", "world", "seed", "step", "eval/phase")
    last = {k: v for k, v in measured[-1].items() if k not in known}
    return library.Result(model, params, tokenizer, done.folder, last, done.records)
