"""Labelers that are plain functions of the prompt, and count what they are asked."""

import re

import numpy as np

from rlhf_jax.feedback import labelers


def labeler(judge, asked=None, *, stop=None):
    """A labeler of a function: prompt -> probabilities of the labels, or a Failure.

    asked: a list that every prompt is appended to; stop: after so many answers the
    process is killed.
    """
    asked = [] if asked is None else asked

    def read(prompts, labels):
        for index, prompt in enumerate(prompts):
            if len(asked) == stop:
                raise KeyboardInterrupt
            asked.append(prompt)
            p = judge(prompt)
            if isinstance(p, labelers.Failure):
                yield index, p
            else:
                logps = np.log(np.array(p, np.float64))
                told = np.ones(len(labels), bool)
                yield index, labelers.Reading(logps, told, 1 - sum(p), len(prompt), 1)

    def write(prompts, decoding):
        for index, prompt in enumerate(prompts):
            asked.append(prompt)
            yield index, labelers.Written(f"thought {decoding.seed}", len(prompt), 2)

    return labelers.Labeler("a function", {"kind": "test"}, read, write)


def texts(prompt):
    """The candidates that a prompt shows, in their slots."""
    return re.findall(r"^Response [12] -(.*)$", prompt, re.M)[-2:]


def likes_length(prompt):
    """The longer candidate, and the first slot a little."""
    one, two = (len(text.strip()) + 1 for text in texts(prompt))
    share = 0.8 * one / (one + two) + 0.1
    return 0.9 * (share + 0.1), 0.9 * (0.9 - share)


def fails(word):
    """Likes length, and has no answer where a word stands."""

    def judge(prompt):
        if word in prompt:
            return labelers.Failure("timed out")
        return likes_length(prompt)

    return judge
