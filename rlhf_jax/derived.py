"""Methods that train nothing: read off the run of another one, or off the start.

An average of weights, the EMA, an early stop have a source; the initial policy itself
and the best of n of its samples have none. `study` is a `study.Study`.
"""

from rlhf_jax import cells, recorder


def run(study, cell, reward, files):
    """Measures a method that trains nothing, and saves its policy."""
    if study.table[cell.method].source is None:
        _look(study, cell, reward, files)
    else:
        _derive(study, cell, reward, files)


def companions(study, cell, trainer):
    """{cell: state -> policy} of what is derived from a cell at every evaluation.

    A method of one policy is no rival for one of a dozen checkpoints.
    """
    found = {}
    for name in study.settings.methods:
        if study.table[name].source == cell.method:
            derive = _derivation(study, name, trainer)
            if derive is not None:
                found[cells.Cell(name, cell.seed)] = derive
    return found


def _derive(study, cell, reward, files):
    """From the final state of its source."""
    source = cells.Cell(study.table[cell.method].source, cell.seed)
    trainer = study.trainer(source)
    _, saved, extra = study.restore(source, trainer)
    noted = recorder.Recorder(study, cell, trainer, reward, files, 0)
    derive = _derivation(study, cell.method, trainer)
    if derive is None:  # stopped early: measured here, where it stopped
        policy, step = saved["best"], extra["best"]["step"]
        noted.evaluate_policy(cell, policy, step, "final")
    else:  # measured already, at every evaluation of its source
        policy, step = derive(saved["state"]), study.settings.steps
    extra = {**noted.offsets(), "best": extra["best"], "final": True}
    study.checkpointer(cell).save(step, {"policy": policy}, extra)


def _derivation(study, name, trainer):
    """state of the source -> policy; None where one state does not decide it."""
    weight = study.table[name].weight
    if weight is not None:
        return lambda state: trainer.mix(trainer.policy(state), weight)
    return None if name.endswith("_early_stop") else trainer.average


def _look(study, cell, reward, files):
    """The initial policy, or the best of several of its samples."""
    trainer, step = study.trainer(cell), study.settings.steps
    policy = trainer.policy(trainer.start())
    noted = recorder.Recorder(study, cell, trainer, reward, files, 0)
    number = study.table[cell.method].best_of
    if number:
        numbers = {study.table[name].best_of for name in study.settings.methods}
        found = noted.best_of(tuple(sorted(numbers - {0})))[number]
    else:
        found = noted.measured_at_start(policy)
    noted.write(cell, *found, step, "final")
    extra = {**noted.offsets(), "final": True}
    study.checkpointer(cell).save(step, {"policy": policy}, extra)
