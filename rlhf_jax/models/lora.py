"""LoRA: low-rank updates of frozen layers, in a parameter tree of their own.

Hu et al. 2021, arXiv:2106.09685: x W becomes x (W + s·A B), with A [L, inputs, r] and
B [L, r, outputs] stacked over layers; `layers.Dense` computes it if its parameters have
"lora_a" and "lora_b". A tree of adapters mirrors the part of the parameters that it
changes. It may also hold whole parameters, such as a head, which replace the base's.

A B is bilinear: averaged adapters are not the adapter of averaged weights. Elastic
Reset's authors average A and B separately (Noukhovitch et al. 2023, the StackLLaMA
code) and reset A to its initial random values; so does `elastic_reset` on these trees.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from rlhf_jax import ranges, trees
from rlhf_jax.types import Params

A, B = "lora_a", "lora_b"


@dataclasses.dataclass(frozen=True)
class Config:
    """Adapters beside frozen weights: they alone are trained, averaged and reset."""

    rank: ranges.Natural = 0
    """Of an adapter; 0 trains all weights."""
    alpha: ranges.Positive | None = None
    """An update counts alpha / rank times; by default twice, as in StackLLaMA."""
    targets: tuple[ranges.Text, ...] = ("attention/query", "attention/value")
    """Regular expressions, searched in the paths of linear layers."""
    rslora: bool = False
    """An update counts alpha / √rank times instead."""

    def conflicts(self):
        """Fields that contradict each other, and why."""
        if self.alpha is not None and not self.rank:
            yield ("alpha", "rank"), "without a rank there are no adapters to scale"
        if self.rslora and not self.rank:
            yield ("rslora", "rank"), "without a rank there are no adapters to scale"
        if self.targets != Config.targets and not self.rank:
            yield ("targets", "rank"), "without a rank there are no adapters"

    @property
    def scale(self):
        """s = α/r; rank-stabilised α/√r (Kalajdzievski 2023, arXiv:2312.03732)."""
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        return alpha / (self.rank**0.5 if self.rslora else self.rank)


@dataclasses.dataclass(frozen=True, eq=False)
class Bound:
    """A model with a frozen base: `apply({"params": adapters}, ...)` joins the two.

    Create it inside a compiled step that takes the base as an argument, so that weights
    are neither copied nor compiled in as constants.
    """

    model: Any
    base: Params
    scale: float

    @property
    def config(self):
        return self.model.config

    def apply(self, variables, *args, **named):
        params = join(self.base, variables["params"], scale=self.scale)
        return self.model.apply({"params": params}, *args, **named)


def modules(params):
    """The paths that can be adapted, such as "layers/attention/query".

    These are the linear layers of a stack. params: a pytree of anything with a shape.
    """
    paths = []
    for path, leaf in zip(trees.paths(params), jax.tree.leaves(params), strict=True):
        *above, name = path.split("/")
        if name == "kernel" and "layers" in above and len(leaf.shape) == 3:
            paths.append("/".join(above))
    return paths


def init(params, key, *, rank, targets):
    """New adapters, without effect yet: A ~ U(−1/√inputs, 1/√inputs), B = 0, float32.

    PEFT's default (Kaiming-uniform with a = √5). A module's A depends on the key and on
    the module's index in the model, not on which others are adapted.

    Args: params of any model, classifier or value network; key [] typed; rank r;
    targets: regular expressions to search for in the paths of `modules`.
    """
    every = modules(params)
    chosen = _matching(every, targets)
    leaves = dict(zip(trees.paths(params), jax.tree.leaves(params), strict=True))
    made = {}
    for index, module in enumerate(every):
        if module not in chosen:
            continue
        depth, inputs, outputs = leaves[f"{module}/kernel"].shape
        most = min(inputs, outputs)
        if not 1 <= rank <= most:
            raise ValueError(
                f"rank {rank} does not fit {module}: choose from 1 to {most}, the "
                "smaller side of its kernel"
            )
        module_key = jax.random.fold_in(key, index)
        bound = inputs**-0.5
        shape = (depth, inputs, rank)
        down = jax.random.uniform(module_key, shape, minval=-bound, maxval=bound)
        made[f"{module}/{A}"] = down
        made[f"{module}/{B}"] = jnp.zeros((depth, rank, outputs))
    return traverse_util.unflatten_dict(made, sep="/")


def count(params, config):
    """How many numbers the adapters of a configuration have, without creating them.

    Raises ValueError if the configuration does not fit the parameters.
    """
    make = functools.partial(init, params, rank=config.rank, targets=config.targets)
    return trees.size(jax.eval_shape(make, jax.random.key(0)))


def adapter(config, params):
    """A configuration whose α is known and that fits `params`; None for rank 0.

    Raises ValueError, naming --lora, where the parameters have no place for it.
    """
    ranges.check(config)
    if config.rank == 0:
        return None
    if config.alpha is None:
        config = dataclasses.replace(config, alpha=2.0 * config.rank)
    try:
        count(params, config)
    except ValueError as error:
        raise ValueError(f"--lora: {error}") from None
    return config


def join(base, adapters, *, scale):
    """The parameters to apply a model to: the base with adapters beside its kernels.

    s is multiplied into B; the base's leaves are not copied.
    """
    if not isinstance(adapters, dict):
        return adapters
    joined = dict(base)
    for name, part in adapters.items():
        joined[name] = join(base.get(name, {}), part, scale=scale)
    if B in adapters:
        joined[B] = scale * adapters[B]
    return joined


def split(params):
    """(base, adapters) of joined parameters: the inverse of `join` at scale 1."""
    base, adapters = {}, {}
    for name, part in params.items():
        if name in (A, B):
            adapters[name] = part
        elif isinstance(part, dict):
            base[name], inner = split(part)
            if inner:
                adapters[name] = inner
        else:
            base[name] = part
    return base, adapters


def merge(base, adapters, *, scale):
    """W + s·A B: plain parameters that compute the same, in the dtypes of the base."""

    def fold(tree):
        if not isinstance(tree, dict):
            return tree
        plain = {k: fold(v) for k, v in tree.items() if k not in (A, B)}
        if B in tree:
            update = jnp.matmul(
                tree[A], tree[B], precision="highest", preferred_element_type="float32"
            )
            wide = plain["kernel"].astype(jnp.float32) + update
            plain["kernel"] = wide.astype(plain["kernel"].dtype)
        return plain

    return fold(join(base, adapters, scale=scale))


def weigh(adapters, weight):
    """Adapters of (1 − w)·W + w·(W + s·A B): exact, since only B is multiplied."""

    def leaf(path, x):
        name = trees.path_name(path)
        if name.rpartition("/")[-1] not in (A, B):
            raise ValueError(f"{name} is not an adapter: average it with its base")
        return weight * x if name.endswith(B) else x

    return jax.tree_util.tree_map_with_path(leaf, adapters)


def _matching(every, targets):
    if isinstance(targets, str):
        targets = (targets,)
    chosen = set()
    for target in targets:
        try:
            matches = {module for module in every if re.search(target, module)}
        except re.error as error:
            raise ValueError(
                f"target {target!r} is not a regular expression ({error}); choose from "
                f"{', '.join(every)}"
            ) from None
        if not matches:
            raise ValueError(
                f"target {target!r} matches no layer that can be adapted; choose from "
                f"{', '.join(every)}"
            )
        chosen |= matches
    if not chosen:
        raise ValueError(f"no targets given; choose from {', '.join(every)}")
    return chosen
