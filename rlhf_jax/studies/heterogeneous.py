"""Training the ratios of a heterogeneous average: K numbers, by likelihood of texts.

The texts of Lin et al. 2023 (arXiv:2309.06256, HMA) are samples of the aligned policy,
those of the highest reward. With labelled texts of one task and a ratio for each layer
it is their AdaMerging, which is to show what such a task does to another.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import heterogeneous, optim, ranges, ratios, training, trees
from rlhf_jax.algorithms import sft
from rlhf_jax.data import batching
from rlhf_jax.evaluation import policy
from rlhf_jax.studies import scoring, supervised, trainable
from rlhf_jax.studies.interfaces import Derived, Trainer
from rlhf_jax.types import Prompts, Tokens

_KEY = 2309  # of the samples


@dataclasses.dataclass(frozen=True)
class Config:
    """What is averaged, and how its ratios are trained."""

    mean: ranges.Share = 0.8
    """Of the ratios, the weights on the aligned model."""
    blocks: ranges.Count | None = 3
    """K; None: a ratio for each layer."""
    others: str = "interpolate"
    """Norms, embeddings and heads: see `heterogeneous.layer_blocks`."""
    norms: str | None = None
    embeddings: str | int | None = None
    head: str | int | None = None
    by_parameters: bool = False
    """Blocks count in the mean by their parameters; else alike."""
    offset: ranges.NonNegative | None = None
    """ε of the paper's form of ratios; None: sigmoids, shifted."""
    penalty: ranges.NonNegative = 0.0
    """Of distances to the mean, most of all in the middle; 1e-4 in the paper's code."""
    learning_rate: ranges.Positive = 1e-3
    rows: ranges.Count = 2
    """Of an update."""
    epochs: ranges.Count = 1

    def __post_init__(self):
        ranges.check(self)

    def blocks_of(self, params):
        """(the blocks of parameters as trained, how many there are)."""
        K = self.blocks or heterogeneous.depth(params)
        names = ("others", "norms", "embeddings", "head")
        options = {name: getattr(self, name) for name in names}
        blocks = heterogeneous.layer_blocks(params, K, **options)
        return blocks, 1 + max(int(np.max(b)) for b in jax.tree.leaves(blocks))

    def to_ratios(self, params):
        """scores [K] → ratios [K]."""
        if self.offset is not None:
            return functools.partial(ratios.scaled, mean=self.mean, offset=self.offset)
        weights = None
        if self.by_parameters:
            blocks, K = self.blocks_of(params)
            weights = heterogeneous.block_sizes(params, K, blocks=blocks)
        return functools.partial(ratios.of_scores, mean=self.mean, weights=weights)


def average(first, second, alphas, config):
    """The average of two policies as trained, with these ratios."""
    blocks, _ = config.blocks_of(first)
    return heterogeneous.average(first, second, alphas, blocks=blocks, mean=config.mean)


def fit(model, learned, first, second, texts, *, config, layout, seed=0):
    """Trains the ratios between two policies, and returns `Derived`, their average.

    Adam with a cosine schedule, from ratios that are all the mean. Metrics, of names
    `average/...`: `ratio_0` and on; `moved`, the furthest a ratio is from the mean;
    `nll` a token of the texts, and `nll_uniform`, with all ratios at the mean.

    Args: learned: `Trainable`, whose policies `first` and `second` are; texts: `Tokens`
    [N, T] on the host; layout: of `parallel`; seed: of the order of rows. Raises
    loop.NotFinite where updates are not finite.
    """
    _, K = config.blocks_of(first)
    steps = config.epochs * max(len(texts.tokens) // config.rows, 1)
    optimizer = optim.Config(eps=1e-8, schedule="cosine", warmup=steps * 3 // 100)
    step = _compile(model, learned.adapter, config, optimizer, layout)
    order = batching.Epochs(len(texts.tokens), config.rows, seed)
    hyper = training.Hyper(jnp.asarray(config.learning_rate), jnp.asarray(steps))
    uniform, held = ratios.init(K, mean=config.mean), layout.put((first, second))

    def start():
        tx = optim.transformation(optimizer)
        return layout.put(training.init(trees.copy(uniform), tx))

    def advance(state, number):
        batch = layout.shard_rows(batching.take(texts, order.indices(number)))
        return *step(learned.base, held, state, batch, hyper), None

    trainer = Trainer(start, advance, policy=lambda state: state.params)
    scores = supervised.fit(trainer, steps=steps, layout=layout)
    alphas, even = map(config.to_ratios(first), (scores, uniform))
    found = average(first, second, alphas, config)
    text_nll = policy.compile_text_nll(model, layout)

    def nll(between):
        total, tokens = text_nll(learned.weights(between), texts)
        return float(np.sum(total, dtype=np.float64) / np.sum(tokens))

    named = {f"ratio_{k}": float(alpha) for k, alpha in enumerate(alphas)}
    named["moved"] = float(jnp.abs(alphas - even).max())
    named["nll"] = nll(found)
    named["nll_uniform"] = nll(average(first, second, even, config))
    return Derived(found, {f"average/{name}": x for name, x in named.items()})


@functools.lru_cache(maxsize=8)
def _compile(model, adapter, config, optimizer, layout):
    """`(base, (first, second), state, batch, hyper) -> (state, metrics)`: one update of
    the scores, all that `state` holds."""

    def step(base, held, state, batch, hyper, *, axis_name):
        blocks, K = config.blocks_of(held[0])
        loss = heterogeneous.make_loss(
            sft.make_loss(trainable.bind(model, base, adapter)),
            *held,
            blocks=blocks,
            to_ratios=config.to_ratios(held[0]),
            mean=config.mean,
            penalize=_penalize(config, held[0], K) if config.penalty else None,
        )
        update = training.make_step(
            loss,
            optim.transformation(optimizer),
            config=optimizer,
            count=sft.count,
            axis_name=axis_name,
        )
        return update(state, batch, hyper)

    return layout.compile(step, rows_in=(3,), outputs=2, donate=(2,))


def _penalize(config, params, K):
    """A batch's share of the penalty: shares are added up over devices."""
    L = heterogeneous.depth(params)
    index = heterogeneous.split(L, config.blocks or L)
    weights = np.zeros(K)
    weights[: index.max() + 1] = ratios.middle_weights(index)

    def share(alphas, batch, count):
        whole = ratios.penalty(alphas, mean=config.mean, weights=weights)
        return config.penalty * whole * sft.count(batch) / count

    return share


def high_reward_samples(task, params, reward, layout, *, draws=5000, keep=2000, seed=0):
    """`Tokens` that a policy writes to training prompts, of the highest rewards.

    The best `keep` of all `draws`, not the best of each prompt; the responses are the
    targets. reward: `task.Reward`; params: of the model, as it is applied.
    """
    index = batching.Epochs(len(task.prompts.tokens), draws, seed).indices(0)
    prompts = Prompts(*(x[index] for x in task.prompts))
    key = jax.random.fold_in(jax.random.key(_KEY), seed)
    draw = policy.compile_draw(task.model, layout, task.sampling)
    drawn = draw(params, policy.prompt_rows(prompts, key))
    columns = {k: [v[i] for i in index] for k, v in task.columns.items()}
    texts = scoring.decode(task, drawn)
    scores = scoring.score(task, reward, layout, drawn, *texts, columns=columns)
    best = np.argsort(-scores, kind="stable")[:keep]
    return Tokens(*(np.asarray(x)[best] for x in scoring.to_learn(drawn)))
