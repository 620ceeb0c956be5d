"""The checklist of the alignment tax, and where each of its claims was tried."""

import functools

from experiments.alignment_tax import methods, settings
from experiments.verdicts.evidence import (
    Claimed,
    Counted,
    Item,
    Paper,
    Untested,
    shown,
)
from rlhf_jax.evaluation.axes import REWARD, SKILLS, TEXT_NLL
from rlhf_jax.microworld import skills
from rlhf_jax.reporting import results as estimates

_KEPT = "alignment_tax"
_KINDS = tuple(f"tax/{kind}" for kind in skills.KINDS)
_KEEP = 0.8  # the weight that keeps 20% of the start
_TESTS = "experiments/test_alignment_tax.py"
_PLACEBO = "sft_placebo"
_POINTS = {"scale": 100.0, "unit": "points"}


def _changes(kept):
    return settings.changes(
        kept.records, (REWARD.key, SKILLS.key, *_KINDS, TEXT_NLL.key)
    )


def _beyond(method, key, kept):
    """The change of a run beyond that of as many updates on π₀'s own samples."""
    return settings.difference(_changes(kept), method, _PLACEBO, (key,)).get(key)


def _step(method, key, kept):
    """The change from one look to the next, by the slope over all looks of a world."""
    found = settings.path(kept.records, method, (key,))
    trend = found and found[key]["trend"]
    return trend and trend["slope"]._asdict()


def _share(source, what, kept):
    """What an average that keeps 20% of the start returns of the tax, or pays."""
    row = methods.row_of(source, "ma", _KEEP)
    found = settings.shares(_changes(kept), row, source)
    return found and found[what]


def _adaptive(key, kept):
    """Ratios tuned on one skill minus equal ones, at the same mean."""
    rows = (methods.row_of("rsf", kind, _KEEP) for kind in ("adaptive", "ma"))
    return settings.difference(_changes(kept), *rows, (key,)).get(key)


def _barrier(kept):
    """How far the NLL between both models lies above the line between theirs."""
    found = _changes(kept)
    end = found["rsf"][TEXT_NLL.key]
    rows = {w: found[methods.row_of("rsf", "ma", w)] for w in methods.WEIGHTS}
    above = {
        unit: max(by[TEXT_NLL.key][unit] - w * end[unit] for w, by in rows.items())
        for unit in end
    }
    return estimates.estimate(above)


def _costs():
    for method in methods.ALIGNERS:
        label = methods.ENDS[method]
        yield Counted(
            _KEPT,
            f"{label}: reward beyond the placebo's",
            functools.partial(_beyond, method, REWARD.key),
            "reward, change since π₀",
            unit=REWARD.unit,
        )
        yield Counted(
            _KEPT,
            f"{label}: skills beyond the placebo's",
            functools.partial(_beyond, method, SKILLS.key),
            "skills, change since π₀",
            **_POINTS,
        )


def _along():
    yield Counted(
        _KEPT,
        "RSF: reward, from a look to the next",
        functools.partial(_step, "rsf", REWARD.key),
        "reward, slope over looks",
        unit=REWARD.unit,
    )
    for key in _KINDS:
        yield Counted(
            _KEPT,
            f"RSF: {key.partition('/')[2]} skill, from a look to the next",
            functools.partial(_step, "rsf", key),
            "accuracy, slope over looks",
            **_POINTS,
        )


def _twenty():
    for source in methods.ALIGNERS:
        for what, said in (
            ("returned", "of the skills lost"),
            ("paid", "of the reward"),
        ):
            yield Counted(
                _KEPT,
                f"{methods.ENDS[source]}, 20% of π₀ kept: {what} {said}",
                functools.partial(_share, source, what),
                f"share {said}",
                scale=100.0,
                unit="%",
            )


_RUNS = (
    Item(
        "1",
        "Alignment by rejection sampling, PPO and DPO costs skills, relative to the "
        "model that it started from.",
        (
            *_costs(),
            *shown(_TESTS, "every_setting_is_measured_and_every_family_reported"),
        ),
    ),
    Item(
        "2",
        "Along rejection sampling reward rises, and at least two kinds of skill fall "
        "all the way.",
        tuple(_along()),
    ),
    Item(
        "3",
        "Every mitigation has its grid of strengths, trained on the stored best of n "
        "texts, and is read as reward against capability.",
        (
            *shown(
                _TESTS,
                "every_family_ends_at_the_policy_that_its_knob_leaves_alone",
                "knobs_are_listed_from_the_strongest_setting_to_the_weakest",
            ),
            *shown(
                "studies/test_mitigations.py",
                "what_was_selected_is_the_best_of_each_prompt",
            ),
        ),
    ),
)
_FRONTS = (
    Item(
        "4",
        "Model averaging is above early stopping, L1, L2, LoRA, distillation and SMA, "
        "and above the KL penalty in PPO; only replay may beat it, on one kind of "
        "task.",
        (
            Claimed(_KEPT, "distilled_ma"),
            Claimed(_KEPT, "rsf_ma"),
            Claimed(_KEPT, "ppo_ma"),
            *(
                Claimed(_KEPT, "distilled_ma", ("replay",), f"reward_at/{key}")
                for key in _KINDS
            ),
        ),
    ),
    Item(
        "5",
        "Averaging the input third of the layers gains capability for no reward; the "
        "output third does not.",
        (Claimed(_KEPT, "rsf_ma_input"), Claimed(_KEPT, "dpo_ma_input")),
    ),
    Item(
        "6",
        "A heterogeneous average has one ratio a block, whose mean is exact, and "
        "learns them from the policy's own samples.",
        (
            *shown(
                "test_ratios.py",
                "the_mean_stands_and_ratios_stay_in_range_for_extreme_scores",
            ),
            *shown(
                "test_heterogeneous.py",
                "blocks_of_26_and_32_layers_are_those_of_the_paper",
                "embeddings_and_heads_may_go_their_own_way",
                "a_ratio_is_the_weight_on_the_aligned_model",
            ),
        ),
    ),
    Item(
        "7",
        "A heterogeneous average is above the plain one at the same mean ratio.",
        tuple(
            Claimed(_KEPT, f"{source}_hma", (f"{source}_ma",))
            for source in methods.ALIGNERS
        ),
    ),
    Item(
        "8",
        "Three blocks are better than more, and any than one.",
        (
            Claimed(_KEPT, "rsf_hma", ("rsf_hma_2",)),
            Untested(
                "K = 6 and K = 9 need as many layers; the policy has three. Two blocks "
                "are compared with three instead."
            ),
        ),
    ),
    Item(
        "9",
        "An average that keeps 20% of the starting weights reduces the tax, for a "
        "reward within noise.",
        tuple(_twenty()),
    ),
    Item(
        "10",
        "Ratios tuned on the labels of one task protect no other (AdaMerging).",
        tuple(
            Counted(
                _KEPT,
                f"tuned on {methods.TUNED_ON}s, 20% of π₀ kept: gain in the "
                f"{key.partition('/')[2]} skill",
                functools.partial(_adaptive, key),
                "accuracy, tuned − equal ratios",
                **_POINTS,
            )
            for key in _KINDS
        ),
    ),
    Item(
        "11",
        "The ends of an average are its models bit for bit, and no barrier lies "
        "between.",
        (
            *shown("test_averaging.py", "the_ends_are_exact"),
            Counted(
                _KEPT,
                "RSF: highest NLL above the straight line between both models",
                _barrier,
                "Human-text NLL",
                unit=TEXT_NLL.unit,
            ),
        ),
    ),
    Item(
        "12",
        "Proposition 5.1: averaging gains by what two models do not share, and nothing "
        "where they share everything.",
        shown(
            "test_averaging_theory.py",
            "the_gain_falls_with_what_is_shared_and_ends_at_0",
            "voting_models_are_as_accurate_as_the_proposition_says",
        ),
    ),
)
PAPER = Paper(
    "The alignment tax",
    "Lin et al. 2023, “Mitigating the Alignment Tax of RLHF”, arXiv:2309.06256",
    (*_RUNS, *_FRONTS),
)
