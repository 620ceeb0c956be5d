"""Aligners, and what gives back what they made a model forget, as rows of a table.

Lin et al. 2023, "Mitigating the Alignment Tax of RLHF", arXiv:2309.06256, section 4 and
appendix D.4. A mitigation has a knob; its settings are rows, and together a family that
is read as one front. As in the paper, those that train start from the initial policy
and learn the texts that rejection sampling selected, so `distilled` is their end point
with the knob at zero. Weights are on the aligned policy: 0.8 keeps 20% of the start.
"""

import dataclasses
import functools
import itertools

from rlhf_jax.algorithms import regularization
from rlhf_jax.models import lora
from rlhf_jax.reporting.families import Family
from rlhf_jax.studies import methods, post_hoc, tables
from rlhf_jax.studies.fine_tuning import FineTuning
from rlhf_jax.studies.interfaces import Method
from rlhf_jax.studies.policy_gradient import PolicyGradient
from rlhf_jax.studies.preference_tuning import PreferenceTuning
from rlhf_jax.studies.selection import RejectionSampling
from rlhf_jax.studies.values import Values

WEIGHTS = (0.4, 0.6, 0.8)
ALIGNERS = {"rsf": "RSF", "ppo": "PPO", "dpo": "DPO"}
ENDS = {**ALIGNERS, "distilled": "SFT on RSF's texts"}
CONTROLLED = 0.6  # the weight whose HMA has controls
PARTS = ("input", "middle", "output")
TUNED_ON = "rating"  # the skill whose labels the adaptive average sees
# Of each knob from the strongest setting to the weakest; found on worlds 900 and 901.
STRENGTHS = {
    "l1": (3e-3, 1e-3, 3e-4),
    "l2": (1.0, 0.3, 0.1),
    "kd": (10.0, 3.0, 1.0),
    "replay": (2.0, 1.0, 0.5),
    "kl": (0.1, 0.05, 0.02),
    "sma": (0.3, 0.5, 0.7),
}
RANKS = (1, 4, 8, 16)
_PENALTIES = {
    "l1": (regularization.l1, "L1 to π₀"),
    "l2": (regularization.l2, "L2 to π₀"),
    "kd": (regularization.distillation, "distillation from π₀"),
}
_NO_KL = {"kl_coef": 0.0}
_SMA = {"rsf": {"algorithm": "rsf"}, "ppo": {}}
_DPO_RATE = 5e-4
_LORA_RATE = 3e-3  # ten times that of all weights, as in the paper
_BLOCKWISE = {"learning_rate": 1e-2, "rows": 8, "epochs": 4}
_samples = post_hoc.samples(draws=1024, keep=410)  # 2,000 of 5,000 in the paper


def row_of(source, knob, weight):
    """The name of the row of a knob that is turned to a weight."""
    return f"{source}_{knob}_{round(100 * weight)}"


def _learning(label, summary, train, **fields):
    """A row that learns what RSF selected, and is measured at its end."""
    return Method(label, summary, train=train, source="rsf", at_end=True, **fields)


def _labelled(source):
    """Questions of one skill with their answers."""
    return source.study.task_of(source.run).exercises(TUNED_ON, 410)


def _averages():
    """{family: (label, weight -> derive)} of what is averaged without training."""
    part = post_hoc.part
    hma = functools.partial(post_hoc.heterogeneous, texts=_samples, **_BLOCKWISE)
    return {
        "ma": ("MA", post_hoc.interpolate),
        "hma": ("HMA", hma),
        **{
            f"ma_{name}": (f"MA of the {name} third", functools.partial(part, name))
            for name in PARTS
        },
        "ma_embeddings": (
            "MA of the input third and embeddings",
            functools.partial(part, "input", embeddings=True),
        ),
        "graft": ("graft", post_hoc.graft),
        "hma_2": ("HMA, K = 2", functools.partial(hma, blocks=2)),
        "adaptive": (
            f"ratios tuned on {TUNED_ON}s",
            functools.partial(post_hoc.adaptive, texts=_labelled, **_BLOCKWISE),
        ),
    }


# Which averages are drawn of whom.
OF = {
    "ma": tuple(ENDS),
    "hma": tuple(ALIGNERS),
    **{f"ma_{part}": ("rsf", "dpo") for part in PARTS},
    "ma_embeddings": ("rsf", "dpo"),
    "graft": ("rsf",),
    "hma_2": ("rsf", "dpo"),
    "adaptive": ("rsf",),
}


def _aligners():
    rsf = methods.METHODS["rsf"]
    rsf = dataclasses.replace(rsf, train=RejectionSampling(rsf.train))
    return {
        "rsf": rsf,
        "ppo": methods.METHODS["ppo"],
        "dpo": Method(
            "DPO",
            "direct preference optimisation on the reward model's pairs",
            train=PreferenceTuning(values=Values(learning_rate=_DPO_RATE)),
            needs=("pairs",),
        ),
        "rsf_random": dataclasses.replace(
            rsf,
            label="RSF on a random RM",
            summary="the same updates on candidates that nothing worth having chose",
            role="control",
            reward="random",
        ),
        "sft_placebo": methods.METHODS["sft_placebo"],
    }


def _trained():
    """The mitigations that train, a row a setting."""
    rows = {
        "distilled": Method(
            "SFT on RSF's texts",
            "supervised fine-tuning of π₀ on what RSF selected",
            train=FineTuning("selected"),
            source="rsf",
        )
    }
    for name, (make, label) in _PENALTIES.items():
        for i, strength in enumerate(STRENGTHS[name]):
            train = FineTuning("selected", make_penalty=make, strength=strength)
            text = f"{label}, λ = {strength:g}"
            rows[f"{name}_{i}"] = _learning(text, f"with a penalty: {text}", train)
    for i, ratio in enumerate(STRENGTHS["replay"]):
        text = f"replay, {ratio:g}×"
        train = FineTuning("selected", replay=ratio)
        rows[f"replay_{i}"] = _learning(
            text, f"beside {ratio:g}× pretraining text", train, needs=("replay",)
        )
    for rank in RANKS:
        adapter = lora.Config(rank=rank, alpha=2.0 * rank)
        rate = Values(learning_rate=_LORA_RATE)
        train = FineTuning("selected", adapter=adapter, values=rate)
        rows[f"lora_{rank}"] = _learning(
            f"LoRA, rank {rank}", f"adapters of rank {rank}", train
        )
    for source, static in _SMA.items():
        for retained in STRENGTHS["sma"]:
            text = f"{ALIGNERS[source]}, SMA, w = {retained:g}"
            rows[row_of(source, "sma", retained)] = tables.trained(
                f"{text}: resets to an EMA that keeps so much of the way",
                text,
                PolicyGradient(_NO_KL, static, values=Values(weight=retained)),
                resets=True,
                at_end=True,
            )
    for i, strength in enumerate(STRENGTHS["kl"]):
        rows[f"ppo_kl_{i}"] = tables.trained(
            f"PPO with a KL penalty of {strength:g}",
            f"PPO, β = {strength:g}",
            PolicyGradient({"kl_coef": strength}),
            at_end=True,
        )
    return rows


def _averaged():
    rows = {}
    for name, (label, derive) in _averages().items():
        needs = ("exercises",) if name == "adaptive" else ()
        for source in OF[name]:
            for weight in WEIGHTS:
                text = f"{label} of {ENDS[source]}, {weight:g}"
                rows[row_of(source, name, weight)] = tables.derived(
                    text, text, source, derive(weight), at_end=True, needs=needs
                )
    return rows


def _controls_of_hma():
    """The ratios of HMA at one mean in every other order, and random ones of equal
    spread: is it which block has which ratio that counts?"""
    fit = post_hoc.heterogeneous(CONTROLLED, texts=_samples, **_BLOCKWISE)
    learned = post_hoc.learned(fit)
    ratios = {
        f"order_{''.join(map(str, order))}": post_hoc.permuted(learned, order)
        for order in itertools.permutations(range(3))
        if order != (0, 1, 2)
    }
    ratios |= {f"random_{i}": post_hoc.redrawn(learned, i) for i in range(3)}
    return {
        f"rsf_hma_{name}": tables.derived(
            f"MA of RSF with HMA's ratios, {name.replace('_', ' ')}",
            f"RSF, ratios {name.replace('_', ' ')}",
            "rsf",
            post_hoc.with_ratios(found, mean=CONTROLLED),
            role="control",
            at_end=True,
        )
        for name, found in ratios.items()
    }


def _families():
    """{name: Family}, from the strongest setting of a knob to none."""
    found = {
        "rsf_early": Family("RSF, early stop", ("rsf",)),
        "ppo_early": Family("PPO, early stop", ("ppo",)),
        "dpo_early": Family("DPO, early stop", ("dpo",)),
        "distilled_early": Family("SFT, early stop", ("distilled",)),
    }
    labels = {name: label for name, (_, label) in _PENALTIES.items()}
    for name, label in {**labels, "replay": "replay"}.items():
        settings = tuple(f"{name}_{i}" for i in range(len(STRENGTHS[name])))
        found[name] = Family(f"SFT, {label}", (*settings, "distilled"))
    found["lora"] = Family("SFT, LoRA", tuple(f"lora_{rank}" for rank in RANKS))
    for source in _SMA:
        settings = (row_of(source, "sma", w) for w in STRENGTHS["sma"])
        found[f"{source}_sma"] = Family(
            f"{ALIGNERS[source]}, SMA (Elastic Reset)", (*settings, source)
        )
    penalised = tuple(f"ppo_kl_{i}" for i in range(len(STRENGTHS["kl"])))
    found["ppo_kl"] = Family("PPO + KL", (*penalised, "ppo"))
    for name, (label, _) in _averages().items():
        for source in OF[name]:
            settings = (row_of(source, name, w) for w in WEIGHTS)
            text = f"{ENDS[source]}, {label}"
            found[f"{source}_{name}"] = Family(text, (*settings, source))
    return found


_CONTROLS = _controls_of_hma()
METHODS = {**_aligners(), **_trained(), **_averaged(), **_CONTROLS}
FAMILIES = _families()
LISTS = {
    **{name: family.members for name, family in FAMILIES.items()},
    "controls": ("rsf_random", "sft_placebo"),
    "hma_controls": tuple(_CONTROLS),
}
DEFAULT = ("rsf_early", "rsf_ma", "rsf_hma", "ppo_early", "ppo_kl", "ppo_ma")
