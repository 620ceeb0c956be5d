"""What made a result: digests, the command line, and the commit."""

import dataclasses
import hashlib
import shlex
import sys

import jax
from small_config import Config, Inner

from experiments import label, reward_model, rl, sentiment
from rlhf_jax.runtime import provenance


def test_the_digest_depends_on_what_is_computed_only():
    plain = provenance.digest(Config())
    assert len(plain) == 12
    operational = Config("there", True, "cache", 4, save_every=1, keep=9)
    assert provenance.digest(operational) == plain
    others = [
        Config(steps=9),
        Config(methods=("sft", "ppo")),
        Config(rl=Inner(rate=0.2)),
        Config(rl=Inner(horizon=1e9)),
    ]
    assert len({plain, *map(provenance.digest, others)}) == 1 + len(others)


def test_a_digest_stays_what_it_was():
    """Checkpoints and recorded results carry it: SHA-256 of this JSON, keys sorted."""
    text = (
        '{"methods": ["ppo", "sft"], "rl": {"horizon": "inf", "rate": 0.1}, "steps": 8}'
    )
    expected = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert provenance.digest(Config()) == expected


def test_operational_flags_are_flags_of_the_experiments():
    kinds = (sentiment.Config, rl.Config, label.Config, reward_model.Config)
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert set(provenance.OPERATIONAL) <= names


def test_a_run_that_hit_its_time_limit_goes_on_with_another():
    config = dataclasses.replace(rl.CONFIG, reward_timeout=3.0)
    assert provenance.digest(config) == provenance.digest(rl.CONFIG)
    weighted = dataclasses.replace(rl.CONFIG, reward_weights=(2.0,))
    assert provenance.digest(weighted) != provenance.digest(rl.CONFIG)


def test_the_command_can_be_typed_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--reward", "a b"])
    assert shlex.split(provenance.command())[-2:] == ["--reward", "a b"]


def test_the_commit_says_when_sources_differ_from_it():
    commit = provenance.commit()
    assert commit == "unknown" or len(commit.rstrip("+")) >= 7


def test_a_summary_names_the_commit_the_digest_and_versions():
    summary = provenance.summary(Config())
    assert summary["commit"] == provenance.commit()
    assert summary["config digest"] == provenance.digest(Config())
    assert summary["jax"] == jax.__version__
    assert {"python", *provenance.PACKAGES} <= set(summary)
