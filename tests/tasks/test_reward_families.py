"""reward_families: rewards by name, scaled alike, on one program a kind."""

import dataclasses

import jax
import numpy as np
import pytest
from checks import close

from rlhf_jax import averaging, ensembles, microworld, rewards, sampling
from rlhf_jax.microworld import reviews
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.runtime import parallel
from rlhf_jax.studies import scoring
from rlhf_jax.studies.task import Task
from rlhf_jax.tasks import microworld as small_world
from rlhf_jax.tasks import reward_families, reward_specs, reward_training
from rlhf_jax.types import Prompts

LAYOUT = parallel.data(1)
CONFIG = small_world.Config(reward_steps=200, reward_rows=8, prompts=64)
OF = "size=small,pairs=20"
MEMBERS = [f"rm:{OF},member={number}" for number in range(2)]
ENSEMBLES = {
    f"mean:{OF},members=2": ensembles.mean,
    f"worst:{OF},members=2": ensembles.worst,
    f"uncertainty:{OF},members=2,weight=0.7": lambda s: ensembles.uncertainty(
        s, weight=0.7
    ),
    f"entropic:{OF},members=2,beta=0.3": lambda s: ensembles.entropic(s, beta=0.3),
}
WARM, ODIN = f"warm:{OF},members=2", f"odin:{OF}"
PRICED, FREE = (f"length_penalized:{OF},weight={weight}" for weight in (0.5, 0))
HEAVY, LIGHT = "heavy_tailed:scale=1", "light_tailed"
LEARNED = (*MEMBERS, *ENSEMBLES, WARM, ODIN, PRICED, FREE)


@pytest.fixture(scope="module")
def task():
    """A policy that has learned nothing, in world 0: its samples are word salad."""
    world = microworld.create(0)
    shape = model_config.preset("tiny", vocab_size=len(world.vocabulary), max_length=64)
    model = decoder.Decoder(shape)
    params = model.init(jax.random.key(0), np.zeros((1, 4), np.int32))["params"]
    prompts = reviews.prompts(world, np.random.default_rng(0), 64)
    rest = dict.fromkeys(f.name for f in dataclasses.fields(Task)[:12])
    given = {
        "model": model,
        "params": params,
        "sampling": sampling.Config(
            max_new_tokens=reviews.RESPONSE, eos_ids=(world.eos_id,), pad_id=0
        ),
        "prompts": Prompts(*prompts[:2]),
    }
    return Task(**{**rest, **given})


@pytest.fixture(scope="module")
def family(task):
    """Every reward of the tests, on few samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reward_families, "TESTS", 60)
        patch.setattr(reward_training, "_BLOCK", 40)
        made = reward_families.create(task, CONFIG, LAYOUT, (*LEARNED, HEAVY, LIGHT))
        return {name: make(0) for name, make in made.items()}


@pytest.fixture(scope="module")
def rollout(task):
    """The 64 prompts' samples that scales are fixed on."""
    return scoring.of_initial(task, LAYOUT, 64, 999)


def scores(task, reward, rollout):
    return scoring.score(task, reward, LAYOUT, rollout, None, None, columns={})


@pytest.mark.parametrize("name", [*LEARNED, HEAVY, LIGHT])
def test_scores_of_the_initial_policy_have_mean_0_and_deviation_1(
    task, family, rollout, name
):
    found = scores(task, family[name], rollout)
    close(found.mean(), 0.0, atol=1e-4)
    close(found.std(), 1.0, 1e-4)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_combines_scaled_members(task, family, rollout, name):
    each = np.stack([scores(task, family[member], rollout) for member in MEMBERS])
    combined = ENSEMBLES[name](each)
    expected = rewards.apply(rewards.fit(combined), combined)
    close(scores(task, family[name], rollout), expected, 1e-4, 1e-4)


def test_rewards_of_a_kind_share_one_function(family):
    assert len({family[name].score for name in ENSEMBLES}) == 1
    assert len({family[name].score for name in (*MEMBERS, WARM)}) == 1
    assert family[PRICED].score is family[FREE].score
    weights = [jax.tree.map(np.shape, family[name].frozen) for name in ENSEMBLES]
    assert all(shape == weights[0] for shape in weights)


def test_warm_is_the_average_of_models_from_one_start(task, family, monkeypatch):
    monkeypatch.setattr(reward_training, "_BLOCK", 40)
    context = reward_training.Context(microworld.create(0), task, CONFIG, LAYOUT)
    specs = map(reward_specs.parse, LEARNED)
    wanted = dict.fromkeys(j for spec in specs for j in reward_families.jobs(spec))
    _, weights = reward_training.train(context, tuple(wanted), 0)
    single, other = reward_families.jobs(reward_specs.parse(WARM))
    assert single.start == other.start and single.order != other.order
    alone = family[MEMBERS[0]].frozen[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, weights[single], alone))
    middle = averaging.interpolate(weights[single], weights[other], 0.5)
    warm = family[WARM].frozen[0]
    jax.tree.map(lambda x, y: close(x, y, 1e-5, 1e-6), warm, middle)
    assert not jax.tree.all(jax.tree.map(np.array_equal, warm, weights[single]))


def test_a_price_of_nothing_changes_nothing_and_length_costs(task, family, rollout):
    plain = scores(task, family[MEMBERS[0]], rollout)
    close(scores(task, family[FREE], rollout), plain, 1e-4, 1e-4)
    lengths = np.asarray(rollout.response_mask).sum(1)
    priced = plain - 0.5 * lengths
    expected = (priced - priced.mean()) / priced.std()
    close(scores(task, family[PRICED], rollout), expected, 1e-3, 1e-3)


def test_facts_are_shares_and_sizes(family):
    single = family[MEMBERS[0]].facts
    assert single["pairs"] == 20 and single["parameters"] == 4833
    assert family[next(iter(ENSEMBLES))].facts["parameters"] == 2 * 4833
    for reward in family.values():
        assert 0 <= reward.facts["accuracy"] <= 1
        assert 0 <= reward.facts["gold_accuracy"] <= 1


def test_the_twins_err_on_the_same_responses(task, family, rollout):
    heavy, light = (scores(task, family[name], rollout) for name in (HEAVY, LIGHT))
    again = scores(task, family[HEAVY], rollout)
    np.testing.assert_array_equal(again, heavy)
    assert np.corrcoef(heavy, light)[0, 1] > 0.5


@pytest.mark.parametrize("name", [MEMBERS[0], f"worst:{OF},members=2", PRICED])
def test_a_reward_model_learns_on(task, family, rollout, name):
    reward = family[name]
    fresh = reward.refresh.sample(task.params, 6, 0)
    room = jax.tree.map(lambda x: np.concatenate([x, 0 * x]), fresh)
    learned = reward.refresh.learn(reward.frozen, room, 6, 0)
    again = reward.refresh.learn(reward.frozen, room, 6, 0)
    jax.tree.map(np.testing.assert_array_equal, learned, again)
    assert jax.tree.map(np.shape, learned) == jax.tree.map(np.shape, reward.frozen)
    on = dataclasses.replace(reward, frozen=learned)
    found = scores(task, on, rollout)
    close(found.mean(), 0.0, atol=1e-4)
    close(found.std(), 1.0, 1e-4)
    assert np.abs(found - scores(task, reward, rollout)).max() > 1e-3


def test_fresh_pairs_are_of_their_number(task, family):
    sample = family[MEMBERS[0]].refresh.sample
    first, again, second = (sample(task.params, 6, number) for number in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.chosen != second.chosen).any()
    assert set(first.preference) <= {0.0, 1.0}


def test_a_larger_pool_starts_with_the_smaller_one(task, monkeypatch):
    monkeypatch.setattr(reward_training, "_BLOCK", 40)
    context = reward_training.Context(microworld.create(0), task, CONFIG, LAYOUT)
    small, large = (reward_training.pool(context, 0, count) for count in (20, 50))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[:20]), small, large)
    ties = small.margins == 0
    agrees = (small.labels["gold"] > 0.5) == (small.margins > 0)
    assert (agrees | ties).all()


def test_updates_grow_with_the_pairs_up_to_a_limit():
    config = small_world.Config(reward_steps=100)
    counts = (1, 250, 1000, 4000, 16000)
    found = [reward_training.updates(config, count) for count in counts]
    assert found == [1, 25, 100, 400, 400]


def test_a_mistake_is_named_before_anything_is_trained(task):
    with pytest.raises(ValueError, match="'depth'"):
        reward_families.create(task, CONFIG, LAYOUT, ("rm:depth=3",))
