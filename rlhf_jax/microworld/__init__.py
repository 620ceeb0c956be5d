"""A small language whose truth is known exactly: the embedded default data.

`world = microworld.create(seed=0)`; then `corpus`, `reviews`, `skills` and `judging`
write text, `gold`, `likelihood` and `people` judge it. numpy only; rows are vectorised.
"""

from rlhf_jax.microworld import (
    corpus,
    gold,
    grammar,
    judging,
    likelihood,
    people,
    reviews,
    skills,
    tokenizer,
)
from rlhf_jax.microworld.world import World, create

__all__ = [
    "World",
    "corpus",
    "create",
    "gold",
    "grammar",
    "judging",
    "likelihood",
    "people",
    "reviews",
    "skills",
    "tokenizer",
]
