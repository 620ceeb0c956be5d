"""Rewards for text: classifiers trained here on labelled text, or loaded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import optim, rewards
from rlhf_jax.algorithms import reward_model
from rlhf_jax.data import batching, sources, tokenization
from rlhf_jax.evaluation import policy
from rlhf_jax.models import config as model_config
from rlhf_jax.models import heads
from rlhf_jax.studies import scoring, supervised
from rlhf_jax.studies.task import Reward
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.tasks import bigrams, models
from rlhf_jax.types import Labelled, Prompts

CLASSIFIER = optim.Config(schedule="linear", warmup=20, weight_decay=0.01)
BIGRAMS = "bigrams"  # a judge that is no network
WHOLE_PROMPT = "whole_prompt"  # a column: the texts that prompts were cut from
_ROWS = 64  # per batch of a loaded classifier


def shuffled(rows, count):
    """At most `count` rows of a dataset: a random sample, the same every time."""
    order = np.random.default_rng(0).permutation(len(rows))[:count]
    return rows.select(np.sort(order))


def trained(config, dataset, task, layout, report, signals):
    """Two classifiers, each on texts of its own: (rewards, truth).

    The reward of a seed is P(label) under a classifier, by default one that starts from
    the policy's trunk, scaled to mean 0 and standard deviation 1 on samples of π₀. A
    second one, of another architecture, stands in for gold: it judges policies and
    never trains them.
    """
    mine, others, tests = _labelled(config, dataset)
    _enough(config.classifier_texts, len(mine))
    truth = _judging(config, task, others, tests, layout, report, signals)
    mine, test = (_encoded(config, task.tokenizer, part) for part in (mine, tests))
    labels = int(mine.labels.max()) + 1
    shape = _shape(config.classifier, task.model.config)
    proxy = Classification(config, heads.Classifier(shape, labels), layout)
    score = functools.partial(scoring.scaled, proxy.probability)

    def make(seed):
        start = _start(config.classifier, proxy.model, task.params, seed)
        rows = _drawn(mine, config.classifier_texts, seed)
        params = proxy.fit(start, rows, seed, "reward classifier", report, signals)
        affine = scale(task, proxy.probability, params, layout, raw=config.raw_reward)
        facts = {"accuracy": proxy.accuracy(params, test), "labels": labels}
        return Reward(score=score, frozen=(params, affine), facts=facts)

    def random(seed):
        params = _start(config.classifier, proxy.model, task.params, 5000 + seed)
        affine = scale(task, proxy.probability, params, layout, raw=config.raw_reward)
        return Reward(score=score, frozen=(params, affine), facts={"random": True})

    judged = Reward(arrays=lambda rollout: truth(rollout)["eval/gold"])
    named = {"proxy": functools.cache(make), "random": functools.cache(random)}
    return {**named, "gold": lambda seed: judged}, truth


def _judging(config, task, rows, tests, layout, report, signals):
    """`truth(rollout)` of a judging classifier, trained on `datasets` rows."""
    if config.judge == BIGRAMS:
        return _counting(config, task, rows, tests, report)
    data, test = (_encoded(config, task.tokenizer, part) for part in (rows, tests))
    shape = _shape(config.judge, task.model.config)
    network = heads.Classifier(shape, int(data.labels.max()) + 1)
    judge = Classification(config, network, layout)
    start = _start(config.judge, judge.model, task.params, 1)
    gold = judge.fit(start, data, 0, "judging classifier", report, signals)
    accuracy = judge.accuracy(gold, test)
    report(
        f"judging classifier: accuracy {accuracy:.3f} on {len(test.labels)} test texts"
    )

    def truth(rollout):
        rows = rollout.tokens[:, judge.first :], rollout.mask[:, judge.first :]
        return {"eval/gold": judge.predict(gold, rows)}

    return truth


def _counting(config, task, rows, tests, report):
    """`truth(rollout)` of naive Bayes on words, of `datasets` rows; see `bigrams`."""
    model = bigrams.fit(rows["text"], rows["label"], label=config.label)
    right = (bigrams.log_odds(model, tests["text"]) > 0) == (
        np.asarray(tests["label"]) == config.label
    )
    report(f"judging bigrams: accuracy {right.mean():.3f} on {len(right)} test texts")

    def truth(rollout):
        prompts, completions = scoring.decode(task, rollout)
        if config.chat:
            return {"eval/gold": bigrams.log_odds(model, completions)}
        whole = [p + c for p, c in zip(prompts, completions, strict=True)]
        return {"eval/gold": bigrams.log_odds(model, whole)}

    return truth


def _enough(few, count):
    if few > count:
        raise ValueError(
            f"--text.classifier-texts {few}: there are {count} labelled texts besides "
            "those of the judging classifier; lower it"
        )


def _drawn(rows, few, seed):
    """So many `Labelled` rows, others for each seed; all of them for 0."""
    if not few:
        return rows
    drawn = np.random.default_rng(seed).permutation(len(rows.labels))[:few]
    return Labelled(*(x[drawn] for x in rows))


def _shape(name, policy):
    """The trunk of a classifier: the policy's, or a preset for its vocabulary."""
    if name == "policy":
        return policy
    sizes = {"vocab_size": policy.vocab_size, "max_length": policy.max_length}
    return model_config.preset(name, **sizes)


def _start(name, model, policy, seed):
    """Untrained parameters of a classifier of a seed; name: as for `_shape`."""
    if name != "policy":
        return _from_scratch(model, seed)
    return heads.from_decoder(policy, heads.init_head(model, jax.random.key(seed)))


def _from_scratch(model, seed):
    sample = jnp.zeros((1, 4), jnp.int32)
    return jax.jit(model.init)(jax.random.key(seed), sample)["params"]


def _labelled(config, dataset):
    """`datasets` rows (of rewarding classifiers, of the judging one, for tests).

    No text is in two of them.
    """
    source, wanted = config.labelled or dataset, ["text", "label"]
    rows = sources.load(source, split=config.labelled_split, columns=wanted)
    tests = sources.load(source, split=config.labelled_eval_split, columns=wanted)
    tests = shuffled(sources.drop_shared(tests, rows), 1000)
    mine, others = (rows.select(range(half, len(rows), 2)) for half in (0, 1))
    if config.judge_labelled is not None:
        others = sources.load(
            config.judge_labelled, split=config.labelled_split, columns=wanted
        )
        for known in (mine, tests):
            others = sources.drop_shared(others, known)
    return mine, others, tests


def _encoded(config, tokenizer, rows):
    """`Labelled` of `datasets` rows."""
    length = config.classifier_length
    labels = np.asarray(rows["label"])
    return tokenization.classification(
        tokenizer, list(rows["text"]), labels, length=length
    )


class Classification:
    """Classifiers of one architecture on the text of a task."""

    def __init__(self, config, model, layout):
        self.model, self._config, self._layout = model, config, layout
        self._objective = supervised.Objective(
            model, reward_model.make_label_loss, reward_model.count, CLASSIFIER
        )
        self.first = config.prompt_length if config.chat else 0  # token of a rollout
        probability = reward_model.probability(model, label=config.label)
        self.probability = functools.partial(_from, self.first, probability)
        self.predict = layout.over_rows(
            lambda params, rows: probability(params, *rows), replicated=1
        )

    def fit(self, start, data, seed, text, report, signals):
        """Parameters trained on `Labelled` rows."""
        total, layout = self._config.classifier_steps, self._layout

        def log(step, metrics):
            report(text, done=step, total=total, loss=metrics["loss"])

        trainer = supervised.trainer(
            Trainable(start),
            data,
            self._objective,
            rows=self._config.classifier_rows,
            steps=total,
            learning_rate=self._config.classifier_learning_rate,
            seed=seed,
            layout=layout,
        )
        return supervised.fit(
            trainer, steps=total, layout=layout, report=log, signals=signals
        )

    def accuracy(self, params, test):
        """Share of test rows whose probability is on the right side of ½."""
        predicted = self.predict(params, (test.tokens, test.mask)) > 0.5
        return float(np.mean(predicted == (test.labels == self._config.label)))


def _from(first, score, params, tokens, mask):
    """The score of what begins at token `first` of a rollout: 0, or the answer's."""
    return score(params, tokens[:, first:], mask[:, first:])


def scale(task, score, params, layout, *, raw, count=512):
    """The `Affine` that scales scores to mean 0 and deviation 1 on samples of π₀.

    raw: the one that leaves them as they are.
    """
    if raw:
        return rewards.Affine(jnp.float32(1.0), jnp.float32(0.0))

    draw = policy.make_draw(task.model, config=task.sampling)

    def judge(initial, params, rows):
        out = draw(initial, rows)
        return score(params, out.tokens, out.mask)

    prompts = Prompts(*(x[:count] for x in task.prompts))
    rows = policy.prompt_rows(prompts, jax.random.key(777))
    judge = layout.over_rows(judge, replicated=2)
    return rewards.fit(jnp.asarray(judge(task.params, params, rows)))


def loaded(source, task, layout, *, label=1, raw=False, whole_prompt=False):
    """The reward of a classifier or reward model; source: as for `models.read`.

    Args: label: the class whose probability is the reward, if there are several; raw:
    do not scale to mean 0 and deviation 1 on samples of π₀; whole_prompt: score the
    whole prompts in that column, not what the policy reads.
    """
    model, params, tokenizer = models.read("--reward", source)
    if not isinstance(model, heads.Classifier):
        raise ValueError(
            f"{models.where('--reward', source)} is a language model; a classifier or "
            "a reward model (…ForSequenceClassification) is needed"
        )
    if model.labels == 1:
        score = reward_model.score(model)
    else:
        score = reward_model.probability(model, label=label)
    encoder = isinstance(model.config, model_config.Encoder)  # wants [CLS] and [SEP]
    other = encoder or tokenizer.get_vocab() != task.tokenizer.get_vocab()
    if other or whole_prompt:
        return Reward(host=_retokenized(model, params, tokenizer, score))
    affine = scale(task, score, params, layout, raw=raw)
    scaled = functools.partial(scoring.scaled, score)
    return Reward(score=scaled, frozen=(params, affine))


def _retokenized(model, params, tokenizer, score):
    """A score for texts, encoded by the classifier's tokenizer with its special tokens.

    Texts that are too long lose their start. A column of whole prompts, where there is
    one, replaces the prompts.
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
        length = min(max(16, batching.power_of_two(longest)), model.config.max_length)
        tokens, mask = rows.tokens[:, :length], rows.mask[:, :length]
        size = min(len(texts), _ROWS)
        scores = []
        for start in range(0, len(texts), size):
            part = slice(start, start + size)
            # Rows are repeated to fill the batch, so that one shape is compiled.
            pick = np.resize(np.arange(len(texts))[part], size)
            scores.append(np.asarray(program(params, tokens[pick], mask[pick])))
        return np.concatenate(scores)[: len(texts)]

    return host
