"""What a game is about: sentences in three languages, two agents and a judge."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from experiments.pivot_translation import pretraining
from rlhf_jax.algorithms import translation_game as game
from rlhf_jax.data.translation import corpora, subwords
from rlhf_jax.models import config as model_config
from rlhf_jax.models import heads, seq2seq

SENDER, RECEIVER = ("fr", "en"), ("en", "de")
HUB = {
    "dataset": "romrawinjp/multi30k",
    "fr_en": "IWSLT/iwslt2017@iwslt2017-fr-en",
    "en_de": "IWSLT/iwslt2017@iwslt2017-en-de",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """How text becomes ids, and how large the agents are."""

    merges: int = 25_000
    """Of the joint byte-pair encoding, learned on the game's training text alone."""
    paper_merges: bool = False
    """Learn them on validation and test_2017 text too, as the published files do."""
    max_length: int = 40
    """Pieces of a training sentence at most; longer ones are left out."""
    classes: int = 3
    """Of lengths: each is a shape that is compiled."""
    rows: int | None = None
    """At most so many training sentences of the game, drawn blindly; None: all."""
    pretrain_rows: int | None = None
    """At most so many pairs of each pretraining text, drawn blindly; None: all."""
    embedding: int = 256
    hidden: int = 256
    eval_rows: int | None = None
    """At most so many validation sentences, the first ones; None: all."""
    eval_split: str = "val"
    test_split: str = "test_2016_flickr"


@dataclasses.dataclass(frozen=True)
class Task:
    """A subject of the game. Text is on the host."""

    networks: game.Networks
    params: dict  # {"sender", "receiver"}, pretrained, float32
    judge: tuple[Any, Any]  # a language model of messages, and its weights
    pieces: subwords.Subwords
    train: corpora.Parallel
    val: corpora.Parallel
    test: corpora.Parallel
    lessons: dict[str, corpora.Parallel]  # {"sender", "receiver"}: for S2P
    facts: dict  # for the report


def corpus(words, *, split="train"):
    """`translation.Corpus` of "PATH[@CONFIG][:SPLIT][,tokenized]"."""
    head, *marks = words.split(",")
    if set(marks) - {"tokenized"}:
        raise ValueError(
            f"{words}: {', '.join(marks)} is not known; write PATH[@CONFIG][:SPLIT]"
            "[,tokenized]"
        )
    path, _, named = head.partition(":")
    path, _, config = path.partition("@")
    return corpora.Corpus(
        path,
        split=named or split,
        config=config or None,
        tokenized=bool(marks),
    )


def create(config, pretrain, dataset, fr_en, en_de, *, layout, cache, told):
    """The task of a data set in French, English and German, and pretraining text.

    Args: pretrain: pretraining.Config; dataset: a name as `corpus` takes it, without a
    split; fr_en, en_de: names; told: {"report", "signals"}.
    """
    prepared = _prepare(config, dataset, fr_en, en_de, cache, told)
    sets, pieces = prepared.sets, prepared.subwords
    sets = {name: _short(name, part, config, told) for name, part in sets.items()}
    sizes = {x: pieces.size(x) for x in pieces.languages}

    def translator(source, target):
        shape = model_config.Seq2Seq(
            sizes[source], sizes[target], config.embedding, config.hidden
        )
        return seq2seq.Seq2Seq(shape)

    networks = game.Networks(
        translator(*SENDER), translator(*RECEIVER), heads.FeatureValue(config.hidden)
    )
    told = {**told, "subwords": pieces}
    settings = vars(pretrain).items()
    of_judge = {k: v for k, v in settings if k.startswith("judge")}
    learning = {
        k: v
        for k, v in settings
        if k not in of_judge and not k.startswith(("dropout", "save"))
    }
    agents, reached = {}, {}
    for name, languages, dropout in (
        ("sender", SENDER, pretrain.dropout_fr_en),
        ("receiver", RECEIVER, pretrain.dropout_en_de),
    ):
        pairs, model = sets[name], getattr(networks, name)
        asked = [learning, dropout, config.classes, model.config]
        ids = [pairs.ids[x] for x in languages]
        key = pretraining.digest(repr(asked), pretraining.ADAM, *ids)
        agents[name], reached[name] = pretraining.translator(
            model,
            pairs,
            languages,
            pathlib.Path(cache) / f"translator-{'-'.join(languages)}-{key}",
            config=pretrain,
            dropout=dropout,
            classes=config.classes,
            layout=layout,
            told=told,
        )
    lines = sets["train"].ids["en"]
    key = pretraining.digest(repr(of_judge), pretraining.JUDGE, sizes["en"], lines)
    judge = pretraining.judge(
        lines,
        sizes["en"],
        pathlib.Path(cache) / f"judge-en-{key}",
        config=pretrain,
        layout=layout,
        told=told,
    )
    facts = {**prepared.facts, "pretrained": reached}
    return Task(
        networks=networks,
        params=agents,
        judge=judge,
        pieces=pieces,
        train=sets["train"],
        val=sets["val"],
        test=sets["test"],
        lessons={name: sets[name] for name in ("sender", "receiver")},
        facts=facts,
    )


def _prepare(config, dataset, fr_en, en_de, cache, told):
    """`translation.Prepared` of every set, by name."""
    train = corpus(dataset)
    val, test = (
        dataclasses.replace(train, split=split)
        for split in (config.eval_split, config.test_split)
    )
    learn = (train,)
    if config.paper_merges:
        learn += (val, dataclasses.replace(train, split="test_2017_flickr"))
    senders, receivers = (
        tuple(
            dataclasses.replace(corpus(name), rows=config.pretrain_rows)
            for name in names
        )
        for names in (fr_en, en_de)
    )
    sets = {
        "train": (train,),
        "val": (val,),
        "test": (test,),
        "sender": senders,
        "receiver": receivers,
    }
    prepared = corpora.prepare(
        sets,
        # The published vocabularies leave the En-De text out: so is it here.
        config=corpora.Config(
            learn=learn, count=(train, *senders), merges=config.merges
        ),
        cache=cache,
        report=told["report"],
    )
    needed = {"train": ("fr", "en", "de"), "sender": SENDER, "receiver": RECEIVER}
    for name, languages in needed.items():
        there = prepared.sets[name].languages
        if missing := [x for x in languages if x not in there]:
            flag = {"train": "dataset", "sender": "pretrain-fr-en"}
            raise ValueError(
                f"--{flag.get(name, 'pretrain-en-de')}: no {', '.join(missing)} in "
                f"every corpus; there is {', '.join(there)}"
            )
    return prepared


def _short(name, pairs, config, told):
    """The rows of a set that are used: short ones, and at most as many as asked for."""
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
    told["report"](f"{name}: {len(rows)} of {len(pairs)} sentences")
    return corpora.select(pairs, rows)
