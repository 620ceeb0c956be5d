"""The step of every experiment at its smallest, traced for the devices of a layout.

STEPS holds (layout) -> what `lower` of a compiled step returns. All arguments are
shapes, so a layout may be of devices that nothing can run on.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny_game

from experiments.pivot_translation import students, trainers
from experiments.throughput import memory
from rlhf_jax import optim, sampling, training
from rlhf_jax.algorithms import (
    policy_gradient,
    preference,
    regularization,
    reward_model,
    sft,
    unpaired,
)
from rlhf_jax.algorithms import translation_game as game
from rlhf_jax.algorithms.translation_game import imitation, messages
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder, heads, lora
from rlhf_jax.studies import programs, supervised
from rlhf_jax.types import Labelled, Pairs, Preferences, Rollout, Tokens

ROWS, PROMPT, NEW = 16, 3, 5
LENGTH = PROMPT + NEW
SHAPE = model_config.llama(
    vocab_size=16, width=8, layers=1, heads=2, max_length=LENGTH, tied=True
)
GPT2 = model_config.gpt2(
    vocab_size=16, width=8, layers=1, heads=2, max_length=LENGTH, dtype="bfloat16"
)
ENCODER = model_config.Encoder(
    vocab_size=16, width=8, layers=1, heads=2, hidden=16, max_length=LENGTH
)
ADAPTER = lora.Config(2, 4.0)
OPTIMIZER = optim.Config()


def shapes(module, *inputs):
    """The parameters of a module as shapes."""
    inputs = inputs or (jnp.ones((1, LENGTH), jnp.int32),)
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def ints(*shape):
    return np.ones(shape, np.int32)


def floats(*shape):
    return np.ones(shape, np.float32)


def scalars(tree):
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree))


def algorithm(name="ppo", **changes):
    draws = sampling.Config(max_new_tokens=NEW, eos_ids=(1,))
    candidates = 2 if name in policy_gradient.GROUPED else 1
    fixed = {"sampling": draws, "candidates": candidates, "minibatches": 2}
    return policy_gradient.Config(algorithm=name, **fixed, **changes)


def prepared(config, layout, shape=SHAPE, adapter=None):
    """(`programs.Programs`, the arguments of an iteration)."""
    sizes = {"rows": ROWS, "prompt_length": PROMPT, "adapter": adapter}
    return memory.prepare(shape, config, layout, **sizes)


def iteration(config, layout, **model):
    return memory.lower(*prepared(config, layout, **model))


def judged_by_an_encoder(layout):
    """PPO whose reward is the probability that an encoder gives a class."""
    config, judge = algorithm(), heads.Classifier(ENCODER, 2)
    _, given = prepared(config, layout)
    made = programs.compile_programs(
        decoder.Decoder(SHAPE),
        config,
        layout,
        score=reward_model.probability(judge, label=1),
    )
    return memory.lower(made, {**given, "frozen": layout.like(shapes(judge))})


def drawn(layout):
    """A rollout alone, for rewards that are functions of Python."""
    made, given = prepared(algorithm(), layout)
    return made.rollout.lower(given["base"], given["state"], given["batch"])


def learned(layout):
    """Learning from rows that functions of Python have scored."""
    made, given = prepared(algorithm(), layout)
    row = ints(ROWS, LENGTH)
    response, logps = ints(ROWS, NEW), floats(ROWS, NEW)
    rollout = Rollout(row, row, response, logps, logps, np.ones(ROWS, bool))
    rows = (layout.rows_like(x) for x in (rollout, floats(ROWS)))
    return made.learn.lower(given["base"], given["state"], *rows, given["hyper"])


def supervise(
    layout, model, make_loss, count, batch, *, adapter=None, inputs=(), **more
):
    """A step of `supervised`; inputs: of the model's `init`; more: of an Objective."""
    objective = supervised.Objective(model, make_loss, count, OPTIMIZER, **more)
    base = trained = shapes(model, *inputs)
    if adapter is not None:
        made = functools.partial(
            lora.init, base, rank=adapter.rank, targets=adapter.targets
        )
        trained = jax.eval_shape(made, jax.random.key(0))
    start = functools.partial(supervised.initial, objective=objective, average=True)
    step = supervised.compile_step(objective, layout, adapter=adapter)
    return step.lower(
        layout.like(base),
        layout.like(jax.eval_shape(start, trained)),
        layout.rows_like(batch),
        layout.like(scalars(supervised.Hyper(1e-3, 4))),
    )


TEXTS = Tokens(*[ints(ROWS, LENGTH)] * 3)
PAIRS = Preferences(*[ints(ROWS, LENGTH)] * 4, floats(ROWS))
COMPARED = preference.Batch(PAIRS, ints(ROWS), floats(ROWS, 2))
LABELLED = Labelled(*[ints(ROWS, LENGTH)] * 2, ints(ROWS))
SINGLE = unpaired.Batch(
    *[unpaired.Rows(*[ints(ROWS, LENGTH)] * 2, ints(ROWS))] * 2,
    floats(ROWS),
    floats(ROWS, 2),
    floats(ROWS),
)
SENTENCES = (ints(ROWS, tiny_game.SOURCE), ints(ROWS, tiny_game.SOURCE)) * 2


def tuned(layout, model=None, **more):
    model = model or decoder.Decoder(SHAPE)
    return supervise(layout, model, sft.make_loss, sft.count, TEXTS, **more)


def preferred(layout):
    make = functools.partial(preference.make_loss, loss=("dpo", "sft"))
    model = decoder.Decoder(SHAPE)
    return supervise(layout, model, make, preference.count, COMPARED)


def unpaired_answers(layout):
    model = decoder.Decoder(SHAPE)
    return supervise(layout, model, unpaired.make_loss, unpaired.count, SINGLE)


def scored(layout, labels, make_loss, batch, shape=SHAPE):
    """A reward model or a classifier."""
    model = heads.Classifier(shape, labels)
    return supervise(layout, model, make_loss, reward_model.count, batch)


def players():
    """The weights of a game as shapes; nothing is computed and nothing is kept."""
    return jax.eval_shape(tiny_game.params.__wrapped__)


def played(layout, *, lesson=False):
    """A round of the translation game, or the lesson beside it."""
    made = trainers.compile_programs(tiny_game.NETWORKS, tiny_game.CONFIG, layout)
    start = functools.partial(game.init, tx=tiny_game.TX, key=jax.random.key(0))
    state = layout.like(jax.eval_shape(start, players()))
    if lesson:
        pairs = game.Lesson(Pairs(*SENTENCES), Pairs(*SENTENCES))
        return made.teach.lower(state.learner.params, layout.rows_like(pairs))
    batch = layout.rows_like(game.Batch(*SENTENCES, ints(ROWS)))
    hyper = layout.like(scalars(tiny_game.HYPER))
    return made.step.lower(state, batch, hyper, state.learner.params)


def imitated(layout, number):
    """Learning of a student of seeded iterated learning: 0 its sender, 1 its other."""
    steps = students.compile_programs(tiny_game.NETWORKS, tiny_game.CONFIG, layout)
    agents = game.agents(players())
    greedy = dataclasses.replace(tiny_game.CONFIG.sampling, temperature=0.0)
    tx = optim.transformation(imitation.Config(greedy).optimizer)
    student = jax.eval_shape(functools.partial(imitation.init, tx=tx), agents)
    return steps[number].lower(
        layout.like(student),
        layout.like(agents),
        layout.rows_like(Pairs(*SENTENCES)),
        layout.like(scalars(training.Hyper(1e-3, 1))),
    )


def translated(layout):
    """Pretraining of an agent of the game."""
    model = tiny_game.translator(tiny_game.FRENCH, tiny_game.ENGLISH, dropout=0.1)
    pairs = Pairs(*SENTENCES, np.ones((ROWS, 2), np.uint32))
    inputs = (jnp.ones((1, 2), jnp.int32),) * 3
    make, count = messages.make_loss, messages.count
    return supervise(layout, model, make, count, pairs, inputs=inputs)


_LORA, _GROUPS = {"adapter": ADAPTER}, {"packed": True, "kl_in": "loss"}
STEPS = {
    "ppo": lambda on: iteration(algorithm(value="shared"), on),
    "ppo of a GPT-2 in bf16": lambda on: iteration(algorithm(), on, shape=GPT2),
    "ppo with adapters": lambda on: iteration(algorithm(), on, **_LORA),
    "grpo, packed": lambda on: iteration(algorithm("grpo", **_GROUPS), on),
    "online dpo": lambda on: iteration(algorithm("online_dpo"), on),
    "ppo judged by an encoder": judged_by_an_encoder,
    "rollout": drawn,
    "learning from scores": learned,
    "sft": tuned,
    "sft with adapters": lambda on: tuned(on, **_LORA),
    "sft with a penalty": lambda on: tuned(on, make_penalty=regularization.l2),
    "preference": preferred,
    "unpaired answers": unpaired_answers,
    "reward model": lambda on: scored(on, 1, reward_model.make_pair_loss, PAIRS),
    "odin": lambda on: scored(on, 2, reward_model.make_odin_loss, PAIRS),
    "classifier": lambda on: scored(
        on, 2, reward_model.make_label_loss, LABELLED, ENCODER
    ),
    "game": played,
    "lesson of the game": lambda on: played(on, lesson=True),
    "student's sender": lambda on: imitated(on, 0),
    "student's receiver": lambda on: imitated(on, 1),
    "translator": translated,
}
