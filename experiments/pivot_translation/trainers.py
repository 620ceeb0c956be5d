"""One method of the game on one seed, as the host loop drives it.

Programs are compiled once for a configuration and a shape of batches, and serve every
method and seed. Batches are functions of the seed and the step.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pivot_translation import pretraining, task
from rlhf_jax import averaging, optim, training, trees
from rlhf_jax.algorithms import translation_game as game
from rlhf_jax.algorithms.translation_game import imitation as sil
from rlhf_jax.data.translation import corpora, token_batches
from rlhf_jax.studies import cells
from rlhf_jax.types import Pairs

_SIL_SEED, _LESSON_SEED = 10_000, 20_000  # beside the seed of a run


class Programs(NamedTuple):
    """Compiled once; methods and seeds share them."""

    step: Any
    teach: Any
    reset: Any
    imitate: Any
    tune: Any


class Learned(NamedTuple):
    """What SIL carries: the game's state, and the student of the last generation."""

    game: game.State
    student: dict  # {"sender", "receiver"}


@dataclasses.dataclass(frozen=True)
class Flow:
    """Where batches come from: tokens of one, and the classes they are cut into."""

    tokens: int
    lesson_tokens: int
    classes: int


def compile_programs(networks, config, greedy, layout):
    """`Programs` on a layout; state is donated.

    Args: config: translation_game.Config; greedy: sampling.Config of SIL's teachers.
    """
    fixed = {"networks": networks}
    tx = optim.transformation(config.optimizer)

    def step(state, batch, hyper, lesson, *, axis_name):
        return game.step(
            state, batch, hyper, lesson, tx=tx, config=config, axis_name=axis_name,
            **fixed,
        )  # fmt: skip

    def teach(params, lesson, *, axis_name):
        return game.teach(params, lesson, axis_name=axis_name, **fixed)

    learner = sil.Config(greedy)
    student_tx = optim.transformation(learner.optimizer)
    own = {
        "networks": sil.Networks(networks.sender, networks.receiver),
        "tx": student_tx,
        "config": learner,
    }

    imitate = functools.partial(sil.imitate, **own)
    tune = functools.partial(sil.tune, **own)
    compiled = functools.partial(layout.compile, outputs=2)
    return Programs(
        step=compiled(step, rows_in=(1,), donate=(0,)),
        teach=compiled(teach, rows_in=(1,)),
        reset=jax.jit(game.reset, donate_argnums=0),
        imitate=compiled(imitate, rows_in=(2,), donate=(0,)),
        tune=compiled(tune, rows_in=(2,), donate=(0,)),
    )


def initial_params(subject, seed):
    """{"sender", "receiver", "value"}: the pretrained agents and a critic of 0."""
    width = subject.networks.sender.config
    key = jax.random.fold_in(jax.random.key(seed), 1)
    features = jnp.zeros((1, 1, width.embedding + width.hidden))
    value = subject.networks.value.init(key, features)["params"]
    return {**subject.params, "value": value}


def batches(pairs, flow, seed, multiple):
    """`TokenBatches` of the game's sentences, and batch(step) -> `game.Batch`."""
    lengths = pairs.lengths()
    order = token_batches.TokenBatches(
        lengths,
        tokens=flow.tokens,
        edges=token_batches.edges(lengths, flow.classes),
        seed=seed,
        multiple=multiple,
    )

    def batch(step):
        rows, edge = order.batch(step)
        source, target = (
            corpora.pad(pairs.ids[x], rows, length=edge + 1) for x in ("fr", "de")
        )
        ids = np.arange(len(rows), dtype=np.int32)
        return game.Batch(*source, *target, ids)

    return order, batch


def trainer(subject, programs, config, hyper, *, seed, flow, layout):
    """The `cells.Trainer` of a method that plays without a student."""
    _, batch = batches(subject.train, flow, seed, layout.size)
    lesson = lessons(subject, flow, seed, layout) if hyper.lesson_coef else None
    traced = jax.tree.map(jnp.asarray, hyper)
    held = traced._replace(reset_every=jnp.zeros_like(traced.reset_every))

    def advance(state, iteration, hold_reset):
        now, extra, told = held if hold_reset else traced, None, {}
        if lesson is not None:
            extra, told = programs.teach(state.learner.params, lesson(iteration))
        state, metrics = programs.step(
            state, layout.shard(batch(iteration)), now, extra
        )
        return state, {**metrics, **told}, None

    return cells.Trainer(
        start=functools.partial(_start, subject, config, seed, layout),
        advance=advance,
        policy=lambda state: game.agents(state.learner.params),
        mix=functools.partial(_mix, subject),
        reset=lambda state: programs.reset(state, traced),
        average=_average,
    )


def _start(subject, config, seed, layout):
    tx = optim.transformation(config.optimizer)
    params = initial_params(subject, seed)
    return layout.place(game.init(params, tx, jax.random.key(seed)))


def _mix(subject, policy, weight):
    """The sender between π₀ and its own, with the receiver of the run."""
    sender = averaging.interpolate(subject.params["sender"], policy["sender"], weight)
    return {"sender": sender, "receiver": policy["receiver"]}


def _average(state):
    """The sender's EMA, with the receiver of the run."""
    receiver = state.learner.params["receiver"]
    return {"sender": state.elastic.average["sender"], "receiver": receiver}


def lessons(subject, flow, seed, layout):
    """lesson(step) -> `game.Lesson` on devices: pretraining text for both agents."""
    made = [
        pretraining.Batches(
            subject.lessons[name],
            *languages,
            tokens=flow.lesson_tokens,
            classes=flow.classes,
            seed=_LESSON_SEED + seed,
            multiple=layout.size,
        )
        for name, languages in (("sender", task.SENDER), ("receiver", task.RECEIVER))
    ]

    def lesson(step):
        return layout.shard(game.Lesson(*(part.plain(step) for part in made)))

    return lesson


def student(
    subject, programs, config, hyper, *, seed, flow, layout, schedule, rate, steps
):
    """The trainer of SIL: play, and at the end of a generation a student takes over.

    Args: schedule: sil.Schedule; rate: the student's learning rate; steps: of the run.
    The handover is the trainer's `reset`, so that both sides of it can be measured.
    """
    plays = trainer(
        subject, programs, config, hyper, seed=seed, flow=flow, layout=layout
    )
    _, batch = batches(subject.train, flow, _SIL_SEED + seed, layout.size)
    tx = optim.transformation(sil.Config(greedy(config)).optimizer)
    pace = training.Hyper(jnp.asarray(rate), jnp.asarray(1))

    def start():
        state = plays.start()
        return Learned(state, layout.place(trees.copy(subject.params)))

    def advance(state, iteration, hold_reset):
        ends = schedule.due(iteration, steps)
        played, metrics, rows = plays.advance(state.game, iteration, False)
        state = state._replace(game=played)
        if ends and not hold_reset:
            state = hand_over(state)
        updates = (schedule.imitate + schedule.tune) * ends
        told = {"sil/updates": jnp.asarray(updates), "reset/reset": jnp.asarray(ends)}
        return state, {**metrics, **told}, rows

    def hand_over(state):
        generation = int(state.game.iteration) // schedule.play
        teacher = game.agents(state.game.learner.params)
        learning = layout.place(sil.init(state.student, tx))
        taught = schedule.imitate + schedule.tune
        for i in range(taught):
            part = batch((generation - 1) * taught + i)
            program = programs.imitate if i < schedule.imitate else programs.tune
            rows = layout.shard(Pairs(*part[:4]))
            learning, _ = program(learning, teacher, rows, pace)
        learned = sil.agents(learning)
        params = {**state.game.learner.params, **layout.place(trees.copy(learned))}
        learner = state.game.learner._replace(params=params)
        return Learned(state.game._replace(learner=learner), learned)

    return dataclasses.replace(
        plays,
        start=start,
        advance=advance,
        policy=lambda state: plays.policy(state.game),
        reset=hand_over,
        average=lambda state: _average(state.game),
    )


def greedy(config):
    """How a teacher speaks: as in `translation_game.Config`, drawing nothing."""
    return dataclasses.replace(config.sampling, temperature=0.0)
