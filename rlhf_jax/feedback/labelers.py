"""What a labeler is: something that reads a prompt and says which label comes next.

Lee et al. 2023, "RLAIF vs. RLHF", arXiv:2309.00267, section 2. A labeler is a record of
functions, whatever stands behind it: a model in this process, a server, a Python
function. Prompts are whole texts; their making is `feedback.prompts`' affair, and what
the numbers mean is `labeling`'s.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Reading(NamedTuple):
    """What a labeler says of the labels that may follow one prompt.

    A label is scored as a whole string, however many tokens it has. Labels exclude each
    other: where "10" begins as "1" does, p("1") is that of a 1 without a 0 after it.
    """

    logps: np.ndarray  # [L] float64: log p(label | prompt) in nats; −inf: not told
    told: np.ndarray  # [L] bool: which of them the labeler gave
    outside: float  # probability of anything but these labels; NaN: not known
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Written(NamedTuple):
    """A text that a labeler wrote after one prompt, such as a rationale."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Failure(NamedTuple):
    """Why a labeler has no answer to one prompt; the others are not affected."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How a rationale is written."""

    max_tokens: int = 512
    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: off
    stop: tuple[str, ...] = ()
    seed: int = 0  # samples with other seeds are other samples


Labels = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Labeler:
    """A labeler by its functions; `name` is how reports call it.

    `identity` is all that determines its answers (the model and its revision, the kind
    of endpoint, its precision) and nothing that does not, above all no key: cached
    answers are found by it.

    `read` and `write` yield (index of the prompt, result) one by one, in any order, as
    they are known: what was paid for can be kept before the rest arrives.
    """

    name: str
    identity: Mapping[str, Any]
    read: Callable[[Sequence[str], Labels], Iterator[tuple[int, Reading | Failure]]]
    write: Callable[[Sequence[str], Decoding], Iterator[tuple[int, Written | Failure]]]


def in_order(results, count):
    """The results of `Labeler.read` or `.write` as a list, in the order of prompts.

    Raises ValueError unless each of the `count` prompts has exactly one.
    """
    found = {}
    for index, result in results:
        if index in found or not 0 <= index < count:
            raise ValueError(
                f"a labeler answered prompt {index} of {count} twice, or there is none"
            )
        found[index] = result
    if len(found) < count:
        lost = min(set(range(count)) - set(found))
        raise ValueError(f"a labeler left {count - len(found)} prompts, as {lost}, out")
    return [found[index] for index in range(count)]
