"""Labelers on the microworld: language models that read a prompt and judge.

Lee et al. 2023, "RLAIF vs. RLHF", arXiv:2309.00267. Labelers have learned from critics
(`microworld.judging`), whose taste is not the people's: they praise what gushes, like
length, and favour what they read first. The initial policy is itself one of them, as
large as any policy here; others are larger and only judge.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import labeling, microworld, optim, ranges
from rlhf_jax.algorithms import judging as learning
from rlhf_jax.microworld import judging
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.runtime import checkpoint
from rlhf_jax.tasks import pretraining
from rlhf_jax.types import Prompts, Tokens

CONTEXT = 96  # of a comparison with its answer
TEXT = 56  # tokens of a row of text that is learned beside judgments
SAME = "same"  # π₀ as a labeler
SIZES = ("tiny", "large")  # labelers beside π₀
TINY, LARGER = "tiny", "thin"  # presets
JUDGE = "judge"
TRAINING = optim.Config(
    schedule="cosine", warmup=50, weight_decay=0.01, beta2=0.99, eps=1e-8
)
# Who judges at the end is no labeler: it learned from critics of another taste.
JUDGES_TASTE = judging.Taste(
    praise=0.5, verdict=0.3, length=0.03, strong=0.1, error=-0.8, first=-0.4
)


@dataclasses.dataclass(frozen=True)
class Config:
    """How labelers learn to judge."""

    steps: ranges.Count = 400
    """Updates of a labeler; of the initial policy, which learns text beside."""
    rows: ranges.Count = 32
    """Judgments of an update."""
    learning_rate: ranges.Positive = 3e-3
    """Of a labeler, at its peak."""


class Labeler(NamedTuple):
    """A language model that judges reviews of its world."""

    model: Any
    params: Any
    prefer: Callable  # (prompts, first, second) -> (p_ab, p_ba): see `preferences`
    judgments: int  # that it has learned from


def create(world, policy, larger, config, *, layout, cache, report, signals=None):
    """{name: `Labeler`} that learn to judge from what they were, or from nothing.

    "same" is the policy's checkpoint, which learns text beside, so that it can go on to
    write: RLAIF's labeler of the policy's size, and here the initial policy. "large"
    starts from a larger model, "tiny" from nothing. "judge" starts from the policy's
    checkpoint and learns from critics of another taste: it judges policies at the end,
    and labels nothing that they learn from.

    Args: policy, larger: (model, params) that know the world's corpus; config:
    `Config`; the others as of `tasks.microworld.create`.
    """
    size = {"vocab_size": policy[0].config.vocab_size, "max_length": CONTEXT}
    nothing = decoder.Decoder(model_config.preset(TINY, **size)), None
    usual = judging.TASTE
    made = {
        SAME: _Lesson(*policy, usual, text=True),
        "tiny": _Lesson(*nothing, usual),
        "large": _Lesson(*larger, usual),
        JUDGE: _Lesson(*policy, JUDGES_TASTE),
    }
    setting = config, layout, pathlib.Path(cache), report, signals
    found = {}
    for name, lesson in made.items():
        model, params = _taught(world, name, lesson, *setting)
        prefer = preferences(world, model, params, layout)
        found[name] = Labeler(model, params, prefer, config.steps * config.rows)
    return found


def preferences(world, model, params, layout):
    """`prefer(prompts, first, second) -> (p_ab, p_ba)`, [N] float32 each.

    The probability of the first slot, with `first` there (p_ab) and with `second` there
    (p_ba), as `labeling.first_slot`: 1 − p_ba is what p_ab would be without a bias.

    prompts: (tokens, mask) [N, P]; first, second: (tokens, mask) [N, T].
    """
    ask, labels = _logits(model, layout), judging.labels(world)

    def prefer(prompts, first, second):
        orders = (first, second), (second, first)
        asked = [judging.compare(world, *prompts, *a, *b) for a, b in orders]
        logits = [ask(params, questions) for questions in asked]
        return tuple(np.asarray(labeling.first_slot(x, labels)) for x in logits)

    return prefer


@functools.lru_cache(maxsize=16)
def _logits(model, layout):
    """`logits(params, (tokens, mask)) -> [N, V]` of what follows, on host rows."""

    def logits(params, rows):
        return learning.label_logits(model, params, Prompts(*rows))

    return layout.over_rows(logits, replicated=1)


class _Lesson(NamedTuple):
    """What a labeler starts from, whom it learns from, and whether it learns text."""

    model: Any
    params: Any  # None: new weights
    taste: judging.Taste
    text: bool = False


def _taught(world, name, lesson, config, layout, cache, report, signals):
    """(model, params) of a labeler, from the cache or from judgments."""
    shape = dataclasses.replace(lesson.model.config, max_length=CONTEXT)
    model, count = decoder.Decoder(shape), config.steps * config.rows
    parts = [microworld.corpus.digest(world), dataclasses.asdict(config), TEXT]
    parts += [repr(shape), repr(lesson.taste), lesson.text, repr(TRAINING)]
    parts += [] if lesson.params is None else [checkpoint.digest(lesson.params)]

    def data():
        report("writing judgments ...")
        rng = np.random.default_rng([world.seed, 6])
        made = judging.judgments(world, rng, count, taste=lesson.taste)
        text = None
        if lesson.text:
            text = Tokens(*microworld.corpus.sample(world, rng, count, length=TEXT))
        return learning.Batch(Prompts(made.tokens, made.mask), made.labels, text)

    params = pretraining.cached(
        model,
        data,
        cache / f"labeler-{world.seed}-{name}-{pretraining.digest(parts)}",
        config=TRAINING,
        steps=config.steps,
        rows=config.rows,
        learning_rate=config.learning_rate,
        layout=layout,
        report=report,
        signals=signals,
        seed=world.seed,
        start=lesson.params,
        make_loss=learning.make_loss,
        count=learning.count,
        what="learning to judge",
    )
    return model, params
