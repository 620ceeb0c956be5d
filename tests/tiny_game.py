"""A game between two tiny agents, and its programs, each compiled once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import optim, sampling
from rlhf_jax.algorithms import translation_game as game
from rlhf_jax.models import config, heads, seq2seq
from rlhf_jax.types import Pairs

PAD, UNK, BOS, EOS = range(4)
ROWS, BLANK = 4, 2  # sentences of a batch, and rows of padding behind them
SOURCE, NEW, TARGET = 5, 5, 5
FRENCH, ENGLISH, GERMAN = 9, 10, 8  # vocabularies


def translator(source, target, **changes):
    shape = config.Seq2Seq(source, target, embedding=4, hidden=5, **changes)
    return seq2seq.Seq2Seq(shape)


NETWORKS = game.Networks(
    translator(FRENCH, ENGLISH), translator(ENGLISH, GERMAN), heads.FeatureValue(6)
)
CONFIG = game.Config(
    sampling=sampling.Config(
        max_new_tokens=NEW, min_new_tokens=2, eos_ids=(EOS,), pad_id=PAD
    )
)
TX = optim.transformation(CONFIG.optimizer)
HYPER = game.Hyper(learning_rate=1e-2, decay=0.5)


def sentences(rng, rows, length, vocab, *, low=2):
    """Right-padded ids ending in EOS, [rows, length], and their mask."""
    lengths = rng.integers(low, length + 1, rows)
    tokens = rng.integers(4, vocab, (rows, length)).astype(np.int32)
    place = np.arange(length)[None]
    tokens = np.where(place == lengths[:, None] - 1, EOS, tokens)
    mask = (place < lengths[:, None]).astype(np.int32)
    return np.where(mask, tokens, PAD).astype(np.int32), mask


def batch(seed=0, rows=ROWS, blank=BLANK):
    """Sentences to pass on, and rows of padding behind them."""
    rng = np.random.default_rng(seed)
    source = sentences(rng, rows, SOURCE, FRENCH)
    target = sentences(rng, rows, TARGET, GERMAN)
    ids = np.arange(rows, dtype=np.int32)
    return jax.tree.map(
        lambda x: np.concatenate([x, np.zeros((blank, *x.shape[1:]), x.dtype)]),
        game.Batch(*source, *target, ids),
    )


def lesson(seed=1):
    rng = np.random.default_rng(seed)
    pairs = [
        Pairs(*sentences(rng, ROWS, 4, a), *sentences(rng, ROWS, 4, b))
        for a, b in ((FRENCH, ENGLISH), (ENGLISH, GERMAN))
    ]
    return game.Lesson(*pairs)


@functools.cache
def params():
    """Weights of both agents and a critic that says something."""
    keys = jax.random.split(jax.random.key(0), 4)
    some = jnp.ones((1, 2), jnp.int32)
    sender = NETWORKS.sender.init(keys[0], some, some, some)["params"]
    receiver = NETWORKS.receiver.init(keys[1], some, some, some)["params"]
    value = NETWORKS.value.init(keys[2], jnp.zeros((1, 1, 9)))["params"]
    shape = value["head"]["kernel"].shape
    value["head"]["kernel"] = jax.random.normal(keys[3], shape)
    return {"sender": sender, "receiver": receiver, "value": value}


def start(seed=0):
    return game.init(params(), TX, jax.random.key(seed))


def traced(hyper):
    return jax.tree.map(jnp.asarray, hyper)


@functools.cache
def programs():
    """(step, teach), compiled once; a step with a lesson is a program of its own."""
    step = functools.partial(game.step, networks=NETWORKS, tx=TX, config=CONFIG)
    return jax.jit(step), jax.jit(functools.partial(game.teach, networks=NETWORKS))


def run(steps, hyper=HYPER, state=None):
    """([state before, after 1, ...], [metrics])."""
    states, found = [start() if state is None else state], []
    for i in range(steps):
        state, metrics = programs()[0](states[-1], batch(i), traced(hyper))
        states.append(state)
        found.append(metrics)
    return states, found
