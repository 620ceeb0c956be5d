"""The published settings of StackLLaMA in one place, and what is not published.

Noukhovitch et al. 2023, arXiv:2312.07551, and the code of its StackLLaMA experiment.
Names are flags of `experiments.stack_exchange`.
"""

from rlhf_jax.cli import presets

FLAGS = {
    "policy": "huggyllama/llama-7b", "dataset": "lvwerra/stack-exchange-paired",
    "judge": "kashif/llama-7b_stack-exchange_RM_peft-adapter-merged", "steps": 600,
    "data.parts": "folders", "data.question": "Question: {question}\n\nAnswer: ",
    "data.pairs": 100_000, "data.length": 512, "data.prompts": 100_000,
    "data.prompt_length": 511,  # fewer than 512
    "data.heldout": 4000,
    "sft.learning_rate": 1e-5, "sft.steps": 5000,
    "sft.rows": 8,  # 4 a device, accumulated twice
    "sft.micro_batches": 2, "sft.schedule": "cosine", "sft.warmup": 100,
    "sft.weight_decay": 0.05,
    "sft_length": 1024,
    "sft_lora.rank": 16, "sft_lora.alpha": 32.0,
    "reward_fit.learning_rate": 2e-5, "reward_fit.rows": 4, "reward_fit.epochs": 1.0,
    "reward_fit.schedule": "linear", "reward_fit.weight_decay": 0.001,
    "reward_lora.rank": 8, "reward_lora.alpha": 32.0,
    "answers.shortest": 32, "answers.longest": 127, "answers.end": "length",
    "answers.temperature": 1.0, "answers.normalized": False, "answers.window": 1024,
    "answers.stride": 512,
    "center": False,
    "lora.rank": 16, "lora.alpha": 32.0,
    "rl.rows": 8,
    "rl.minibatches": 1,  # 8 rows of 1, accumulated: one update a pass
    "rl.micro_batches": 8, "rl.epochs": 4, "rl.learning_rate": 1.41e-5,
    "rl.max_grad_norm": float("inf"), "rl.gamma": 1.0, "rl.lam": 0.95, "rl.clip": 0.2,
    "rl.value": "shared", "rl.value_clip": 0.2, "rl.value_coef": 0.1,
    "rl.kl_coef": 0.02, "rl.kl_target": 6.0, "rl.kl_horizon": 10_000.0,
    "stop_kl": 1.5 * 0.1, "tick": "epoch",
    "rl.decay": 0.995, "rl.reset_every": 260, "rl.reset_first": False,
}  # fmt: skip

# Unknown: a value to start from, and why.
UNKNOWN = {
    "seeds": (1, "how many were run"),
    "rl.whiten_advantages": ("minibatch", "over which rows advantages are whitened"),
    "rl.adam_eps": (1e-8, "Adam's ε of the RL stage; PyTorch's default is taken"),
    "sft.max_grad_norm": (1.0, "clipping of the SFT; its trainer's default is taken"),
    "reward_fit.max_grad_norm": (1.0, "clipping of the reward model, likewise"),
    "rl.value_bias": (True, "a bias of the value head"),
}

NOTES = (
    "Unknown, and set to a value to start from: "
    + "; ".join(
        f"--{name.replace('_', '-')} {value} ({why})"
        for name, (value, why) in UNKNOWN.items()
    )
    + ". The number of GPUs is unknown too, and with it the batch all of them made: "
    "rows are those of one device.",
    "The base weights are not held in 8 bits, but as --dtype computes: the published "
    "runs, and their perplexity, were in 8 bits.",
    "LoRA has no dropout here: 0.05 in SFT and RL, 0.1 in the reward model there.",
    "Answers are drawn as published, uniform in 32..127 tokens and never ended; each "
    "row draws a length of its own. What the reward model reads has no end token.",
    "An update's loss is the mean over its tokens; there each row's mean counts alike.",
    "The alignment tax is multiple choice (--suites), not HumanEval: nothing here runs "
    "generated code.",
    "100,000 pairs and 100,000 questions are counted after those that are too long and "
    "questions asked twice are left out; there before.",
    "There the judge reads answers of a policy in half precision; here in --dtype.",
)

PRESETS = {
    "small": presets.Preset(
        "the defaults: a tenth of the published steps, minutes", {}
    ),
    "paper": presets.Preset(
        "as published: Llama 7B, 600 steps; the hub, GPUs, days",
        FLAGS
        | {flag: value for flag, (value, _) in UNKNOWN.items()}
        | {
            "dtype": "bfloat16",
            "eval_every": 53,
            "save_every": 50,
            "methods": ("zero_shot", "ppo_kl", "elastic_reset_kl"),
        },
        NOTES,
    ),
}
