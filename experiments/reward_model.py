"""A reward model from pairs: which of two answers is better, by how much.

Rows hold `prompt`, `chosen` and `rejected`, texts or lists of messages (or two whole
conversations that begin alike); a column `preference` holds soft labels, that is the
probability that chosen is better, a column `margin` by how much its score should win.
The loss is Bradley and Terry's.

    python -m experiments.reward_model --model path/to/model --dataset pairs.jsonl
    python -m experiments.rl --reward runs/reward_model/<time>/model ...

The result is runs/reward_model/<time>/model, a sequence classifier with one label that
transformers opens; report.md beside it says how often held-out pairs are ordered right.

`--test PATH[:SPLIT] ...` names preference sets of another origin, on which the finished
model is tested: is it right, is it sure when it is right, does it just like length?
With `--resume --output runs/reward_model/<time>` a finished run is tested again.

    python -m experiments.reward_model --model path/to/model --dataset pairs.jsonl \\
        --test path/to/llmbar path/to/other.jsonl:train

From Python, with rows as a list of dictionaries or a `datasets.Dataset`:

    judge = reward_model.train(model="path/to/model", dataset=rows)
    judge.metrics["eval/accuracy"]
"""

import dataclasses
import functools

import numpy as np

from rlhf_jax import losses, ranges
from rlhf_jax.algorithms import reward_model
from rlhf_jax.cli import experiment, options, recipe
from rlhf_jax.data import preferences
from rlhf_jax.evaluation import preference_sets
from rlhf_jax.huggingface import score_bias
from rlhf_jax.models import lora
from rlhf_jax.reporting import preference_sets as reports
from rlhf_jax.runtime import files
from rlhf_jax.tasks import models, pairs, rows

TITLE = "Reward model"
HELD_OUT = "held-out"  # what the run's own evaluation split is called among sets
METRICS = ("accuracy", "loss", "margin", "score_std", "grad_norm", "learning_rate")


@dataclasses.dataclass(frozen=True)
class Config(options.Supervised):
    """Everything a run depends on."""

    essential = (*options.Supervised.essential, "margin", "center", "chat", "test")
    model: str = ""
    """A language model, or a reward model to go on with: a directory or a hub name."""
    margin: ranges.NonNegative = 0.0
    """By how much chosen should win, where rows have no column margin."""
    ended: bool = True
    """Answers are read with their end token; off for policies that never end theirs."""
    center: bool = True
    """Shift scores so that those of training answers have mean 0; of Llama and others
    with RMSNorm they stay, for transformers has no place for a shift."""
    chat: bool = False
    """Prompts that are texts are a user's turn in the model's chat template."""
    test: tuple[ranges.Text, ...] = ()
    """Preference sets to test the finished model on: PATH or PATH:SPLIT each."""
    test_rows: ranges.Count = 2000
    """Maximum number of pairs of each."""


CONFIG = Config()


def make_study(config, setting):
    """The study of one run of a reward model."""
    given, layout = setting.given, setting.layout
    loaded = models.read_classifier("--model", given.model, config.dtype, config.seed)
    model, params, tokenizer = loaded
    how = {"margin": config.margin, "ended": config.ended, "chat": config.chat}
    found = rows.parts(given.dataset, given.data, among=preferences.KINDS)
    train, held, about = pairs.read(found, given.data, model, tokenizer, **how)
    trainable = by_seed(config, setting, loaded)
    about = (*about, "a reward model has no policy: it has neither samples nor drift")
    loss, count = reward_model.make_pair_loss, reward_model.count
    work = recipe.supervise(
        config, setting, loaded, trainable, train.pairs, about, loss, count
    )
    score = scorer(model, layout, *recipe.batches(config))
    if config.test:
        setting.report("reading preference sets ...")
        held_out = found.held, held
        sets = read_sets(config, given.data, model, tokenizer, held_out, how)
        beside = functools.partial(tested, layout, score, sets)
        work = work._replace(beside=beside)
    if config.center and score_bias.expressible(model):
        shift = functools.partial(centered, score, model, pairs=train.pairs)
        work = work._replace(finished=shift)
    elif config.center:
        line = "scores are not centred: the family has no place for their bias"
        work = work._replace(about=(*work.about, line))

    def evaluate(params, run):
        return judge(score, params, held.pairs), []

    shown = {"loss": "loss", "accuracy": "accuracy"}
    return recipe.study(
        config, work, "reward_model", evaluate, label=TITLE, shown=shown, best="loss"
    )


def by_seed(config, setting, loaded):
    """seed -> `Trainable`: a language model gets another new head with every seed."""

    @functools.lru_cache(maxsize=1)  # of the run under way
    def trainable(seed):
        params = loaded[1]
        if seed != config.seed:
            given = setting.given.model
            _, params, _ = models.read_classifier("--model", given, config.dtype, seed)
        adapter = lora.adapter(config.lora, params)
        return models.trainable(params, adapter, setting.layout, whole=("head",))

    return trainable


def scorer(model, layout, chunk):
    """`score(params, (tokens, mask)) -> [N]` on the host, `chunk` rows at a time."""
    scalar = reward_model.score(model)
    return layout.over_rows(
        lambda params, rows: scalar(params, *rows), replicated=1, chunk=chunk
    )


def judge(score, params, rows):
    """Metrics of `types.Preferences` on the host: {"eval/accuracy": ..., ...}."""
    chosen = score(params, (rows.chosen, rows.chosen_mask))
    rejected = score(params, (rows.rejected, rows.rejected_mask))
    loss, metrics = losses.bradley_terry(
        chosen, rejected, preference=rows.preference, margin=rows.margin
    )
    both = np.concatenate([chosen, rejected])
    return {
        "eval/accuracy": float(metrics["accuracy"]),
        "eval/loss": float(loss),
        "eval/margin": float(metrics["margin"]),
        "eval/score_mean": float(both.mean()),
        "eval/score_std": float(both.std()),
    }


def read_sets(config, data, model, tokenizer, held, how):
    """{name: `pairs.Measured`}: the run's own held-out pairs, and those of --test.

    Args: held: their rows, and the `pairs.Pairs` that they became.
    """
    own, encoded = held
    texts = preferences.read(own, tokenizer, cue=config.data.cue, chat=config.chat)
    asked = {"count": config.test_rows, **how}
    others = pairs.read_sets(config.test, data, model, tokenizer, **asked)
    if HELD_OUT in others:
        raise ValueError(
            f"--test: a set is called {HELD_OUT}, as the run's own held-out pairs are; "
            "rename its folder or file"
        )
    return {HELD_OUT: pairs.measured(texts, encoded), **others}


def tested(layout, score, sets, params, done):
    """(paragraphs, results) of a finished model on preference sets; see `recipe.Work`.

    The temperature is that of the run's own held-out pairs. Writes reliability.png, and
    tests.json with the scores and lengths of all answers.
    """
    params, kept = layout.put(params), {}
    for name, one in sets.items():
        # Five digits: what is kept is what was measured.
        scores = np.round(pairs.scores(score, params, one.pairs), 5)
        kept[name] = {"scores": scores.tolist(), "lengths": one.lengths.tolist()}
        preference = np.asarray(one.pairs.preference)
        if (preference != 1).any():
            kept[name]["preference"] = preference.tolist()
    found = preference_sets.measure_all(kept)
    files.write_json(done.folder / "tests.json", kept)
    place = done.folder / reports.PICTURE
    reports.draw(found, place, f"{TITLE}: is it as sure as it is right?")
    experiment.say(done.console, [*reports.lines(found), str(place)])
    return reports.section(found), {"tests": found}


def centered(score, model, params, *, pairs, count=512):
    """Parameters whose scores of `count` training pairs have mean 0.

    "The N+ Implementation Details of RLHF with PPO", RM 9: Bradley–Terry leaves the
    level open. The bias is where `transformers` reads one.
    """
    sides = (
        (pairs.chosen, pairs.chosen_mask),
        (pairs.rejected, pairs.rejected_mask),
    )
    scores = [score(params, tuple(x[:count] for x in side)) for side in sides]
    head = params["head"]
    head = {**head, "bias": head["bias"] - np.mean(scores).astype(np.float32)}
    return score_bias.folded(model, {**params, "head": head})


RECIPE = recipe.supervised_experiment(
    "reward_model", make_study, title=TITLE, metrics=METRICS
)
main, train, run = recipe.entry_points(RECIPE, CONFIG, __doc__)

if __name__ == "__main__":
    main()
