"""The task of the game: sentences in three languages, two agents and a judge."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from experiments.pivot_translation import pretraining
from rlhf_jax import ranges
from rlhf_jax.algorithms import translation_game as game
from rlhf_jax.data.translation import corpora, subwords
from rlhf_jax.models import config as model_config
from rlhf_jax.models import heads, seq2seq

LANGUAGES = {"sender": ("fr", "en"), "receiver": ("en", "de")}  # (source, target)
HUB = {
    "dataset": "romrawinjp/multi30k",
    "fr_en": "IWSLT/iwslt2017@iwslt2017-fr-en",
    "en_de": "IWSLT/iwslt2017@iwslt2017-en-de",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """How text becomes ids, and how large the agents are."""

    merges: ranges.Count = 25_000
    """Of the joint byte-pair encoding, learned on the game's training text only."""
    paper_merges: bool = False
    """Learn them on validation and test_2017 text too, as the published files do."""
    max_length: ranges.Count = 40
    """Longest training sentence, in pieces; longer ones are left out."""
    classes: ranges.Count = 3
    """Length classes of batches: each is a shape to compile."""
    rows: ranges.Count | None = None
    """Random subset of the game's training sentences, of this size; None: all."""
    pretrain_rows: ranges.Count | None = None
    """Random subset of each pretraining text, of this size; None: all."""
    embedding: ranges.Count = 256
    """Width of the agents' embeddings."""
    hidden: ranges.Count = 256
    """Width of the agents' recurrent states."""
    eval_rows: ranges.Count | None = None
    """Use only the first this many validation and test sentences; None: all."""
    eval_split: ranges.Text = "val"
    """Split of --dataset that evaluations read."""
    test_split: ranges.Text = "test_2016_flickr"
    """Split of --dataset that is read once, at the end."""


@dataclasses.dataclass(frozen=True, eq=False)  # the same task is the same object
class Task:
    """What a study of the game is about. Text is on the host."""

    networks: game.Networks
    params: dict  # {"sender", "receiver"}, pretrained, float32
    judge: tuple[Any, Any]  # a language model of messages, its weights
    pieces: subwords.Subwords
    train: corpora.Parallel
    val: corpora.Parallel
    test: corpora.Parallel
    lessons: dict[str, corpora.Parallel]  # {"sender", "receiver"}: for S2P
    facts: dict  # for the report


def corpus(words, *, split="train"):
    """`corpora.Corpus` of "PATH[@CONFIG][:SPLIT][,tokenized]"."""
    head, *marks = words.split(",")
    if set(marks) - {"tokenized"}:
        raise ValueError(
            f"{words}: {', '.join(marks)} is not known; write PATH[@CONFIG][:SPLIT]"
            "[,tokenized]"
        )
    path, _, named = head.partition(":")
    path, _, config = path.partition("@")
    marked = {"config": config or None, "tokenized": bool(marks)}
    return corpora.Corpus(path, split=named or split, **marked)


def create(config, setting):
    """The task of --dataset and the pretraining text, with pretrained agents.

    Args: config: `pivot_translation.Config`; setting: `experiment.Setting`.
    """
    prepared = _prepare(config, setting)
    pieces = prepared.subwords
    sets = {
        name: _short(name, pairs, config.text, setting.report)
        for name, pairs in prepared.sets.items()
    }
    networks = _networks(config.text, pieces)
    agents, reached = {}, {}
    for name, languages in LANGUAGES.items():
        agents[name], reached[name] = pretraining.translator(
            getattr(networks, name), sets[name], languages, pieces, config, setting
        )
    english = sets["train"].ids["en"]
    return Task(
        networks=networks,
        params=agents,
        judge=pretraining.judge(english, pieces.size("en"), config.pretrain, setting),
        pieces=pieces,
        train=sets["train"],
        val=sets["val"],
        test=sets["test"],
        lessons={name: sets[name] for name in LANGUAGES},
        facts={**prepared.facts, "pretrained": reached},
    )


def _networks(config, pieces):
    """The agents' networks and the critic's, without dropout."""

    def translator(source, target):
        sizes = pieces.size(source), pieces.size(target)
        return seq2seq.Seq2Seq(
            model_config.Seq2Seq(*sizes, config.embedding, config.hidden)
        )

    agents = [translator(*languages) for languages in LANGUAGES.values()]
    return game.Networks(*agents, heads.FeatureValue(config.hidden))


def _prepare(config, setting):
    """`corpora.Prepared`: every set by name, and the subwords."""
    text, train = config.text, corpus(config.dataset)
    val, test, unused = (
        dataclasses.replace(train, split=split)
        for split in (text.eval_split, text.test_split, "test_2017_flickr")
    )
    senders, receivers = (
        tuple(dataclasses.replace(corpus(x), rows=text.pretrain_rows) for x in names)
        for names in (config.pretrain_fr_en, config.pretrain_en_de)
    )
    sets = {"train": (train,), "val": (val,), "test": (test,)}
    sets |= {"sender": senders, "receiver": receivers}
    learn = (train, val, unused) if text.paper_merges else (train,)
    # As published, the vocabularies do not count the En-De text.
    how = corpora.Config(learn=learn, count=(train, *senders), merges=text.merges)
    cache = pathlib.Path(setting.cache)
    prepared = corpora.prepare(sets, config=how, cache=cache, report=setting.report)
    for name, languages in {"train": ("fr", "en", "de"), **LANGUAGES}.items():
        present = prepared.sets[name].languages
        if missing := [x for x in languages if x not in present]:
            flag = "dataset" if name == "train" else f"pretrain-{'-'.join(languages)}"
            raise ValueError(
                f"--{flag}: no {', '.join(missing)} in every corpus; there is "
                f"{', '.join(present)}"
            )
    return prepared


def _short(name, pairs, config, report):
    """The rows of a set that are used: those short enough, at most as many as asked."""
    if name in ("val", "test"):
        rows = np.arange(len(pairs))[: config.eval_rows]
        return corpora.select(pairs, rows) if len(rows) < len(pairs) else pairs
    rows = np.flatnonzero(pairs.lengths() <= config.max_length)
    if name == "train" and config.rows is not None and len(rows) > config.rows:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[: config.rows])
    if not len(rows):
        raise ValueError(
            f"{name}: no sentence has at most {config.max_length} pieces; raise "
            "--text.max-length"
        )
    report(f"{name}: {len(rows)} of {len(pairs)} sentences")
    return corpora.select(pairs, rows)
