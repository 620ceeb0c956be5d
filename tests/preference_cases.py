"""The preference losses as one form, loss(*four, mask, **over), on fixed numbers.

Each case takes the four log-probs of pairs [B], of the policy (chosen, rejected) and of
the reference. All of them together are one program.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import preference_losses, reference_free, unpaired_losses

B, BETA, SMOOTH = 4, 0.5, 0.125
GAMMA, ALPHA, TAU = 0.25, 0.75, 0.5
MASK = np.array([1, 1, 0, 1])
LENGTHS = np.array([3.0, 1.0, 2.0, 5.0], np.float32)
DESIRABLE = np.array([1.0, 0.0, 1.0, 0.0], np.float32)
SOFT = 0.75


def _with_reference(name, **hyper):
    loss = getattr(preference_losses, name)
    return lambda *four, mask, **over: loss(
        *four, beta=BETA, mask=mask, **hyper, **over
    )


def _free(name, lengths=True, **hyper):
    """Of log-probs below 0; tokens are counted where rows are."""
    loss = getattr(reference_free, name)

    def case(chosen, rejected, *_, mask, **over):
        sides = (-0.1 - jnp.abs(x) for x in (chosen, rejected))
        count, index = over.pop("count", None), over.pop("index", slice(None))
        extra = ()
        if lengths:
            extra = (jnp.asarray(LENGTHS)[index],)
            if count is not None:
                over["tokens"] = (LENGTHS * MASK).sum()
        return loss(*sides, *extra, beta=BETA, mask=mask, count=count, **hyper, **over)

    return case


def _kto(policy, _rejected, reference, _reference, *, mask, **over):
    desirable = jnp.asarray(DESIRABLE)[over.pop("index", slice(None))]
    if over.get("count") is not None:
        over["desirable_count"] = (DESIRABLE * MASK).sum()
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    return unpaired_losses.kto(
        policy, reference, desirable, 0.25, beta=BETA, mask=mask, **weights, **over
    )


PAIRS = {
    "hinge": {"preference": SOFT},
    "robust": {"preference": SOFT, "label_smoothing": SMOOTH},
    "exo_pair": {"preference": SOFT, "label_smoothing": SMOOTH},
    "nca_pair": {},
    "bco_pair": {"preference": SOFT, "shift": 0.25},
    "sppo_hard": {"preference": SOFT},
    "apo_zero": {},
    "apo_down": {},
    "discopop": {"tau": TAU},
    "aot": {"label_smoothing": SMOOTH},
    "aot_unpaired": {"label_smoothing": SMOOTH},
}
CASES = {
    **{name: _with_reference(name, **hyper) for name, hyper in PAIRS.items()},
    "simpo": _free("simpo", lengths=False, gamma=GAMMA, label_smoothing=SMOOTH),
    "cpo": _free("cpo", alpha=ALPHA, label_smoothing=SMOOTH),
    "orpo": _free("orpo"),
    "kto": _kto,
}
SORTED = ("aot", "aot_unpaired")  # a part of the rows is sorted by itself


def four(seed=0):
    """[4, B] float32: log-probs of the policy and of the reference."""
    return np.random.default_rng(seed).normal(size=(4, B)).astype(np.float32)


def every(*sides, mask, cases=tuple(CASES), **over):
    """{name: (loss, metrics)} of all cases."""
    return {name: CASES[name](*sides, mask=mask, **over) for name in cases}


def _losses(sides, mask):
    losses = jnp.stack([loss for loss, _ in every(*sides, mask=mask).values()])
    return losses, losses


evaluate = jax.jit(every)
# (∂ loss / ∂ side [cases, 4, B], losses [cases]) of (sides, mask)
slopes = jax.jit(jax.jacrev(_losses, has_aux=True))
