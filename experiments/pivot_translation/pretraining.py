"""Pretraining of the translators and of the judge; their weights stay in the cache."""

import dataclasses
import functools
import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pivot_translation import decoding
from rlhf_jax import optim, ranges, trees
from rlhf_jax.algorithms.translation_game import messages
from rlhf_jax.data.translation import corpora, subwords, token_batches
from rlhf_jax.evaluation import translation as scores
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.runtime import checkpoint, files, loop, processes
from rlhf_jax.studies import supervised
from rlhf_jax.tasks import pretraining
from rlhf_jax.types import Pairs, Tokens

ADAM = optim.Config(beta1=0.9, beta2=0.98, eps=1e-9, max_grad_norm=None)
JUDGE = optim.Config(schedule="linear", warmup=50, weight_decay=0.01)


@dataclasses.dataclass(frozen=True)
class Config:
    """How the agents, and the language model that judges messages, are pretrained."""

    steps: ranges.Count = 1200
    """Updates of each agent; the weights that are best on held-out text are kept."""
    tokens: ranges.Count = 2000
    """Tokens of a batch, each pair counted by the longer of its two sentences."""
    learning_rate: ranges.Positive = 1e-3
    """Of the agents, at the start."""
    final_rate: ranges.NonNegative = 1e-5
    """Their learning rate in the end."""
    decay_steps: ranges.Count | None = None
    """Updates until the rate has fallen linearly to the final one; None: all."""
    dropout_fr_en: ranges.Share = 0.0
    """Published: 0.2; three passes over the text are too few to memorise it."""
    dropout_en_de: ranges.Share = 0.0
    """Published: 0.3."""
    eval_every: ranges.Count = 300
    """Updates between readings of the held-out text."""
    save_every: ranges.Natural = 300
    """Updates between checkpoints; 0: only at the end."""
    dev_rows: ranges.Count = 400
    """Held-out pairs of the pretraining text, on which the best weights are chosen."""
    judge: ranges.Text = "small"
    """Preset of the language model that judges messages."""
    judge_steps: ranges.Count = 600
    """Updates of the judge."""
    judge_rows: ranges.Count = 64
    """Sentences per update of the judge."""
    judge_learning_rate: ranges.Positive = 2e-3
    """Of the judge, at its peak."""


def rate(config, step):
    """The learning rate of a 0-based update: linear to the final one, then constant."""
    span = config.decay_steps or config.steps
    left = 1.0 - min(step / max(span, 1), 1.0)
    return config.final_rate + (config.learning_rate - config.final_rate) * left


def split(pairs, dev_rows):
    """(training pairs, dev pairs): dev is a random draw; they share no English.

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
    """Batches of `Pairs`, a function of the step."""

    def __init__(self, pairs, source, target, *, tokens, classes, seed, multiple):
        self._source, self._target = pairs.ids[source], pairs.ids[target]
        lengths = np.maximum(self._source.lengths(), self._target.lengths()) - 1
        edges = token_batches.edges(lengths, classes)
        self._order = token_batches.TokenBatches(
            lengths, tokens=tokens, edges=edges, seed=seed, multiple=multiple
        )
        self._seed = seed

    def plain(self, step):
        """`Pairs` without dropout keys."""
        rows, edge = self._order.batch(step)
        sides = (
            corpora.pad(ids, rows, length=edge + 1)
            for ids in (self._source, self._target)
        )
        return Pairs(*(x for side in sides for x in side))

    def keyed(self, step):
        """`Pairs` with a dropout key for each row."""
        pairs = self.plain(step)
        generator = np.random.default_rng([self._seed, step])
        shape = (pairs.source.shape[0], 2)
        keys = generator.integers(0, 2**32, shape, np.uint32)
        return pairs._replace(keys=keys)


def translator(model, pairs, languages, pieces, config, setting):
    """The weights of a translator, trained if they are not in the cache yet.

    Args: model: without dropout; pairs: `Parallel`; languages: (source, target);
    pieces: `Subwords`; config: `pivot_translation.Config`; setting:
    `experiment.Setting`. A run that was stopped resumes from its last checkpoint.
    Returns (params, {"bleu", "step"} of the best on held-out pairs).
    """
    layout, classes, how = setting.layout, config.text.classes, config.pretrain
    dropout = getattr(how, f"dropout_{'_'.join(languages)}")
    folder = _folder(model, pairs, languages, dropout, classes, how, setting)
    tokens = jnp.ones((1, 2), jnp.int32)
    init = functools.partial(model.init, jax.random.key(0), tokens, tokens, tokens)
    target = layout.like(jax.eval_shape(init)["params"])
    params = checkpoint.load_params(folder, target)
    if params is not None:
        return params, processes.broadcast_from_first(
            lambda: files.unseal(folder)["extra"]
        )
    train, dev = split(pairs, how.dev_rows)
    sizes = {"tokens": how.tokens, "classes": classes, "multiple": layout.size}
    batches = Batches(train, *languages, **sizes, seed=0)
    shape = dataclasses.replace(model.config, dropout=dropout)
    objective = supervised.Objective(
        type(model)(shape), messages.make_loss, messages.count, ADAM
    )
    held_out = _held_out_bleu(model, dev, languages, pieces, layout)
    fit = _Fit(objective, batches, held_out, how, layout)
    title = f"pretraining {'→'.join(languages)}"
    report = functools.partial(setting.report, title, total=how.steps)
    fit.run(jax.jit(init)()["params"], folder, report=report, signals=setting.signals)
    checkpoint.save_params(folder, fit.best_params, fit.best)
    return layout.put(fit.best_params), fit.best


def _folder(model, pairs, languages, dropout, classes, config, setting):
    """The folder in the cache that is named by all that the weights depend on."""
    besides = ("judge", "dropout", "save")
    learning = {k: v for k, v in vars(config).items() if not k.startswith(besides)}
    ids = [pairs.ids[x] for x in languages]
    key = digest(repr([learning, dropout, classes, model.config]), ADAM, *ids)
    return pathlib.Path(setting.cache) / f"translator-{'-'.join(languages)}-{key}"


def _held_out_bleu(model, pairs, languages, pieces, layout):
    """bleu(params) of greedy translations of `Parallel`, tokenized BLEU."""
    source = pairs.ids[languages[0]]
    rows = np.arange(len(pairs))
    padded = corpora.pad(source, rows, length=int(source.lengths().max()))
    references = pairs.words[languages[1]]
    translate = decoding.compile_translate(model, layout, decoding.config())

    def bleu(params):
        output = translate(params, *padded)
        lines = pieces.decode(languages[1], output.heard, output.mask)
        return scores.tokenized_bleu(lines, references).score

    return bleu


class _Fit:
    """The training of one translator, and its best weights so far."""

    def __init__(self, objective, batches, bleu, config, layout):
        self._objective, self._batches, self._bleu = objective, batches, bleu
        self._step = supervised.compile_step(objective, layout)
        self._config, self._layout = config, layout
        self.best, self.best_params = {"bleu": -1.0, "step": 0}, None

    def run(self, params, folder, *, report, signals):
        """Trains to the end, from the newest checkpoint on."""
        config = self._config
        unfinished = checkpoint.Checkpointer(
            pathlib.Path(f"{folder}.partial"), keep=1, config_digest="translator"
        )
        state, start = self._restore(params, unfinished)

        def log(step, metrics, rows):
            del rows
            bleu = max(self.best["bleu"], 0.0)
            report(done=step, nll=metrics["nll"], dev_bleu=bleu)

        def save(state, step, final):
            if not final:
                tree = {"state": state, "best": self.best_params}
                unfinished.save(step, tree, self.best)

        every = range(config.eval_every, config.steps + 1, config.eval_every)
        plan = loop.Plan(
            steps=config.steps,
            evaluations=frozenset({*every, config.steps}),
            save_every=config.save_every,
        )
        hooks = loop.Hooks(
            advance=self._advance, log=log, evaluate=self._evaluate, save=save
        )
        loop.run(state, start=start, plan=plan, hooks=hooks, signals=signals)
        unfinished.clear()

    def _restore(self, params, unfinished):
        """(state, steps done): of the newest checkpoint, or of the start."""
        initial = functools.partial(supervised.initial, objective=self._objective)
        state = jax.eval_shape(initial, params)
        like = self._layout.like({"state": state, "best": state.learner.params})
        saved = unfinished.restore(like)
        if saved is None:
            self.best_params = self._layout.snapshot(params)
            return self._layout.put(initial(trees.copy(params))), 0
        start, tree, self.best = saved
        self.best_params = tree["best"]
        return tree["state"], start

    def _advance(self, state, iteration):
        hyper = supervised.Hyper(
            learning_rate=jnp.asarray(rate(self._config, iteration), jnp.float32),
            total=jnp.asarray(1),
        )
        batch = self._layout.shard_rows(self._batches.keyed(iteration))
        state, metrics = self._step((), state, batch, hyper)
        return state, metrics, None

    def _evaluate(self, state, step, phase):
        del phase
        params = state.learner.params
        bleu = self._bleu(params)
        if bleu > self.best["bleu"]:
            self.best = {"bleu": bleu, "step": step}
            self.best_params = self._layout.snapshot(params)


def judge(lines, size, config, setting):
    """A language model of messages: (model, params), trained if not in the cache.

    Args: lines: `Ragged` ids of human sentences in the language of messages; size: of
    the vocabulary; setting: `experiment.Setting`. Sentences begin with BOS, which is
    not a target.
    """
    of_judge = {k: v for k, v in vars(config).items() if k.startswith("judge")}
    key = digest(repr(of_judge), JUDGE, size, lines)
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
        pathlib.Path(setting.cache) / f"judge-en-{key}",
        config=JUDGE,
        steps=config.judge_steps,
        rows=config.judge_rows,
        learning_rate=config.judge_learning_rate,
        layout=setting.layout,
        report=setting.report,
        signals=setting.signals,
    )
    return model, params


def begun(tokens, mask):
    """`Tokens` of sentences with a BOS before them, for the judge."""
    width = [(0, 0), (1, 0)]
    tokens = np.pad(tokens, width, constant_values=subwords.BOS)
    visible = np.pad(mask, width, constant_values=1)
    return Tokens(tokens, visible, np.pad(mask, width))


def digest(*parts):
    """12 hex digits of the settings and `Ragged` ids that weights depend on."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, subwords.Ragged):
            for column in part:
                total.update(np.ascontiguousarray(column).tobytes())
        else:
            total.update(repr(part).encode())
    return total.hexdigest()[:12]
