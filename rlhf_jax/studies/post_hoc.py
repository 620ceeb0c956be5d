"""Methods that train nothing: read off the run of another one, or off the start.

An average of weights, the EMA, an early stop have a source; the initial policy itself
and the best of n of its samples have none. `study` is a `study.Study`.
"""

import dataclasses

from rlhf_jax.studies import cells, recorder


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
        if study.table[name].source == cell.method and not apart(study, name):
            derive = _derivation(study, name, trainer)
            if derive is not None:
                found[cells.Cell(name, cell.seed)] = derive
    return found


def apart(study, method):
    """Whether a derived method has a run of its own: tuned otherwise than its source.

    Averaging wants a livelier run than the run itself does: held to the rate that is
    best for its source it would be a weaker null than it is. An early stop is read off
    its source all the same.
    """
    source, own = study.table[method].source, study.settings.tuned.get(method)
    if source is None or own is None or follows(method):
        return False
    return own != study.tuned(source)


def trainer(study, cell):
    """The trainer of a derived method that has a run of its own: its source's, with
    the method's settings, read off as it goes."""
    source = cells.Cell(study.table[cell.method].source, cell.seed)
    made = study.trainer(source, study.tuned(cell.method))
    return dataclasses.replace(made, policy=_derivation(study, cell.method, made))


def _derive(study, cell, reward, files):
    """From the final state of its source."""
    source = cells.Cell(study.table[cell.method].source, cell.seed)
    trainer = study.trainer(source)
    _, saved, extra = study.restore(source, trainer)
    noted = recorder.Recorder(study, cell, trainer, reward, files)
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
    return None if follows(name) else trainer.average


def follows(name):
    """Whether a derived method goes with its source whatever it is tuned to: it is
    one checkpoint of that very run."""
    return name.endswith("_early_stop")


def _look(study, cell, reward, files):
    """The initial policy, or the best of several of its samples."""
    trainer, step = study.trainer(cell), study.settings.steps
    policy = trainer.policy(trainer.start())
    noted = recorder.Recorder(study, cell, trainer, reward, files)
    number = study.table[cell.method].best_of
    if number:
        numbers = {study.table[name].best_of for name in study.settings.methods}
        found = noted.best_of(tuple(sorted(numbers - {0})))[number]
    else:
        found = noted.measured_at_start(policy)
    noted.write(cell, *found, step, "final")
    extra = {**noted.offsets(), "final": True}
    study.checkpointer(cell).save(step, {"policy": policy}, extra)
