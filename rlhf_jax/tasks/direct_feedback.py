"""d-RLAIF on texts: a labeler's rating of every completion is the reward.

Lee et al. 2023, "RLAIF vs. RLHF", arXiv:2309.00267, section 2.2.2.
"""

import functools

import numpy as np

from rlhf_jax import rewards
from rlhf_jax.data import conversations
from rlhf_jax.feedback import judging
from rlhf_jax.runtime import processes
from rlhf_jax.studies import scoring
from rlhf_jax.studies.task import Reward
from rlhf_jax.tasks import judges
from rlhf_jax.tasks import prompts as given_prompts


def create(spec, task, layout, *, dtype="float32", raw=False):
    """The `Reward` of a labeler's ratings, with mean 0 and deviation 1 on π₀'s samples.

    The labeler "policy" is the initial policy: its weights are the task's own. A row
    without a rating is a ValueError, after the retries of `spec.limits`.

    Args: spec: `judges.Spec`; raw, or `spec.scale` 0: the expected score as it is, in
    [−1, 1]. `Reward.facts`: "judge", a line about it, and "scaled".
    """
    own = (task.model, task.params, task.tokenizer)
    source = own if spec.where == judges.POLICY else None
    # A host's function is called on the first host alone.
    layout_of_judge = layout if processes.count() == 1 else None
    judge = judges.create(
        spec, "rating", source=source, dtype=dtype, layout=layout_of_judge
    )
    host, count = rated(judge), 0 if raw else spec.scale
    facts = {"judge": _line(judge, count), "scaled": count > 0}
    if not count:
        return Reward(host=host, facts=facts)
    scale = _fitted(host, task, layout, count)
    return Reward(host=functools.partial(_scaled, host, scale), facts=facts)


def rated(judge):
    """A reward function (TRL's signature) of a `judges.Judge`: the expected rating.

    (E[i] − 5.5)/4.5 over the labels 1..10, [N] float32 in [−1, 1]. Prompts are texts or
    lists of messages. Raises ValueError for a completion that got no rating.
    """

    def host(prompts, completions, **columns):
        asked = columns.get(given_prompts.GIVEN, prompts)
        answers = [x if isinstance(x, str) else x[-1]["content"] for x in completions]
        found = judging.rate(
            judge.labeler, judge.template, list(map(context, asked)), answers,
            **judge.how,
        )  # fmt: skip
        lost = [row for row, why in enumerate(found.failures) if why is not None]
        if lost:
            raise ValueError(
                f"{len(lost)} of {len(answers)} completions got no rating from "
                f"{judge.labeler.name}, and a reward must be a number; completion "
                f"{lost[0]}, {answers[lost[0]][:60]!r}: {found.failures[lost[0]]}"
            )
        return found.score

    return host


def context(prompt):
    """A prompt as a labeler reads it: turns in words, without the cue of the answer."""
    return conversations.prompt(prompt).removesuffix(conversations.CUE)


def _line(judge, count):
    labels = [label.strip() for label in judge.template.labels]
    unit = "the score in [−1, 1]"
    if count:
        unit = f"scaled to mean 0 and deviation 1 on {count} samples of the policy"
    return (
        f"{judge.describe()} rates every completion {labels[0]} to {labels[-1]}, {unit}"
    )


def _fitted(host, task, layout, count):
    """(gain, bias) by samples of π₀ on the first prompts, the same in every run."""
    drawn = scoring.of_initial(task, layout, count, 777)
    scores = scoring.on_host(
        Reward(host=host),
        drawn,
        functools.partial(scoring.decode, task, drawn),
        {name: values[:count] for name, values in task.columns.items()},
    )
    return tuple(np.float64(x) for x in rewards.fit(scores))


def _scaled(host, scale, prompts, completions, **columns):
    gain, bias = scale
    return gain * host(prompts, completions, **columns) + bias
