"""A study: methods × seeds on a task, measured on every axis, resumable.

Cells run one after another, seed by seed, so that whatever is done after an hour is
paired. The folder of a run holds metrics.jsonl, samples.jsonl and a folder of
checkpoints a cell; resuming cuts the two files back to what the checkpoints vouch for.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import jax

from rlhf_jax import elastic_reset
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.models import lora
from rlhf_jax.runtime import checkpoint, loop, progress, shared
from rlhf_jax.runtime import metrics_log as logs
from rlhf_jax.studies import cells, eval_steps, methods, post_hoc, recorder, search
from rlhf_jax.studies.evaluators import Evaluator


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a study does to every cell alike."""

    algorithm: policy_gradient.Config
    hyper: policy_gradient.Hyper
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    rows: int  # samples an iteration
    candidates: int  # a prompt, where a method compares candidates
    decay: float  # of the EMA
    reset_every: int  # iterations, for the methods that reset
    eval_every: int
    save_every: int
    keep: int  # checkpoints a cell
    sft_learning_rate: float
    digest: str  # of the configuration: a checkpoint of another is refused
    adapter: lora.Config | None = None  # what is trained; None: all weights
    drift_corner: float = 1.0  # nats of text NLL above π₀: where drift stops counting
    logged_samples: int = 20  # rows of an evaluation that samples.jsonl keeps
    looks: int = 0  # measurements of every method after its start; 0: see eval_every
    tuned: Mapping[str, search.Values] = dataclasses.field(default_factory=dict)
    overrides: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)
    sft_updates: int = 1  # of a supervised method, an iteration


class Study:
    """The cells of a study, what they share, and where they have got to.

    Another kind of study (`game.Game`) has a table of methods, trainers and
    measurements of its own, and says what it counts and what the best policy is.
    """

    table = methods.METHODS
    axis = "drift/text_nll"  # shown while it runs
    judged = ("eval/reward_a", "drift/text_nll_a")  # what `worth` reads

    def __init__(
        self, task, settings, layout, folder, *, console, wandb=None, made=None
    ):
        """made: what other studies of this task share: programs, rewards."""
        self.task, self.settings, self.layout = task, settings, layout
        self.folder, self.console, self._wandb = pathlib.Path(folder), console, wandb
        self._made = {} if made is None else made
        self.resets = elastic_reset.calendar(
            settings.steps, settings.reset_every, at_zero=self.resets_first()
        )

    def resets_first(self):
        """Whether iteration 0 ends with a reset too."""
        return bool(self.settings.hyper.reset_first)

    @property
    def cells(self):
        """All cells in the order they run."""
        names = self.settings.methods
        return [cells.Cell(m, seed) for seed in self.settings.seeds for m in names]

    def tuned(self, method):
        """The `tuning.Values` of a method; nothing where it follows the settings."""
        return self.settings.tuned.get(method, search.Values())

    def trains(self, method):
        """Whether weights are trained for a method, here and now."""
        return self.table[method].trains or post_hoc.apart(self, method)

    def calendar(self, method):
        """The iterations of a method that end with a reset."""
        if not self.table[method].resets:
            return []
        every = self.tuned(method).every
        if every is None:
            return self.resets
        return elastic_reset.calendar(
            self.settings.steps, every, at_zero=self.resets_first()
        )

    def evaluations(self, method):
        """Steps to evaluate a method at: the same for every method, or, with `looks`,
        as many measurements of each."""
        steps = self.settings.steps
        if self.settings.looks:
            return eval_steps.looks(steps, self.calendar(method), self.settings.looks)
        calendars = (self.resets, *map(self.calendar, self.settings.methods))
        resets = [reset for calendar in calendars for reset in calendar]
        return eval_steps.regular(steps, resets, self.settings.eval_every)

    def run(self, signals=None):
        """Runs the cells that are not done. Returns the records of metrics.jsonl.

        Raises ValueError when another process is at work in the folder.
        """
        with shared.alone(self.folder):
            try:
                self._run_cells(signals)
            except loop.Interrupted as stop:
                stop.folder = self.folder
                raise
        return logs.read(self.folder / "metrics.jsonl")

    def _run_cells(self, signals):
        done, offsets = self._progress()
        log = logs.Log(self.folder, resume_offset=offsets["metrics"], wandb=self._wandb)
        path = self.folder / "samples.jsonl"
        samples = logs.Lines(path, resume_offset=offsets["samples"])
        trained = [c for c in self.cells if self.trains(c.method)]
        steps = self.settings.steps
        bar = progress.Progress(len(trained) * steps, "training", console=self.console)
        with log, samples, bar:
            bar.start_at(sum(c in done for c in trained) * steps)
            files = recorder.Files(log, samples, bar)
            before = 0
            for cell in self.cells:
                if cell not in done:
                    if stop := loop.stopped(signals):
                        raise loop.Interrupted(f"{stop} before {cell.name}")
                    self._run(cell, files, before, signals)
                before += steps * (cell in trained)

    def _run(self, cell, files, before, signals):
        reward = self.reward(cell.seed)
        if not self.trains(cell.method):
            post_hoc.run(self, cell, reward, files)
            return
        trainer = self.trainer(cell)
        run = recorder.Recorder(self, cell, trainer, reward, files, before)
        state, start = run.restore()
        plan = loop.Plan(
            steps=self.settings.steps,
            evaluations=self.evaluations(cell.method),
            resets=frozenset(self.calendar(cell.method)),
            save_every=self.settings.save_every,
        )
        hooks = loop.Hooks(
            advance=trainer.advance,
            log=run.log,
            evaluate=run.evaluate,
            save=run.save,
            reset=trainer.reset,
        )
        loop.run(state, start=start, plan=plan, hooks=hooks, signals=signals)

    def companions(self, cell, trainer):
        """{cell: state -> policy} of what is derived from a cell as it goes."""
        return post_hoc.companions(self, cell, trainer)

    # What a kind of study decides

    def spend(self, spent, metrics):
        """Counts in `spent` what an iteration with these metrics took."""
        settings = self.settings
        if "response/length" not in metrics:
            spent["gradient_steps"] += settings.sft_updates
            return
        spent["tokens"] += metrics["response/length"] * settings.rows
        spent["reward_calls"] += settings.rows
        spent["gradient_steps"] += (
            settings.algorithm.epochs * settings.algorithm.minibatches
        )

    def worth(self, now, start):
        """What early stopping maximises, of the metrics `judged`, at the start too.

        Gain × room left before the drift corner: the hypervolume of one point, on
        validation half A, with the proxy reward. Reported on half B.
        """
        reward, drift = self.judged
        room = self.settings.drift_corner - (now[drift] - start[drift])
        return max(now[reward] - start[reward], 0.0) * max(room, 0.0)

    def conclude(self, weights, *, best=False):
        """Metrics of a final policy besides, or of the best one: as on test data."""
        del weights, best
        return {}

    # What cells share

    def reward(self, seed):
        """The reward that a seed is trained on and measured by."""
        return self.once(("reward", seed), lambda: self.task.reward(seed))

    def evaluator(self, reward):
        """The compiled measurements; every seed's reward has the same score."""
        return self.once(
            "evaluator",
            lambda: Evaluator(
                self.task, self.layout, key=jax.random.key(0), score=reward.score
            ),
        )

    def policy(self, cell):
        """The final policy of a cell that is done: adapters where those are trained."""
        method = self.table[cell.method]
        if self.trains(cell.method):
            trainer = self.trainer(cell)
            return trainer.policy(self.restore(cell, trainer)[1]["state"])
        source = method.source or cell.method
        trainer = self.trainer(cells.Cell(source, cell.seed))
        state = jax.eval_shape(trainer.start)
        target = self.layout.like({"policy": jax.eval_shape(trainer.policy, state)})
        return self.checkpointer(cell).restore(target)[1]["policy"]

    def trainer(self, cell, own=None):
        """The trainer of a cell; programs are shared between cells.

        own: `tuning.Values` in place of the method's.
        """
        if post_hoc.apart(self, cell.method):
            return post_hoc.trainer(self, cell)
        if not self.table[cell.method].trains:
            return cells.untrained(
                self.task,
                seed=cell.seed,
                layout=self.layout,
                adapter=self.settings.adapter,
            )
        if cell.method in ("sft", "sft_placebo"):
            return self._supervised(cell)
        settings, method = self.settings, self.table[cell.method]
        changes = dict(method.static)
        if changes.get("algorithm") in policy_gradient.GROUPED:
            changes["candidates"] = settings.candidates
        config = dataclasses.replace(settings.algorithm, **changes)
        reward = self.reward(cell.seed)
        if method.reward is not None:
            reward = self.task.controls[method.reward](cell.seed)
        programs = self.once(
            (config, reward.score is None or method.reward),
            lambda: cells.compile_programs(
                self.task.model,
                config,
                self.layout,
                score=reward.score,
                adapter=settings.adapter,
            ),
        )
        own = self.tuned(cell.method) if own is None else own
        average = own.average(decay=settings.decay, every=settings.reset_every)
        hyper = methods.overlay(settings.hyper, method, **average)
        hyper = hyper._replace(**settings.overrides.get(cell.method, {}))
        hyper = own.hyper(hyper)
        return cells.reinforcement(
            self.task,
            programs,
            config,
            hyper,
            reward,
            seed=cell.seed,
            rows=settings.rows,
            layout=self.layout,
            adapter=settings.adapter,
        )

    def _supervised(self, cell):
        settings, task, layout = self.settings, self.task, self.layout
        optimizer, adapter = settings.algorithm.optimizer, settings.adapter
        step = self.once(
            "sft",
            lambda: cells.compile_supervised(task.model, optimizer, layout, adapter),
        )
        rate = self.tuned(cell.method).learning_rate
        texts = task.best
        if cell.method == "sft_placebo":
            texts = self.once("placebo", lambda: cells.own_samples(task, layout))
        return cells.supervised(
            task,
            texts,
            step,
            optimizer,
            seed=cell.seed,
            rows=settings.rows,
            steps=settings.steps,
            learning_rate=settings.sft_learning_rate if rate is None else rate,
            updates=settings.sft_updates,
            layout=layout,
            adapter=adapter,
        )

    def once(self, key, make):
        """What `make` returned the first time that `key` was asked for."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    # What is on the disk

    def checkpointer(self, cell):
        return checkpoint.Checkpointer(
            self.folder / "checkpoints" / cell.name,
            keep=self.settings.keep,
            config_digest=self.settings.digest,
            report=functools.partial(
                self.console.print, highlight=False, markup=False, soft_wrap=True
            ),
        )

    def restore(self, cell, trainer):
        """(step, {"state", "best"}, extra) of a cell's newest checkpoint, or None."""
        state = jax.eval_shape(trainer.start)
        target = {"state": state, "best": jax.eval_shape(trainer.policy, state)}
        return self.checkpointer(cell).restore(self.layout.like(target))

    def _progress(self):
        """Which cells are done, and how far the files of lines reach with them.

        A cell is done when its last checkpoint says so; the first that is not ends
        the count, and its own checkpoint says how far it got. What later cells left
        goes: their lines are cut off, and they run again.
        """
        done, offsets = set(), {"metrics": 0, "samples": 0}
        for position, cell in enumerate(self.cells):
            peek = self.checkpointer(cell).peek()
            if peek is not None:
                offsets = {name: peek[1][name] for name in offsets}
            if peek is None or not peek[1]["final"]:
                for later in self.cells[position + 1 :]:
                    self.checkpointer(later).clear()
                break
            done.add(cell)
        return done, offsets
