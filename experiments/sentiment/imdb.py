"""The IMDB task of Elastic Reset: Noukhovitch et al. 2023, arXiv:2312.07551.

The numbers are those of the authors' RL4LMs branch, from which the paper's tables come.
PUBLISHED holds what is known, UNKNOWN what is stated nowhere and had to be chosen here;
together they make the preset. NOTES list the differences in kind.
"""

from rlhf_jax.cli import presets

PUBLISHED = {
    # The task: model, reward, data, prompts, continuations.
    "dataset": "stanfordnlp/imdb",
    "policy": "lvwerra/gpt2-imdb",
    "reward": "lvwerra/distilbert-imdb",
    "text.label": 1,  # P(positive) ...
    "text.raw_reward": True,  # ... itself, ...
    "text.whole_prompt": True,  # ... of the whole prompt and the continuation
    "text.prompt_split": "train",
    "text.eval_split": "test",
    "text.validation": 0.2,  # of train, shuffled with seed 0
    "text.keep_shared": True,
    "text.prompts": 20000,
    "text.eval_prompts": 5000,
    "text.test_rows": 25000,
    "text.prompt_from": "half",
    "text.prompt_length": 64,
    "text.max_new_tokens": 48,
    "text.min_new_tokens": 48,
    "text.temperature": 1.0,
    "text.top_k": 0,
    "text.top_p": 1.0,
    # Drift: perplexity on all reviews of the split as one text.
    "text.drift": "joined",
    "text.heldout_rows": 5000,
    "text.window": 1024,
    "text.stride": 512,
    # PPO: 10 environments of 128 steps are 1,280 tokens, of 30 responses.
    "steps": 50,
    "seeds": 5,
    "eval_every": 1,
    "rl.rows": 30,
    "rl.transitions": 1280,
    "rl.minibatch_of": "tokens",
    "rl.minibatches": 20,  # of 64 tokens
    "rl.epochs": 5,
    "rl.learning_rate": 1e-6,
    "rl.schedule": "constant",
    "rl.clip": 0.2,
    "rl.gamma": 0.99,
    "rl.lam": 0.95,
    "rl.value": "separate",
    "rl.value_bias": False,
    "rl.value_coef": 1.0,  # 0.5 of a squared error that is not halved
    "rl.value_clip": float("inf"),
    "rl.max_grad_norm": 0.5,
    "rl.whiten_advantages": "minibatch",
    "rl.weight_decay": 1e-6,
    "rl.missing_eos": "none",
    # Elastic Reset, and the penalty that it is trained with.
    "rl.kl_controller": "proportional",
    "rl.kl_coef": 0.001,
    "rl.kl_target": 1.0,
    "rl.decay": 0.995,
    "rl.reset_every": 17,
    "rl.reset_first": True,
    # NLPO's masks; the supervised row.
    "rl.mask_top_p": 0.9,
    "rl.mask_least": 100,
    "rl.mask_every": 50,
    "rl.sft_learning_rate": 1e-5,
    "methods": (
        "zero_shot",
        "sft",
        "ppo_kl",
        "ppo_kl_matched",
        "nlpo",
        "elastic_reset_kl",
        "elastic_reset_average_kl",
        "reset_policy_only",
        "reset_to_initial",
    ),
    # PPO and NLPO have penalties of their own; the ablations have Elastic Reset's.
    "override": (
        "ppo_kl.kl_coef=0.1",
        "ppo_kl.kl_target=0.5",
        "nlpo.kl_coef=1.0",
        "nlpo.kl_target=1.0",
        "reset_policy_only.kl_coef=0.001",
        "reset_policy_only.reference_average=true",
        "reset_to_initial.kl_coef=0.001",
    ),
}

# flag: (value, what is unknown)
UNKNOWN = {
    "rl.adam_eps": (1e-8, "Adam's ε and β's: torch's defaults"),
    "rl.sft_updates": (
        67,
        "the supervised row's batch and length: 10 passes over about 10,000 positive "
        "reviews in batches of --rl.rows, the first 112 tokens of each",
    ),
    "corner.text_nll": (0.1, "the hypervolume's corner, which is not the paper's"),
}

NOTES = (
    "The reference of the KL penalty is the EMA in elastic_reset_average_kl, which is "
    "the paper's Elastic Reset; elastic_reset_kl, with the initial model, is the "
    "ablation. ppo_kl has PPO's own coefficient and target, ppo_kl_matched those of "
    "Elastic Reset.",
    "Unknown: which of two committed NLPO configurations the table is of. This is the "
    "second; --preset paper_nlpo5 has the first.",
    "Unknown: how the value head starts (at 0 here).",
    "NLPO is measured without its mask, and its mask is renewed after an iteration's "
    "updates, not before them. An end token is always allowed, the nucleus is of the "
    "others.",
    "Advantages are divided by the deviation over n, there over n − 1 tokens: 0.8% at "
    "64. Of the response that the 1,280 tokens cut, advantages look to its end.",
    "Both sides of each reset are measured; the paper's curves show the later one. "
    "val is drift/* and eval/*, the test split test/*, at the start and the end.",
)

PAPER = presets.Preset(
    "IMDB as published: PPO, NLPO and Elastic Reset on GPT-2 (needs the hub, a GPU)",
    PUBLISHED | {flag: value for flag, (value, _) in UNKNOWN.items()},
    (*NOTES, *(f"Unknown: {reason}." for _, reason in UNKNOWN.values())),
)
NLPO5 = presets.Preset(
    "the same with NLPO's other committed configuration (masks renewed every 5)",
    PAPER.flags
    | {
        "rl.mask_every": 5,
        "override": (
            *(x for x in PUBLISHED["override"] if not x.startswith("nlpo.")),
            "nlpo.learning_rate=1e-5",
            "nlpo.kl_coef=0.1",
            "nlpo.kl_target=1.0",
        ),
    },
    PAPER.notes,
)
PRESETS = {"paper": PAPER, "paper_nlpo5": NLPO5}
