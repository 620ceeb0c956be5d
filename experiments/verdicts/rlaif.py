"""The checklist of RLAIF, and where each of its claims was tried."""

import functools

from experiments.rlaif import measures, orderings
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
from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.axes import LENGTH
from rlhf_jax.reporting import results as estimates

_KEPT = "rlaif"
_POINTS = {"scale": 100.0, "unit": "points"}
_PERCENT = {"scale": 100.0, "unit": "%"}
_ASKED = (
    "Labelers of the microworld answer one question in one form; with prompts in words "
    "the one real model at hand, of 135M parameters, looks at positions more than at "
    "texts. Prompts, shots and rationales are implemented and tested, not compared."
)


def _last(kept, method, key):
    """{unit: the last number under a key} of a method."""
    return {
        units.of(record): record[key]
        for record in kept.records
        if record["method"] == method and key in record
    }


def _minus(one, other, kept):
    """The estimate of one number − another, each (method, key), paired by unit."""
    first, second = (_last(kept, *side) for side in (one, other))
    return estimates.estimate({u: first[u] - second[u] for u in first if u in second})


def _controlled():
    plain, equal = measures.WINS["gold"], measures.CONTROLLED
    for method, label in (
        ("rlhf", "RLHF"), ("rlaif", "RLAIF"), ("d_rlaif", "d-RLAIF")
    ):  # fmt: skip
        yield Counted(
            _KEPT,
            f"{label} at equal length",
            logged(equal.key, method),
            equal.short,
            **_PERCENT,
        )
        yield Counted(
            _KEPT,
            f"{label}: plain win rate − at equal length",
            functools.partial(_minus, (method, plain.key), (method, equal.key)),
            "win rate",
            **_POINTS,
        )


def _judges():
    for name, said in (("second", "other people"), ("ai", "an AI judge")):
        for method, label in (("rlhf", "RLHF"), ("rlaif", "RLAIF")):
            yield Counted(
                _KEPT,
                f"{label}, judged by {said} who labelled nothing",
                logged(measures.WINS[name].key, method),
                measures.WINS[name].short,
                **_PERCENT,
            )


def _lengths():
    for method, label in (("rlhf", "RLHF"), ("rlaif", "RLAIF")):
        yield Counted(
            _KEPT,
            f"{label} − SFT",
            functools.partial(_minus, (method, LENGTH.key), ("sft", LENGTH.key)),
            "length of responses",
            unit=LENGTH.unit,
        )


# (claim, {file of tests: names}) of the contracts.
_MECHANICS = (
    (
        "A labeling prompt has four parts, a chain of thought takes two calls, and a "
        "harmlessness question may be asked the other way round.",
        {
            "feedback/test_prompts.py": (
                "a_prompt_has_four_parts",
                "a_chain_of_thought_takes_two_calls",
            ),
            "feedback/test_judging.py": ("polarity_is_applied_once_after_averaging",),
        },
    ),
    (
        "The preference is a softmax over the two labels: swapped candidates get "
        "exactly 1 − p, identical ones exactly ½.",
        {
            "test_labeling.py": (
                "swapping_the_orders_gives_exactly_one_minus",
                "identical_candidates_are_exactly_even",
            )
        },
    ),
    (
        "A labeler that always says the first slot is debiased to ½ and prefers one "
        "slot always; an unbiased one never does.",
        {
            "test_labeling.py": ("a_labeler_that_sees_positions_only_is_debiased",),
            "evaluation/test_position_bias.py": (
                "a_judge_of_positions_prefers_the_same_slot_always",
                "a_judge_of_texts_has_none",
            ),
        },
    ),
    (
        "d-RLAIF's rating is an expectation over 1 to 10, scaled to [−1, 1], in which "
        "a “10” is no “1”.",
        {
            "test_labeling.py": (
                "scores_by_hand",
                "a_ten_is_taken_out_of_the_one_that_begins_it",
            ),
            "feedback/test_judging.py": (
                "even_ratings_are_zero_and_polarity_turns_them_around",
            ),
        },
    ),
    (
        "The loss on soft labels is Bradley and Terry's at p = 1, and least where the "
        "margin is the labels' log-odds.",
        {
            "test_row_losses.py": (
                "bradley_terry_by_hand",
                "bradley_terry_gradient_is_sigma_minus_p",
            )
        },
    ),
    (
        "REINFORCE pays every token the whole return, takes no gradient through "
        "advantages, and mixes reward and KL as (1 − β) and β.",
        {
            "algorithms/test_policy_gradient_data.py": (
                "reinforce_is_gae_with_lambda_1_whatever_lambda_says",
            ),
            "test_losses.py": ("data_carries_no_gradient",),
            "test_rewards.py": ("lee_by_hand",),
        },
    ),
    (
        "Padding changes no logit, and what was sampled has the log-probability that "
        "is computed again: ratio 1 before the first update.",
        {
            "models/test_decoder.py": (
                "padding_on_either_side_changes_nothing_where_tokens_are_valid",
            ),
            "test_sampling.py": ("logps_are_those_of_a_full_forward_pass",),
            "algorithms/test_policy_gradient_learning.py": (
                "a_fresh_rollout_has_ratio_one",
            ),
        },
    ),
    (
        "Reward models score the last token, and whitening, value clip and the KL "
        "controller follow their formulas.",
        {
            "models/test_heads.py": (
                "scores_are_the_head_of_the_last_valid_hidden_state",
            ),
            "test_rewards.py": (
                "whiten_is_the_float64_formula_and_zero_where_ignored",
            ),
            "test_token_losses.py": ("value_loss_by_hand",),
            "test_kl.py": ("update_by_hand",),
        },
    ),
    (
        "A length-controlled win rate recovers a known truth.",
        {
            "evaluation/test_length_control.py": (
                "by_ratio_by_hand",
                "quality_is_what_remains",
            )
        },
    ),
    (
        "An answer is asked once, a killed job ends byte for byte the same, and costs "
        "are the sums of what calls used.",
        {
            "feedback/test_ledger.py": (
                "an_answer_is_asked_once_and_comes_back_exactly",
                "money_and_tokens_are_sums_of_calls_by_model",
            ),
            "feedback/test_chaos.py": (
                "a_killed_job_resumes_to_the_same_bytes_and_pays_for_nothing_twice",
            ),
        },
    ),
)
# (claim, evidence), in the order of the checklist.
_ORDERINGS = (
    (
        "AI feedback is as good as people's, and both are far better than SFT.",
        (Claimed(_KEPT, "rlaif", ("rlhf", "sft")), Claimed(_KEPT, "rlhf", ("sft",))),
    ),
    (
        "On harmlessness RLAIF is above RLHF, and that above SFT.",
        (Untested("The microworld has one task: nothing in it is harmful."),),
    ),
    (
        "Feedback of a labeler of the policy's own size beats SFT.",
        (Claimed(_KEPT, "rlaif_same", ("sft",)),),
    ),
    (
        "Direct feedback (d-RLAIF) beats same-size RLAIF.",
        (Claimed(_KEPT, "d_rlaif", ("rlaif_same",)),),
    ),
    (
        "Direct feedback beats SFT with the initial policy itself as the labeler.",
        (Claimed(_KEPT, "d_rlaif", ("sft",)),),
    ),
    ("Gains survive at equal length, but shrink.", tuple(_controlled())),
    (
        "The larger the labeler, the more it agrees with people.",
        (Stated(_KEPT, orderings.AGREE, "agreement with people"),),
    ),
    (
        "The smaller the labeler, the more it looks at positions.",
        (Stated(_KEPT, orderings.BIAS, "fewer preferences of one slot"),),
    ),
    (
        "A chain of thought without examples is the best prompt for summaries and "
        "help.",
        (Untested(_ASKED),),
    ),
    (
        "Examples in the prompt hurt summaries, eight of them badly.",
        (Untested(_ASKED),),
    ),
    (
        "Self-consistency hurts, the more the higher the temperature.",
        (Untested(_ASKED),),
    ),
    (
        "A reward model of people's labels is more accurate than one of a labeler's.",
        (Stated(_KEPT, orderings.MODELS, "accuracy on people's labels"),),
    ),
    (
        "A reward model's accuracy does not say which policy is better.",
        (
            Claimed(_KEPT, "rlaif", ("rlhf", "rlaif_same"), measures.ACCURACY.key),
            Untested(
                "Two pairs of reward models order nothing; item 9 of objective "
                "mismatch asks it of many."
            ),
        ),
    ),
    (
        "Better labels make better policies.",
        (Claimed(_KEPT, "rlaif", ("rlaif_same", "rlaif_one_order")),),
    ),
    (
        "A labeler's labels add nothing to people's.",
        (Claimed(_KEPT, "rlhf_rlaif", ("rlhf",)),),
    ),
    (
        "An AI label costs less than a tenth of a person's.",
        (
            Untested(
                "Nobody was paid and no service was called for a kept result. What a "
                "labeler costs is counted, as above."
            ),
        ),
    ),
    ("Feedback of either kind makes responses longer.", tuple(_lengths())),
)
_DUTIES = (
    (
        "The judge is not the labeler, judges in both orders, and lengths are "
        "controlled.",
        (
            *_judges(),
            *shown(
                "evaluation/test_win_rate.py", "both_orders_must_agree_or_it_is_a_tie"
            ),
        ),
    ),
    (
        "What the paper does not show is not claimed: that soft labels beat hard ones, "
        "that win rates follow the labeler's size, that it used PPO.",
        (
            Untested(
                "A promise about what is not written; it has no figure, here or in the "
                "reports."
            ),
        ),
    ),
)


def _items():
    contracts = (
        (claim, tuple(one for file, names in by.items() for one in shown(file, *names)))
        for claim, by in _MECHANICS
    )
    claims = (*contracts, *_ORDERINGS, *_DUTIES)
    return tuple(Item(str(i + 1), *claim) for i, claim in enumerate(claims))


PAPER = Paper(
    "AI feedback",
    "Lee et al. 2023, “RLAIF vs. RLHF”, arXiv:2309.00267",
    _items(),
)
