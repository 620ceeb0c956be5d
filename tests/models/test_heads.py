"""Classes, rewards and values read off a decoder."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from rlhf_jax.models import config, decoder, heads

V, T = 17, 6
CONFIG = config.llama(
    vocab_size=V, width=16, layers=2, heads=2, max_length=8, tied=False
)


@pytest.fixture(scope="module")
def language_model():
    module = decoder.Decoder(CONFIG)
    return module, tiny_models.draw(module)


@pytest.fixture
def batch(rng):
    tokens = jnp.array(rng.integers(0, V, (3, T)), jnp.int32)
    mask = jnp.array([[1] * 6, [1] * 3 + [0] * 3, [0] * 2 + [1] * 3 + [0]], jnp.int32)
    return tokens, mask


def run(model, params, *inputs, method=None):
    return tiny_models.compiled(model, method)(params, *inputs)


def started(model, params):
    head = heads.init_head(model, jax.random.key(1))
    return heads.from_decoder(params, head)


@pytest.mark.parametrize("labels", [1, 3])
def test_scores_are_the_head_of_the_last_valid_hidden_state(
    language_model, batch, labels
):
    module, params = language_model
    model = heads.Classifier(CONFIG, labels)
    weights = started(model, params)
    weights["head"]["bias"] += 0.5
    scores = run(model, weights, *batch)
    hidden = run(module, params, *batch, method="hidden")
    last = np.stack([hidden[0, 5], hidden[1, 2], hidden[2, 4]])
    expected = last @ np.array(weights["head"]["kernel"]) + 0.5
    assert scores.shape == (3, labels) and scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_scores_ignore_what_the_mask_hides(language_model, batch):
    tokens, mask = batch
    model = heads.Classifier(CONFIG)
    weights = started(model, language_model[1])
    junk = jnp.where(mask == 0, 10_000, tokens)
    chex.assert_trees_all_equal(
        run(model, weights, tokens, mask), run(model, weights, junk, mask)
    )
    longer = [jnp.pad(x, ((0, 0), (2, 0))) for x in batch]
    chex.assert_trees_all_close(
        run(model, weights, tokens, mask),
        run(model, weights, *longer),
        atol=1e-6,
        rtol=1e-6,
    )


def test_a_helper_start_has_the_structure_of_a_fresh_network(language_model):
    for model in (heads.Classifier(CONFIG, 3), heads.Value(CONFIG)):
        fresh = tiny_models.draw(model)
        weights = started(model, language_model[1])
        chex.assert_trees_all_equal_shapes_and_dtypes(fresh, weights)
        chex.assert_trees_all_equal(
            weights["trunk"]["layers"], language_model[1]["layers"]
        )


def test_a_helper_start_survives_the_donation_of_its_source(language_model):
    params = jax.tree.map(jnp.array, language_model[1])
    weights = started(heads.Value(CONFIG), params)
    theirs = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(params)}
    mine = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(weights)]
    assert not theirs & set(mine) and len(mine) == len(set(mine))


def test_values_are_zero_at_first_and_learn_from_the_first_step(language_model, batch):
    model = heads.Value(CONFIG)
    weights = started(model, language_model[1])
    values = run(model, weights, *batch)
    np.testing.assert_array_equal(values, np.zeros((3, T), np.float32))
    gradient = jax.jit(
        jax.grad(lambda p: jnp.square(model.apply({"params": p}, *batch) - 1.0).mean())
    )(weights)
    assert jnp.abs(gradient["head"]["kernel"]).max() > 0
    assert gradient["head"]["bias"][0] == pytest.approx(-2.0)


def test_values_of_a_shared_trunk_are_a_linear_map_of_its_hidden_states(rng):
    hidden = jnp.array(rng.normal(size=(2, 3, 16)), jnp.bfloat16)
    model = heads.Scalar()
    params = model.init(jax.random.key(0), hidden)["params"]
    assert model.apply({"params": params}, hidden).dtype == jnp.float32
    params["head"]["kernel"] = jnp.ones((16, 1))
    np.testing.assert_allclose(
        model.apply({"params": params}, hidden),
        np.array(hidden, np.float32).sum(-1),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_value_after_a_token_does_not_see_the_tokens_to_come(language_model, batch):
    tokens, _ = batch
    model = heads.Value(CONFIG)
    weights = started(model, language_model[1])
    weights["head"]["kernel"] = jax.random.normal(jax.random.key(3), (16, 1))
    before = run(model, weights, tokens)
    after = run(model, weights, tokens.at[:, 4].set((tokens[:, 4] + 1) % V))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(1).all()


def test_reward_heads_start_at_the_papers_deviation():
    wide = config.llama(vocab_size=2, width=1024, layers=1, heads=2, max_length=2)
    head = heads.init_head(heads.Classifier(wide, 8), jax.random.key(0))
    variance = 1 / 1025
    error = variance * np.sqrt(2 / head["kernel"].size)
    assert abs(float(jnp.square(head["kernel"]).mean()) - variance) < 4 * error
    assert not head["bias"].any()
    assert not heads.init_head(heads.Value(wide), jax.random.key(0))["kernel"].any()


def test_a_value_of_features_is_the_two_layers_by_hand_and_zero_at_first(rng):
    features = jnp.array(rng.normal(size=(2, 3, 5)), jnp.float32)
    model = heads.FeatureValue(hidden=4)
    params = model.init(jax.random.key(0), features)["params"]
    first = model.apply({"params": params}, features)
    np.testing.assert_array_equal(first, np.zeros((2, 3), np.float32))
    weights = tiny_models.draw(model, features)
    inside = np.maximum(
        np.array(features, np.float64) @ np.array(weights["hidden_layer"]["kernel"])
        + np.array(weights["hidden_layer"]["bias"]),
        0,
    )
    expected = inside @ np.array(weights["head"]["kernel"]) + np.array(
        weights["head"]["bias"]
    )
    np.testing.assert_allclose(
        model.apply({"params": weights}, features),
        expected[..., 0],
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_value_of_features_teaches_them_nothing(rng):
    features = jnp.array(rng.normal(size=(2, 3, 5)), jnp.float32)
    model = heads.FeatureValue(hidden=4)
    weights = tiny_models.draw(model, features)
    teach = jax.grad(lambda p, x: model.apply({"params": p}, x).sum(), (0, 1))
    learned, taught = teach(weights, features)
    assert not taught.any() and learned["head"]["kernel"].any()
