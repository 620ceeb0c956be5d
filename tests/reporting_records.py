"""Records that imitate a run: PPO drifts away, PPO + KL stays, Elastic Reset saws."""

import dataclasses
import itertools

import numpy as np

from rlhf_jax.evaluation import axes

AXES = (
    axes.TEXT_NLL,
    dataclasses.replace(axes.KL_INITIAL, corner=40.0),
    axes.SKILLS,
)
SPEED = {"ppo": 1.0, "ppo_kl": 0.4, "elastic_reset": 1.0}


def make(seeds, *, worlds=1, steps=12, every=5, methods=tuple(SPEED), gold=True):
    """Training and evaluation records as in metrics.jsonl."""
    rows = []
    for world, seed in itertools.product(range(worlds), range(seeds)):
        for method in methods:
            noise = np.random.default_rng([world, seed, len(method)])
            run = {"method": method, "world": world, "seed": seed}
            rows += _run(run, noise, steps, every, gold)
    return rows


def _run(run, noise, steps, every, gold):
    method = run["method"]
    position = average = 0.0
    yield {**run, "step": 0, **_evaluation("start", 0.0, noise, gold)}
    for step in range(1, steps + 1):
        position += SPEED.get(method, 0.7)
        average += 0.2 * (position - average)
        reset = method == "elastic_reset" and step % every == 0
        yield {
            **run,
            "step": step,
            "objective/scores": position / 4,
            "objective/kl": position,
            "reset/reset": float(reset),
            "time/iteration": 0.5,
            "budget/tokens": 100.0 * step,
        }
        phases = ["before_reset"] if reset else ["train"] if step % 3 == 0 else []
        for phase in ["final"] if step == steps else phases:
            yield {**run, "step": step, **_evaluation(phase, position, noise, gold)}
        if reset:
            position, average = average, 0.0
            after = _evaluation("after_reset", position, noise, gold)
            yield {**run, "step": step, **after}


def _evaluation(phase, x, noise, gold):
    e = 0.0 if phase == "start" else 0.01 * noise.normal()
    row = {
        "eval/phase": phase,
        "eval/reward": x / (4 + x / 8) + e,
        "drift/text_nll": 2.0 + 0.004 * x**2 + e / 10,
        "drift/kl_initial": 1.5 * x + e,
        "tax/skills": 0.8 - 0.02 * x + e / 10,
        "eval/entropy": 1.0 - 0.03 * x,
    }
    return {**row, "eval/gold": 0.4 + x * (8 - x) / 100} if gold else row


def row(method, world, step, phase, reward, nll, **more):
    """One evaluation, given its proxy reward and its NLL of human text."""
    row = {"method": method, "world": world, "seed": 0, "step": step}
    row["eval/phase"] = phase
    return {**row, "eval/reward": reward, "drift/text_nll": nll, **more}


def two_methods(worlds=1):
    """Worked by hand: `far` reaches reward 3 at drift 4, `near` 2 at drift 1."""
    rows = []
    for world in range(worlds):
        rows += [
            row("far", world, 0, "start", 0.0, 0.0),
            row("far", world, 1, "train", 1.0, 2.0),
            row("far", world, 2, "final", 3.0, 4.0),
            row("near", world, 0, "start", 0.0, 0.0),
            row("near", world, 1, "train", 1.0, 0.5),
            row("near", world, 2, "final", 2.0, 1.0),
        ]
    return rows


def halved(method, world, points):
    """Evaluations of ((drift, reward) on half A, and on half B), start first."""
    rows = []
    for step, ((drift_a, reward_a), (drift_b, reward_b)) in enumerate(points):
        both = {"eval/reward_a": reward_a, "eval/reward_b": reward_b}
        both |= {"drift/text_nll_a": drift_a, "drift/text_nll_b": drift_b}
        mean = (reward_a + reward_b) / 2, (drift_a + drift_b) / 2
        phase = "start" if step == 0 else "train"
        rows.append(row(method, world, step, phase, *mean, **both))
    return rows
