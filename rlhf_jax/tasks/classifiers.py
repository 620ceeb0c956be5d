"""Rewards for text: classifiers trained on labelled text here, or loaded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import huggingface, optim, rewards
from rlhf_jax.algorithms import reward_model
from rlhf_jax.data import sources, tokenization
from rlhf_jax.evaluation import policy
from rlhf_jax.models import config as model_config
from rlhf_jax.models import heads
from rlhf_jax.studies import fitting
from rlhf_jax.tasks import Reward
from rlhf_jax.types import Labelled, Prompts

CLASSIFIER = optim.Config(schedule="linear", warmup=20, weight_decay=0.01)
WHOLE_PROMPT = "whole_prompt"  # a column: what prompts were cut from
_ROWS = 64  # that a loaded classifier reads at once


def shuffled(rows, count):
    """At most `count` rows of a data set, drawn blindly, always the same."""
    order = np.random.default_rng(0).permutation(len(rows))[:count]
    return rows.select(np.sort(order))


def trained(config, dataset, task, layout, report, signals):
    """Two classifiers, each on half of the labelled text: (make, truth, controls).

    The reward of a seed is P(label) of one that starts from the policy's trunk, scaled
    to mean 0 and standard deviation 1 on π₀'s own samples. Another, of another
    architecture, stands in for gold: it judges and never trains.
    """
    source = config.labelled or dataset
    wanted = ["text", "label"]
    rows = sources.load(source, split=config.labelled_split, columns=wanted)
    tests = sources.load(source, split=config.labelled_eval_split, columns=wanted)
    tests = shuffled(sources.drop_shared(tests, rows), 1000)
    data, test = (
        tokenization.classification(
            task.tokenizer,
            list(part["text"]),
            np.asarray(part["label"]),
            length=config.classifier_length,
        )
        for part in (rows, tests)
    )
    labels = int(data.labels.max()) + 1
    halves = [Labelled(*(x[half::2] for x in data)) for half in (0, 1)]
    own = Classification(config, heads.Classifier(task.model.config, labels), layout)
    shape = task.model.config
    shape = model_config.preset(
        "small", vocab_size=shape.vocab_size, max_length=shape.max_length
    )
    judge = Classification(config, heads.Classifier(shape, labels), layout)

    def make(seed):
        head = heads.init_head(own.model, jax.random.key(seed))
        start = heads.from_decoder(task.params, head)
        params = own.fit(start, halves[0], seed, "reward classifier", report, signals)
        affine = _scale(task, own.probability, params, layout, raw=config.raw_reward)
        return Reward(
            score=functools.partial(_scaled, own.probability),
            frozen=(params, affine),
            facts={"accuracy": own.accuracy(params, test), "labels": labels},
        )

    sample = jnp.zeros((1, 4), jnp.int32)
    start = jax.jit(judge.model.init)(jax.random.key(1), sample)["params"]
    gold = judge.fit(start, halves[1], 0, "judging classifier", report, signals)
    accuracy = judge.accuracy(gold, test)
    report(f"judging classifier: accuracy {accuracy:.3f} on {len(tests)} test texts")

    def truth(rollout):
        return {"eval/gold": judge.predict(gold, (rollout.tokens, rollout.mask))}

    def random(seed):
        head = heads.init_head(own.model, jax.random.key(5000 + seed))
        params = heads.from_decoder(task.params, head)
        affine = _scale(task, own.probability, params, layout, raw=config.raw_reward)
        score = functools.partial(_scaled, own.probability)
        return Reward(score=score, frozen=(params, affine), facts={"random": True})

    controls = {
        "gold": lambda seed: Reward(arrays=lambda r: truth(r)["eval/gold"]),
        "random": random,
    }
    return make, truth, controls


class Classification:
    """Classifiers of one architecture on the text of a task."""

    def __init__(self, config, model, layout):
        self.model, self._config = model, config
        loss = reward_model.make_label_loss(model)
        self._fit = fitting.Fit(loss, reward_model.count, CLASSIFIER, layout)
        self.probability = reward_model.probability(model, label=config.label)
        self.predict = layout.over_rows(
            lambda params, rows: self.probability(params, *rows), whole=1
        )

    def fit(self, start, data, seed, text, report, signals):
        """Parameters trained on `Labelled` rows."""
        total = self._config.classifier_steps

        def tell(step, metrics):
            report(text, done=step, total=total, loss=metrics["loss"])

        return self._fit(
            start,
            data,
            steps=total,
            rows=self._config.classifier_rows,
            learning_rate=self._config.classifier_learning_rate,
            seed=seed,
            report=tell,
            signals=signals,
        )

    def accuracy(self, params, test):
        """Share of test rows on whose side of ½ the probability lies."""
        found = self.predict(params, (test.tokens, test.mask)) > 0.5
        return float(np.mean(found == (test.labels == self._config.label)))


def _scaled(score, frozen, tokens, mask):
    params, affine = frozen
    return rewards.apply(affine, score(params, tokens, mask))


def _scale(task, score, params, layout, *, raw, count=512):
    """The Affine that gives the score of π₀'s samples mean 0 and deviation 1, or what
    leaves it as it is."""
    if raw:
        return rewards.Affine(jnp.float32(1.0), jnp.float32(0.0))

    draw = policy.make_draw(task.model, config=task.sampling)

    def judge(initial, params, rows):
        out = draw(initial, rows)
        return score(params, out.tokens, out.mask)

    prompts = Prompts(*(x[:count] for x in task.prompts))
    rows = policy.prompt_rows(prompts, jax.random.key(777))
    judge = layout.over_rows(judge, whole=2)
    found = judge(task.params, params, rows)
    return rewards.fit(jnp.asarray(found))


def loaded(name, task, layout, *, label=1, raw=False, whole_prompt=False):
    """The reward of a classifier or reward model from a directory or the hub.

    Args: label: of a classifier with several, whose probability is the reward; raw:
    as it is, not scaled to mean 0 and deviation 1 on π₀'s samples; whole_prompt: score
    the whole prompts of that column, not what the policy reads.
    """
    model, params, tokenizer = huggingface.load(name, dtype="float32")
    if not isinstance(model, heads.Classifier):
        raise ValueError(
            f"--reward {name} is a language model; a classifier or a reward model "
            "(…ForSequenceClassification) is needed"
        )
    if model.labels == 1:
        score = reward_model.score(model)
    else:
        score = reward_model.probability(model, label=label)
    encoder = isinstance(model.config, model_config.Encoder)  # wants [CLS] and [SEP]
    other = encoder or tokenizer.get_vocab() != task.tokenizer.get_vocab()
    if other or whole_prompt:
        return Reward(host=_own_tokens(model, params, tokenizer, score))
    affine = _scale(task, score, params, layout, raw=raw)
    return Reward(score=functools.partial(_scaled, score), frozen=(params, affine))


def _own_tokens(model, params, tokenizer, score):
    """A score for texts in the tokens of another tokenizer: decoded, encoded again,
    between the special tokens it puts around a text; of one too long the end is read.
    Where there is a column of whole prompts, they are read in place of the prompts.
    """
    program = jax.jit(score)

    def host(prompts, completions, **columns):
        prompts = columns.get(WHOLE_PROMPT, prompts)
        texts = [p + c for p, c in zip(prompts, completions, strict=True)]
        rows = tokenization.classification(
            tokenizer,
            texts,
            np.zeros(len(texts), np.int32),
            length=model.config.max_length,
            truncate="left",
        )
        longest = int(rows.mask.sum(-1).max())
        # A power of two, so that few lengths are compiled and little is padding.
        length = min(max(16, 1 << (longest - 1).bit_length()), model.config.max_length)
        tokens, mask = rows.tokens[:, :length], rows.mask[:, :length]
        size = min(len(texts), _ROWS)
        found = []
        for start in range(0, len(texts), size):
            part = slice(start, start + size)
            # Filled up with its own rows, so that one shape is compiled.
            pick = np.resize(np.arange(len(texts))[part], size)
            found.append(np.asarray(program(params, tokens[pick], mask[pick])))
        return np.concatenate(found)[: len(texts)]

    return host
