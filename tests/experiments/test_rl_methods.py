"""experiments.rl: what a method is called, what it says of itself, what it refuses."""

import dataclasses
import types

import pytest
import small_recipes

from experiments import rl, sentiment
from experiments.rl import announcement, naming
from rlhf_jax import ranges
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.cli import language, options
from rlhf_jax.studies import methods


def config(**flags):
    return small_recipes.config(rl, policy="m", dataset="d", reward="r", **flags)


@pytest.mark.parametrize(
    ("flags", "method", "label"),
    [
        ({"algorithm": "dr_grpo"}, "dr_grpo", "Dr. GRPO"),
        ({"algorithm": "dapo"}, "dapo", "DAPO without dynamic sampling"),
        (
            {"algorithm": "dapo", "rl__dynamic_sampling": 2},
            "dapo",
            "DAPO (dynamic sampling 2)",
        ),
        (
            {"algorithm": "gspo", "rl__kl_in": "loss", "rl__kl_coef": 0.04},
            "gspo_kl",
            "GSPO + KL (β 0.04, KL in the loss)",
        ),
        (
            {"algorithm": "reinforce_plus_plus"},
            "reinforce_plus_plus_kl",
            "REINFORCE++ + KL (β 0.1)",
        ),
        (
            {"algorithm": "dapo", "rl__clip": 0.1, "rl__dynamic_sampling": 2},
            "dapo",
            "DAPO (clip 0.1, dynamic sampling 2)",
        ),
        ({"algorithm": "online_dpo"}, "online_dpo", "online DPO (β 0.1)"),
        ({"algorithm": "rsf"}, "rsf", "RSF"),
        (
            {"algorithm": "grpo", "rl__kl_in": "none", "rl__scale_rewards": "batch"},
            "grpo",
            "GRPO (std of the batch)",
        ),
        (
            {
                "algorithm": "grpo",
                "rl__kl_coef": 0,
                "rl__loss_type": "dapo",
                "rl__clip_high": 0.3,
                "rl__delta": 2.0,
                "rl__importance_sampling_level": "sequence_token",
                "rl__mask_truncated_completions": True,
                "rl__soft_punish_cache": 8,
                "rl__off_policy_mask_threshold": 0.5,
                "rl__entropy_coef": 0.01,
            },
            "grpo",
            "GRPO (dapo loss, sequence token ratios, clip 0.2 to 0.3, δ 2, off-policy "
            "bound 0.5, entropy 0.01, truncated left out, overlong punished 8)",
        ),
    ],
)
def test_a_method_is_named_by_what_it_is(flags, method, label):
    made = config(**flags)
    ranges.check(made, flags=True)
    assert (made.method, made.label_of_method) == (method, label)


@pytest.mark.parametrize(
    ("algorithm", "said", "penalty"),
    [
        ("reinforce", None, "KL penalty in the reward, β 0.1"),
        ("rsf", "likelihood of the best of 4 candidates", "no KL penalty"),
        ("ppo", "clipped at 1 − 0.2 and 1 + 0.2; loss averaged over the tokens", "in"),
        ("grpo", "over each response, then over responses; advantages: std", "loss, β"),
        ("dr_grpo", "the longest possible length; advantages: no std", "--rl.kl-in"),
        ("dapo", "ratio of a token clipped at 1 − 0.2 and 1 + 0.28; ", "no KL penalty"),
        ("gspo", "ratio of a response clipped at 1 − 0.0003 and 1 + 0.0004", "no KL"),
        ("reinforce_plus_plus_baseline", "advantages: no std", "in the loss, β 0.1"),
    ],
)
def test_a_loss_is_announced(algorithm, said, penalty):
    made = config(algorithm=algorithm)
    ranges.check(made, flags=True)
    line = naming.objective(made)
    assert line is None if said is None else said in line
    assert penalty in announcement.penalty(made)


@pytest.mark.parametrize(
    ("loss_type", "said"),
    [
        ("cispo", "CISPO, the ratio of a token weighs 5 at most; loss averaged over"),
        ("sapo", "SAPO, which has no clip; loss averaged over each response"),
        ("vespo", "VESPO, which has no clip; loss averaged over the tokens of a roll"),
        ("luspo", "loss averaged over responses, tokens summed"),
    ],
)
def test_other_losses_are_announced(loss_type, said):
    made = config(algorithm="grpo", rl__loss_type=loss_type)
    ranges.check(made, flags=True)
    assert said in naming.objective(made)


def test_what_becomes_of_samples_is_announced():
    assert not list(announcement.drawn(config()))
    made = config(
        algorithm="dapo",
        rl__dynamic_sampling=3,
        rl__mask_truncated_completions=True,
        rl__soft_punish_cache=4,
    )
    first, second, third = announcement.drawn(made)
    assert first.startswith("3 times as many prompts") and "cut off" in second
    assert "last 4 tokens" in third


REFUSED = [
    ("reinforce", {"loss_type": "grpo"}, "no ratio"),
    ("reinforce", {"clip": 0.1}, "no ratio"),
    ("online_dpo", {"importance_sampling_level": "sequence"}, "no ratio"),
    ("online_dpo", {"kl_in": "loss"}, "DPO's objective"),
    ("ppo", {"scale_rewards": "batch"}, "only GRPO"),
    ("rloo", {"scale_rewards": "none"}, "only GRPO"),
    ("ppo", {"dynamic_sampling": 2}, "compares no candidates"),
    ("dapo", {"kl_coef": 0.04}, "--rl.kl-in loss or reward"),
    ("gspo", {"use_bias_correction_kl": True}, "no KL in the loss"),
    ("ppo", {"use_bias_correction_kl": True}, "no KL in the loss"),
    ("ppo", {"soft_punish_cache": 65}, "every response would be punished"),
    ("grpo", {"minibatch_of": "tokens"}, "deal out rows"),
    ("grpo", {"loss_type": "sapo", "clip": 0.1}, "does not read it"),
    ("grpo", {"loss_type": "cispo", "delta": 3.0}, "does not read it"),
    ("grpo", {"vespo_k_pos": 1.0}, "does not read it"),
    ("grpo", {"loss_type": "vespo", "sapo_temperature_pos": 2.0}, "does not read it"),
    ("reinforce", {"off_policy_mask_threshold": 0.5}, "no ratio"),
    ("online_dpo", {"entropy_coef": 0.01}, "has no entropy"),
    ("dapo", {"delta": 1.25}, "choose more than 1.28"),
]


@pytest.mark.parametrize(("algorithm", "flags", "why"), REFUSED)
def test_flags_that_a_method_does_not_read_are_refused(algorithm, flags, why):
    made = config(algorithm=algorithm, **{f"rl__{k}": v for k, v in flags.items()})
    with pytest.raises(ValueError, match=why) as refused:
        ranges.check(made, flags=True)
    for name in flags:
        assert f"--rl.{name.replace('_', '-')}" in str(refused.value)
    assert "None" not in str(refused.value)


def test_a_study_takes_flags_of_some_of_its_methods():
    """A comparison has one set of flags: methods read those that concern them."""
    static = policy_gradient.Config(
        sampling=None, scale_rewards="none", dynamic_sampling=2, loss_type="dr_grpo"
    )
    assert static.oversampling == 1 and static.variant.advantage == "gae"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"rl__rows_per_slot": 0}, "--rl.rows-per-slot 0: must be a whole number"),
        ({"rl__rows_per_slot": 65}, "--rl.rows-per-slot 65 and --rl.rows 64: no slot"),
        (
            {"rl__rows_per_slot": 17, "algorithm": "grpo"},
            "--rl.rows-per-slot 17, --rl.rows 64, --rl.candidates 4: no slots .* 16",
        ),
        (
            {"rl__rows_per_slot": 4, "layout": "fsdp:2"},
            "--rl.rows-per-slot 4, --layout fsdp:2: the rows of a mesh cannot",
        ),
    ],
)
def test_turns_that_cannot_be_taken_are_refused_before_anything_is_made(flags, said):
    with pytest.raises(ValueError, match=said):
        rl.check(config(**flags))


def test_a_study_refuses_turns_on_a_mesh_and_those_that_leave_no_slots():
    given = {"methods": ("ppo", "rloo"), "rl": options.RL(rows_per_slot=32)}
    with pytest.raises(ValueError, match="candidates 4: no slots .* at most 16"):
        sentiment.check(dataclasses.replace(sentiment.CONFIG, **given))
    sharded = given | {"methods": ("ppo",), "layout": "fsdp:2"}
    with pytest.raises(ValueError, match="slot 32, --layout fsdp:2: the rows of a"):
        sentiment.check(dataclasses.replace(sentiment.CONFIG, **sharded))


@pytest.mark.parametrize("coef", [0.0, 0.01])
def test_an_entropy_is_computed_where_it_counts(coef):
    given = options.RL(entropy_coef=coef)
    assert options.algorithm(given, sampling=None).entropy_bonus == (coef > 0)
    assert options.hyper(given, 1).entropy_coef == coef


def test_a_study_is_refused_before_it_runs_where_a_method_cannot_have_its_flags():
    rl = options.RL(minibatch_of="tokens", candidates=2)
    static = options.algorithm(rl, sampling=None)
    settings = types.SimpleNamespace(algorithm=static, candidates=2)
    chosen = {name: methods.METHODS[name] for name in ("sft", "ppo", "rloo", "dapo")}
    language._check(chosen, settings)
    chosen["gspo"] = methods.METHODS["gspo"]
    with pytest.raises(ValueError, match="algorithm='gspo' and minibatch_of='tokens'"):
        language._check(chosen, settings)
