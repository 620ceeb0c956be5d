"""Texts that earn gold without reading their prompt, by hill climbing.

If one text earned as much on every prompt as a good review does on its own, a policy
that collapsed onto it would look perfect. S texts, T words, N prompts.
"""

import numpy as np

from rlhf_jax.microworld import people, reviews

_FEW = 64  # prompts that climbing asks; the result is measured on all
_CHANGES = ("role", "any", "add", "drop")


def mean_gold(world, prompts, texts):
    """[S] float64: the mean gold reward of each padded text [S, T] on all prompts."""
    rows = np.repeat(texts, len(prompts), axis=0)
    asked = np.tile(prompts, (len(texts), 1))
    return people.reward(world, asked, rows, rows != 0).reshape(len(texts), -1).mean(1)


def best_constant(world, rng, prompts, *, restarts=16, steps=500, pool=2000):
    """The text that earns the most on all prompts [N, P], and its mean reward.

    Starts at the `restarts` best of `pool` reviews of the corpus; `steps` times each
    changes, adds or drops a word and keeps what earns as much or more.
    """
    own, mask, _ = reviews.prompts(world, rng, pool)
    words, valid = reviews.sample(world, rng, own, mask)
    words = words[reviews.ended(world, words, valid)]
    few = prompts[:_FEW]
    earned = mean_gold(world, few, words)
    best = np.argsort(-earned)[:restarts]
    texts, earned = words[best], earned[best]
    for _ in range(steps):
        tried = mutate(world, rng, texts)
        gain = mean_gold(world, few, tried)
        better = gain >= earned
        texts[better], earned[better] = tried[better], gain[better]
    final = mean_gold(world, prompts, texts)
    return texts[final.argmax()], float(final.max())


def mutate(world, rng, texts):
    """Each padded text [S, T] with one word changed, added or dropped.

    Half of the changes keep the word's role. The end word stays.
    """
    changed, length = texts.copy(), (texts != world.pad_id).sum(1)
    for row, n in zip(changed, length, strict=True):
        at, kind = rng.integers(max(n - 1, 1)), rng.choice(_CHANGES)
        word = rng.integers(1, len(world.vocabulary))
        if kind == "role":
            alike = np.flatnonzero(world.lexicon.role == world.lexicon.role[row[at]])
            row[at] = rng.choice(alike)
        elif kind == "any":
            row[at] = word
        elif kind == "add" and n < len(row):
            row[at + 1 : n + 1] = row[at:n].copy()
            row[at] = word
        elif kind == "drop" and n > 1:
            row[at : n - 1] = row[at + 1 : n].copy()
            row[n - 1] = world.pad_id
    return changed
