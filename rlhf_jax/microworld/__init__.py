"""A small synthetic language with a known ground truth: the built-in default data.

Start from `world = microworld.create(seed=0)`. `corpus`, `reviews`, `skills` and
`judging` generate text; `gold`, `likelihood` and `people` score it; `attacks` looks for
texts that gold should not like. It is vectorised numpy.
"""

from rlhf_jax.microworld import (
    attacks,
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
    "attacks",
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
