"""Studies with a known truth: runs that follow a curve of reward against drift.

Methods follow one curve at their own pace, end at their own drift, may have cycles, and
are measured with noise on two halves of the prompts. What a run gains of the curve
varies by world and by seed within a world.
"""

import dataclasses

import numpy as np

NLL, KL = "drift/text_nll", "drift/kl_initial"


@dataclasses.dataclass(frozen=True)
class Method:
    """How a method moves along the curve."""

    end: float = 0.9  # drift at the end of the run, or of a cycle
    cycles: int = 1
    kept: float = 0.4  # of the drift, after a reset
    factor: float = 1.0  # of the curve's reward: 1 for all under the null


@dataclasses.dataclass(frozen=True)
class Noise:
    """Standard deviations, of rewards; drifts have a tenth."""

    measured: float = 0.08  # of a look, on half of the prompts
    seed: float = 0.15  # of what a run gains of the curve, relative
    correlation: float = 0.4  # intraclass, of the latter


def rising(drift):
    """Still rises where the run ends."""
    return 2.0 * drift**0.7


def plateau(drift):
    """Flat from a drift of 0.3 on."""
    return np.minimum(drift / 0.3, 1.0) * 1.5


CURVES = {"rising": rising, "plateau": plateau}


def records(methods, curve, rng, *, noise=Noise(), worlds=15, seeds=2, looks=12):
    """Records as in metrics.jsonl. methods: {name: Method}."""
    rows = []
    for name, method in methods.items():
        total = noise.seed
        of_world = rng.normal(0, total * noise.correlation**0.5, worlds)
        of_seed = rng.normal(0, total * (1 - noise.correlation) ** 0.5, (worlds, seeds))
        for world in range(worlds):
            for seed in range(seeds):
                gain = method.factor * (1 + of_world[world] + of_seed[world, seed])
                rows += _run(name, world, seed, method, curve, gain, rng, noise, looks)
    return rows


def _run(name, world, seed, method, curve, gain, rng, noise, looks):
    start = rng.normal(0, 0.3, 2)  # halves differ in how hard their prompts are
    unit = {"method": name, "world": world, "seed": seed}
    yield {**unit, "step": 0, **_look("start", 0.0, 0.0, start, rng, 0.0)}
    for step, phase, drift in _places(method, looks):
        reward = gain * curve(drift)
        look = _look(phase, drift, reward, start, rng, noise.measured)
        yield {**unit, "step": step, **look}


def _places(method, looks):
    """(step, phase, drift) of every look after the start: as many whatever it does."""
    each, left = looks // method.cycles, looks
    begin, step = 0.0, 0
    for cycle in range(method.cycles):
        last = cycle == method.cycles - 1
        count = left if last else each
        left -= count
        after = 1 if cycle else 0  # the look just after a reset is one of them
        if after:
            begin = method.kept * method.end
            yield step, "after_reset", begin
        for i in range(1, count - after + 1):
            step += 1
            share = (i / (count - after)) ** 1.3
            end = i == count - after
            phase = "train" if not end else "final" if last else "before_reset"
            yield step, phase, begin + share * (method.end - begin)


def _look(phase, drift, reward, start, rng, deviation):
    rewards = reward + start + rng.normal(0, deviation, 2)
    drifts = 2.0 + drift + 0.3 * start + rng.normal(0, deviation / 10, 2)
    row = {"eval/phase": phase, "eval/reward": rewards.mean(), NLL: drifts.mean()}
    for half, r, d in zip("ab", rewards, drifts, strict=True):
        row |= {f"eval/reward_{half}": r, f"{NLL}_{half}": d}
    return row
