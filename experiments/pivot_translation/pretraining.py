"""Translators and a language model trained on text, once: weights stay in the cache."""

import dataclasses
import functools
import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pivot_translation import decoding
from rlhf_jax import optim, training, trees
from rlhf_jax.algorithms.translation_game import messages
from rlhf_jax.data.translation import corpora, subwords, token_batches
from rlhf_jax.evaluation import translation as scores
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.runtime import checkpoint, files, loop, processes
from rlhf_jax.studies import fitting
from rlhf_jax.tasks import pretraining
from rlhf_jax.types import Pairs, Tokens

ADAM = optim.Config(beta1=0.9, beta2=0.98, eps=1e-9, max_grad_norm=None)
JUDGE = optim.Config(schedule="linear", warmup=50, weight_decay=0.01)


@dataclasses.dataclass(frozen=True)
class Config:
    """How the agents, and the language model that judges messages, are pretrained."""

    steps: int = 1200
    """Updates of each agent; the best on held-out text is kept."""
    tokens: int = 2000
    """A batch: the lengths of its sentences in their longest language sum to that."""
    learning_rate: float = 1e-3
    final_rate: float = 1e-5
    decay_steps: int | None = None
    """Updates until the rate has fallen linearly to the final one; None: all."""
    dropout_fr_en: float = 0.0
    """Published: 0.2; three passes over the text are too few to learn it by heart."""
    dropout_en_de: float = 0.0
    """Published: 0.3."""
    eval_every: int = 300
    save_every: int = 300
    dev_rows: int = 400
    """Pairs held out of the pretraining text, on which the best weights are chosen."""
    judge: str = "small"
    """Preset of the language model that judges messages."""
    judge_steps: int = 600
    judge_rows: int = 64
    judge_learning_rate: float = 2e-3


def rate(config, step):
    """The learning rate of an update, 0-based: linear to the final rate, then that."""
    span = config.decay_steps or config.steps
    left = 1.0 - min(step / max(span, 1), 1.0)
    return config.final_rate + (config.learning_rate - config.final_rate) * left


def split(pairs, dev_rows):
    """(training pairs, dev pairs): dev drawn blindly; no English sentence is in both.

    Raises ValueError where nothing is left to train on.
    """
    order = np.random.default_rng(0).permutation(len(pairs))
    dev = np.sort(order[:dev_rows])
    texts = pairs.texts["en"]
    known = {texts[i] for i in dev}
    rest = [i for i in range(len(pairs)) if texts[i] not in known]
    if not rest:
        raise ValueError(
            f"{len(pairs)} pairs to pretrain on, and {dev_rows} are held out: lower "
            "--pretrain.dev-rows, or give more text"
        )
    return corpora.select(pairs, rest), corpora.select(pairs, dev)


class Batches:
    """Batches of `Pairs` with dropout keys, a function of the step."""

    def __init__(self, pairs, source, target, *, tokens, classes, seed, multiple):
        self._source, self._target = pairs.ids[source], pairs.ids[target]
        lengths = np.maximum(self._source.lengths(), self._target.lengths()) - 1
        self._order = token_batches.TokenBatches(
            lengths,
            tokens=tokens,
            edges=token_batches.edges(lengths, classes),
            seed=seed,
            multiple=multiple,
        )
        self._seed = seed

    def plain(self, step):
        """`Pairs` without keys."""
        rows, edge = self._order.batch(step)
        sides = (
            corpora.pad(ids, rows, length=edge + 1)
            for ids in (self._source, self._target)
        )
        return Pairs(*(x for side in sides for x in side))

    def dropped(self, step):
        """`Pairs` whose rows are dropped out, each by a key of its own."""
        pairs = self.plain(step)
        generator = np.random.default_rng([self._seed, step])
        shape = (pairs.source.shape[0], 2)
        keys = generator.integers(0, 2**32, shape, np.uint32)
        return pairs._replace(keys=keys)

    def shapes(self):
        return self._order.shapes()


def translator(
    model, pairs, languages, folder, *, config, dropout, classes, layout, told
):
    """The weights of a translator at `folder`, trained if they are not there yet.

    Args: model: without dropout; pairs: `Parallel`; languages: (source, target);
    told: {"report", "signals"}. A run that was stopped goes on where it was saved.
    Returns (params, {"bleu", "step"} of the best on held-out pairs).
    """
    some = jnp.ones((1, 2), jnp.int32)
    init = functools.partial(model.init, jax.random.key(0), some, some, some)
    target = layout.like(jax.eval_shape(init)["params"])
    found = checkpoint.load_params(folder, target)
    if found is not None:
        return found, processes.told(
            lambda: files.unseal(pathlib.Path(folder))["extra"]
        )
    train, dev = split(pairs, config.dev_rows)
    batches = Batches(
        train,
        *languages,
        tokens=config.tokens,
        classes=classes,
        seed=0,
        multiple=layout.size,
    )
    shape = dataclasses.replace(model.config, dropout=dropout)
    fit = _Fit(model, type(model)(shape), batches, dev, languages, config, layout, told)
    best, extra = fit(jax.jit(init)()["params"], folder)
    checkpoint.save_params(folder, best, extra)
    return layout.place(best), extra


class _Fit:
    """The loop around one translator's training."""

    def __init__(self, model, dropped, batches, dev, languages, config, layout, told):
        self._batches, self._config, self._layout = batches, config, layout
        self._told, self._languages = told, languages
        source, target = (dev.ids[x] for x in languages)
        rows = np.arange(len(dev))
        self._source = corpora.pad(source, rows, length=int(source.lengths().max()))
        self._references = dev.words[languages[1]]
        self._pieces = told["subwords"]
        self._translate = decoding.compile_translate(model, layout, decoding.config())
        self._step = fitting.compile_step(
            messages.make_loss(dropped),
            messages.count,
            ADAM,
            layout,
        )
        self._best, self._best_params = {"bleu": -1.0, "step": 0}, None

    def __call__(self, params, folder):
        """(the best params on the host, {"bleu", "step"})."""
        name = "→".join(self._languages)
        title = f"pretraining {name}"
        config, place = self._config, self._layout.place
        tx = optim.transformation(ADAM)
        partial = checkpoint.Checkpointer(
            pathlib.Path(f"{folder}.partial"), keep=1, config_digest="translator"
        )
        state = jax.eval_shape(functools.partial(training.init, tx=tx), params)
        like = self._layout.like({"state": state, "best": state.params})
        found, start = partial.restore(like), 0
        if found is None:
            state = place(training.init(trees.copy(params), tx))
            self._best_params = self._layout.keep(params)
        else:
            start, saved, self._best = found
            state, self._best_params = saved["state"], saved["best"]

        def log(step, metrics, rows):
            del rows
            shown = {"nll": metrics["nll"], "dev_bleu": max(self._best["bleu"], 0.0)}
            self._told["report"](title, done=step, total=config.steps, **shown)

        def save(state, step, final):
            if not final:
                tree = {"state": state, "best": self._best_params}
                partial.save(step, tree, self._best)

        every = range(config.eval_every, config.steps + 1, config.eval_every)
        plan = loop.Plan(
            steps=config.steps,
            evaluations=frozenset({*every, config.steps}),
            save_every=config.save_every,
        )
        hooks = loop.Hooks(
            advance=self._advance, log=log, evaluate=self._evaluate, save=save
        )
        signals = self._told["signals"]
        loop.run(state, start=start, plan=plan, hooks=hooks, signals=signals)
        partial.clear()
        return self._best_params, self._best

    def _advance(self, state, iteration, hold_reset):
        del hold_reset
        hyper = training.Hyper(
            jnp.asarray(rate(self._config, iteration), jnp.float32), jnp.asarray(1)
        )
        batch = self._layout.shard(self._batches.dropped(iteration))
        state, metrics = self._step(state, batch, hyper)
        return state, metrics, None

    def _evaluate(self, state, step, phase):
        del phase
        said = self._translate(state.params, *self._source)
        lines = self._pieces.decode(self._languages[1], said.heard, said.mask)
        bleu = scores.tokenized_bleu(lines, self._references).score
        if bleu > self._best["bleu"]:
            self._best = {"bleu": bleu, "step": step}
            self._best_params = self._layout.keep(state.params)


def judge(lines, size, folder, *, config, layout, told):
    """A language model of messages: (model, params), trained if not in the cache.

    lines: `Ragged` ids of human sentences in the language of messages; size: of the
    vocabulary. A sentence begins with BOS, which nothing learns to say.
    """
    longest = max(int(lines.lengths().max()), max(decoding.EDGES)) + 1
    shape = model_config.preset(config.judge, vocab_size=size, max_length=longest)
    model = decoder.Decoder(shape)

    def data():
        rows = np.arange(len(lines.starts) - 1)
        width = int(np.percentile(lines.lengths(), 99)) + 1
        short = rows[lines.lengths() < width]
        return begun(*corpora.pad(lines, short, length=width - 1))

    params = pretraining.cached(
        model,
        data,
        folder,
        config=JUDGE,
        steps=config.judge_steps,
        rows=config.judge_rows,
        learning_rate=config.judge_learning_rate,
        layout=layout,
        report=told["report"],
        signals=told["signals"],
    )
    return model, params


def begun(tokens, mask):
    """`Tokens` of sentences behind a BOS, for the judge."""
    first = [(0, 0), (1, 0)]
    tokens = np.pad(tokens, first, constant_values=subwords.BOS)
    seen = np.pad(mask, first, constant_values=1)
    return Tokens(tokens, seen, np.pad(mask, first))


def digest(*parts):
    """12 hex digits of settings and of `Ragged` ids: what weights depend on."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, subwords.Ragged):
            for column in part:
                total.update(np.ascontiguousarray(column).tobytes())
        else:
            total.update(repr(part).encode())
    return total.hexdigest()[:12]
