"""Policy-gradient runs side by side: one program trains several of them.

They differ in what is traced: scalars, initial weights, reward weights, prompts, keys.
"""

import jax
import numpy as np

from rlhf_jax.runtime import population, processes
from rlhf_jax.studies import programs
from rlhf_jax.studies.interfaces import SideBySide


def side_by_side(members, layout, *, host):
    """The `interfaces.SideBySide` of several `policy_gradient.Member`.

    Args: layout: `population.Population`; host: the layout of a run, for rewards that
    are scored outside the program. Raises ValueError for members whose rewards are not
    one function with weights of its own for each.
    """
    first = members[0]
    _check_alike(members)
    params = [m.task.params for m in members]
    frozen = [m.reward.frozen for m in members]
    of_base, of_frozen = _axis(params), _axis(frozen)
    compiled = programs.compile_population(
        first.task.model,
        first.config,
        layout,
        score=first.reward.score,
        adapter=first.adapter,
        base=of_base,
        frozen=of_frozen,
    )
    base = _joined(params, layout, of_base)
    scored_by = _joined(frozen, layout, of_frozen)
    traced = _joined([m.traced for m in members], layout, programs.HYPER)
    orders = [m.order() for m in members]

    def advance(state, iteration):
        chosen = [order.indices(iteration) for order in orders]
        drawn = [m.batch(i) for m, i in zip(members, chosen, strict=True)]
        batch = jax.tree.map(lambda *x: np.stack(x), *drawn)
        batch = batch._replace(row_ids=drawn[0].row_ids)
        if first.reward.score is not None:
            given = state, scored_by, batch, traced
            state, rows, metrics = compiled.iteration(base, *given)
            return state, metrics, rows
        rollouts = compiled.rollout(base, state, batch)
        scores, logged = _host_scores(members, host, rollouts, chosen)
        state, metrics = compiled.learn(base, state, rollouts, scores, traced)
        return state, {**metrics, **logged}, (rollouts, scores)

    def reset(state, due):
        return compiled.reset(base, state, traced, np.asarray(due))

    return SideBySide(layout, programs.STATE, advance, reset)


def _check_alike(members):
    first, *others = [
        (m.reward.score, [np.shape(x) for x in jax.tree.leaves(m.reward.frozen)])
        for m in members
    ]
    if any(other != first for other in others):
        raise ValueError(
            "--population: the rewards of these runs are not one function of weights "
            "of one shape, so that no one program can train them; leave the flag out"
        )


def _axis(trees):
    """None where all are the same object, 0 where members have one each."""
    return None if all(tree is trees[0] for tree in trees) else 0


def _joined(trees, layout, axes):
    """Pytrees of members as a program of a population takes them."""
    return layout.put(population.stack(trees, axes), axes)


def _host_scores(members, host, rollouts, chosen):
    """(rewards of Python [N, rows], {metric: [N]}) of the samples of an iteration."""
    rollouts, found = processes.to_numpy(rollouts), []
    for number, (member, index) in enumerate(zip(members, chosen, strict=True)):
        own = population.member(rollouts, number)
        found.append(member.host_scores(host, own, index))
    scores, logged = zip(*found, strict=True)
    return np.stack(scores), {k: np.array([m[k] for m in logged]) for k in logged[0]}
