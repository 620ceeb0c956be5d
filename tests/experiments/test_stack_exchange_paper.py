"""StackLLaMA's published settings are those of its preset, each with its source."""

import dataclasses

import pytest

from experiments import stack_exchange
from experiments.stack_exchange import published
from rlhf_jax.cli import presets

# Flag: (value, where section 4 of the reference says so, or section 1 of the resets).
QUOTED = {
    "policy": ("huggyllama/llama-7b", "| base | `huggyllama/llama-7b`"),
    "dataset": ("lvwerra/stack-exchange-paired", "`lvwerra/stack-exchange-paired`"),
    "data.question": ("Question: {question}\n\nAnswer: ", '"Question: {q}\\n\\nAnswer'),
    "sft_lora.rank": (16, "LoRA r16, alpha 32"),
    "sft_lora.alpha": (32.0, "LoRA r16, alpha 32"),
    "lora.rank": (16, "for SFT and RL"),
    "lora.alpha": (32.0, "LoRA r16, alpha 32"),
    "sft.learning_rate": (1e-5, "| SFT | lr 1e-5"),
    "sft.steps": (5000, "lr 1e-5, 5000 steps"),
    "sft.rows": (8, "per-device batch 4, grad-accum 2"),
    "sft.micro_batches": (2, "grad-accum 2, seq"),
    "sft_length": (1024, "seq 1024 packed"),
    "sft.schedule": ("cosine", "packed, cosine"),
    "sft.warmup": (100, "warm-up 100"),
    "sft.weight_decay": (0.05, "wd 0.05"),
    "reward_lora.rank": (8, "SEQ_CLS LoRA r8, alpha 32"),
    "reward_lora.alpha": (32.0, "SEQ_CLS LoRA r8, alpha 32"),
    "data.pairs": (100_000, "100k train pairs"),
    "data.length": (512, "max 512 tokens"),
    "reward_fit.learning_rate": (2e-5, "lr 2e-5"),
    "reward_fit.rows": (4, "lr 2e-5, batch 4"),
    "reward_fit.epochs": (1.0, "batch 4, 1 epoch"),
    "reward_fit.weight_decay": (0.001, "wd 0.001"),
    "reward_fit.schedule": ("linear", "linear lr"),
    "data.prompts": (100_000, "first 100k of `data/rl`"),
    "data.prompt_length": (511, "prompt < 512 tokens"),
    "answers.shortest": (32, "length uniform in 32..127"),
    "answers.longest": (127, "length uniform in 32..127"),
    "answers.end": ("length", "EOS disabled"),
    "rl.learning_rate": (1.41e-5, "lr 1.41e-5"),
    "rl.rows": (8, "batch 8, minibatch 1"),
    "rl.micro_batches": (8, "grad-accum 8"),
    "rl.epochs": (4, "ppo_epochs 4"),
    "rl.gamma": (1.0, "gamma 1, lam 0.95"),
    "rl.lam": (0.95, "gamma 1, lam 0.95"),
    "rl.clip": (0.2, "clip 0.2, value clip 0.2"),
    "rl.value_clip": (0.2, "clip 0.2, value clip 0.2"),
    "rl.value_coef": (0.1, "vf 0.1"),
    "rl.value": ("shared", "value head **not reset**, but it shares the LoRA trunk"),
    "stop_kl": (1.5 * 0.1, "early stop at policy KL > 1.5*0.1"),
    "rl.max_grad_norm": (float("inf"), "no gradient clip"),
    "answers.normalized": (False, "raw RM logit minus baseline 0"),
    "center": (False, "raw RM logit minus baseline 0"),
    "rl.kl_target": (6.0, "target 6, horizon 10000"),
    "rl.kl_horizon": (10_000.0, "target 6, horizon 10000"),
    "rl.kl_coef": (0.02, "**init_kl_coef 0.02**"),
    "rl.decay": (0.995, "decay 0.995, reset 260"),
    "rl.reset_every": (260, "decay 0.995, reset 260"),
    "rl.reset_first": (False, "`epoch and epoch % 260 == 0`, none at 0"),
    "tick": ("epoch", "**once per PPO epoch**"),
    "steps": (600, "step-600 checkpoints"),
    "data.heldout": (4000, "perplexity on 4,000 items of `data/evaluation`"),
    "answers.window": (1024, "window 1024, stride 512, 8-bit"),
    "answers.stride": (512, "window 1024, stride 512, 8-bit"),
    "judge": (
        "kashif/llama-7b_stack-exchange_RM_peft-adapter-merged",
        "different from the training RM",
    ),
}
# What follows from a form of ours, or from `top_k 0, top_p 1.0, sampling`.
FORMS = {"data.parts": "folders", "rl.minibatches": 1, "answers.temperature": 1.0}


def flag(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


def test_every_published_setting_is_the_preset_s():
    config = presets.preset(stack_exchange.CONFIG, "paper", stack_exchange.PRESETS)
    for name, (value, _) in QUOTED.items():
        assert flag(config, name) == value, name
    stated = {name: value for name, (value, _) in QUOTED.items()} | FORMS
    assert stated == published.FLAGS
    assert not set(published.UNKNOWN) & set(stated)
    stack_exchange.check(config)
    assert config.ticks == 1040  # "up to 1040 ticks per cycle"


@pytest.mark.parametrize("name", QUOTED)
def test_every_published_setting_is_quoted(name, data_folder):
    paper = data_folder.parent / "papers" / "elastic_reset.md"
    if not paper.exists():
        pytest.skip(f"no reference at {paper}")
    assert QUOTED[name][1] in paper.read_text()


def test_what_differs_or_is_unknown_is_said():
    config = presets.preset(stack_exchange.CONFIG, "paper", stack_exchange.PRESETS)
    said = " ".join(presets.describe(config, stack_exchange.PRESETS))
    for word in ("dropout", "8 bits", "HumanEval", "--rl.whiten-advantages", "GPUs"):
        assert word in said
    changed = dataclasses.replace(config, steps=10)
    lines = presets.describe(changed, stack_exchange.PRESETS)
    assert "changed: --steps 10, in the preset 600" in lines
