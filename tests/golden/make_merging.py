"""What mergekit makes of three small models, for machines without it or torch.

    pip install -c constraints.txt -e '.[mergekit]'
    python -m tests.golden.make_merging

writes merging.npz beside this file: a base and three models, tensor by tensor; the
masks that mergekit drew for them, with torch's generator, in its own functions; and
its merges through `merge_tensors`, in float32. The versions that made it are in it.
"""

import pathlib
import unittest.mock

import numpy as np

FILE = pathlib.Path(__file__).resolve().parent / "merging.npz"
SHAPES = {"matrix": (6, 10), "vector": (12,), "other": (4, 3)}
WEIGHTS = (1.0, 0.5, 0.75)
DENSITIES = (0.3, 0.6, 0.45)
EPSILON, GAMMA = 0.2, 0.1
SEED = 0  # of torch's generator, before every merge
TIES = {"weight": WEIGHTS, "density": DENSITIES}
DELLA = TIES | {"epsilon": EPSILON}
CRUMBS = TIES | {"gamma": GAMMA}
# case: (method, number of models, parameters; a tuple holds one value a model)
CASES = {
    "linear": ("linear", 3, {"weight": WEIGHTS}),
    "linear_sum": ("linear", 3, {"weight": WEIGHTS, "normalize": False}),
    "slerp_of_vectors": ("slerp", 2, {"t": 0.3}),
    "nuslerp": ("nuslerp", 2, {"weight": WEIGHTS}),
    "task_arithmetic": ("task_arithmetic", 3, {"weight": WEIGHTS}),
    "task_arithmetic_normalized": (
        "task_arithmetic",
        3,
        {"weight": WEIGHTS, "normalize": True, "lambda": 1.5},
    ),
    "ties": ("ties", 3, TIES),
    "ties_sum": ("ties", 3, TIES | {"normalize": False, "lambda": 0.4}),
    "ties_signs": ("ties", 3, TIES | {"weight": (1.0, -0.5, 0.75)}),
    "dare_linear": ("dare_linear", 3, TIES),
    "dare_linear_plain": ("dare_linear", 3, TIES | {"rescale": False}),
    "dare_ties": ("dare_ties", 3, TIES),
    "dare_ties_plain": ("dare_ties", 3, TIES | {"rescale": False}),
    "dare_ties_normalized": ("dare_ties", 3, TIES | {"normalize": True}),
    "della": ("della", 3, DELLA),
    "della_plain": ("della", 3, DELLA | {"rescale": False}),
    "della_linear": ("della_linear", 3, DELLA),
    "breadcrumbs": ("breadcrumbs", 3, CRUMBS),
    "breadcrumbs_outliers": ("breadcrumbs", 3, CRUMBS | {"gamma": 0.5}),
    "breadcrumbs_ties": ("breadcrumbs_ties", 3, CRUMBS),
    "model_stock": ("model_stock", 3, {}),
    "model_stock_of_two": ("model_stock", 2, {}),
}


def models():
    """The base and three models: four trees {name: float32 array}."""
    rng = np.random.default_rng(0)
    base = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    common = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    tuned = [
        {
            name: base[name] + 0.3 * (common[name] + rng.normal(size=shape))
            for name, shape in SHAPES.items()
        }
        for _ in range(3)
    ]
    return [
        {name: x.astype(np.float32) for name, x in tree.items()}
        for tree in (base, *tuned)
    ]


def merges(trees):
    """{"case/tensor": merge} by mergekit, of the base and models in `trees`."""
    import torch
    from mergekit.merge_methods import merge_tensors

    made = {}
    for case, (method, count, parameters) in CASES.items():
        for name in SHAPES:
            base, *tuned = (torch.tensor(tree[name]) for tree in trees[: count + 1])
            parameters = {
                key: dict(enumerate(value[:count], 1))
                if isinstance(value, tuple)
                else value
                for key, value in parameters.items()
            }
            torch.manual_seed(SEED)
            made[f"{case}/{name}"] = _merge(
                merge_tensors, method, base, tuned, parameters
            )
    return {key: merge.numpy() for key, merge in made.items()}


def _merge(merge_tensors, method, base, tuned, parameters):
    if method == "linear":  # takes no base, and numbers its models from 0
        weights = list(parameters["weight"].values())
        return merge_tensors(tuned, method, parameters=parameters | {"weight": weights})
    if method == "slerp":  # of raw tensors, the first as its base: here task vectors
        vectors = [x - base for x in tuned]
        return merge_tensors(vectors, method, parameters=parameters, base_index=0)
    return merge_tensors([base, *tuned], method, parameters=parameters, base_index=0)


def masks(trees):
    """What was drawn: {"dare/tensor/i": mask}, "della/...", and "probability/...".

    Those of one call are those of another from the same state of the generator. The
    probabilities are DELLA's.
    """
    import torch
    from mergekit import sparsify

    methods = {
        "dare": sparsify.SparsificationMethod.random,
        "della": sparsify.SparsificationMethod.della_magprune,
    }
    drawn = {}
    for family, method in methods.items():
        for name in SHAPES:
            torch.manual_seed(SEED)
            base, *tuned = (torch.tensor(tree[name]) for tree in trees)
            for i, (model, density) in enumerate(zip(tuned, DENSITIES, strict=True), 1):
                kept, probability = _sparse(sparsify, model - base, density, method)
                drawn[f"{family}/{name}/{i}"] = kept
                if family == "della":
                    drawn[f"probability/{name}/{i}"] = probability
    return drawn


def _sparse(sparsify, vector, density, method):
    """(mask, probabilities) of one call of mergekit's."""
    import torch

    with unittest.mock.patch("torch.bernoulli", wraps=torch.bernoulli) as bernoulli:
        kept = sparsify.sparsify(vector, density, method, epsilon=EPSILON)
    ((probability,), _) = bernoulli.call_args
    return (kept != 0).numpy(), probability.reshape(vector.shape).numpy()


def main():
    import importlib.metadata

    packages = ("mergekit", "torch")
    version = ", ".join(f"{x} {importlib.metadata.version(x)}" for x in packages)
    trees = models()
    inputs = {
        f"model/{name}/{i}": tree[name] for i, tree in enumerate(trees) for name in tree
    }
    made = inputs | merges(trees) | masks(trees)
    np.savez_compressed(FILE, version=version, **made)


if __name__ == "__main__":
    main()
