"""What is said to predict forgetting, measured beside it.

On-policy methods forget less than supervised ones at equal reward; which number of a
policy says how much is open: the forward KL on the new task's prompts (Shenfeld et al.
2025, arXiv:2509.04259), the distance in weights, or the rank of the update.
"""

import dataclasses
import functools

import jax
import numpy as np

from rlhf_jax.evaluation import axes, policy, updates
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.models import lora

FORWARD_KL = Axis(
    "forgetting/forward_kl", "Forward KL(π₀‖π) on new-task prompts", "nats / sample"
)
DISTANCE = Axis("forgetting/distance", "Distance in weights", "of ‖θ₀‖")
RANK = Axis("forgetting/rank", "Effective rank of the update", "of a matrix")
REVERSE_KL = dataclasses.replace(
    axes.KL_INITIAL, title="Reverse KL(π‖π₀) on the same prompts", corner=None
)
PREDICTORS = (FORWARD_KL, REVERSE_KL, DISTANCE, RANK)


def evaluator(task, *, key=None):
    """`(params, run) -> (metrics, [])`: the predictors of one policy.

    Forward KL is exact over the vocabulary at every token of samples that π₀ wrote to
    the evaluation prompts, the same for every policy. Args: task: `task.Task`; key: of
    those samples.
    """
    key = jax.random.key(0) if key is None else key
    inputs = policy.prompt_rows(task.eval_prompts, key)

    @functools.lru_cache(maxsize=2)
    def drawn_of(layout):
        return policy.compile_draw(task.model, layout, task.sampling)(
            task.params, inputs
        )

    def evaluate(params, run):
        params = _plain(params)
        compare = policy.compile_compare(task.model, run.layout, task.sampling)
        divergence, _ = compare(task.params, params, drawn_of(run.layout))
        return {
            FORWARD_KL.key: float(np.mean(divergence, dtype=np.float64)),
            DISTANCE.key: updates.distance(task.params, params),
            RANK.key: updates.effective_rank(task.params, params),
        }, []

    return evaluate


def _plain(params):
    """Weights with any adapters beside them merged in."""
    base, adapters = lora.split(params)
    return lora.merge(base, adapters, scale=1.0) if adapters else params
