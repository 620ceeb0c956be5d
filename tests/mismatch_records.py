"""Records of a mismatch study whose curves are known."""

import numpy as np

from experiments.objective_mismatch import links, measures, methods

STEPS = (0, 3, 7, 15, 22, 30, 37, 45, 52, 60)
_KL = np.array([0.0, 0.2, 1.0, 2.5, 4.5, 7.0, 10.0, 14.0, 18.0, 22.0])


def gold_of(d, alpha, beta):
    """Gao et al.'s form of RL."""
    return d * (alpha - beta * np.log(np.maximum(d, 1e-9)))


def study(rng, *, worlds=8, mismatch=True, noise=0.02, quality=None):
    """Records of every row on some worlds.

    mismatch: gold is Gao et al.'s form, with its peak inside; otherwise it is the
    proxy. quality: {reward model: α of its form}, which its accuracy tells.
    """
    quality = quality or {name: 0.8 + 0.05 * i for i, name in enumerate(methods.MODELS)}
    records = []
    for world in range(worlds):
        records.append(_initial(rng, world, quality, mismatch))
        for method in methods.METHODS:
            records += _run(rng, world, method, quality, mismatch, noise)
    return records


def _run(rng, world, method, quality, mismatch, noise):
    name = method.removesuffix("_again")
    alpha = quality.get(name, quality[methods.BASE])
    d = np.sqrt(_KL)
    proxy = d * 0.7
    parts = mismatch and name != "gold"
    gold = gold_of(d, alpha, 0.6) if parts else proxy
    accuracy = 0.7 - 0.02 * d * parts
    for i, step in enumerate(STEPS):
        wiggle = rng.normal(0, noise, 3)
        last = "final" if step == STEPS[-1] else "train"
        row = {
            "method": method,
            "world": world,
            "seed": 0,
            "step": step,
            "eval/phase": last if i else "start",
            "eval/reward": proxy[i],
            "eval/reward_a": proxy[i],
            "eval/reward_b": proxy[i],
            "eval/gold": 0.4 + 0.2 * gold[i] + 0.1 * wiggle[0],
            "eval/length": 20 + d[i],
            "eval/entropy": 1.0 - 0.1 * d[i],
            "eval/duplicates": 0.01 * d[i] * parts,
            "eval/distinct_2": 0.5,
            "drift/text_nll": 2.0 + 0.1 * d[i],
            "drift/kl_initial": _KL[i],
            "tax/skills": 0.8 - 0.03 * d[i],
            measures.ACCURACY.key: accuracy[i] + wiggle[2],
            measures.SPREAD.key: 0.3 + 0.1 * d[i] * (name != "uncertainty"),
            measures.OF_LENGTH.key: 0.1 + 0.05 * d[i],
            measures.ERROR.key: 0.03,
            measures.TIES.key: 0.05,
        }
        for half in ("", "_a", "_b"):
            row[measures.PROXY.key + half] = proxy[i] + rng.normal(0, noise)
            row[measures.GOLD.key + half] = gold[i] + rng.normal(0, noise)
        yield row


def _initial(rng, world, quality, mismatch):
    row = {"method": links.INITIAL, "world": world, "seed": 0, "step": 60}
    row |= {"eval/phase": "final", "eval/reward": 0.0, "eval/gold": 0.4}
    for name in (*methods.MODELS, *methods.REWARDS):
        alpha = quality.get(name, 1.0)
        biased = 0.02 if name == "odin" else 0.3
        for key, value in {
            "accuracy": 0.5 + 0.2 * alpha + rng.normal(0, 0.005),
            "gold_accuracy": 0.55 + 0.2 * alpha + rng.normal(0, 0.005),
            "nll": 0.65, "nll_scaled": 0.6, "brier": 0.2, "ece": 0.1,
            "ece_scaled": 0.02, "temperature": 1.5, "variance": 0.9 + 0.01 * alpha,
            "correlation": 0.5, "length_correlation": biased, "parameters": 30000,
            "longer": 0.75, "shorter": 0.65,
        }.items():  # fmt: skip
            row[f"mismatch/rm/{name}/{key}"] = value
        for i in range(measures.BINS):
            for key, value in (("confidence", 0.5), ("accuracy", 0.5), ("count", 64)):
                row[f"mismatch/rm/{name}/bin{i}/{key}"] = value + 0.05 * i
    n = np.array(measures.SIZES)
    d = np.sqrt(np.maximum(np.log(n) - (n - 1) / n, 0.0))
    for name in methods.OF_BEST:
        parts = mismatch and name in methods.MODELS
        gold = d * (1.0 - 0.4 * d) if parts else d
        for i, size in enumerate(n):
            start = f"mismatch/bon/{name}/{size}"
            row |= {f"{start}/proxy": 1.2 * d[i], f"{start}/ties": 0.0}
            for half in ("", "_a", "_b"):
                row[f"{start}/gold{half}"] = gold[i] + rng.normal(0, 0.005)
    return row
