"""Whose reward a policy climbs, and what is to keep it honest, as rows of a table.

Every row starts from the same policy. The reward models differ in size, pairs and
labels, and each is climbed by PPO without a penalty under two sampling keys, so that a
ranking of models by their policies has a ceiling: how well two runs on one model agree.
Remedies change the reward, the penalty or the policy that is kept; all of them learn
from the same 1,000 noisy pairs.
"""

import dataclasses

from rlhf_jax.studies import methods, post_hoc, tables
from rlhf_jax.studies.interfaces import Method
from rlhf_jax.studies.policy_gradient import PolicyGradient
from rlhf_jax.studies.preference_tuning import PreferenceTuning
from rlhf_jax.studies.refresh import Refreshing
from rlhf_jax.studies.values import Values

_NO_KL = {"kl_coef": 0.0}
_DPO_RATE = 5e-4
MEMBERS = 5  # of an ensemble, as in Coste et al. 2023
REFRESH = {"at": (15, 30, 45), "pairs": 250}


def _model(size="medium", pairs=1000, labels="people", member=0):
    return f"rm:size={size},pairs={pairs},labels={labels},member={member}"


# Reward models of the ranking study, by the name of the row that climbs each.
MODELS = {
    "small": (_model("small"), "small RM"),
    "few": (_model(pairs=250), "medium RM, 250 pairs"),
    "medium": (_model(), "medium RM"),
    "many": (_model(pairs=4000), "medium RM, 4,000 pairs"),
    "large": (_model("large"), "large RM"),
    "clean": (_model(labels="gold"), "medium RM, labels without noise"),
    "trunk": (_model("trunk"), "RM on π₀'s trunk"),
}
BASE = "medium"  # the model that remedies are to improve on
REPEATED = {name: f"{name}_again" for name in MODELS}
_OF = "size=medium,pairs=1000,labels=people"
# Rewards that are remedies: the same pairs, read another way.
REWARDS = {
    "mean": (f"mean:{_OF},members={MEMBERS}", "ensemble, mean"),
    "worst": (f"worst:{_OF},members={MEMBERS}", "ensemble, worst case"),
    "uncertainty": (
        f"uncertainty:{_OF},members={MEMBERS},weight=0.5",
        "ensemble, mean − ½ variance",
    ),
    "warm": (f"warm:{_OF},members={MEMBERS}", "WARM: averaged weights"),
    "odin": (f"odin:{_OF}", "ODIN: length in a head of its own"),
    "length_penalized": (f"length_penalized:{_OF},weight=0.1", "length penalty"),
}
TAILS = {
    "heavy": ("heavy_tailed:scale=1", "gold + heavy-tailed error"),
    "light": ("light_tailed:scale=1", "gold + Gaussian error"),
}
ENSEMBLE = tuple(_model(member=member) for member in range(MEMBERS))


def specs():
    """Every reward that the study asks `tasks.reward_families` for."""
    groups = MODELS, REWARDS, TAILS
    named = [spec for group in groups for spec, _ in group.values()]
    return tuple(dict.fromkeys([*named, *ENSEMBLE]))


def _climb(summary, label, reward, *, hyper=None, static=None, copy=0, **fields):
    train = PolicyGradient(_NO_KL if hyper is None else hyper, static or {}, copy=copy)
    return tables.trained(summary, label, train, reward=reward, **fields)


def _of_models():
    rows = {}
    for name, (spec, label) in MODELS.items():
        rows[name] = _climb(f"PPO on a {label}", label, spec)
        rows[REPEATED[name]] = _climb(
            f"the same reward model, {label}, under another sampling key",
            f"{label}, another key",
            spec,
            role="control",
            copy=1,
        )
    return rows


def _remedies():
    base, _ = MODELS[BASE]
    rows = {
        name: _climb(f"PPO on {label}", label, spec)
        for name, (spec, label) in REWARDS.items()
    }
    rows["refresh"] = dataclasses.replace(
        rows["mean"],
        label="RM refreshed on the policy's samples",
        summary="people label pairs of the policy's own samples as it moves, and the "
        "reward model learns from them too",
        reward=base,
        train=Refreshing(PolicyGradient(_NO_KL), **REFRESH),
    )
    penalties = {
        "kl": ("KL penalty", {}),
        "chi2": ("χ² penalty", {"chi2_weight": 1.0}),
    }
    for name, (label, hyper) in penalties.items():
        rows[name] = _climb(
            f"PPO on the base model with a {label}", label, base, hyper=hyper
        )
    rows["elastic_reset"] = _climb(
        "PPO on the base model; at intervals policy ← EMA, then EMA ← initial",
        "Elastic Reset",
        base,
        resets=True,
    )
    rows["early_stop"] = tables.derived(
        "PPO on the base model, stopped where validation proxy and drift say",
        "early stop", BASE, post_hoc.best, at_end=True, role="arm",
    )  # fmt: skip
    rows["ma50"] = tables.derived(
        "half way from the initial policy to PPO on the base model",
        "½ PPO + ½ π₀", BASE, post_hoc.interpolate(0.5), role="arm",
    )  # fmt: skip
    return rows


def _algorithms():
    base, _ = MODELS[BASE]
    rows = {
        name: dataclasses.replace(methods.METHODS[name], reward=base, role="relative")
        for name in ("reinforce", "rsf")
    }
    rows["dpo"] = Method(
        "DPO",
        "direct preference optimisation on 1,000 pairs, without a reward model",
        role="relative",
        train=PreferenceTuning(values=Values(learning_rate=_DPO_RATE)),
        reward=base,
        needs=("pairs",),
    )
    return rows


def _controls():
    return {
        name: _climb(summary, label, reward, role="control")
        for name, reward, label, summary in (
            ("gold", "gold", "proxy = gold", "PPO on the truth: no mismatch"),
            ("random", "random", "random RM", "PPO on an untrained reward model"),
            ("length", "length", "length alone", "PPO on the number of tokens"),
        )
    }


METHODS = _of_models() | _remedies() | _algorithms() | _controls()
REMEDIES = tuple(_remedies())
ALGORITHMS = (BASE, *_algorithms())
CONTROLS = tuple(_controls())
LISTS = {
    "models": (*MODELS, *REPEATED.values()),
    "remedies": (BASE, *REMEDIES),
    "algorithms": ALGORITHMS,
    "controls": CONTROLS,
}
DEFAULT = ("small", "medium", "worst", "kl", "gold")
LABELS = tables.labels(METHODS)
# The rewards of best-of-n, by the name that tables print.
OF_BEST = {**MODELS, **{k: REWARDS[k] for k in ("mean", "worst", "uncertainty")}}
OF_BEST |= {"warm": REWARDS["warm"], **TAILS, "gold": ("gold", "gold itself")}


def reward_of(name, table=METHODS):
    """The reward that a row is trained on, or the row whose run it is read off."""
    method = table[name]
    while method.train is None and method.source is not None:
        method = table[method.source]
    return method.reward
