"""What TRL's preference losses are on fixed arrays, for machines without it or torch.

    pip install 'trl==1.16' torch
    python -m tests.golden.make_preference_losses

writes preference_losses.npz beside this file: log-probs of tokens, and for every case
the loss and its gradient with respect to those of the policy, in float64. It is TRL's
own code: methods of its trainers, called on a namespace that holds what they read, with
a model that says the given log-probs. For KTO the paper's equations are written out in
torch beside it, and must agree. The versions that made it are in the file.
"""

import collections
import pathlib
import types

import numpy as np

FILE = pathlib.Path(__file__).resolve().parent / "preference_losses.npz"
PAIRS, TOKENS, BETA, SMOOTH = 6, 7, 0.3, 0.1
WITH_REFERENCE = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair",
    "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft",
    "sigmoid_norm",
)  # fmt: skip
# case: (losses, settings that differ from the plain ones)
CASES = {name: ((name,), {}) for name in WITH_REFERENCE} | {
    "mpo": (("sigmoid", "bco_pair", "sft"), {"weights": (0.8, 0.2, 1.0)}),
    "three": (("ipo", "sigmoid_norm", "hinge"), {"weights": (0.5, 2.0, 1.0)}),
    "wpo": (("sigmoid",), {"use_weighting": True}),
    "wpo_robust": (("robust",), {"use_weighting": True}),
    "wpo_mixed": (
        ("sigmoid_norm", "ipo"),  # on hinge TRL multiplies in place, and fails
        {"use_weighting": True, "weights": (1.0, 0.25)},
    ),
    "simpo": (("simpo",), {}),
    "cpo": (("cpo",), {}),
    "orpo": (("orpo",), {}),
}
# case of unpaired answers: (loss, the weights of desirable and undesirable ones)
UNPAIRED = {
    "kto": ("kto", (1.0, 1.0)),
    "kto_weighted": ("kto", (1.0, 1.5)),
    "apo_zero_unpaired": ("apo_zero_unpaired", (1.0, 1.0)),
}
GAMMA, ALPHA, TAU = 0.4, 0.7, 0.05


def arrays():
    """Log-probs of tokens [2, PAIRS, TOKENS] of chosen and rejected answers, their
    mask, what the reference says of whole answers, log Σ p², labels, mismatches."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, TOKENS + 1, (2, PAIRS))
    mask = (np.arange(TOKENS) < lengths[..., None]).astype(np.int64)
    logps = -rng.gamma(1.0, 0.6, mask.shape) * mask
    shift = rng.normal(0.0, 0.4, mask.shape) * mask
    return {
        "mask": mask,
        "logps": logps,
        "reference": (logps + shift).sum(-1),
        "collisions": -rng.gamma(2.0, 0.5, mask.shape) * mask,
        "labels": np.array([1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1]),
        "mismatched": -rng.gamma(8.0, 0.6, 2 * PAIRS),
        "mismatched_reference": -rng.gamma(8.0, 0.6, 2 * PAIRS) - 1.5,
    }


def _trainer(**known):
    """What the methods of trainers read, with a model that says what it is given."""
    import torch

    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"),
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
    )
    return types.SimpleNamespace(
        accelerator=accelerator,
        model=types.SimpleNamespace(training=True),
        aux_loss_enabled=False,
        beta=BETA,
        label_smoothing=SMOOTH,
        precompute_ref_logps=True,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **known,
    )


def _outputs(logps, collisions=None):
    """What TRL's fused head returns, of which losses read the log-probs alone."""
    import torch

    filler = torch.zeros_like(logps).detach()
    return types.SimpleNamespace(
        log_probs=logps,
        log_sum_sq_probs=collisions,
        entropy=filler,
        mean_logits=filler,
        is_top1=filler.bool(),
    )


def _sequences(mask):
    """(ids, completion mask) of a prompt of one token and an answer."""
    import torch

    mask = torch.cat([torch.zeros_like(mask[:, :1]), mask], 1)
    return torch.ones_like(mask), mask


def with_reference(names, given, *, weights=None, use_weighting=False):
    """The loss of `DPOTrainer` on log-probs of tokens [2 · PAIRS, TOKENS]."""
    import torch
    from trl import DPOTrainer

    trainer = _trainer(
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=list(names),
        loss_weights=list(weights or [1.0] * len(names)),
        use_weighting=use_weighting,
        args=types.SimpleNamespace(discopop_tau=TAU),
    )
    ids, mask = _sequences(given["mask"].flatten(0, 1))
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": mask,
        "ref_chosen_logps": given["reference"][0],
        "ref_rejected_logps": given["reference"][1],
    }
    outputs = _outputs(given["logps"].flatten(0, 1), given["collisions"].flatten(0, 1))
    return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)


def reference_free(name, given):
    """The loss of `CPOTrainer` or `ORPOTrainer` on log-probs of answers: sums or, for
    SimPO and ORPO, means, and the likelihood of the chosen tokens beside them."""
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    sums, lengths = given["logps"].sum(-1), given["mask"].sum(-1)
    logps = sums if name == "cpo" else sums / lengths
    nll = -sums[0].sum() / lengths[0].sum()
    trainer = _trainer(
        loss_type="simpo" if name == "simpo" else "sigmoid",
        simpo_gamma=GAMMA,
        alpha=0.0,
        cpo_alpha=0.0 if name == "simpo" else ALPHA,
        concatenated_forward=lambda model, batch: (*logps, *logps, nll),
    )
    kind = ORPOTrainer if name == "orpo" else CPOTrainer
    trainer.cpo_loss = lambda *sides: CPOTrainer.cpo_loss(trainer, *sides)
    trainer.odds_ratio_loss = lambda *sides: ORPOTrainer.odds_ratio_loss(
        trainer, *sides
    )
    return kind.get_batch_loss_metrics(trainer, None, {})[0]


def unpaired(name, weights, given):
    """The loss of `KTOTrainer` on the same answers, one a row."""
    import torch
    from trl import KTOTrainer

    ids, mask = _sequences(given["mask"].flatten(0, 1))
    others = ids + 1  # so that the model knows which it is asked about
    mismatched = torch.zeros(mask.shape[0], TOKENS, dtype=torch.float64)
    mismatched[:, 0] = given["mismatched"]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": mask,
        "KL_input_ids": others,
        "KL_attention_mask": torch.ones_like(ids),
        "KL_completion_mask": mask,
        "label": given["labels"].bool(),
        "ref_logps": given["reference"].flatten(),
        "ref_KL_logps": given["mismatched_reference"],
    }
    trainer = _trainer(
        loss_type=name,
        calculate_KL=name == "kto",
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )
    trainer._compute_kl_logps = lambda *of: KTOTrainer._compute_kl_logps(trainer, *of)

    def model(input_ids, **_):
        own = torch.equal(input_ids, ids)
        return _outputs(given["logps"].flatten(0, 1) if own else mismatched)

    return KTOTrainer._compute_loss(trainer, model, inputs, False)


def of_the_paper(weights, given):
    """KTO of Ethayarajh et al. 2024, eq. 7 and 8, row by row."""
    import torch

    kl = (given["mismatched"] - given["mismatched_reference"]).mean().clamp(min=0)
    total = 0.0
    rows = zip(
        given["logps"].flatten(0, 1).sum(-1),
        given["reference"].flatten(),
        given["labels"],
        strict=True,
    )
    for policy, reference, label in rows:
        reward = policy - reference
        if label:
            value = weights[0] * torch.sigmoid(BETA * (reward - kl))
            total = total + weights[0] - value
        else:
            value = weights[1] * torch.sigmoid(BETA * (kl - reward))
            total = total + weights[1] - value
    return total / len(given["labels"])


def _differentiated(loss, given):
    """(loss, its gradient [2, PAIRS, TOKENS]) of loss(arrays as tensors)."""
    import torch

    tensors = {name: torch.tensor(x) for name, x in given.items()}
    tensors["logps"].requires_grad_()
    value = loss(tensors)
    value.backward()
    return value.detach().numpy(), tensors["logps"].grad.numpy() * given["mask"]


def main():
    import torch
    import transformers
    import trl

    given, found = arrays(), {}
    for case, (names, changes) in CASES.items():
        free = names[0] in ("simpo", "cpo", "orpo")
        found[case] = _differentiated(
            lambda x, names=names, changes=changes, free=free: (
                reference_free(names[0], x)
                if free
                else with_reference(names, x, **changes)
            ),
            given,
        )
    for case, (name, weights) in UNPAIRED.items():
        found[case] = _differentiated(
            lambda x, name=name, weights=weights: unpaired(name, weights, x), given
        )
        if name == "kto":
            paper = _differentiated(
                lambda x, weights=weights: of_the_paper(weights, x), given
            )
            for ours, theirs in zip(paper, found[case], strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    versions = f"trl {trl.__version__}, transformers {transformers.__version__}, "
    np.savez_compressed(
        FILE,
        versions=np.array(versions + f"torch {torch.__version__}, seed 0"),
        **{f"given/{name}": x for name, x in given.items()},
        **{f"{case}/loss": value for case, (value, _) in found.items()},
        **{f"{case}/gradient": gradient for case, (_, gradient) in found.items()},
    )
    print(FILE, *(f"{case} {value:.6f}" for case, (value, _) in found.items()))


if __name__ == "__main__":
    main()
