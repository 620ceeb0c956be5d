"""What a recipe leaves of its runs: model directories, `library.Result`s, and words on
which policy is in them."""

import jax

from rlhf_jax.cli import command, experiment, library
from rlhf_jax.huggingface import adapters as hf_adapters
from rlhf_jax.huggingface import score_bias
from rlhf_jax.reporting import markdown
from rlhf_jax.studies import best_model, runner
from rlhf_jax.tasks import models

_ORIGIN = ("method", "world", "seed", "step", "eval/phase")


def results(config, done, model, trainable, base, finished=lambda params: params):
    """Writes the model directory of every seed; returns the first one's `Result`.

    The first seed's is model/, that of another seed K model-seed-K/: none is chosen by
    what it measured. Adapters are next to them.

    Args: model: (module, tokenizer); trainable: seed -> `Trainable`; base: the model
    that adapters name, see `models.base`; finished(params) -> those to write.
    """
    made = []
    for number, run in enumerate(done.study.runs()):
        ending = f"-seed-{run.unit.seed}" * (number > 0)
        trained = trainable(run.unit.seed)
        policy = runner.policy(
            done.study,
            done.folder,
            done.layout,
            run,
            best=config.load_best_model_at_end,
            console=done.console,
        )
        merged = trained.merge(policy)
        params = finished(merged)
        if trained.adapter is not None:
            beside = done.folder / f"adapters{ending}"
            weights = score_bias.beside(model[0], policy, merged, params)
            weights = jax.device_get(weights)
            hf_adapters.save(beside, model[0], weights, trained.adapter, base=base)
            experiment.say(done.console, [f"saved {beside}"])
        folder = done.folder / f"model{ending}"
        params = models.export(folder, model[0], params, model[1])
        experiment.say(done.console, [f"saved {folder}"])
        _check_whole(done.folder, folder)
        records = of_seed(done.records, run.unit.seed)
        measured = _exported(config, done.study, records)
        measured = {k: v for k, v in measured.items() if k not in _ORIGIN}
        rest = done.folder, measured, records, folder.name
        made.append(library.Result(model[0], params, model[1], *rest))
    return made[0]._replace(seeds=tuple(made))


def _check_whole(folder, model):
    """Raises ValueError where a report would lack what the run wrote before."""
    if not (folder / command.CONFIG).is_file():
        raise ValueError(
            f"{folder} was deleted or moved while the run went on: its model is in "
            f"{model} again, without a report"
        )


def of_seed(records, seed):
    """The records of one seed."""
    return [record for record in records if record["seed"] == seed]


def evaluations(config, done):
    """{seed: the evaluation record of the policy that is exported}."""
    seeds = [unit.seed for unit in done.study.units]
    return {
        seed: _exported(config, done.study, of_seed(done.records, seed))
        for seed in seeds
    }


def _exported(config, study, records):
    measured = [record for record in records if "eval/phase" in record]
    select = study.select if config.load_best_model_at_end else None
    return best_model.best(select, measured)


def notes(config, done):
    """Lines on how the runs ended, which policies are exported, and how many seeds."""
    lines, seeds = [], [unit.seed for unit in done.study.units]
    for run in done.study.runs():
        seed = run.unit.seed
        prefix = f"seed {seed}: " * (len(seeds) > 1)
        ending = runner.ending(done.study, done.folder, done.layout, run)
        steps = done.study.schedule.steps
        if ending.stopped and ending.step < steps:
            after = f"stopped after step {ending.step} of {steps}"
            lines.append(f"{prefix}{after} by {ending.stopped}")
        if config.load_best_model_at_end:
            lines.append(prefix + _chosen(config, done, seed))
    if len(seeds) > 1:
        lines.append(
            f"{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}: model/ is seed "
            f"{seeds[0]}'s, model-seed-K/ that of a seed K"
        )
    return tuple(lines)


def _chosen(config, done, seed):
    """Which step is exported, and what it and the last one measured."""
    records = of_seed(done.records, seed)
    best = _exported(config, done.study, records)
    last = [record for record in records if "eval/phase" in record][-1]
    (key,) = done.study.select.metrics
    measured = [markdown.number(record[key]) for record in (best, last)]
    if best is last:
        return f"the last policy, step {last['step']}, is the best: {key} {measured[0]}"
    which = f"of the last one, step {last['step']}, {measured[1]}"
    if best["step"] == 0:
        start = "the initial weights are exported, as no evaluation was better"
        return f"{start}: {key} {measured[0]}, {which}"
    return (
        f"the policy of step {best['step']} is exported, the best: {key} "
        f"{measured[0]}, {which}"
    )
