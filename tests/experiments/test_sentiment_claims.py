"""What experiments.sentiment declares before a run, and leaves out where it must."""

import dataclasses

import pytest

from experiments import sentiment
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import claims, report
from rlhf_jax.studies import methods


def test_one_endpoint_is_primary_and_every_null_of_averaging_is_a_rival():
    primary = {c.endpoint for c in sentiment.CLAIMS if not c.secondary}
    assert primary == {sentiment.PRIMARY} == {"hypervolume/drift/text_nll"}
    rivals = {o for c in sentiment.CLAIMS if not c.secondary for o in c.others}
    assert {"ppo", "ppo_kl", "ppo_early_stop", "ppo_average", "kl_average"} <= rivals
    assert {"ppo_ma25", "ppo_ma50", "ppo_ma75", "reset_to_initial"} <= rivals
    assert rivals <= set(methods.METHODS)


@pytest.mark.parametrize("own", [False, True])
def test_a_reward_in_its_own_units_has_no_smallest_effect_and_no_claim(own):
    measured = (*sentiment.AXES, *(axes.OWN_UNITS if own else ()))
    declared = sentiment.declared(own)
    kept = claims.possible(declared, methods.METHODS, measured)
    assert any(c.endpoint == "reward" for c in kept) != own
    report.Report("x", axes=measured, claims=kept)  # refuses what cannot be judged


def test_a_world_less_data_set_has_one_world():
    config = dataclasses.replace(sentiment.CONFIG, worlds=2, dataset="imdb")
    with pytest.raises(ValueError, match="--worlds 2: --dataset imdb is one world"):
        sentiment.check(config)
