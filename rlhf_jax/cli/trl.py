"""TRL's arguments, and what the same is called here.

For users who come from SFTConfig, RewardConfig, DPOConfig, GRPOConfig and ModelConfig
of TRL 1.16, its trainers, and PPOConfig of earlier versions: a flag that is TRL's alone
is answered with ours.
"""

NAMES = {  # TRL's argument: our flags, of which a recipe has one
    "model_name_or_path": ("model", "policy"),
    "model": ("policy",),
    "ref_model": ("reference",),
    "dataset_name": ("dataset",),
    "train_dataset": ("dataset",),
    "dataset_train_split": ("data.split",),
    "dataset_test_split": ("data.eval-split",),
    "eval_dataset": ("data.eval-dataset",),
    "dataset_text_field": ("data.columns",),
    "reward_funcs": ("reward",),
    "reward_model_path": ("reward",),
    "output_dir": ("output",),
    "resume_from_checkpoint": ("resume",),
    "learning_rate": ("fit.learning-rate", "rl.learning-rate"),
    "lr_scheduler_type": ("fit.schedule", "rl.schedule"),
    "warmup_steps": ("fit.warmup",),
    "num_train_epochs": ("fit.epochs",),
    "max_steps": ("fit.steps", "steps"),
    "per_device_train_batch_size": ("fit.rows", "rl.rows"),  # over all devices here
    "generation_batch_size": ("rl.rows",),
    "gradient_accumulation_steps": ("fit.micro-batches", "rl.micro-batches"),
    "max_grad_norm": ("fit.max-grad-norm", "rl.max-grad-norm"),
    "weight_decay": ("fit.weight-decay", "rl.weight-decay"),
    "adam_epsilon": ("rl.adam-eps",),
    "max_length": ("data.length",),
    "max_prompt_length": ("data.length", "prompt-length"),
    "max_completion_length": ("max-new-tokens",),
    "response_length": ("max-new-tokens",),
    "truncation_mode": ("truncate",),
    "packing": ("pack",),
    "loss_type": ("loss",),
    "beta": ("rl.kl-coef",),
    "kl_coef": ("rl.kl-coef",),
    "epsilon": ("rl.clip",),
    "cliprange": ("rl.clip",),
    "cliprange_value": ("rl.value-clip",),
    "vf_coef": ("rl.value-coef",),
    "gamma": ("rl.gamma",),
    "lam": ("rl.lam",),
    "num_iterations": ("rl.epochs",),
    "num_ppo_epochs": ("rl.epochs",),
    "num_mini_batches": ("rl.minibatches",),
    "num_generations": ("rl.candidates", "samples"),
    "missing_eos_penalty": ("rl.missing-eos-penalty",),
    "lora_r": ("lora.rank",),
    "use_peft": ("lora.rank",),
    "lora_alpha": ("lora.alpha",),
    "lora_target_modules": ("lora.targets",),
    "use_rslora": ("lora.rslora",),
    "bf16": ("dtype",),
    "torch_dtype": ("dtype",),
    "eval_steps": ("eval-every",),
    "save_steps": ("save-every",),
    "save_total_limit": ("keep",),
    "report_to": ("log.wandb",),
}


def ours(name):
    """Our flags for TRL's `name`, spelled with underscores or dashes."""
    return NAMES.get(name.replace("-", "_"), ())
