"""The checklist of objective mismatch, and where each of its claims was tried."""

import functools

from experiments.objective_mismatch import links, methods
from experiments.verdicts.evidence import (
    Claimed,
    Counted,
    Item,
    Paper,
    Stated,
    Untested,
    logged,
    shown,
)

_KEPT = "objective_mismatch"
_ENSEMBLES = ("mean", "worst", "uncertainty")
_NUMBERS = {  # of a reward model on held-out labels
    "accuracy": ("accuracy on people's labels", 100.0, "%"),
    "nll": ("NLL", 1.0, "nats"),
    "brier": ("Brier score", 1.0, ""),
    "ece": ("calibration error", 1.0, ""),
    "ece_scaled": ("calibration error after a temperature", 1.0, ""),
}


def _quality():
    label = methods.MODELS[methods.BASE][1]
    for key, (title, scale, unit) in _NUMBERS.items():
        found = logged(f"mismatch/rm/{methods.BASE}/{key}")
        yield Counted(_KEPT, label, found, title, scale=scale, unit=unit)


def _worlds():
    """In how many worlds gold falls while the proxy rises, as their contract counts."""
    for name in ("PPO", "PPO + KL"):
        yield Counted(
            "worlds",
            f"worlds in which {name} over-optimises",
            functools.partial(_fit, f"{name} over-optimises"),
            "gold ends 30% below its peak",
            scale=100.0,
            unit="%",
        )


def _fit(contract, kept):
    return kept["fit"][contract] / len(kept["worlds"])


def _remedies():
    for name in methods.REMEDIES:
        if name not in _ENSEMBLES:
            yield Claimed(_KEPT, name, (methods.BASE,))


# (claim, evidence), in the order of the checklist.
_CLAIMS = (
    (
        "The loss raises what was chosen; a reward model of noisy labels is right on "
        "60 to 75% of held-out pairs, and a temperature calibrates it.",
        (
            *shown("test_row_losses.py", "bradley_terry_gradient_is_sigma_minus_p"),
            *shown(
                "evaluation/test_calibration.py",
                "quality_by_hand",
                "the_temperature_is_the_minimum_of_the_nll",
            ),
            *_quality(),
        ),
    ),
    (
        "On the policy's own pairs a reward model gets worse as the policy moves away.",
        (Stated(_KEPT, links.FALLS, "accuracy on the policy's pairs"),),
    ),
    (
        "The proxy rises while gold peaks and falls, for best-of-n and for PPO.",
        (Stated(_KEPT, links.PART), *_worlds()),
    ),
    (
        "Gao's forms predict gold, the logarithmic one for RL and the quadratic one "
        "for best-of-n; larger reward models and more data peak higher.",
        (
            Stated(_KEPT, links.FITS, "error on the held-out upper half"),
            Stated(_KEPT, links.SIZES, "gold at its peak"),
            Stated(_KEPT, links.DATA, "gold at its peak"),
        ),
    ),
    (
        "The KL of best-of-n is that of the table, and its estimate that of every "
        "draw.",
        shown(
            "evaluation/test_best_of_n.py",
            "the_bound_is_that_of_the_table",
            "weights_and_ties_are_those_of_every_draw",
        ),
    ),
    (
        "Best-of-n and RL have similar gold at equal proxy, not at equal KL.",
        (Stated(_KEPT, links.EQUAL),),
    ),
    (
        "A KL penalty leaves gold at a given KL as it is.",
        (Stated(_KEPT, links.FRONTIER, "gold at matched KL"),),
    ),
    (
        "Conservative ensembles end with at least the gold of a mean, and that with at "
        "least a single model's; their best-of-n does not decline.",
        (
            *(Claimed(_KEPT, name) for name in _ENSEMBLES),
            Stated(_KEPT, links.ENSEMBLES),
            Untested(
                "An ensemble with a small KL penalty against a single model with a "
                "large one (0.01 and 0.2): no row combines both."
            ),
        ),
    ),
    (
        "A reward model's accuracy orders the policies on it imperfectly; the best "
        "validation loss of DPO is not its best generator.",
        (
            Stated(_KEPT, links.RANKING, "Kendall's τ with final gold"),
            Stated(_KEPT, links.ALONG, "Kendall's τ with final gold"),
            Untested(
                "Checkpoints of DPO are not ranked: one run a world, read at its end."
            ),
        ),
    ),
    (
        "Reward rises while a capability falls and responses get longer.",
        (Stated(_KEPT, links.EVALUATION),),
    ),
    (
        "Reward and length go together, and length alone is worth less than it seems.",
        (Stated(_KEPT, links.LENGTHS),),
    ),
    (
        "RLHF changes how often benign and harmful requests are refused.",
        (
            Untested(
                "The microworld's language has no requests, so nothing is refused."
            ),
        ),
    ),
    (
        "Keeping the checkpoint of the best proxy costs gold, and a remedy reduces "
        "that.",
        (
            *(
                Stated(_KEPT, family, "gold lost by keeping the best proxy")
                for family in (links.COSTS, links.REGRET, links.REGRETS)
            ),
            *_remedies(),
        ),
    ),
    (
        "Correlations along training carry their count, an interval and first "
        "differences, under an evaluation that stays the same.",
        shown(
            "evaluation/test_correlation.py",
            "correlations_by_hand",
            "the_interval_of_the_mean_is_the_t_interval_of_scipy",
        ),
    ),
    (
        "The position paper has no experiment and no number: nothing is called "
        "replicated but the orderings of Gao et al. and Coste et al.",
        (
            Untested(
                "A promise about what is not written. Smallest effects and directions "
                "above are this study's own, declared before it ran."
            ),
        ),
    ),
)
PAPER = Paper(
    "Objective mismatch",
    "Lambert & Calandra 2023, “The Alignment Ceiling”, arXiv:2311.00168; Gao et al. "
    "2022, arXiv:2210.10760; Coste et al. 2023, arXiv:2310.02743",
    (
        *(Item(str(i + 1), *claim) for i, claim in enumerate(_CLAIMS)),
        Item(
            "+1",
            "Where proxy and gold are one, nothing is found.",
            (Stated(_KEPT, links.CONTROLS),),
        ),
    ),
)
