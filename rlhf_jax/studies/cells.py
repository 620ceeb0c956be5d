"""One method on one seed: how it starts, advances, resets, and what its policy is.

A study is a table of methods and seeds; a cell of it is a `Trainer` that the host loop
drives. Compiled programs are made once for a static configuration and serve every cell.

With an `adapter` (`lora.Config`) adapters alone are trained, averaged, reset and saved.
Programs then take the base, π₀'s weights, as their first argument: it is held once, by
the task, and the KL reference is the base with the initial adapters.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import averaging, optim, training, trees
from rlhf_jax.algorithms import policy_gradient, sft
from rlhf_jax.data import batching
from rlhf_jax.evaluation import policy
from rlhf_jax.models import heads, lora
from rlhf_jax.runtime import processes
from rlhf_jax.studies import fitting
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
    """What the loop needs of a cell. `policy(state)` is what is trained of the policy.

    weights(policy): the parameters the model is applied to; mix(policy, w): what lies
    at (1 − w)·π₀ + w·π.
    """

    start: Callable[[], Any]
    advance: Callable[[Any, int, bool], tuple]
    policy: Callable[[Any], Any]
    mix: Callable[[Any, float], Any]
    weights: Callable[[Any], Any] = lambda policy: policy
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

    def on(self, base):
        """The programs of adapters on a base, called like those without adapters."""
        names = ("iteration", "rollout", "learn")
        made = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        return self._replace(
            **{name: functools.partial(made[name], base) for name in made}
        )


def compile_programs(model, config, layout, *, score=None, adapter=None):
    """The programs of `policy_gradient` on a layout; state is donated.

    With an `adapter` they wait for their base: see `Programs.on`.
    """
    value = heads.Value(model.config, config.value_bias)
    if config.value == "shared":
        value = heads.Scalar()
    networks = policy_gradient.Networks(model, value)
    tx = optim.transformation(config.optimizer)
    fixed = {"tx": tx, "config": config}
    bind = functools.partial(networks_on, networks, config, adapter)
    compiled = functools.partial(_compile, layout, adapter)

    def iteration(base, state, frozen, batch, hyper, *, axis_name):
        return policy_gradient.iteration(
            state,
            frozen,
            batch,
            hyper,
            networks=bind(base),
            score=score,
            axis_name=axis_name,
            **fixed,
        )

    def draw(base, state, batch, *, axis_name):
        del axis_name
        return policy_gradient.rollout(state, batch, networks=bind(base), config=config)

    def learn(base, state, rollout, scores, hyper, *, axis_name):
        return policy_gradient.learn(
            state,
            rollout,
            scores,
            hyper,
            networks=bind(base),
            axis_name=axis_name,
            **fixed,
        )

    fused = None
    if score is not None:
        fused = compiled(iteration, rows_in=(2,), rows_out=(1,), outputs=3, donate=(0,))
    reset = functools.partial(policy_gradient.reset, **fixed)
    return Programs(
        networks=networks,
        tx=tx,
        iteration=fused,
        rollout=compiled(draw, rows_in=(1,), rows_out=(0,), outputs=1),
        learn=compiled(learn, rows_in=(1, 2), outputs=2, donate=(0,)),
        reset=jax.jit(reset, donate_argnums=0),
    )


def _compile(layout, adapter, step, *, rows_in, donate=(), **rest):
    """step(base, ...) on a layout; without an adapter the base is nothing, and bound.

    rows_in, donate: positions behind the base.
    """
    if adapter is None:
        step = functools.partial(step, ())
        return layout.compile(step, rows_in=rows_in, donate=donate, **rest)
    rows_in, donate = (tuple(i + 1 for i in where) for where in (rows_in, donate))
    return layout.compile(step, rows_in=rows_in, donate=donate, **rest)


def networks_on(networks, config, adapter, base):
    """The networks of adapters on a base; the critic's trunk is the base as well."""
    if adapter is None:
        return networks
    policy, value = networks
    if config.value == "separate":
        value = lora.Bound(value, {"trunk": _trunk(base)}, adapter.scale)
    return policy_gradient.Networks(lora.Bound(policy, base, adapter.scale), value)


def _trunk(params):
    return {name: part for name, part in params.items() if name != "unembedding"}


def initial_params(task, config, key, adapter=None):
    """{"policy": π₀, "value": a critic on π₀'s trunk with a zero head} (N 11).

    With an adapter: adapters of each that change nothing yet, and the critic's head.
    """
    policy = task.params
    if adapter is not None:
        policy = initial_adapters(task, key, adapter)
    if not config.learns_value:
        return {"policy": policy, "value": {}}
    width = task.model.config.width
    if config.value == "shared":
        hidden = jnp.zeros((1, 1, width))
        value = heads.Scalar().init(key, hidden)["params"]
    else:
        model = heads.Value(task.model.config, config.value_bias)
        head = heads.init_head(model, key)
        if adapter is None:
            value = heads.from_decoder(task.params, head)
        else:
            own = initial_adapters(task, jax.random.fold_in(key, 1), adapter)
            value = {"trunk": own, "head": head}
    return {"policy": policy, "value": value}


def initial_adapters(task, key, adapter):
    """Adapters of the task's policy that change nothing yet."""
    return lora.init(task.params, key, rank=adapter.rank, targets=adapter.targets)


def _parts(task, adapter):
    """How a trainer's policy becomes weights, and is mixed with π₀."""
    if adapter is None:
        return {"mix": functools.partial(averaging.interpolate, task.params)}
    join = functools.partial(lora.join, task.params, scale=adapter.scale)
    return {"weights": join, "mix": lora.weigh}


def reinforcement(
    task, programs, config, hyper, reward, *, seed, rows, layout, adapter=None
):
    """The trainer of a policy-gradient method. rows: samples an iteration."""
    if adapter is not None:
        programs = programs.on(task.params)
    prompts = rows // config.candidates
    order = batching.Epochs(task.prompts.tokens.shape[0], prompts, seed)
    traced = jax.tree.map(jnp.asarray, hyper)
    held = traced._replace(reset_every=jnp.zeros_like(traced.reset_every))

    def start():
        key = jax.random.key(seed)
        own_key = jax.random.fold_in(key, 1)
        params = initial_params(task, config, own_key, adapter)
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
        **_parts(task, adapter),
    )


def untrained(task, *, seed, layout, adapter=None):
    """The trainer of a method that trains nothing: its policy is π₀."""

    def start():
        policy = task.params
        if adapter is not None:
            key = jax.random.fold_in(jax.random.key(seed), 1)
            policy = initial_adapters(task, key, adapter)
        return layout.place({"policy": trees.copy(policy)})

    return Trainer(
        start=start,
        advance=lambda state, iteration, hold_reset: (state, {}, None),
        policy=lambda state: state["policy"],
        **_parts(task, adapter),
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

    def score():
        found = reward.host(prompts, completions, **columns)
        return np.asarray(found, np.float32).tolist()

    return np.asarray(processes.told(score), np.float32)


def supervised(
    task,
    texts,
    step,
    config,
    *,
    seed,
    rows,
    steps,
    learning_rate,
    layout,
    updates=1,
    adapter=None,
):
    """The trainer of `sft`: likelihood of `texts`, from π₀ on.

    texts: `Tokens`; step: of `compile_supervised`; updates: of an iteration.
    """
    order = batching.Epochs(texts.tokens.shape[0], rows, seed)
    tx = optim.transformation(config)
    hyper = training.Hyper(jnp.asarray(learning_rate), jnp.asarray(steps * updates))
    if adapter is not None:
        step = functools.partial(step, task.params)

    def start():
        if adapter is None:
            params = trees.copy(task.params)
        else:
            key = jax.random.fold_in(jax.random.key(seed), 1)
            params = initial_adapters(task, key, adapter)
        return layout.place(training.init(params, tx))

    def advance(state, iteration, hold_reset):
        del hold_reset
        for number in range(updates):
            index = order.indices(iteration * updates + number)
            batch = layout.shard(batching.take(texts, index))
            state, metrics = step(state, batch, hyper)
        return state, {f"sft/{k}": v for k, v in metrics.items()}, None

    return Trainer(
        start=start,
        advance=advance,
        policy=lambda state: state.params,
        **_parts(task, adapter),
    )


def compile_supervised(model, config, layout, adapter=None):
    """The step of `supervised`, compiled once for every seed; an adapter's takes the
    base first."""
    if adapter is None:
        return fitting.compile_step(sft.make_loss(model), sft.count, config, layout)

    def step(base, state, batch, hyper, *, axis_name):
        bound = lora.Bound(model, base, adapter.scale)
        run = training.make_step(
            sft.make_loss(bound),
            optim.transformation(config),
            config=config,
            count=sft.count,
            axis_name=axis_name,
        )
        return run(state, batch, hyper)

    return layout.compile(step, rows_in=(2,), outputs=2, donate=(1,))


def own_samples(task, layout, *, rows=1024):
    """`Tokens` that π₀ wrote to training prompts; its responses are the targets."""

    prompts = Prompts(*(x[:rows] for x in task.prompts))
    draw = policy.compile_draw(task.model, layout, task.sampling)
    out = draw(task.params, policy.prompt_rows(prompts, jax.random.key(4242)))
    mask = prompts.mask
    targets = np.concatenate([np.zeros_like(mask), out.response_mask], axis=1)
    return Tokens(out.tokens, out.mask, targets.astype(np.int32))
