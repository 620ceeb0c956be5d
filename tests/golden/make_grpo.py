"""What TRL makes of one batch of responses, for every loss of its GRPOTrainer.

    pip install trl==1.16.0 torch
    python tests/golden/make_grpo.py

writes grpo.npz beside this file: log-probs, rewards and lengths of responses in groups;
the advantages that TRL's own lines make of them for every `scale_rewards`; and, for
every case of `cases`, the loss of `GRPOTrainer._compute_loss` in float64 with its
gradient with respect to the log-probs, rounded to float32. The versions that made it
are in it.
"""

import collections
import importlib.metadata
import inspect
import itertools
import pathlib
import textwrap
import types

import numpy as np

FILE = pathlib.Path(__file__).resolve().parent / "grpo.npz"
ROWS, TOKENS, GROUP = 6, 7, 3
LENGTHS = (7, 3, 1, 5, 7, 2)  # of responses; those of full length are cut off
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")
LEVELS, SCALES = ("token", "sequence"), ("group", "batch", "none")
# (epsilon_high, delta, off_policy_mask_threshold, beta, use_bias_correction_kl)
NUMBERS = (
    (None, None, None, 0.0, False),
    (0.28, None, None, 0.0, False),
    (0.28, 1.4, None, 0.0, False),
    (0.28, None, 0.05, 0.0, False),
    (0.28, None, None, 0.3, False),
    (0.28, None, None, 0.3, True),
)
EPSILON = 0.2


def cases():
    """(loss_type, importance_sampling_level, scale_rewards, *numbers) of every case."""
    return [
        (*names, *numbers)
        for *names, numbers in itertools.product(LOSSES, LEVELS, SCALES, NUMBERS)
    ]


def batch():
    """Log-probs [B, T] of the policy, the old one and the reference; mask; rewards."""
    rng = np.random.default_rng(0)
    logps = rng.normal(-1.5, 0.5, size=(ROWS, TOKENS))
    moved = [logps + rng.normal(0.0, size, logps.shape) for size in (0.5, 0.5)]
    return {
        "logps": logps.astype(np.float32),
        "old_logps": moved[0].astype(np.float32),
        "reference_logps": moved[1].astype(np.float32),
        "mask": (np.arange(TOKENS) < np.array(LENGTHS)[:, None]).astype(np.int32),
        "rewards": rng.normal(size=ROWS).astype(np.float32),
    }


def advantages(given, scale_rewards):
    """What the lines of TRL make of rewards: [B]."""
    import torch
    from trl.trainer import grpo_trainer

    whole = inspect.getsource(grpo_trainer.GRPOTrainer._generate_and_score_completions)
    start = whole.index("        unscorable_mask = ")
    end = whole.index("        # Slice to keep only the local part of the data")
    trainer = types.SimpleNamespace(
        multi_objective_aggregation="sum_then_normalize",
        reward_weights=torch.ones(1, dtype=torch.float64),
        scale_rewards=scale_rewards,
    )
    rewards = torch.tensor(given["rewards"].astype(np.float64))
    names = vars(grpo_trainer) | {
        "self": trainer, "device": "cpu", "num_generations": GROUP,
        "rewards_per_func": rewards[:, None],
    }  # fmt: skip
    exec(textwrap.dedent(whole[start:end]), names)
    return names["advantages"]


def trainer(logps, case, steps=1):
    """What `_compute_loss` reads of a GRPOTrainer, with fixed log-probs."""
    import torch

    loss_type, level, _, high, delta, threshold, beta, correction = case
    numbers = {
        "delta": delta,
        "use_bias_correction_kl": correction,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "vespo_k_pos": 2.0,
        "vespo_lambda_pos": 3.0,
        "vespo_k_neg": 3.0,
        "vespo_lambda_neg": 2.0,
        "steps_per_generation": steps,
    }
    accelerator = types.SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    from trl import GRPOTrainer

    return types.SimpleNamespace(
        args=types.SimpleNamespace(**numbers),
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=EPSILON,
        epsilon_high=EPSILON if high is None else high,
        beta=beta,
        accelerator=accelerator,
        model=types.SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=TOKENS,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=threshold,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": collections.defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *args, **named: (
            logps,
            torch.zeros_like(logps),
            None,
        ),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
    )


def loss(given, case, rows=slice(None), steps=1):
    """(loss, its gradient [B, T]) of TRL; of some rows, if `steps` share a rollout."""
    import torch
    from trl import GRPOTrainer

    real = {
        name: torch.tensor(given[name].astype(np.float64))
        for name in ("logps", "old_logps", "reference_logps", "mask")
    }
    mask, logps = real["mask"][rows], real["logps"][rows].requires_grad_()
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": advantages(given, case[2])[rows],
        "old_per_token_logps": real["old_logps"][rows],
        "ref_per_token_logps": real["reference_logps"][rows],
        "num_items_in_batch": real["mask"].sum(),
    }
    made = trainer(logps, case, steps)
    value = GRPOTrainer._compute_loss(made, made.model, inputs)
    value.backward()
    return value.item(), logps.grad.numpy()


def main():
    """Writes the file."""
    given = batch()
    whole = [loss(given, case) for case in cases()]
    # The first of two updates on one rollout, which the token losses normalise by.
    halves = [
        loss(given, (name, *cases()[0][1:]), slice(0, GROUP), steps=2)
        for name in LOSSES
    ]
    scaled = {f"advantages_{s}": advantages(given, s).numpy() for s in SCALES}
    versions = [f"{n} {importlib.metadata.version(n)}" for n in ("trl", "torch")]
    np.savez_compressed(
        FILE,
        **given,
        **scaled,
        losses=np.array([value for value, _ in whole], np.float32),
        gradients=np.array([grad for _, grad in whole], np.float32),
        half_losses=np.array([value for value, _ in halves], np.float32),
        half_gradients=np.array([grad for _, grad in halves], np.float32),
        versions=np.array(versions),
    )


if __name__ == "__main__":
    main()
