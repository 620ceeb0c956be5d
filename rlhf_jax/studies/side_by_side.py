"""Runs that share a program, trained side by side and recorded as if each were alone.

A population advances in step: one dispatch an iteration, whatever its members differ
in. Each is evaluated and reset by its own calendar, has its own lines in metrics.jsonl,
and in the end its own checkpoint. Until then all states are saved together.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.runtime import loop, parallel, population, processes
from rlhf_jax.studies import interfaces, recorder

PREFIX = "population-"  # of the folders of their checkpoints
_RESET = "reset/reset"  # the metric


def plan(study, runs, size):
    """The order of work: tuples of runs, of which those in one are trained together.

    Populations of at most `size` are filled in the order of the runs; what is not
    trained so follows as soon as its unit's populations are done.
    """
    keys = {run: _shares(study, run) if size > 1 else None for run in runs}
    filling, batches = {}, []
    for run in runs:
        if keys[run] is None:
            continue
        batch = filling.get(keys[run])
        if batch is None or len(batch) == size:
            batch = filling[keys[run]] = []
            batches.append(batch)
        batch.append(run)
    order, waiting = [], [run for run in runs if keys[run] is None]
    for number, batch in enumerate(batches):
        order.append(tuple(batch))
        later = {run.unit for rest in batches[number + 1 :] for run in rest}
        order += [(run,) for run in waiting if run.unit not in later]
        waiting = [run for run in waiting if run.unit in later]
    return tuple(order + [(run,) for run in waiting])


def _shares(study, run):
    """What a run must have in common with others; None where it is trained alone."""
    method = study.methods[run.method]
    ask = getattr(method.train, "shares", None)
    return None if ask is None or method.source is not None else ask(study, run)


def check(study, layout):
    """Raises ValueError for a study that cannot be trained side by side."""
    if study.patience is not None or study.callbacks:
        raise ValueError(
            "--population: early stopping and callbacks end runs one by one, and those "
            "of a population advance together; leave one of the two out"
        )
    if set(layout.axes) != {parallel.AXIS}:
        raise ValueError(
            f"--population, --layout {layout.name}: a population keeps every run whole "
            "on a device; leave one of the two out"
        )


def fitting(runs, hosts):
    """Groups of runs that hosts can share evenly; what is left over is alone."""
    count = len(runs) - len(runs) % hosts
    together = [runs[:count]] if count else []
    return together + [runs[i : i + 1] for i in range(count, len(runs))]


class Member(NamedTuple):
    """A run of a population."""

    recorded: recorder.Recorder
    evaluations: frozenset[int]
    resets: frozenset[int]


class Population:
    """The callbacks of the loop for runs that advance together.

    Args: together: interfaces.SideBySide; recorders: of the runs; checkpoints: of their
    states together; files: recorder.Files; before: steps of all runs before.
    """

    def __init__(self, study, together, recorders, checkpoints, files, *, before):
        self._study, self._together = study, together
        self._members = [
            Member(
                recorded,
                study.evaluations(recorded.run.method),
                frozenset(study.resets(recorded.run.method)),
            )
            for recorded in recorders
        ]
        self._checkpoints, self._files, self._before = checkpoints, files, before
        self._layout, self._axes = together.layout, together.axes
        self._iteration, self._tells_resets = 0, False

    def restore(self):
        """(state, steps done), from each member's own checkpoint or its start. All must
        have come as far."""
        states, steps = zip(*(m.recorded.restore() for m in self._members), strict=True)
        (step,) = set(steps)
        state = population.stack(states, self._axes)
        return self._layout.put(state, self._axes), step

    def plan(self):
        """`loop.Plan` of all members: what any of them asks for."""
        schedule = self._study.schedule
        return loop.Plan(
            steps=schedule.steps,
            evaluations=frozenset().union(*(m.evaluations for m in self._members)),
            resets=frozenset().union(*(m.resets for m in self._members)),
            save_every=schedule.save_every,
            saves=schedule.saves,
        )

    def hooks(self, trace):
        """`loop.Hooks`; trace: `profile.Trace`."""
        return loop.Hooks(
            advance=trace.around(self.advance),
            log=self.log,
            evaluate=self.evaluate,
            save=self.save,
            reset=self.reset,
            stopped=self._all_lost,
        )

    def advance(self, state, iteration):
        """One iteration of every member."""
        self._iteration = iteration
        state, metrics, rows = self._together.advance(state, iteration)
        self._tells_resets = _RESET in metrics
        return state, metrics, rows

    def reset(self, state):
        """Resets the members whose calendar says so."""
        due = [self._iteration in member.resets for member in self._members]
        return self._together.reset(state, due)

    def log(self, step, metrics, rows):
        """Writes each member's metrics; the time of an iteration is shared out."""
        del rows
        count = len(self._members)
        share = metrics["time/iteration"] / count
        of_all = {k: v for k, v in metrics.items() if np.shape(v) == (count,)}
        for number, (recorded, _, resets) in enumerate(self._members):
            if recorded.lost:
                continue
            own = {name: float(value[number]) for name, value in of_all.items()}
            if resets or self._tells_resets:
                own[_RESET] = float(step - 1 in resets)
            recorded.log(step, {**own, "time/iteration": share}, None)
            if loop.skipped(own) >= loop.MAX_SKIPPED:
                recorded.lose()
                self._files.bar.print(
                    f"{recorded.run.name}, step {step}: {loop.MAX_SKIPPED} updates in "
                    "a row were not finite; it stays as it is, and counts as diverged"
                )
        self._files.bar.update(self._before + step * count)

    def evaluate(self, state, step, phase):
        """Measures the members whose calendar says so, those that are asked the same
        in one program."""
        asked = []
        for number, member in enumerate(self._members):
            own = self._phase(member, step, phase)
            if member.recorded.lost:
                if phase != "before_reset" and self._is_over(step):
                    member.recorded.void_all(step)
            elif own is not None:
                alone = self.alone(state, number)
                asked.append(member.recorded.evaluation(alone, step, own))
        ask = functools.partial(answer, layout=self._layout, size=len(self._members))
        _answer_together(asked, ask, self._files.bar)

    def _phase(self, member, step, phase):
        """What an evaluation is for a member: of two sides of others' resets one."""
        if step not in member.evaluations:
            return None
        if phase not in ("before_reset", "after_reset") or step - 1 in member.resets:
            return phase
        if phase == "after_reset":
            return None
        return "final" if step == self._study.schedule.steps else "train"

    def _all_lost(self):
        return all(member.recorded.lost for member in self._members)

    def _is_over(self, step):
        return step == self._study.schedule.steps or self._all_lost()

    def save(self, state, step, final):
        """Saves all states together."""
        parts = [member.recorded.saved() for member in self._members]
        best, extras = zip(*parts, strict=True)
        tree = {"state": state}
        if self._study.select is not None:
            together = np.stack if processes.count() == 1 else jnp.stack
            tree["best"] = jax.tree.map(lambda *x: together(x), *best)
        extra = {
            **self._files.offsets(),
            "members": [member.recorded.run.name for member in self._members],
            "each": list(extras),
            "final": final,
        }
        with self._files.bar.phase("population: saving"):
            self._checkpoints.save(step, tree, extra)

    def save_each(self, state, step):
        """Gives every member its own checkpoint, as the last one of its run."""
        for number, member in enumerate(self._members):
            member.recorded.save(self.alone(state, number), step, True)

    def alone(self, state, number):
        """The state of one member, as its own `Trainer` has it."""
        layout = self._members[number].recorded.run.layout
        return layout.put(self._layout.take(state, number, self._axes))


def split(study, folder, made, make, layout):
    """Gives every member of a saved population a checkpoint of its own, from which it
    is resumed alone or in another population; then the population's is deleted.

    Args: folder: of all checkpoints; made(run) -> (its Trainer, its Checkpointer);
    make(folder) -> the Checkpointer of a population.
    """
    runs = {run.name: run for run in study.runs(layout)}
    for path in sorted(folder.glob(f"{PREFIX}*")):
        checkpoints = make(path)
        peek = checkpoints.peek()
        if peek is not None:
            _split(
                study, [runs[name] for name in peek[1]["members"]], checkpoints, made
            )
        checkpoints.clear()


def _split(study, runs, checkpoints, made):
    train = study.methods[runs[0].method].train
    axes, parts = train.axes, [made(run) for run in runs]
    target = recorder.target(study, parts[0][0])
    place = population.of(runs[0].layout.devices, len(runs))
    whole = {k: 0 for k in target} | {"state": axes}
    wanted = {}
    for name, shape in target.items():
        join = functools.partial(population.stack, axes=whole[name])
        together = jax.eval_shape(join, [shape] * len(runs))
        wanted[name] = place.like(together, whole[name])
    step, tree, extra = checkpoints.restore(wanted)
    offsets = {k: extra[k] for k in ("metrics", "samples")}
    for number, (_, own) in enumerate(parts):
        saved = {k: place.take(tree[k], number, whole[k]) for k in tree}
        own.save(step, saved, {**extra["each"][number], **offsets, "final": False})


# Evaluations


def _answer_together(asked, ask, bar):
    """Answers the first question of every evaluation, then the second of every one ...

    asked: list of generators, see `Recorder.evaluation`; ask(questions) -> answers.
    """
    answers = [None] * len(asked)
    while asked:
        open_, questions = [], []
        for evaluation, answered in zip(asked, answers, strict=True):
            try:
                questions.append(evaluation.send(answered))
                open_.append(evaluation)
            except StopIteration:
                pass
        if questions:
            with bar.phase(f"{len(questions)} runs: evaluating"):
                answers = ask(questions)
        asked = open_


def answer(questions, *, layout, size):
    """[(metrics, samples)] of questions; what `interfaces.Measurement` measures of
    several runs is measured in one program of `size` members."""
    found = [({}, []) for _ in questions]
    steps = itertools.zip_longest(*(q.evaluators for q in questions))
    for evaluators in steps:
        for one, group in _alike(evaluators, questions).items():
            asked = [questions[i] for i in group]
            results = _measure(one, asked, layout, size)
            for i, (metrics, samples) in zip(group, results, strict=True):
                found[i] = found[i][0] | metrics, found[i][1] + samples
    return found


def _alike(evaluators, questions):
    """{evaluator: the positions of the questions that it answers}."""
    groups = {}
    for i, (one, question) in enumerate(zip(evaluators, questions, strict=True)):
        if one is not None:
            one = one.of(question.run) if hasattr(one, "of") else one
            groups.setdefault(one, []).append(i)
    return groups


def _measure(evaluate, questions, layout, size):
    """[(metrics, samples)] of one evaluator."""
    together = isinstance(evaluate, interfaces.Measurement) and len(questions) > 1
    if not together:
        return [evaluate(question.weights, question.run) for question in questions]
    results = []
    for start in range(0, len(questions), size):
        part = questions[start : start + size]
        # Fewer than there are members are filled up with the first: one program.
        filled = [*part, *part[:1] * (size - len(part))]
        weights = [question.weights for question in filled]
        axes = population.axes_of(weights)  # adapters have a base in common
        weights = layout.put(population.stack(weights, axes), axes)
        together = population.Members(weights, axes)
        found = evaluate.ask(together, part[0].run._replace(layout=layout))
        for number, question in enumerate(part):
            own = population.of_member(found, number)
            results.append(evaluate.read(own, question.run))
    return results
