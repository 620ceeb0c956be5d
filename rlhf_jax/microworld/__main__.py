"""`python -m rlhf_jax.microworld --seed 0` prints samples of a world."""

import argparse

import numpy as np

from rlhf_jax import microworld
from rlhf_jax.microworld import gold, grammar, judging, people, reviews, skills


def main():
    parser = argparse.ArgumentParser(description="Print samples of a microworld.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=8)
    options = parser.parse_args()
    world = microworld.create(options.seed)
    rng = np.random.default_rng(options.seed)
    print(f"world {options.seed}: {len(world.vocabulary)} words")
    _print_reviews(world, rng, options.rows)
    _print_skills(world)
    tokens, mask = judging.documents(world, rng, options.rows)
    print("\njudging")
    for row in tokens:
        print(" ", world.decode(row))
    mean, error = microworld.likelihood.entropy(world, rng, 512)
    print(f"\nentropy of a review: {mean:.1f} ± {error:.1f} nats")


def _print_reviews(world, rng, rows):
    prompts, mask, _ = reviews.prompts(world, rng, 4096)
    words, valid, flaws = reviews.sample(world, rng, prompts, mask, flaws=True)
    scores = people.reward(world, prompts, words, valid)
    print("\nreviews (gold, prompt | review)")
    for i in range(rows):
        print(
            f"  {scores[i]:.2f}", world.decode(prompts[i]), "|", world.decode(words[i])
        )
    print(f"\ngold: mean {scores.mean():.3f}, sd {scores.std():.3f}, by flaw:")
    for kind, flawed in zip(grammar.FLAWS, flaws.T, strict=True):
        print(f"  {kind:12s} {flawed.mean():6.1%}  {scores[flawed].mean():.3f}")
    parts = gold.components(world, prompts, words, valid)
    print("components:", {name: round(float(x.mean()), 2) for name, x in parts.items()})


def _print_skills(world):
    print("\nskills")
    for kind in skills.KINDS:
        items = skills.items(world, kind, "test", 2)
        for question, answer in zip(*items[::2], strict=True):
            print(f"  {kind:12s}", world.decode(question), "->", world.decode(answer))


if __name__ == "__main__":
    main()
