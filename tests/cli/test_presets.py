"""The published settings of a benchmark, number by number, and what they make.

PAPER is typed from the reference (its section 3), apart from the preset, so that a slip
in either shows.
"""

import dataclasses
import math
import types

import pytest

from experiments import sentiment
from experiments.sentiment import imdb
from rlhf_jax import elastic_reset
from rlhf_jax import sampling as samplers
from rlhf_jax.cli import language, options, presets
from rlhf_jax.studies import methods, tables

CONFIG = presets.preset(sentiment.CONFIG, "paper", sentiment.PRESETS)
RL, TEXT = CONFIG.rl, CONFIG.text

PAPER = {
    "policy": (CONFIG.policy, "lvwerra/gpt2-imdb"),
    "reward": (CONFIG.reward, "lvwerra/distilbert-imdb"),
    "data": (CONFIG.dataset, "stanfordnlp/imdb"),
    "class that pays": (TEXT.label, 1),
    "probability, not a normalised one": (TEXT.raw_reward, True),
    "classifier reads the full prompt": (TEXT.whole_prompt, True),
    "validation share of train": (TEXT.validation, 0.2),
    "test rows": (TEXT.test_rows, 25_000),
    "training prompts": (TEXT.prompts, 20_000),
    "validation prompts": (TEXT.eval_prompts, 5_000),
    "validation reviews read": (TEXT.heldout_rows, 5_000),
    "nothing is dropped": (TEXT.keep_shared, True),
    "prompt: share of the words": (TEXT.prompt_from, "half"),
    "prompt: last BPE tokens": (TEXT.prompt_length, 64),
    "new tokens, at most": (TEXT.max_new_tokens, 48),
    "new tokens, at least": (TEXT.min_new_tokens, 48),
    "temperature": (TEXT.temperature, 1.0),
    "top-k": (TEXT.top_k, 0),
    "top-p": (TEXT.top_p, 1.0),
    "drift: reviews joined": (TEXT.drift, "joined"),
    "drift: window": (TEXT.window, 1024),
    "drift: stride": (TEXT.stride, 512),
    "iterations": (CONFIG.steps, 50),
    "seeds": (CONFIG.seeds, 5),
    "evaluation every": (CONFIG.eval_every, 1),
    "episodes generated": (RL.rows, 30),
    "transitions": (RL.transitions, 10 * 128),
    "minibatch, in tokens": (RL.transitions // RL.minibatches, 64),
    "minibatches are of": (RL.minibatch_of, "tokens"),
    "gradient steps an iteration": (RL.epochs * RL.minibatches, 100),
    "PPO epochs": (RL.epochs, 5),
    "learning rate": (RL.learning_rate, 1e-6),
    "schedule": (RL.schedule, "constant"),
    "clip": (RL.clip, 0.2),
    "gamma": (RL.gamma, 0.99),
    "GAE lambda": (RL.lam, 0.95),
    "vf_coef, of a whole squared error": (RL.value_coef * 0.5, 0.5),
    "value clipping": (RL.value_clip, math.inf),
    "value network": (RL.value, "separate"),
    "value head's bias": (RL.value_bias, False),
    "gradient norm": (RL.max_grad_norm, 0.5),
    "advantages normalised over": (RL.whiten_advantages, "minibatch"),
    "weight decay": (RL.weight_decay, 1e-6),
    "KL controller": (RL.kl_controller, "proportional"),
    "Elastic Reset: KL coefficient": (RL.kl_coef, 0.001),
    "Elastic Reset: KL target": (RL.kl_target, 1.0),
    "Elastic Reset: decay": (RL.decay, 0.995),
    "Elastic Reset: every": (RL.reset_every, 17),
    "Elastic Reset: also at epoch 0": (RL.reset_first, True),
    "NLPO: top-p": (RL.mask_top_p, 0.9),
    "NLPO: tokens at least": (RL.mask_least, 100),
    "NLPO: mask update": (RL.mask_every, 50),
    "supervised: learning rate": (RL.sft_learning_rate, 1e-5),
    "a response without an end": (RL.missing_eos, "none"),
}


@pytest.mark.parametrize("name", PAPER)
def test_a_published_number_is_the_one_that_was_published(name):
    found, published = PAPER[name]
    assert found == published and type(found) is type(published)


def test_every_flag_of_the_preset_is_published_or_marked_unknown():
    assert not set(imdb.PUBLISHED) & set(imdb.UNKNOWN)
    assert set(imdb.PAPER.flags) == set(imdb.PUBLISHED) | set(imdb.UNKNOWN)
    told = "\n".join(imdb.PAPER.notes)
    for _, reason in imdb.UNKNOWN.values():
        assert f"Unknown: {reason}." in told
    checked = len(PAPER) - 1  # transitions a minibatch and 100 steps are of two flags
    others = {"methods", "override", "text.prompt_split", "text.eval_split"}
    assert checked <= len(imdb.PUBLISHED) <= len(PAPER) + len(others)


def of(name, config=CONFIG):
    """The Hyper that a study would run a method with."""
    asked = tables.overrides(config.override, methods.METHODS)
    row = tables.with_overrides(methods.METHODS, asked)[name]
    hyper = options.hyper(config.rl, config.steps)
    study = types.SimpleNamespace(
        schedule=language.schedule(config),
        settings=types.SimpleNamespace(decay=config.rl.decay, hyper=hyper),
    )
    return row.train.scalars(study, row)


# name: (KL coefficient, target, reference is the EMA, resets, target of the reset)
PENALTIES = {
    "elastic_reset_average_kl": (0.001, 1.0, True, True, elastic_reset.AVERAGE),
    "elastic_reset_kl": (0.001, 1.0, False, True, elastic_reset.AVERAGE),
    "reset_policy_only": (0.001, 1.0, True, True, elastic_reset.AVERAGE),
    "reset_to_initial": (0.001, 1.0, False, True, elastic_reset.INITIAL),
    "ppo_kl": (0.1, 0.5, False, False, elastic_reset.AVERAGE),
    "ppo_kl_matched": (0.001, 1.0, False, False, elastic_reset.AVERAGE),
    "nlpo": (1.0, 1.0, False, False, elastic_reset.AVERAGE),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_penalty_reference_and_reset_of_each_method(name):
    hyper, schedule = of(name), language.schedule(CONFIG)
    assert (
        hyper.kl_coef,
        hyper.kl_target,
        hyper.reference_average,
        sorted(methods.METHODS[name].resets(schedule)) == [0, 17, 34],
        hyper.reset_target,
    ) == PENALTIES[name]
    assert hyper.kl_proportional and hyper.entropy_coef == 0.0
    assert hyper.learning_rate == 1e-6
    trained = {name: methods.METHODS[name].train for name in CONFIG.methods}
    assert {n for n in trained if hasattr(trained[n], "hyper")} == set(PENALTIES)


def test_the_average_goes_on_where_the_ablation_says_so():
    assert not of("reset_policy_only").reset_average
    assert of("elastic_reset_average_kl").reset_average


def test_nlpos_other_configuration():
    other = presets.preset(sentiment.CONFIG, "paper_nlpo5", sentiment.PRESETS)
    hyper = of("nlpo", other)
    assert (hyper.learning_rate, hyper.kl_coef, hyper.kl_target) == (1e-5, 0.1, 1.0)
    assert hyper.mask_every == 5
    for name in PENALTIES:
        if name != "nlpo":
            assert of(name, other) == of(name)._replace(mask_every=5)
    rl = dataclasses.replace(other.rl, mask_every=50)
    same = dataclasses.replace(other, rl=rl, override=CONFIG.override, preset="paper")
    assert same == CONFIG


def test_the_calendar_and_the_retained_weight():
    calendar = elastic_reset.calendar(CONFIG.steps, RL.reset_every, RL.reset_first)
    assert calendar == [0, 17, 34]
    weight = elastic_reset.retained_weight(RL.decay, RL.reset_every)
    assert weight == pytest.approx(0.082, abs=5e-4)


def test_what_is_compiled_in():
    config = options.algorithm(RL, sampling=samplers.Config(max_new_tokens=48))
    assert config.minibatch_of == "tokens" and config.transitions == 1280
    assert config.whitening == "minibatch" and not config.value_bias
    assert config.penalty_in == "reward" and not config.entropy_bonus
    assert not config.whiten_rewards and config.tick == "iteration"
    assert config.optimizer.weight_decay == 1e-6 and config.optimizer.eps == 1e-8
    assert config.optimizer.max_grad_norm == 0.5 and config.optimizer.warmup == 0
    assert RL.transitions % RL.minibatches == 0
    sentiment.check(CONFIG)


def test_the_supervised_row_passes_ten_times_over_the_positive_reviews():
    passes = RL.sft_updates * CONFIG.steps * RL.rows / 10_000
    assert passes == pytest.approx(10, rel=0.01)
