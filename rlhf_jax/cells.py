"""One method on one seed: how it starts, advances, resets, and what its policy is.

A study is a table of methods and seeds; a cell of it is a `Trainer` that the host loop
drives. Compiled programs are made once for a static configuration and serve every cell.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import fitting, optim, training, trees
from rlhf_jax.algorithms import policy_gradient, sft
from rlhf_jax.data import batching
from rlhf_jax.evaluation import policy
from rlhf_jax.models import heads
from rlhf_jax.types import Prompts, Tokens


class Cell(NamedTuple):
    """A method on a seed."""

    method: str
    seed: int

    @property
    def name(self):
        """As in file names: "elastic_reset-0"."""
        return f"{self.method}-{self.seed}"


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What the loop needs of a cell. `policy(state)` is the policy's parameters."""

    start: Callable[[], Any]
    advance: Callable[[Any, int, bool], tuple]
    policy: Callable[[Any], Any]
    reset: Callable[[Any], Any] = lambda state: state
    average: Callable[[Any], Any] | None = None


class Programs(NamedTuple):
    """Compiled once for a static configuration; methods and seeds share them."""

    networks: Any
    tx: Any
    iteration: Callable | None  # fused, when the score is JAX
    rollout: Callable
    learn: Callable
    reset: Callable


def compile_programs(model, config, layout, *, score=None):
    """The programs of `policy_gradient` on a layout; state is donated."""
    value = heads.Value(model.config)
    if config.value == "shared":
        value = heads.Scalar()
    networks = policy_gradient.Networks(model, value)
    tx = optim.transformation(config.optimizer)
    fixed = {"networks": networks, "tx": tx, "config": config}

    def draw(state, batch, *, axis_name):
        del axis_name
        return policy_gradient.rollout(state, batch, networks=networks, config=config)

    fused = None
    if score is not None:
        step = functools.partial(policy_gradient.iteration, **fixed, score=score)
        fused = layout.compile(
            step, rows_in=(2,), rows_out=(1,), outputs=3, donate=(0,)
        )
    learn = functools.partial(policy_gradient.learn, **fixed)
    reset = functools.partial(policy_gradient.reset, tx=tx, config=config)
    return Programs(
        networks=networks,
        tx=tx,
        iteration=fused,
        rollout=layout.compile(draw, rows_in=(1,), rows_out=(0,), outputs=1),
        learn=layout.compile(learn, rows_in=(1, 2), outputs=2, donate=(0,)),
        reset=jax.jit(reset, donate_argnums=0),
    )


def initial_params(task, config, key):
    """{"policy": π₀, "value": a critic on π₀'s trunk with a zero head} (N 11)."""
    if not config.learns_value:
        return {"policy": task.params, "value": {}}
    width = task.model.config.width
    if config.value == "shared":
        hidden = jnp.zeros((1, 1, width))
        value = heads.Scalar().init(key, hidden)["params"]
    else:
        head = heads.init_head(heads.Value(task.model.config), key)
        value = heads.from_decoder(task.params, head)
    return {"policy": task.params, "value": value}


def reinforcement(task, programs, config, hyper, reward, *, seed, rows, layout):
    """The trainer of a policy-gradient method. rows: samples an iteration."""
    prompts = rows // config.candidates
    order = batching.Epochs(task.prompts.tokens.shape[0], prompts, seed)
    traced = jax.tree.map(jnp.asarray, hyper)
    held = traced._replace(reset_every=jnp.zeros_like(traced.reset_every))

    def start():
        key = jax.random.key(seed)
        params = initial_params(task, config, jax.random.fold_in(key, 1))
        state = policy_gradient.init(params, programs.tx, hyper, key, config=config)
        return layout.place(state)

    def advance(state, iteration, hold_reset):
        now = held if hold_reset else traced
        index = order.indices(iteration)
        ids = np.arange(prompts, dtype=np.int32)
        tokens, mask = task.prompts.tokens[index], task.prompts.mask[index]
        batch = layout.shard(policy_gradient.Batch(tokens, mask, ids))
        if reward.score is not None:
            state, drawn, metrics = programs.iteration(state, reward.frozen, batch, now)
            return state, metrics, drawn
        rollout = programs.rollout(state, batch)
        scores = _host_scores(task, reward, layout.gather(rollout), index, config)
        state, metrics = programs.learn(state, rollout, layout.shard(scores), now)
        return state, metrics, (rollout, scores)

    return Trainer(
        start=start,
        advance=advance,
        policy=lambda state: state.learner.params["policy"],
        reset=lambda state: programs.reset(state, traced),
        average=lambda state: state.elastic.average,
    )


def _host_scores(task, reward, rollout, index, config):
    """Strings to the user's function, its floats back, one for each candidate."""
    if reward.arrays is not None:
        return np.asarray(reward.arrays(rollout), np.float32)
    width = rollout.tokens.shape[1] - rollout.response_mask.shape[1]
    prompts = task.decode(rollout.tokens[:, :width], rollout.mask[:, :width])
    completions = task.decode(rollout.tokens[:, width:], rollout.response_mask)
    index = np.repeat(index, config.candidates)
    columns = {k: [v[i] for i in index] for k, v in task.columns.items()}
    return np.asarray(reward.host(prompts, completions, **columns), np.float32)


def supervised(task, texts, step, config, *, seed, rows, steps, learning_rate, layout):
    """The trainer of `sft`: likelihood of `texts`, from π₀ on.

    texts: `Tokens`; step: of `compile_supervised`.
    """
    order = batching.Epochs(texts.tokens.shape[0], rows, seed)
    tx = optim.transformation(config)
    hyper = training.Hyper(jnp.asarray(learning_rate), jnp.asarray(steps))

    def advance(state, iteration, hold_reset):
        del hold_reset
        index = order.indices(iteration)
        batch = layout.shard(batching.take(texts, index))
        state, metrics = step(state, batch, hyper)
        return state, {f"sft/{k}": v for k, v in metrics.items()}, None

    return Trainer(
        start=lambda: layout.place(training.init(trees.copy(task.params), tx)),
        advance=advance,
        policy=lambda state: state.params,
    )


def compile_supervised(model, config, layout):
    """The step of `supervised`, compiled once for every seed."""
    make_loss = functools.partial(sft.make_loss, model)
    return fitting.compile_step(make_loss, sft.count, config, layout)


def own_samples(task, layout, *, rows=1024):
    """`Tokens` that π₀ wrote to training prompts; its responses are the targets."""

    prompts = Prompts(*(x[:rows] for x in task.prompts))
    draw = policy.compile_draw(task.model, layout, task.sampling)
    out = draw(task.params, policy.prompt_rows(prompts, jax.random.key(4242)))
    mask = prompts.mask
    targets = np.concatenate([np.zeros_like(mask), out.response_mask], axis=1)
    return Tokens(out.tokens, out.mask, targets.astype(np.int32))
