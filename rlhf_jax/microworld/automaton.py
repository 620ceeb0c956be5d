"""A probabilistic finite automaton with a memory and a noise channel.

It samples texts and computes their exact likelihood. N rows, T tokens, K nodes, A
memory values, G groups of rows, D word distributions, V words, Z slots. A state is
(node, memory). A step follows an arc, which keeps the memory or redraws it from
`recall[group, memory]`, and emits a word from the distribution of the new state. With
probability `noise` the word is replaced by one drawn uniformly from the V − 1 words
that are not padding. A slot is a placeholder with a value per row, such as the title of
a film. A text stops at the end word.
"""

import dataclasses
import functools

import numpy as np
from scipy import sparse

from rlhf_jax.microworld.draws import Draws


@dataclasses.dataclass(frozen=True, eq=False)
class Automaton:
    """Arcs are sorted by source; every node has at least one, with probabilities sum 1.

    The last node is the end of a text: it must loop and emit `end_id`.
    """

    source: np.ndarray  # [arcs] int
    target: np.ndarray  # [arcs] int
    weight: np.ndarray  # [arcs] float, probability given the source
    redraws: np.ndarray  # [arcs] bool, the memory is redrawn
    recall: np.ndarray  # [G, A, A] float, rows sum to 1
    writes: np.ndarray  # [K, A] int, the word distribution of a state
    words: np.ndarray  # [D, V + Z] float, rows sum to 1
    size: int  # V
    noise: float
    end_id: int
    pad_id: int = 0


def sample(machine, rng, *, node, memory, group, slots, length):
    """Samples one text per row.

    node, memory, group [N] int: each row's initial state, and the `recall` it uses;
    slots [N, Z] int: the words of its slots. Returns tokens [N, length] int32, mask
    [N, length] int32 (up to and including the end word), and the nodes visited
    [N, length] (−1 after the end). Rows that have not ended by `length` are cut.
    """
    first = np.searchsorted(machine.source, np.arange(len(machine.writes)))
    draw_arc, draw_word = Draws(machine.weight, first), Draws.of_rows(machine.words)
    values = machine.recall.shape[-1]
    draw_memory = Draws.of_rows(machine.recall.reshape(-1, values))
    rows = len(node)
    tokens = np.full((rows, length), machine.pad_id, np.int32)
    passed = np.full((rows, length), -1)
    live, node, memory = np.arange(rows), np.array(node), np.array(memory)
    for t in range(length):
        arc = first[node[live]] + draw_arc(rng, node[live])
        node[live] = machine.target[arc]
        fresh = live[machine.redraws[arc]]
        memory[fresh] = draw_memory(rng, group[fresh] * values + memory[fresh])
        word = draw_word(rng, machine.writes[node[live], memory[live]])
        slot = word >= machine.size
        word[slot] = slots[live[slot], word[slot] - machine.size]
        tokens[live, t], passed[live, t] = _corrupt(machine, rng, word), node[live]
        live = live[tokens[live, t] != machine.end_id]
        if not live.size:
            break
    return tokens, (passed >= 0).astype(np.int32), passed


def log_prob(machine, tokens, mask, *, node, memory, group, slots, block=64):
    """log p of every row's valid tokens, in nats: the exact forward recursion.

    α_t(j, b) = L(token_t | j, b) Σ_{i,a} α_{t−1}(i, a) P(i → j, a → b), with
    L(x | state) = (1 − noise)·words[state, x] + noise/(V − 1). A row without the end
    word gets the probability of all texts with this prefix. Padding counts as noise.

    tokens, mask [N, T]; the rest as in `sample`. Returns [N] float64. Rabiner 1989,
    "A Tutorial on Hidden Markov Models", section III A, with scaling.
    """
    inputs = tokens, mask, node, memory, group, slots
    order = np.argsort(mask.sum(1), kind="stable")  # short rows need few steps
    result = np.zeros(len(tokens))
    for i in range(0, len(tokens), block):
        rows = order[i : i + block]
        result[rows] = _forward(machine, *(x[rows] for x in inputs))
    return result


def _forward(machine, tokens, mask, node, memory, group, slots):
    rows, values = len(tokens), machine.recall.shape[-1]
    # `live`: the nodes reachable at this step.
    live, index = np.unique(node.astype(np.int64), return_inverse=True)
    alpha = np.zeros((len(live), values, rows))
    alpha[index, memory, np.arange(rows)] = 1.0
    total = np.zeros(rows)
    for t in range(int(mask.any(0).sum())):
        flat = alpha.reshape(len(live), -1)
        live, keep, fresh, redraw = _moves(machine, live.tobytes())
        alpha = (keep @ flat).reshape(len(live), values, rows)
        drawn = (redraw @ flat).reshape(len(fresh), values, rows)
        # [fresh, A, N] → [N, fresh, A] @ [N, A, A] and back
        drawn = drawn.transpose(2, 0, 1) @ machine.recall[group]
        alpha[fresh] += drawn.transpose(1, 2, 0)
        alpha *= _likelihood(machine, tokens[:, t], slots)[machine.writes[live]]
        scale = alpha.sum((0, 1))
        alpha /= scale
        total += np.where(mask[:, t] != 0, np.log(scale), 0.0)
    return total


@functools.lru_cache(maxsize=512)
def _moves(machine, before):
    """The transitions from the nodes `before`, the bytes of an int64 array.

    Cached, as all texts pass the same nodes. Returns (live, keep, fresh, redraw): the
    nodes reached; probabilities [live, before] of arcs that keep the memory; the nodes
    where it is redrawn; and probabilities [fresh, before] of those arcs.
    """
    before = np.frombuffer(before, np.int64)
    leaving = np.isin(machine.source, before)
    live = np.unique(machine.target[leaving]).astype(np.int64)
    keep = _matrix(machine, leaving & ~machine.redraws, live, before)
    redraw = _matrix(machine, leaving & machine.redraws, live, before)
    fresh = np.flatnonzero(np.diff(redraw.indptr))
    return live, keep, fresh, redraw[fresh]


def _matrix(machine, chosen, targets, sources):
    """The probabilities of the chosen arcs, sparse [targets, sources]."""
    row = np.searchsorted(targets, machine.target[chosen])
    column = np.searchsorted(sources, machine.source[chosen])
    shape = len(targets), len(sources)
    return sparse.csr_array((machine.weight[chosen], (row, column)), shape=shape)


def _likelihood(machine, words, slots):
    """[D, N]: the probability that each distribution emits each row's word."""
    written = machine.words[:, words]
    for z in range(slots.shape[1]):
        filled = machine.words[:, machine.size + z, None] * (slots[:, z] == words)
        written = written + filled
    return (1 - machine.noise) * written + machine.noise / (machine.size - 1)


def _corrupt(machine, rng, words):
    """The noise channel; it never emits padding."""
    other = rng.integers(machine.size - 1, size=len(words))
    other += other >= machine.pad_id
    return np.where(rng.random(len(words)) < machine.noise, other, words)
