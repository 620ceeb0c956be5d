"""What a study is made of: records of functions that the runner drives.

A study is data: methods by name, units, a schedule, evaluators, and what its report
lists. `runner.run(study, folder, layout)` trains, measures and saves whatever stands in
the records; nothing here knows what a token is, and nothing asks what a method is
called.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.evaluation.units import Unit
from rlhf_jax.reporting.claims import Claim
from rlhf_jax.reporting.sections import Section

Metrics = dict[str, float]
Samples = list[dict]  # rows of samples.jsonl: prompt, completion, score, ...


class Run(NamedTuple):
    """One method on one unit, on the devices of a layout."""

    method: str
    unit: Unit
    layout: Any = None

    @property
    def origin(self):
        """As in records: {"method", "world", "seed"}."""
        return {"method": self.method, **self.unit._asdict()}

    @property
    def name(self):
        """As in file names: "elastic_reset-0-2", of world 0 and seed 2."""
        return f"{self.method}-{self.unit.world}-{self.unit.seed}"


# Measures a policy: the model's parameters, and the run that they are of. A new
# measurement is one such function.
Evaluator = Callable[[Any, Run], tuple[Metrics, Samples]]


class Measurement(NamedTuple):
    """An evaluator in two parts, so that one program can measure many policies.

    ask(params, run) -> arrays, by programs of `run.layout` alone: for a population both
    are of all members. read(arrays, run) -> (metrics, samples) of one run.
    """

    ask: Callable[[Any, Run], Any]
    read: Callable[[Any, Run], tuple[Metrics, Samples]]

    def __call__(self, params, run):
        return self.read(self.ask(params, run), run)


class Trainer(NamedTuple):
    """How one run starts, advances and resets; the host loop drives it.

    `policy` is what is trained of the state: all weights, or adapters. `weights` turns
    that into the parameters a model is applied to, `mix(policy, w)` moves it to
    (1 − w)·π₀ + w·π. `collected` is data that the run gathered, for others to learn
    from.
    """

    start: Callable[[], Any]
    advance: Callable[[Any, int], tuple]  # (state, i) -> (state, metrics, rows)
    policy: Callable[[Any], Any]
    weights: Callable[[Any], Any] = lambda policy: policy
    reset: Callable[[Any], Any] = lambda state: state
    average: Callable[[Any], Any] | None = None  # the EMA of the policy
    mix: Callable[[Any, float], Any] | None = None
    collected: Callable[[Any], Any] | None = None


class SideBySide(NamedTuple):
    """What a `Trainer` does, for several runs that share a program.

    A state has a leading axis of members, [N, ...], apart from what they share: `axes`
    has 0 and None for its parts, as for `jax.vmap`. Metrics are [N]. A run whose
    updates are not finite stays as it is, and the others go on.
    """

    layout: Any  # `population.Population`
    axes: Any
    advance: Callable[[Any, int], tuple]  # (state, i) -> (state, metrics, rows)
    reset: Callable[[Any, Any], Any]  # (state, which are due [N] bool) -> state


class Source(NamedTuple):
    """What a derived method is read off: another run, at one of its evaluations."""

    policy: Any  # as trained so far; at the end, the final one
    best: Any  # at the checkpoint that `Study.select` prefers; None before the end
    average: Any  # the EMA, None where the trainer keeps none
    mix: Callable[[Any, float], Any] | None  # as in Trainer
    study: Any = None
    run: Run | None = None  # that of the source
    collected: Any = None  # the data that the run gathered, None where it gathers none


class Derived(NamedTuple):
    """A policy that was read off another run, and what is to be logged of how."""

    policy: Any
    metrics: Metrics


def read(trainer, state, best=None, *, study=None, run=None):
    """A run at one of its states, as `derive` reads it."""
    average = None if trainer.average is None else trainer.average(state)
    collected = None if trainer.collected is None else trainer.collected(state)
    return Source(
        trainer.policy(state), best, average, trainer.mix, study, run, collected
    )


def derive(method, source):
    """What a derived method makes of its source, as `Derived`."""
    found = method.derive(source)
    return found if isinstance(found, Derived) else Derived(found, {})


def never(schedule):
    """The calendar of a method that is not reset."""
    del schedule
    return ()


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of a study's table: it is trained, derived from another one, or measured.

    A method with neither `train`, `derive` nor `measure` is the initial policy. One
    that is trained and has a source learns from what that run gathered.
    """

    label: str  # as pictures and tables print it
    summary: str
    role: Literal["arm", "null", "ablation", "control", "relative"] = "arm"
    # (study, run) -> Trainer, or (study, run, Source) where there is a source. Where it
    # has `shares(study, run)`, runs for which that is equal can be trained by one
    # program: `side_by_side(study, runs, population)` -> SideBySide
    train: Callable | None = None
    source: str | None = None  # the method that `derive` or `train` reads
    derive: Callable[[Source], Any] | None = None  # -> a policy, as trained; Derived
    at_end: bool = False  # derived, or measured, once: at the end
    needs: tuple[str, ...] = ()  # fields of the task that it reads, and some lack
    measure: Callable | None = None  # (study, run) -> (Metrics, Samples): no weights
    resets: Callable = never  # Schedule -> 0-based iterations that end with a reset
    tunes: tuple[str, ...] = ()  # hyperparameters that a search may change
    follows: str | None = None  # it has what a search chose for this method
    twin: str | None = None  # the same as this method unless their settings differ
    reward: str = "proxy"  # a name of the task's rewards: what it is trained on
    listed: bool = True  # False: it runs for those that read it, and is not reported

    @property
    def derived_from(self):
        """The method whose run its policy is read off; None where it is trained."""
        return self.source if self.train is None else None

    @property
    def is_reset(self):
        """Whether its policy is ever reset."""
        return self.resets is not never


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When runs evaluate, reset and save. Steps are iterations done."""

    steps: int
    evaluations: (
        Callable  # (resets of a run, those of all methods) -> frozenset of steps
    )
    reset_every: int = 0  # iterations between resets, of the methods that reset
    reset_first: bool = False  # also at the end of iteration 0
    save_every: int = 0  # 0: only at the end and on a signal
    saves: frozenset[int] = frozenset()  # steps after which to save besides
    keep: int = 1  # checkpoints of a run
    logged_samples: int = 20  # of an evaluation, in samples.jsonl


class Selection(NamedTuple):
    """How the best checkpoint of a run is chosen: the one that is worth most.

    `worth(now, start) -> float` reads the named metrics, now and at the start.
    """

    metrics: tuple[str, ...]
    worth: Callable[[Metrics, Metrics], float]


class Patience(NamedTuple):
    """How long a run goes on without getting better, as `Selection` has it."""

    evaluations: int  # so many in a row end it
    threshold: float = 0.0  # what counts as better, in units of `Selection.worth`


# Watches a run: told the step and the line that metrics.jsonl got, of an iteration or
# an evaluation, it returns None, or "stop" to make this step the last.
Callback = Callable[[int, dict], str | None]


@dataclasses.dataclass(frozen=True)
class Study:
    """Methods × units, measured alike."""

    methods: Mapping[str, Method]  # those that run, sources before what derives
    units: tuple[Unit, ...]
    schedule: Schedule
    evaluators: tuple[Evaluator, ...]
    initial: Callable | None = None  # (study, run) -> Trainer of the initial policy
    task: Any = None  # of every world, unless `tasks` has one for each
    tasks: Mapping[int, Any] = dataclasses.field(default_factory=dict)  # by world
    settings: Any = None  # what the trainers of its methods read
    at_start: tuple[Evaluator, ...] = ()  # besides, of the initial policy
    at_end: tuple[Evaluator, ...] = ()  # besides, of every final policy
    of_best: tuple[
        Evaluator, ...
    ] = ()  # of the best policy of a trained run, at the end
    select: Selection | None = None  # None: no best policy is kept
    patience: Patience | None = None  # needs `select`; None: all steps are made
    callbacks: tuple[Callback, ...] = ()
    budget: Callable[[Metrics], Mapping] = lambda metrics: {}  # what an iteration took
    shown: Mapping[str, str] = dataclasses.field(default_factory=dict)  # on the bar
    digest: str = ""  # a checkpoint of another one is refused
    axes: tuple[Axis, ...] = ()
    claims: tuple[Claim, ...] = ()
    sections: tuple[Section, ...] = ()

    def runs(self, layout=None):
        """Every run in the order they are made: unit by unit, so that what is done
        after an hour is paired."""
        return [Run(m, unit, layout) for unit in self.units for m in self.methods]

    def task_of(self, run):
        """The task of the world that a run is in."""
        return self.tasks.get(run.unit.world, self.task)

    def resets(self, method):
        """The 0-based iterations of a method that end with a reset."""
        return tuple(self.methods[method].resets(self.schedule))

    def evaluations(self, method):
        """The steps after which a method is evaluated."""
        if self.methods[method].at_end:
            return frozenset({self.schedule.steps})
        every = [self.resets(name) for name in self.methods]
        return self.schedule.evaluations(self.resets(method), every)
