"""What tests every pure function: one row each, and no function without a row.

A cell names a test, in the module's own test file unless a file stands before `::`, or
says why there is none. Columns: a closed form that a person can check; an independent
float64 oracle; an invariant; the padding contract; the gradient.
"""

import ast
import importlib
import inspect
import pathlib
from typing import NamedTuple

import pytest

HERE = pathlib.Path(__file__).resolve().parent


class Row(NamedTuple):
    closed: str
    oracle: str
    invariant: str
    padding: str
    gradient: str


NO_MASK = "n/a: takes no mask, every element is valid"
READS_STRINGS = "n/a: reads strings"
NO_GRADIENT = "n/a: integers or host values, nothing to differentiate"
DATA = "n/a: its output is data, which no loss differentiates"
EXACT = "n/a: asserted bit for bit, which leaves an oracle nothing to add"
JUNK = "test_junk_reaches_neither_value_nor_gradient"
NUMERIC = "test_gradients_are_the_numerical_ones"
LOSS_JUNK = f"test_losses::{JUNK}"
LOSS_NUMERIC = f"test_losses::{NUMERIC}"
TOKENS, ROWS = "test_token_losses::", "test_row_losses::"
WRAP = "test_elastic_reset_wrap::"
PARETO, RECOVERY = "test_pareto::", "test_recovery::"
FRONTS, UNITS = "test_fronts::", "test_units::"
SCALES = "test_readings_scale_with_reward_and_do_not_care_for_the_unit_of_drift"
CHOICE = "test_multiple_choice::"
NOT_TOLD = "test_a_label_that_was_not_told_has_no_probability"
MERGEKIT = "test_merges_are_those_of_mergekit"

TABLE = {
    "masking.zero": Row(
        "test_zero_keeps_valid_values_and_zeroes_the_rest",
        "test_zero_broadcasts_the_mask_over_rows",
        "test_zero_keeps_valid_values_and_zeroes_the_rest",
        JUNK,
        NUMERIC,
    ),
    "masking.total": Row(
        "test_total_by_hand",
        "test_moments_are_those_of_the_counting_loop",
        "test_reducers_do_not_care_for_the_order_of_rows",
        JUNK,
        NUMERIC,
    ),
    "masking.mean": Row(
        "test_mean_by_hand",
        "test_moments_are_those_of_the_counting_loop",
        "test_reducers_do_not_care_for_the_order_of_rows",
        JUNK,
        "test_gradient_of_the_mean_is_the_mask_over_the_count",
    ),
    "masking.var": Row(
        "test_var_is_the_population_variance",
        "test_moments_are_those_of_the_counting_loop",
        "test_reducers_do_not_care_for_the_order_of_rows",
        JUNK,
        NUMERIC,
    ),
    "masking.whiten": Row(
        "test_whiten_by_hand",
        "test_whiten_matches_the_paper_in_float64",
        "test_whiten_is_idempotent_with_mean_0_and_variance_1",
        JUNK,
        NUMERIC,
    ),
    "masking.positions": Row(
        "test_positions_by_hand",
        "test_positions_count_the_valid_tokens_before",
        "test_left_padding_moves_no_position",
        "test_left_padding_moves_no_position",
        NO_GRADIENT,
    ),
    "masking.last_valid": Row(
        "test_last_valid_by_hand",
        "test_last_valid_is_the_last_index_of_a_one",
        "test_right_padding_moves_no_last_valid",
        "test_right_padding_moves_no_last_valid",
        NO_GRADIENT,
    ),
    "masking.up_to_first": Row(
        "test_up_to_first_includes_the_hit",
        "test_up_to_first_is_the_scan_of_the_loop",
        "test_up_to_first_is_a_prefix_with_at_most_one_hit",
        "n/a: it makes masks, it takes none",
        NO_GRADIENT,
    ),
    "gumbel.gumbel": Row(
        "test_moments_are_those_of_the_gumbel_distribution",
        "test_gumbel_is_that_of_jax_bit_for_bit",
        "test_numbers_do_not_depend_on_how_many_are_drawn_or_who_else_draws",
        NO_MASK,
        NO_GRADIENT,
    ),
    "logprobs.normalize": Row(
        "test_uniform_logits_closed_forms",
        "test_float64_oracle",
        "test_probabilities_sum_to_one_and_bounds_hold",
        "test_junk_outputs_are_cut_by_the_masked_mean",
        NUMERIC,
    ),
    "logprobs.of_tokens": Row(
        "test_uniform_logits_closed_forms",
        "test_float64_oracle",
        "test_a_shift_of_all_logits_changes_nothing",
        "test_junk_outputs_are_cut_by_the_masked_mean",
        "test_gradient_of_a_log_prob_is_one_hot_minus_softmax",
    ),
    "logprobs.entropy": Row(
        "test_uniform_logits_closed_forms",
        "test_float64_oracle",
        "test_probabilities_sum_to_one_and_bounds_hold",
        "test_junk_outputs_are_cut_by_the_masked_mean",
        NUMERIC,
    ),
    "logprobs.divergence": Row(
        "test_divergence_of_two_coins",
        "test_float64_oracle",
        "test_probabilities_sum_to_one_and_bounds_hold",
        "test_junk_outputs_are_cut_by_the_masked_mean",
        NUMERIC,
    ),
    "trees.lerp": Row(
        "test_lerp_by_hand",
        "test_lerp_is_the_float64_mixture_and_stays_between",
        "test_lerp_ends_are_exact_even_next_to_infinities",
        NO_MASK,
        "test_lerp_gradient_is_the_weights",
    ),
    "trees.where": Row(
        "test_where_picks_a_tree",
        EXACT,
        "test_where_picks_a_tree",
        NO_MASK,
        "test_where_lets_no_gradient_into_the_other_tree",
    ),
    "trees.subtract": Row(
        "test_subtract_undoes_itself_and_matches_numpy",
        "test_subtract_undoes_itself_and_matches_numpy",
        "test_subtract_undoes_itself_and_matches_numpy",
        NO_MASK,
        NUMERIC,
    ),
    "trees.dot": Row(
        "test_dot_and_norm_by_hand",
        "test_dot_and_norm_are_those_of_the_flat_vector",
        "test_dot_is_symmetric_and_the_norm_obeys_the_triangle",
        NO_MASK,
        NUMERIC,
    ),
    "trees.norm": Row(
        "test_dot_and_norm_by_hand",
        "test_dot_and_norm_are_those_of_the_flat_vector",
        "test_dot_is_symmetric_and_the_norm_obeys_the_triangle",
        NO_MASK,
        "test_norm_gradient_is_the_direction_and_zero_at_zero",
    ),
    "trees.copy": Row(
        "test_copy_is_equal_and_shares_no_buffer",
        EXACT,
        "test_copy_is_equal_and_shares_no_buffer",
        NO_MASK,
        "n/a: the identity",
    ),
    "trees.size": Row("test_size_counts_elements", EXACT, EXACT, NO_MASK, NO_GRADIENT),
    "trees.finite": Row(
        "test_finite_sees_one_bad_element",
        EXACT,
        "test_finite_ignores_integers_and_nothing",
        NO_MASK,
        NO_GRADIENT,
    ),
    "trees.check_alike": Row(
        "test_trees_with_the_same_leaves_are_alike",
        "n/a: a check",
        "test_trees_that_differ_are_refused_by_the_leaf",
        NO_MASK,
        NO_GRADIENT,
    ),
    "trees.paths": Row("test_paths_join_the_keys", EXACT, EXACT, NO_MASK, NO_GRADIENT),
    "trees.path_name": Row(
        "test_paths_join_the_keys", EXACT, EXACT, NO_MASK, NO_GRADIENT
    ),
    "kl.k1": Row(
        "test_estimators_by_hand",
        "test_estimators_match_float64",
        "test_k1_is_antisymmetric_and_k2_and_k3_are_not_negative",
        JUNK,
        NUMERIC,
    ),
    "kl.k2": Row(
        "test_estimators_by_hand",
        "test_estimators_match_float64",
        "test_k1_is_antisymmetric_and_k2_and_k3_are_not_negative",
        JUNK,
        "test_the_gradient_of_k2_is_that_of_the_divergence",
    ),
    "kl.k3": Row(
        "test_estimators_by_hand",
        "test_estimators_match_float64",
        "test_estimators_are_unbiased_under_the_policy",
        JUNK,
        NUMERIC,
    ),
    "kl.chi2": Row(
        "test_estimators_by_hand",
        "test_estimators_match_float64",
        "test_chi2_is_unbiased_and_its_score_gradient_is_that_of_half_of_it",
        JUNK,
        NUMERIC,
    ),
    "kl.exact": Row(
        "test_exact_of_two_coins",
        "test_exact_is_the_float64_sum_at_the_temperature",
        "test_exact_is_not_negative_and_zero_only_at_home",
        "test_logprobs::test_junk_outputs_are_cut_by_the_masked_mean",
        "test_exact_gradient_flows_to_the_policy_only",
    ),
    "kl.init": Row(
        "test_init_holds_a_float32_scalar", EXACT, EXACT, NO_MASK, NO_GRADIENT
    ),
    "kl.update": Row(
        "test_update_by_hand",
        "test_update_matches_the_formula_and_moves_towards_the_target",
        "test_update_at_the_target_is_a_fixed_point",
        "test_a_nan_observation_changes_nothing",
        DATA,
    ),
    "kl.proportional": Row(
        "test_proportional_by_hand",
        "test_proportional_matches_the_formula_within_two_percent",
        "test_proportional_matches_the_formula_within_two_percent",
        "n/a: takes one number, through update",
        DATA,
    ),
    "rewards.at_last": Row(
        "test_at_last_by_hand",
        "test_at_last_is_the_loop_and_sums_to_the_score",
        "test_at_last_is_the_loop_and_sums_to_the_score",
        "test_at_last_ignores_the_score_of_an_empty_row",
        "test_at_last_hands_its_gradient_to_the_score",
    ),
    "rewards.kl_regularized": Row(
        "test_kl_regularized_by_hand",
        "test_shaped_rewards_are_the_loop",
        "test_without_drift_only_the_score_is_left",
        JUNK,
        "test_gradient_is_beta_at_valid_tokens_and_none_for_the_reference",
    ),
    "rewards.chi2_regularized": Row(
        "test_chi2_regularized_by_hand",
        "test_chi2_regularized_is_the_loop",
        "test_without_weight_chi2_is_kl_bit_for_bit",
        JUNK,
        "test_chi2_punishes_what_the_reference_hardly_draws_and_hands_on_its_slope",
    ),
    "rewards.bounded": Row(
        "test_bounded_by_hand",
        "test_bounded_scores_keep_their_order_and_never_pass_the_bound",
        "test_no_bound_changes_nothing_bit_for_bit",
        NO_MASK,
        DATA,
    ),
    "rewards.lee": Row(
        "test_lee_by_hand",
        "test_shaped_rewards_are_the_loop",
        "test_lee_is_the_other_objective_at_another_beta",
        JUNK,
        "test_gradient_is_beta_at_valid_tokens_and_none_for_the_reference",
    ),
    "rewards.missing_eos": Row(
        "test_missing_eos_replaces_or_subtracts",
        "test_missing_eos_never_pays",
        "test_missing_eos_reads_the_size_of_the_penalty_only",
        "n/a: one number a row, none is padding",
        DATA,
    ),
    "rewards.length_penalty": Row(
        "test_length_penalty_counts_tokens_beyond_the_free_ones",
        "test_length_penalty_is_the_loop_and_never_pays",
        "test_length_penalty_is_the_loop_and_never_pays",
        "n/a: reads nothing but the mask and the score",
        DATA,
    ),
    "rewards.fit": Row(
        "test_fit_by_hand",
        "test_fitted_scores_have_mean_0_and_std_1",
        "test_fitted_scores_have_mean_0_and_std_1",
        "test_fit_ignores_masked_scores",
        DATA,
    ),
    "rewards.apply": Row(
        "test_fit_by_hand",
        "test_fitted_scores_have_mean_0_and_std_1",
        "test_an_ensemble_has_a_scale_a_member",
        NO_MASK,
        "test_apply_gradient_is_the_gain",
    ),
    "rewards.ensemble": Row(
        "test_ensembles_by_hand",
        "test_ensembles_are_numpy_in_float64",
        "test_lower_confidence_lowers_scores_and_members_may_be_permuted",
        NO_MASK,
        DATA,
    ),
    "rewards.whiten": Row(
        "test_whiten_keeps_the_mean",
        "test_whiten_is_the_float64_formula_and_zero_where_ignored",
        "test_whiten_keeps_the_mean",
        "test_whiten_is_the_float64_formula_and_zero_where_ignored",
        "test_whiten_is_the_float64_formula_and_zero_where_ignored",
    ),
    "advantages.gae": Row(
        "test_gae_in_exact_binary_fractions",
        "test_gae_is_the_double_sum",
        "test_gae_at_lambda_and_gamma_1_is_the_monte_carlo_return",
        JUNK,
        NUMERIC,
    ),
    "advantages.returns": Row(
        "test_returns_by_hand",
        "test_returns_are_the_backward_loop",
        "test_the_first_undiscounted_return_is_the_sum",
        JUNK,
        NUMERIC,
    ),
    "advantages.leave_one_out": Row(
        "test_group_advantages_by_hand",
        "test_group_advantages_are_the_loops",
        "test_group_advantages_sum_to_0_and_ignore_a_shift",
        NO_MASK,
        "test_group_gradients_are_the_numerical_ones",
    ),
    "advantages.group_normalized": Row(
        "test_group_advantages_by_hand",
        "test_group_advantages_are_the_loops",
        "test_group_advantages_sum_to_0_and_ignore_a_shift",
        NO_MASK,
        "test_group_gradients_are_the_numerical_ones",
    ),
    "advantages.best": Row(
        "test_best_by_hand",
        "test_best_is_one_response_a_prompt_and_ignores_a_rising_change",
        "test_best_is_one_response_a_prompt_and_ignores_a_rising_change",
        NO_MASK,
        DATA,
    ),
    "advantages.wins": Row(
        "test_wins_by_hand",
        "test_wins_are_counted_pair_by_pair_and_ignore_a_rising_change",
        "test_wins_are_counted_pair_by_pair_and_ignore_a_rising_change",
        NO_MASK,
        DATA,
    ),
    "advantages.baseline": Row(
        "test_group_advantages_by_hand",
        "test_group_advantages_are_the_loops",
        "test_group_advantages_sum_to_0_and_ignore_a_shift",
        NO_MASK,
        "test_group_gradients_are_the_numerical_ones",
    ),
    "losses.nll": Row(
        TOKENS + "test_nll_by_hand",
        TOKENS + "test_nll_is_the_loop_over_tokens",
        "test_rows_may_be_permuted",
        LOSS_JUNK,
        LOSS_NUMERIC,
    ),
    "losses.ppo_clip": Row(
        TOKENS + "test_ppo_at_the_old_policy_is_minus_the_mean_advantage",
        TOKENS + "test_ppo_is_the_loop_over_tokens",
        TOKENS + "test_ppo_is_never_below_the_unclipped_loss",
        LOSS_JUNK,
        TOKENS + "test_ppo_gradient_is_reinforce_at_the_old_policy",
    ),
    "losses.reinforce": Row(
        TOKENS + "test_reinforce_by_hand",
        TOKENS + "test_reinforce_is_the_loop_over_tokens",
        "test_rows_may_be_permuted",
        LOSS_JUNK,
        TOKENS + "test_a_step_raises_the_log_prob_of_a_good_token",
    ),
    "losses.entropy_bonus": Row(
        TOKENS + "test_entropy_bonus_by_hand",
        TOKENS + "test_entropy_bonus_is_minus_the_mean",
        "test_rows_may_be_permuted",
        LOSS_JUNK,
        LOSS_NUMERIC,
    ),
    "losses.value_clip": Row(
        TOKENS + "test_value_loss_by_hand",
        TOKENS + "test_value_loss_is_the_loop_over_tokens",
        TOKENS + "test_clipping_never_lowers_the_value_loss",
        LOSS_JUNK,
        LOSS_NUMERIC,
    ),
    "losses.classification": Row(
        ROWS + "test_classification_by_hand",
        ROWS + "test_classification_is_the_loop_over_rows",
        ROWS + "test_classification_ignores_a_shift_of_the_logits",
        ROWS + "test_an_ignored_label_may_be_anything",
        LOSS_NUMERIC,
    ),
    "losses.bradley_terry": Row(
        ROWS + "test_bradley_terry_by_hand",
        ROWS + "test_bradley_terry_is_the_loop_over_soft_labels",
        ROWS + "test_a_pair_turned_round_has_the_other_label",
        LOSS_JUNK,
        ROWS + "test_bradley_terry_gradient_is_sigma_minus_p",
    ),
    "losses.dpo": Row(
        ROWS + "test_dpo_at_the_reference_is_log_2",
        ROWS + "test_dpo_is_the_loop_over_pairs",
        ROWS + "test_dpo_and_ipo_ignore_a_constant_on_both_policy_log_probs",
        LOSS_JUNK,
        ROWS + "test_dpo_raises_the_chosen_and_lowers_the_rejected",
    ),
    "losses.ipo": Row(
        ROWS + "test_ipo_by_hand",
        ROWS + "test_ipo_is_the_loop_over_pairs",
        ROWS + "test_dpo_and_ipo_ignore_a_constant_on_both_policy_log_probs",
        LOSS_JUNK,
        LOSS_NUMERIC,
    ),
    "ema.update": Row(
        "test_two_updates_by_algebra",
        "test_update_is_the_float64_formula_and_stays_between",
        "test_what_does_not_move_stays_bit_for_bit",
        NO_MASK,
        "test_gradient_is_one_minus_the_decay_for_the_parameters",
    ),
    "elastic_reset.init": Row(
        "test_init_copies_the_parameters_twice",
        EXACT,
        "test_init_of_bf16_keeps_the_anchor_and_averages_in_float32",
        NO_MASK,
        DATA,
    ),
    "elastic_reset.tick": Row(
        "test_tick_moves_the_average_only",
        "test_update_is_the_algorithm_of_the_paper",
        "test_inputs_are_left_as_they_were",
        NO_MASK,
        DATA,
    ),
    "elastic_reset.due": Row(
        "test_due_is_traced_once_and_never_at_every_0",
        "test_due_is_the_calendar",
        "test_due_is_the_calendar",
        NO_MASK,
        NO_GRADIENT,
    ),
    "elastic_reset.reset": Row(
        "test_reset_is_the_average_then_the_anchor_bit_for_bit",
        "test_update_is_the_algorithm_of_the_paper",
        "test_two_resets_without_training_end_at_the_anchor",
        "test_junk_in_the_policy_does_not_survive_a_reset",
        DATA,
    ),
    "elastic_reset.update": Row(
        "test_decay_1_is_reset_to_the_anchor",
        "test_update_is_the_algorithm_of_the_paper",
        "test_a_reset_never_leaves_the_hull_of_what_was_visited",
        NO_MASK,
        DATA,
    ),
    "elastic_reset.apply": Row(
        "test_the_ablations_bit_for_bit",
        EXACT,
        "test_apply_by_default_is_reset",
        "test_junk_in_the_policy_does_not_survive_a_reset",
        DATA,
    ),
    "elastic_reset.retained_weight": Row(
        "test_retained_weights_of_the_paper",
        "test_retained_weight_is_what_a_jump_leaves_in_the_average",
        "test_decay_for_inverts_the_retained_weight",
        NO_MASK,
        NO_GRADIENT,
    ),
    "elastic_reset.decay_for": Row(
        "test_retained_weight_is_what_a_jump_leaves_in_the_average",
        "test_decay_for_inverts_the_retained_weight",
        "test_decay_for_inverts_the_retained_weight",
        NO_MASK,
        NO_GRADIENT,
    ),
    "elastic_reset.calendar": Row(
        "test_the_calendars_of_the_paper",
        "test_due_is_the_calendar",
        "test_due_is_the_calendar",
        NO_MASK,
        NO_GRADIENT,
    ),
    "elastic_reset.wrap": Row(
        WRAP + "test_wrap_lands_on_the_average_to_one_rounding",
        WRAP + "test_wrap_does_what_update_does_in_a_foreign_loop",
        WRAP + "test_wrap_without_resets_is_the_optimiser_bit_for_bit",
        WRAP + "test_wrap_leaves_masked_parameters_to_the_optimiser",
        DATA,
    ),
    "averaging.interpolate": Row(
        "test_interpolate_by_hand",
        "test_interpolate_is_the_float64_mixture_seen_from_either_end",
        "test_the_ends_are_exact",
        NO_MASK,
        NUMERIC,
    ),
    "averaging.slerp": Row(
        "test_slerp_by_hand",
        "test_slerp_is_the_float64_formula_a_leaf",
        "test_slerp_keeps_the_norm_of_unit_vectors",
        NO_MASK,
        NUMERIC,
    ),
    "averaging.task_vector": Row(
        "test_task_vectors_by_hand",
        "test_task_vectors_are_float64_sums_and_lead_to_the_tuned_model",
        "test_task_vectors_are_float64_sums_and_lead_to_the_tuned_model",
        NO_MASK,
        NUMERIC,
    ),
    "averaging.add_vectors": Row(
        "test_task_vectors_by_hand",
        "test_task_vectors_are_float64_sums_and_lead_to_the_tuned_model",
        "test_task_vectors_are_float64_sums_and_lead_to_the_tuned_model",
        NO_MASK,
        NUMERIC,
    ),
    "averaging.soup": Row(
        "test_soup_by_hand",
        "test_soup_is_the_float64_mean_in_any_order",
        "test_soup_of_two_is_interpolation",
        NO_MASK,
        NUMERIC,
    ),
    "sparsify.largest": Row(
        "test_largest_by_hand",
        "test_largest_is_numpys_sort",
        "test_of_equal_magnitudes_the_first_are_kept",
        NO_MASK,
        NO_GRADIENT,
    ),
    "sparsify.band": Row(
        "test_band_by_hand",
        "test_band_is_a_slice_of_numpys_sort",
        "test_stacked_layers_are_tensors_of_their_own",
        NO_MASK,
        NO_GRADIENT,
    ),
    "sparsify.by_rank": Row(
        "test_by_rank_by_hand",
        "test_by_rank_is_the_float64_formula_and_averages_to_the_density",
        "test_stacked_layers_are_tensors_of_their_own",
        NO_MASK,
        DATA,
    ),
    "sparsify.draw": Row(
        "test_draw_is_all_or_nothing_at_the_ends",
        "test_draws_have_their_probabilities_and_no_two_leaves_share_them",
        "test_the_expectation_of_what_is_kept_is_the_vector",
        NO_MASK,
        NO_GRADIENT,
    ),
    "sparsify.apply": Row(
        "test_apply_by_hand",
        "test_the_expectation_of_what_is_kept_is_the_vector",
        "test_the_expectation_of_what_is_kept_is_the_vector",
        "test_what_is_dropped_may_be_anything",
        NUMERIC,
    ),
    "sparsify.match": Row(
        "test_match_by_hand",
        "test_match_restores_the_sum_of_magnitudes",
        "test_match_restores_the_sum_of_magnitudes",
        "test_match_leaves_zeros",
        NUMERIC,
    ),
    "sparsify.check_density": Row(
        "test_densities_outside_their_range_are_refused",
        "n/a: a check",
        "n/a: a check",
        NO_MASK,
        NO_GRADIENT,
    ),
    "merging.combine": Row(
        "test_signs_are_elected_by_hand",
        "test_combine_is_the_loop_over_elements",
        "test_the_order_of_models_of_equal_weight_changes_nothing",
        NO_MASK,
        NUMERIC,
    ),
    "merging.ties": Row(
        "test_ties_by_hand",
        MERGEKIT,
        "test_density_1_is_task_arithmetic",
        NO_MASK,
        NUMERIC,
    ),
    "merging.dare": Row(
        "test_dare_by_hand",
        MERGEKIT,
        "test_the_expectation_of_dare_is_task_arithmetic",
        NO_MASK,
        NUMERIC,
    ),
    "merging.della": Row(
        "test_della_is_dare_with_probabilities_by_rank",
        MERGEKIT,
        "test_density_1_is_task_arithmetic",
        NO_MASK,
        NUMERIC,
    ),
    "merging.breadcrumbs": Row(
        "test_breadcrumbs_cut_both_tails",
        MERGEKIT,
        "test_density_1_is_task_arithmetic",
        NO_MASK,
        NUMERIC,
    ),
    "merging.model_stock": Row(
        "test_model_stock_by_hand",
        "test_model_stock_is_the_float64_formula",
        "test_model_stock_does_not_care_how_long_vectors_are",
        NO_MASK,
        NUMERIC,
    ),
    "merging.slerp": Row(
        "test_slerp_by_hand",
        MERGEKIT,
        "test_warp_is_slerp_then_a_step_from_the_initial_weights",
        NO_MASK,
        NUMERIC,
    ),
    "merging.online_dare": Row(
        "test_online_merging_by_hand",
        "test_what_online_merging_drops_is_the_update_only",
        "test_what_online_merging_drops_is_the_update_only",
        NO_MASK,
        DATA,
    ),
    "merging.online_ties": Row(
        "test_online_merging_by_hand",
        "n/a: largest and combine's election, which have their oracles",
        "test_online_merging_by_hand",
        NO_MASK,
        NUMERIC,
    ),
    "averaging.graft": Row(
        "test_graft_by_hand",
        "test_graft_takes_what_a_sort_would_take",
        "test_the_ends_of_a_graft_are_exact",
        NO_MASK,
        "test_a_graft_hands_its_gradient_to_what_it_took",
    ),
    "heterogeneous.average": Row(
        "test_a_ratio_is_the_weight_on_the_aligned_model",
        "test_every_leaf_is_the_float64_mixture_of_its_block",
        "test_equal_ratios_are_model_averaging_under_the_same_others",
        NO_MASK,
        NUMERIC,
    ),
    "heterogeneous.layer_blocks": Row(
        "test_linear_layers_of_a_llama_have_the_block_of_their_layer_and_nothing_else",
        "test_others_are_norms_embeddings_and_heads",
        "test_stacked_and_unrolled_trees_agree",
        NO_MASK,
        NO_GRADIENT,
    ),
    "heterogeneous.depth": Row(
        "test_linear_layers_of_a_llama_have_the_block_of_their_layer_and_nothing_else",
        EXACT,
        "test_stacked_and_unrolled_trees_agree",
        NO_MASK,
        NO_GRADIENT,
    ),
    "heterogeneous.split": Row(
        "test_blocks_of_26_and_32_layers_are_those_of_the_paper",
        "test_blocks_are_contiguous_and_none_is_empty",
        "test_blocks_are_contiguous_and_none_is_empty",
        NO_MASK,
        NO_GRADIENT,
    ),
    "heterogeneous.block_sizes": Row(
        "test_sizes_count_the_parameters_of_blocks",
        EXACT,
        "test_sizes_count_the_parameters_of_blocks",
        NO_MASK,
        NO_GRADIENT,
    ),
    "heterogeneous.make_loss": Row(
        "test_what_is_penalised_is_added",
        "test_the_loss_of_scores_is_that_of_the_average",
        "test_the_gradient_holds_no_tree_for_each_block",
        "n/a: the loss that it is given reads the masks",
        NUMERIC,
    ),
    "ratios.init": Row(
        "test_training_starts_at_plain_averaging",
        "test_training_starts_at_plain_averaging",
        "test_training_starts_at_plain_averaging",
        NO_MASK,
        DATA,
    ),
    "ratios.of_scores": Row(
        "test_ratios_of_scores_by_hand",
        "test_ratios_of_scores_are_those_of_a_float64_search",
        "test_the_mean_stands_and_ratios_stay_in_range_for_extreme_scores",
        NO_MASK,
        NUMERIC,
    ),
    "ratios.reach": Row(
        "test_the_range_of_scaled_ratios_is_that_of_the_paper",
        "test_the_range_of_scaled_ratios_is_that_of_the_paper",
        "test_one_block_is_the_mean_whatever_its_score",
        NO_MASK,
        NO_GRADIENT,
    ),
    "ratios.scaled": Row(
        "test_scaled_ratios_by_hand",
        "test_scaled_ratios_have_the_mean_and_the_formula",
        "test_scaled_ratios_have_the_mean_and_the_formula",
        NO_MASK,
        NUMERIC,
    ),
    "ratios.penalty": Row(
        "test_the_penalty_by_hand",
        "n/a: a weighted sum, by hand",
        "test_the_penalty_by_hand",
        NO_MASK,
        NUMERIC,
    ),
    "ratios.middle_weights": Row(
        "test_middle_layers_weigh_most_as_in_the_authors_code",
        "test_middle_layers_weigh_most_as_in_the_authors_code",
        "test_middle_layers_weigh_most_as_in_the_authors_code",
        NO_MASK,
        NO_GRADIENT,
    ),
    "ratios.permutations": Row(
        "test_permutations_are_all_orders_the_given_one_first",
        EXACT,
        "test_permutations_are_all_orders_the_given_one_first",
        NO_MASK,
        NO_GRADIENT,
    ),
    "ratios.random": Row(
        "test_random_ratios_have_the_mean_and_the_spread_of_others",
        "test_random_ratios_weigh_both_moments",
        "test_random_ratios_have_the_mean_and_the_spread_of_others",
        NO_MASK,
        DATA,
    ),
    "regularizers.l1": Row(
        "test_l1_by_hand",
        "test_penalties_are_the_float64_sums",
        "test_there_is_no_penalty_and_no_pull_at_the_anchor",
        NO_MASK,
        "test_gradients_are_the_gap_and_its_sign",
    ),
    "regularizers.l2": Row(
        "test_l2_by_hand",
        "test_penalties_are_the_float64_sums",
        "test_there_is_no_penalty_and_no_pull_at_the_anchor",
        NO_MASK,
        NUMERIC,
    ),
    "labeling.distribution": Row(
        "test_a_preference_by_hand",
        "test_preferences_are_the_float64_loop",
        "test_logits_and_whole_labels_say_the_same",
        NOT_TOLD,
        NUMERIC,
    ),
    "labeling.exclusive": Row(
        "test_a_ten_is_taken_out_of_the_one_that_begins_it",
        "test_exclusive_labels_are_those_of_a_model_that_writes_digits",
        "test_nested_labels_are_counted_once",
        "test_exclusive_labels_may_not_be_told",
        NUMERIC,
    ),
    "labeling.outside": Row(
        "test_what_is_outside_by_hand",
        "test_what_is_outside_keeps_its_digits",
        "test_what_is_outside_by_hand",
        "test_what_is_outside_by_hand",
        NUMERIC,
    ),
    "labeling.first_slot": Row(
        "test_a_preference_by_hand",
        "test_preferences_are_the_float64_loop",
        "test_logits_and_whole_labels_say_the_same",
        NOT_TOLD,
        NUMERIC,
    ),
    "labeling.preference": Row(
        "test_a_preference_by_hand",
        "test_preferences_are_the_float64_loop",
        "test_swapping_the_orders_gives_exactly_one_minus",
        NOT_TOLD,
        NUMERIC,
    ),
    "labeling.average": Row(
        "test_a_preference_by_hand",
        "test_preferences_are_the_float64_loop",
        "test_swapping_the_orders_gives_exactly_one_minus",
        NO_MASK,
        NUMERIC,
    ),
    "labeling.oriented": Row(
        "test_polarity_turns_a_preference_around",
        EXACT,
        "test_polarity_turns_a_preference_around",
        NO_MASK,
        NUMERIC,
    ),
    "labeling.expected_score": Row(
        "test_scores_by_hand",
        "test_scores_are_the_float64_expectation",
        "test_reversed_scores_are_opposite_and_bounded",
        "test_scores_leave_out_what_was_not_told",
        NUMERIC,
    ),
    "models.seq2seq.cell": Row(
        "test_the_cell_by_hand",
        "test_the_cell_is_the_float64_formula_and_stays_between",
        "test_the_cell_is_torchs",
        NO_MASK,
        NUMERIC,
    ),
    "models.seq2seq.attend": Row(
        "test_attention_by_hand",
        "test_attention_is_the_float64_loop_whatever_the_order_of_the_source",
        "test_attention_is_the_float64_loop_whatever_the_order_of_the_source",
        JUNK,
        NUMERIC,
    ),
    "evaluation.pareto.members": Row(
        PARETO + "test_hypervolume_of_a_staircase_worked_by_hand",
        PARETO + "test_members_are_exactly_the_points_nobody_dominates",
        PARETO + "test_front_and_hypervolume_do_not_depend_on_order_or_duplicates",
        PARETO + "test_a_diverged_checkpoint_is_no_point",
        NO_GRADIENT,
    ),
    "evaluation.pareto.front": Row(
        PARETO + "test_minus_zero_is_zero",
        PARETO + "test_front_ascends_strictly_and_holds_each_value_once",
        PARETO + "test_front_and_hypervolume_do_not_depend_on_order_or_duplicates",
        PARETO + "test_a_diverged_checkpoint_is_no_point",
        NO_GRADIENT,
    ),
    "evaluation.pareto.hypervolume": Row(
        PARETO + "test_hypervolume_of_a_staircase_worked_by_hand",
        PARETO + "test_hypervolume_counts_the_grid_cells_that_are_dominated",
        PARETO + "test_more_points_never_shrink_the_hypervolume",
        PARETO + "test_a_diverged_checkpoint_is_no_point",
        NO_GRADIENT,
    ),
    "evaluation.fronts.pick": Row(
        FRONTS + "test_between_two_looks_a_path_is_a_line_and_beyond_its_end_flat",
        FRONTS + "test_picks_are_those_of_a_loop_over_points_of_the_path",
        FRONTS + "test_nothing_is_read_across_a_reset",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.fronts.read": Row(
        FRONTS + "test_a_reading_is_picked_on_one_half_and_read_on_the_other",
        "n/a: two picks, which have their oracle",
        FRONTS + SCALES,
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.fronts.hypervolume": Row(
        FRONTS + "test_hypervolume_of_a_triangle_and_a_plateau",
        "n/a: a mean of readings, whose picks have their oracle",
        FRONTS + "test_noise_alone_covers_nothing_on_average",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.fronts.matched": Row(
        FRONTS + "test_a_pair_is_matched_on_the_range_that_both_reach",
        "n/a: a mean of readings, whose picks have their oracle",
        FRONTS + SCALES,
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.units.of": Row(
        UNITS + "test_a_record_without_a_world_is_of_the_first",
        EXACT,
        UNITS + "test_a_unit_is_written_and_read",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.units.parse": Row(
        UNITS + "test_a_unit_is_written_and_read",
        EXACT,
        UNITS + "test_a_unit_is_written_and_read",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.units.worlds": Row(
        UNITS + "test_seeds_are_averaged_within_their_world",
        "n/a: means of a few numbers",
        "test_instrument::"
        "test_intervals_over_worlds_cover_the_truth_although_seeds_are_alike",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.units.intraclass": Row(
        UNITS + "test_intraclass_correlation_worked_by_hand",
        UNITS + "test_intraclass_correlation_is_recovered",
        UNITS + "test_unequal_numbers_of_seeds_are_allowed",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.recovery.after_resets": Row(
        RECOVERY + "test_a_recovery_worked_by_hand",
        RECOVERY + "test_recoveries_are_those_of_the_loop",
        RECOVERY + "test_a_recovery_knows_no_future_and_no_scale",
        "n/a: a score that is not finite is refused",
        NO_GRADIENT,
    ),
    "evaluation.recovery.earlier": Row(
        RECOVERY + "test_who_came_back_first",
        "n/a: six cases, all in its closed form",
        RECOVERY + "test_who_came_back_first",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.recovery.restricted": Row(
        RECOVERY + "test_the_restricted_mean_is_observed_and_bounds_the_true_one",
        RECOVERY + "test_the_restricted_mean_is_observed_and_bounds_the_true_one",
        RECOVERY + "test_the_restricted_mean_is_observed_and_bounds_the_true_one",
        NO_MASK,
        NO_GRADIENT,
    ),
    "studies.coordinate_search.follow": Row(
        "test_lines_follow_one_another_at_the_best_setting_so_far",
        "n/a: its closed forms are searches whose end is known",
        "test_the_order_in_which_trials_end_changes_nothing",
        "test_failures_are_never_chosen_and_no_tie",
        NO_GRADIENT,
    ),
    "studies.coordinate_search.choose": Row(
        "test_failures_are_never_chosen_and_no_tie",
        "test_the_first_of_the_largest_is_chosen_and_no_failure",
        "test_the_first_of_the_largest_is_chosen_and_no_failure",
        "test_the_first_of_the_largest_is_chosen_and_no_failure",
        NO_GRADIENT,
    ),
    "studies.coordinate_search.mean_and_error": Row(
        "test_mean_and_error_are_worked_by_hand",
        "n/a: numpy's mean and deviation",
        "test_mean_and_error_are_worked_by_hand",
        NO_MASK,
        NO_GRADIENT,
    ),
    "studies.coordinate_search.tidy": Row(
        "test_numbers_keep_six_digits_and_whole_ones_all",
        "n/a: a format",
        "test_numbers_keep_six_digits_and_whole_ones_all",
        NO_MASK,
        NO_GRADIENT,
    ),
    "studies.eval_steps.regular": Row(
        "test_the_regular_schedule_by_hand",
        "n/a: a union of five small sets",
        "test_the_regular_schedule_keeps_to_the_run_and_misses_no_reset",
        NO_MASK,
        NO_GRADIENT,
    ),
    "studies.eval_steps.spaced": Row(
        "test_evaluations_by_count_by_hand",
        "test_gaps_are_no_wider_than_they_need_be",
        "test_every_calendar_is_evaluated_as_often",
        NO_MASK,
        NO_GRADIENT,
    ),
    "studies.eval_steps.check": Row(
        "test_the_first_method_whose_count_cannot_be_is_named",
        "test_without_a_count_nothing_is_refused",
        "test_what_is_checked_is_what_is_evaluated",
        NO_MASK,
        NO_GRADIENT,
    ),
    "studies.eval_steps.at_intervals": Row(
        "test_calendars_by_hand",
        "n/a: elastic_reset.calendar",
        "n/a: elastic_reset.calendar",
        NO_MASK,
        NO_GRADIENT,
    ),
    "studies.eval_steps.at_multiples": Row(
        "test_calendars_by_hand",
        "n/a: a range",
        "n/a: a range",
        NO_MASK,
        NO_GRADIENT,
    ),
    "studies.eval_steps.alike": Row(
        "test_by_default_all_methods_are_evaluated_alike_and_as_often",
        "n/a: regular, around all resets",
        "test_by_default_all_methods_are_evaluated_alike_and_as_often",
        NO_MASK,
        NO_GRADIENT,
    ),
    "studies.eval_steps.by_count": Row(
        "test_by_default_all_methods_are_evaluated_alike_and_as_often",
        "n/a: spaced",
        "test_by_default_all_methods_are_evaluated_alike_and_as_often",
        NO_MASK,
        NO_GRADIENT,
    ),
    "studies.eval_steps.at_every": Row(
        "test_a_single_run_is_evaluated_every_so_many_steps_and_around_its_resets",
        "n/a: a union of three small sets",
        "n/a: a union of three small sets",
        NO_MASK,
        NO_GRADIENT,
    ),
    "studies.eval_steps.check_resets": Row(
        "test_resets_that_never_come_are_refused",
        "n/a: a check",
        "n/a: a check",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.translation.tokenized_bleu": Row(
        "test_bleu_by_hand",
        "test_tokenized_bleu_is_what_the_command_line_says",
        "test_bleu_of_a_text_with_itself_is_100_in_any_order",
        READS_STRINGS,
        NO_GRADIENT,
    ),
    "evaluation.translation.sacre_bleu": Row(
        "test_bleu_of_a_text_with_itself_is_100_in_any_order",
        "test_sacre_bleu_is_what_the_command_line_says",
        "test_bleu_of_a_text_with_itself_is_100_in_any_order",
        READS_STRINGS,
        NO_GRADIENT,
    ),
    "evaluation.translation.bleu_counts": Row(
        "test_counts_worked_by_hand",
        "test_summed_counts_give_the_bleu_of_any_sample_of_sentences",
        "test_summed_counts_give_the_bleu_of_any_sample_of_sentences",
        READS_STRINGS,
        NO_GRADIENT,
    ),
    "evaluation.translation.bleu": Row(
        "test_counts_worked_by_hand",
        "test_summed_counts_give_the_bleu_of_any_sample_of_sentences",
        "test_summed_counts_give_the_bleu_of_any_sample_of_sentences",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.translation.stutter": Row(
        "test_statistics_by_hand",
        "test_statistics_by_hand",
        "test_the_order_of_messages_does_not_matter",
        "test_what_is_masked_or_after_the_end_does_not_count",
        NO_GRADIENT,
    ),
    "evaluation.translation.frequencies": Row(
        "test_no_messages_at_all_are_zeros",
        "test_statistics_by_hand",
        "test_the_order_of_messages_does_not_matter",
        "test_what_is_masked_or_after_the_end_does_not_count",
        NO_GRADIENT,
    ),
    "evaluation.translation.type_perplexity": Row(
        "test_divergence_and_perplexity_at_their_extremes",
        "test_statistics_by_hand",
        "test_the_order_of_messages_does_not_matter",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.translation.jensen_shannon": Row(
        "test_divergence_and_perplexity_at_their_extremes",
        "test_statistics_by_hand",
        "test_human_text_does_not_diverge_from_itself",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.translation.message_statistics": Row(
        "test_statistics_by_hand",
        "test_statistics_by_hand",
        "test_the_order_of_messages_does_not_matter",
        "test_what_is_masked_or_after_the_end_does_not_count",
        NO_GRADIENT,
    ),
    "evaluation.multiple_choice.pick": Row(
        CHOICE + "test_the_pick_is_the_likeliest_for_its_length",
        CHOICE + "test_picks_are_the_loops",
        CHOICE + "test_a_shift_of_a_whole_question_changes_no_pick",
        "n/a: takes no mask, a NaN is never picked",
        NO_GRADIENT,
    ),
    "evaluation.multiple_choice.probabilities": Row(
        CHOICE + "test_probabilities_by_hand",
        CHOICE + "test_probabilities_are_the_loops",
        CHOICE + "test_probabilities_are_the_loops",
        "n/a: takes no mask, a NaN counts as impossible",
        NO_GRADIENT,
    ),
    "evaluation.multiple_choice.chance": Row(
        CHOICE + "test_a_blind_guess_of_2_and_4_options",
        CHOICE + "test_picks_are_the_loops",
        CHOICE + "test_a_blind_guess_of_2_and_4_options",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.calibration.expected_calibration_error": Row(
        "test_an_error_worked_by_hand",
        "test_the_error_is_the_loops",
        "test_the_order_of_items_does_not_matter_and_one_bin_is_the_bias",
        "n/a: takes no mask, a NaN is refused",
        NO_GRADIENT,
    ),
    "evaluation.answers.normalize": Row(
        "test_texts_are_normalised",
        "n/a: a format",
        "test_normalising_twice_changes_nothing",
        READS_STRINGS,
        NO_GRADIENT,
    ),
    "evaluation.answers.exact_match": Row(
        "test_an_exact_match_is_one_of_the_references_but_for_its_form",
        "n/a: normalize, and a comparison",
        "test_f1_is_the_loops_symmetric_and_one_for_exact_matches",
        READS_STRINGS,
        NO_GRADIENT,
    ),
    "evaluation.answers.f1": Row(
        "test_f1_worked_by_hand",
        "test_f1_is_the_loops_symmetric_and_one_for_exact_matches",
        "test_f1_is_the_loops_symmetric_and_one_for_exact_matches",
        READS_STRINGS,
        NO_GRADIENT,
    ),
    "evaluation.answers.final_number": Row(
        "test_the_final_number_of_a_text",
        "n/a: a pattern",
        "test_numbers_are_compared_by_their_value",
        READS_STRINGS,
        NO_GRADIENT,
    ),
    "evaluation.answers.same_number": Row(
        "test_numbers_are_compared_by_their_value",
        "n/a: final_number, and a comparison",
        "test_numbers_are_compared_by_their_value",
        READS_STRINGS,
        NO_GRADIENT,
    ),
    "evaluation.position_bias.measure": Row(
        "test_a_bias_by_hand",
        "test_measures_are_those_of_the_loop",
        "test_exchanging_the_slots_turns_fairness_around",
        "test_unanswered_rows_are_left_out",
        NO_GRADIENT,
    ),
    "evaluation.position_bias.repetition_stability": Row(
        "test_stability_by_hand",
        "test_stability_does_not_know_which_answer_is_which",
        "test_stability_does_not_know_which_answer_is_which",
        "test_stability_by_hand",
        NO_GRADIENT,
    ),
    "evaluation.agreement.agreement": Row(
        "test_agreement_by_hand",
        "test_the_interval_is_scipys",
        "test_agreement_is_symmetric_and_knows_no_first",
        "test_agreement_by_hand",
        NO_GRADIENT,
    ),
    "evaluation.paired.mcnemar": Row(
        "test_mcnemar_by_hand",
        "test_mcnemar_is_the_binomial_tail",
        "test_items_on_which_models_agree_say_nothing",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.paired.bootstrap": Row(
        "test_a_constant_gain_is_certain_and_none_is_none",
        "test_the_interval_is_scipys_of_the_differences",
        "test_swapping_the_models_turns_the_interval_around",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.win_rate.verdicts": Row(
        "test_verdicts_by_hand",
        EXACT,
        "test_swapping_the_policies_turns_the_win_rate_around",
        "test_verdicts_by_hand",
        NO_GRADIENT,
    ),
    "evaluation.win_rate.both_orders": Row(
        "test_both_orders_must_agree_or_it_is_a_tie",
        EXACT,
        "test_the_adjusted_win_rate_of_mt_bench",
        "test_both_orders_must_agree_or_it_is_a_tie",
        NO_GRADIENT,
    ),
    "evaluation.win_rate.hard": Row(
        "test_a_win_counts_one_and_ties_and_failures_a_half",
        "test_without_ties_hard_is_scipys_binomial_test_and_wilsons_interval",
        "test_swapping_the_policies_turns_the_win_rate_around",
        "test_ties_have_no_say_in_the_sign_test",
        NO_GRADIENT,
    ),
    "evaluation.win_rate.soft": Row(
        "test_a_win_counts_one_and_ties_and_failures_a_half",
        "test_soft_is_scipys_t_test_over_rows",
        "test_swapping_the_policies_turns_the_win_rate_around",
        "test_a_win_counts_one_and_ties_and_failures_a_half",
        NO_GRADIENT,
    ),
    "evaluation.win_rate.harmless": Row(
        "test_the_harmless_rate_leaves_failures_out_and_counts_them",
        "test_the_harmless_rate_leaves_failures_out_and_counts_them",
        "n/a: a share of one policy's answers, with nothing to exchange",
        "test_the_harmless_rate_leaves_failures_out_and_counts_them",
        NO_GRADIENT,
    ),
    "evaluation.win_rate.matrix": Row(
        "test_the_matrix_is_one_at_opposite_corners",
        "n/a: win rates of pairs, in their places",
        "test_the_matrix_is_one_at_opposite_corners",
        "test_the_matrix_is_one_at_opposite_corners",
        NO_GRADIENT,
    ),
    "evaluation.length_control.by_ratio": Row(
        "test_by_ratio_by_hand",
        "test_a_judge_of_length_alone_says_one_half",
        "test_the_unit_of_length_and_the_order_of_pairs_do_not_matter",
        "test_failures_are_left_out_and_counted",
        NO_GRADIENT,
    ),
    "evaluation.length_control.by_difference": Row(
        "test_by_difference_by_hand",
        "test_exact_is_alpaca_eval_to_four_decimals",
        "test_swapping_the_policies_turns_the_controlled_rate_around",
        "test_failures_are_left_out_and_counted",
        NO_GRADIENT,
    ),
    "evaluation.length_control.predicted": Row(
        "test_predicted_by_hand",
        "test_published_win_rates_follow_from_the_published_coefficients",
        "n/a: a logistic function of one line",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.length_control.exact": Row(
        "test_exact_meets_the_conditions_of_an_l1_minimum",
        "test_without_a_penalty_exact_is_newtons_maximum",
        "test_both_solvers_have_the_same_minimum",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.length_control.liblinear": Row(
        "n/a: scikit-learn's",
        "test_liblinear_is_alpaca_eval_to_the_last_digits",
        "test_both_solvers_have_the_same_minimum",
        NO_MASK,
        NO_GRADIENT,
    ),
    "evaluation.constant_answer.win_rates": Row(
        "test_a_constant_answer_wins_nothing_from_a_careful_judge",
        "n/a: win_rate and length_control of a judge's answers",
        "test_length_control_does_not_unmask_an_answer_that_fools_the_judge",
        "test_answers_of_ones_own_are_tried_and_failures_counted",
        NO_GRADIENT,
    ),
}

MODULES = sorted({name.rpartition(".")[0] for name in TABLE})


def public_functions(name):
    """The functions that a module defines itself and does not underscore."""
    module = importlib.import_module(f"rlhf_jax.{name}")
    return {
        f"{name}.{key}"
        for key, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    }


def names_in(file):
    """The names of the test functions of a file, by reading it."""
    (path,) = HERE.rglob(f"{file}.py")
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_function_has_a_row(module):
    rows = {name for name in TABLE if name.rpartition(".")[0] == module}
    assert rows == public_functions(module)


@pytest.mark.parametrize("name", TABLE)
def test_every_cell_names_a_test_that_exists(name):
    for column, cell in TABLE[name]._asdict().items():
        if cell.startswith("n/a: "):
            continue
        file, _, test = cell.rpartition("::")
        file = file or f"test_{name.split('.')[-2]}"
        assert test.startswith("test_"), f"{name}, {column}: {cell!r}"
        assert test in names_in(file), f"{name}, {column}: no {test} in {file}.py"
