"""Arithmetic on pytrees of arrays."""

import operator

import jax
import jax.numpy as jnp


def lerp(a, b, weight):
    """(1 − weight)·a + weight·b, leaf by leaf; weight 0 and 1 are exact.

    a and b: pytrees with the same structure; weight: a number, or a pytree with that
    structure of what broadcasts to the leaves. Returns a pytree with the dtypes of `a`.
    """
    if jax.tree.structure(weight) != jax.tree.structure(a):
        weight = jax.tree.map(lambda _: weight, a)
    return jax.tree.map(_lerp_leaf, a, b, weight)


def _lerp_leaf(a, b, weight):
    a, b = jnp.asarray(a), jnp.asarray(b)
    # At least float32: a Python float would be cast to the dtype of bf16 leaves.
    weight = jnp.asarray(weight, jnp.promote_types(jnp.result_type(a, b), jnp.float32))
    mixed = (1.0 - weight) * a + weight * b
    # If an end point is not finite, 0 · inf would be NaN.
    mixed = jnp.where(weight == 0.0, a, jnp.where(weight == 1.0, b, mixed))
    return mixed.astype(a.dtype)


def where(condition, a, b):
    """a if the traced scalar `condition` is true, else b, leaf by leaf."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def subtract(a, b):
    """a − b, leaf by leaf."""
    return jax.tree.map(operator.sub, a, b)


def dot(a, b):
    """Σ a·b over all elements of two pytrees, accumulated in float32. Returns []."""
    parts = jax.tree.map(_dot_leaf, a, b)
    return jax.tree.reduce(operator.add, parts, jnp.zeros((), jnp.float32))


def _dot_leaf(a, b):
    wide = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    return jnp.vdot(jnp.asarray(a, wide), jnp.asarray(b, wide))


def norm(a):
    """√Σ a²: the Euclidean norm of all elements of a pytree. Returns [].

    The gradient at 0 is 0.
    """
    square = dot(a, a)
    # √ has no gradient at 0, so take the root of 1 there. The test is `!= 0`, not
    # `> 0`, so that the norm of NaN is NaN.
    return jnp.where(square != 0, jnp.sqrt(jnp.where(square != 0, square, 1.0)), 0.0)


def copy(a):
    """A copy of a pytree whose leaves share no buffers, with `a` or each other."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), a)


def size(a):
    """The number of elements in a pytree, as an int."""
    return sum(x.size for x in jax.tree.leaves(a))


def finite(a):
    """True if every element of every floating-point leaf is finite. Returns [] bool."""
    checks = [
        jnp.isfinite(x).all()
        for x in jax.tree.leaves(a)
        if jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    ]
    return jnp.stack(checks).all() if checks else jnp.array(True)


def check_alike(trees):
    """Raises ValueError unless the trees of a list have the same leaves and shapes."""
    first, *others = [
        dict(zip(paths(x), map(jnp.shape, jax.tree.leaves(x)), strict=True))
        for x in trees
    ]
    for number, other in enumerate(others, 1):
        for path in [*first, *other]:
            shapes = first.get(path, "no such leaf"), other.get(path, "no such leaf")
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"{path}: {shapes[0]} in the first tree and {shapes[1]} in tree "
                    f"{number}; trees of one structure and one set of shapes are needed"
                )


def paths(a):
    """The leaf paths of a pytree, "layers/attention/query" for nested dictionaries."""
    leaves = jax.tree_util.tree_leaves_with_path(a)
    return [path_name(path) for path, _ in leaves]


def path_name(path):
    """A path of `jax.tree_util` as text, its parts joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
