"""The translator: torch's numbers, padding, causality, one token at a time, dropout."""

import checks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from golden import make_seq2seq as golden

from rlhf_jax import logprobs, sampling
from rlhf_jax.models import config, seq2seq
from rlhf_jax.types import Prompts

E, H, S, T = golden.E, golden.H, golden.S, golden.T
CONFIG = config.Seq2Seq(golden.SOURCE_VOCAB, golden.TARGET_VOCAB, E, H)
MODEL = seq2seq.Seq2Seq(CONFIG)
EOS = CONFIG.eos_id
features = tiny_models.compiled(MODEL, "features")


def from_torch(named):
    """Torch's parameters as ours: matrices transposed."""
    names = {
        "source": "enc.emb.weight",
        "target": "dec.emb.weight",
        "encoder_input/kernel": "enc.rnn.weight_ih_l0",
        "encoder_input/bias": "enc.rnn.bias_ih_l0",
        "encoder_recurrent/kernel": "enc.rnn.weight_hh_l0",
        "encoder_recurrent/bias": "enc.rnn.bias_hh_l0",
        "decoder_input/kernel": "dec.cell.weight_ih",
        "decoder_input/bias": "dec.cell.bias_ih",
        "decoder_recurrent/kernel": "dec.cell.weight_hh",
        "decoder_recurrent/bias": "dec.cell.bias_hh",
        "key/kernel": "dec.attention.key.weight",
        "combine/kernel": "dec.attention.combine.weight",
        "unembedding/kernel": "dec.out.weight",
        "unembedding/bias": "dec.out.bias",
    }
    tree = {}
    for path, name in names.items():
        outer, _, inner = path.partition("/")
        if not inner:
            tree[outer] = jnp.array(named[name])
        else:
            tree.setdefault(outer, {})[inner] = jnp.array(named[name].T)
    return tree


@pytest.fixture(scope="module")
def params():
    return from_torch(golden.tensors())


@pytest.fixture(scope="module")
def batch():
    return tuple(jnp.array(x, jnp.int32) for x in golden.batch())


@pytest.fixture(scope="module")
def outputs(params, batch):
    """(logits, features) of the batch."""
    return features(params, *batch)


# Torch


def test_logits_and_features_are_the_golden_ones_of_torch(outputs):
    with np.load(golden.FILE) as file:
        np.testing.assert_allclose(outputs[0], file["logits"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(outputs[1], file["features"], rtol=0, atol=1e-5)
        assert np.abs(file["logits"]).max() > 1  # enough to tell apart


def test_logits_and_features_equal_torch_now(outputs):
    pytest.importorskip("torch")
    for ours, theirs in zip(outputs, golden.answers(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_the_cell_is_torchs(rng):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.GRUCell(E, H)
    x, state = (rng.normal(size=(3, n)).astype(np.float32) for n in (E, H))
    weights = {n: p.detach().numpy() for n, p in theirs.named_parameters()}
    ours = seq2seq.cell(
        x @ weights["weight_ih"].T + weights["bias_ih"],
        state @ weights["weight_hh"].T + weights["bias_hh"],
        state,
    )
    with torch.no_grad():
        expected = theirs(torch.tensor(x), torch.tensor(state)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_a_fresh_network_has_torchs_structure_and_scales(params):
    wide = seq2seq.Seq2Seq(config.Seq2Seq(50, 60, embedding=40, hidden=100))
    tokens = jnp.ones((1, 2), jnp.int32)
    key = jax.random.key(0, impl="rbg")  # compiles faster
    fresh = jax.jit(wide.init)(key, tokens, tokens, tokens)["params"]
    assert jax.tree.structure(fresh) == jax.tree.structure(params)
    reach = {"combine": 200, "source": None, "target": None}
    for name, part in fresh.items():
        for leaf in jax.tree.leaves(part):
            fan = reach.get(name, 100)
            variance = 1.0 if fan is None else 1 / (3 * fan)  # of U(−r, r): r²/3
            # The fourth moment of a uniform is 9/5 of its squared variance, below 3.
            error = 4 * variance * np.sqrt(2 / leaf.size)
            assert abs(float(jnp.square(leaf).mean()) - variance) < error, name
            if fan is not None:
                assert jnp.abs(leaf).max() <= fan**-0.5


# The cell and attention


def gates(rng, rows=3):
    return tuple(
        rng.normal(size=(rows, n)).astype(np.float32) for n in (3 * H, 3 * H, H)
    )


def test_the_cell_by_hand():
    def gate(r, z, n):
        return jnp.array([[r, z, n]], jnp.float32)

    state = jnp.array([[0.25]])
    for keep, expected in ((1e4, 0.25), (-1e4, np.tanh(0.5))):
        out = seq2seq.cell(gate(0, keep, 0.5), gate(0, 0, 0), state)
        assert out.item() == pytest.approx(expected, abs=1e-7)
    # All gates half open: n = tanh(½ · 1), h′ = ½ n + ½ h.
    out = seq2seq.cell(gate(0, 0, 0), gate(0, 0, 1), state)
    assert out.item() == pytest.approx((np.tanh(0.5) + 0.25) / 2, abs=1e-7)


def test_the_cell_is_the_float64_formula_and_stays_between(rng):
    inputs, recurrent, state = gates(rng)
    out = seq2seq.cell(inputs, recurrent, state)
    i, u, h = (x.astype(np.float64) for x in (inputs, recurrent, state))
    r, z = (1 / (1 + np.exp(-(i + u)[:, n * H : (n + 1) * H])) for n in (0, 1))
    n = np.tanh(i[:, 2 * H :] + r * u[:, 2 * H :])
    np.testing.assert_allclose(out, (1 - z) * n + z * h, rtol=1e-5, atol=1e-6)
    assert (np.abs(out) <= np.maximum(np.abs(state), 1)).all()


def attention(rng):
    """query, keys, values and a ragged mask, one row of it empty."""
    mask = checks.ragged(4, 6)
    shapes = (4, H), (4, 6, H), (4, 6, H)
    return *(rng.normal(size=s).astype(np.float32) for s in shapes), mask


def test_attention_by_hand():
    keys = jnp.array([[[0.0], [np.log(3.0)], [50.0]]])
    values = jnp.array([[[4.0], [8.0], [-9.0]]])
    mask = jnp.array([[1, 1, 0]])
    # Weights 1 : 3, and nothing of what is hidden: 4/4 + 3 · 8/4.
    out = seq2seq.attend(jnp.ones((1, 1)), keys, values, mask)
    assert out.item() == pytest.approx(7.0, abs=1e-6)
    assert seq2seq.attend(jnp.ones((1, 1)), keys, values, 0 * mask).item() == 0.0


def test_attention_is_the_float64_loop_whatever_the_order_of_the_source(rng):
    query, keys, values, mask = attention(rng)
    out = seq2seq.attend(query, keys, values, mask)
    for b in range(4):
        valid = mask[b] != 0
        scores = keys[b, valid].astype(np.float64) @ query[b].astype(np.float64)
        weights = np.exp(scores) / np.exp(scores).sum()
        expected = weights @ values[b, valid] if valid.any() else np.zeros(H)
        np.testing.assert_allclose(out[b], expected, rtol=1e-5, atol=1e-6)
    order = rng.permutation(6)
    again = seq2seq.attend(query, keys[:, order], values[:, order], mask[:, order])
    np.testing.assert_allclose(out, again, rtol=1e-5, atol=1e-6)


def test_junk_reaches_neither_value_nor_gradient(rng):
    query, keys, values, mask = attention(rng)
    checks.assert_ignores(
        lambda keys, values: seq2seq.attend(query, keys, values, mask),
        (keys, values),
        mask,
    )


def test_gradients_are_the_numerical_ones(rng):
    checks.assert_gradients(seq2seq.cell, *gates(rng, rows=2))
    query, keys, values, mask = attention(rng)
    checks.assert_gradients(
        lambda *arrays: seq2seq.attend(*arrays, mask), query, keys, values
    )


# Padding


def test_padding_of_the_source_on_either_side_changes_nothing(params, batch, outputs):
    source, mask, target = batch
    junk = jnp.where(mask == 0, 10_000, source)
    chex.assert_trees_all_equal(features(params, junk, mask, target), outputs)
    moved = np.array([0, -2, 1])  # where the first column of each row goes

    def roll(x):
        rows = zip(x, moved, strict=True)
        return jnp.stack([jnp.roll(row, int(n)) for row, n in rows])

    chex.assert_trees_all_close(
        features(params, roll(source), roll(mask), target), outputs, rtol=0, atol=1e-6
    )


def test_a_longer_source_and_a_longer_target_change_nothing(params, batch, outputs):
    source, mask, target = batch
    longer = [jnp.pad(x, ((0, 0), (3, 2))) for x in (source, mask)]
    target_mask = jnp.pad(jnp.ones_like(target), ((0, 0), (0, 2)))
    more = jnp.pad(target, ((0, 0), (0, 2)), constant_values=10_000)
    result = features(params, *longer, more, target_mask)
    for ours, short in zip(result, outputs, strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours[:, :T], short, rtol=0, atol=1e-6)


def test_a_row_without_a_source_is_finite_and_harms_no_other(params, batch, outputs):
    source, mask, target = batch
    empty = mask.at[1].set(0)

    def total(params):
        logits = MODEL.apply({"params": params}, source, empty, target)
        return jnp.square(logits).sum(), logits

    grads, logits = jax.jit(jax.grad(total, has_aux=True))(params)
    assert np.isfinite(logits).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    np.testing.assert_allclose(logits[0], outputs[0][0], rtol=0, atol=1e-6)


# What sees what


def test_a_token_is_seen_by_later_logits_only(params, batch, outputs):
    source, mask, target = batch
    other = target.at[:, 1].set((target[:, 1] + 1) % CONFIG.target_vocab)
    logits, seen = features(params, source, mask, other)
    np.testing.assert_array_equal(logits[:, :2], outputs[0][:, :2])
    np.testing.assert_array_equal(seen[:, :2], outputs[1][:, :2])
    assert (np.abs(logits - outputs[0])[:, 2:].max(-1) > 1e-4).all()
    assert (np.abs(seen - outputs[1])[:, 2:].max(-1) > 1e-4).all()


def test_the_gradient_of_a_logit_reaches_what_was_read_and_nothing_else(params, batch):
    source, mask, target = batch

    def one(params):
        return MODEL.apply({"params": params}, source, mask, target)[1, 2, 5]

    grads = jax.jit(jax.grad(one))(params)
    read = np.flatnonzero(np.abs(grads["source"]).sum(-1))
    written = np.flatnonzero(np.abs(grads["target"]).sum(-1))
    said = {CONFIG.bos_id, *np.array(target[1, :2]).tolist()}
    assert set(read) == set(np.array(source[1][mask[1] != 0]).tolist())
    assert set(written) == said - {CONFIG.pad_id}  # padding is 0, and stays it


def test_features_are_the_token_fed_in_and_the_vector_before(params, batch, outputs):
    hidden = tiny_models.compiled(MODEL, "hidden")(params, *batch)
    seen = outputs[1]
    np.testing.assert_array_equal(seen[:, 0, E:], np.zeros((3, H)))
    np.testing.assert_array_equal(seen[:, 1:, E:], hidden[:, :-1])
    fed = np.concatenate([np.full((3, 1), CONFIG.bos_id), batch[2][:, :-1]], axis=1)
    np.testing.assert_array_equal(seen[..., :E], np.array(params["target"])[fed])
    some = tiny_models.compiled(MODEL, "unembed")(params, hidden[:, 1:3])
    np.testing.assert_allclose(some, outputs[0][:, 1:3], rtol=0, atol=1e-6)


# Generation


def test_one_token_at_a_time_is_the_teacher_forced_pass(params, batch, outputs):
    source, mask, target = batch
    logits, memory = tiny_models.compiled(MODEL, "prefill")(params, source, mask, S + T)
    step = tiny_models.compiled(MODEL, "step")
    np.testing.assert_allclose(logits, outputs[0][:, 0], rtol=0, atol=1e-5)
    for t in range(T - 1):
        position = mask.sum(-1) + t
        logits, memory = step(params, target[:, t], position, memory)
        np.testing.assert_allclose(logits, outputs[0][:, t + 1], rtol=0, atol=1e-5)


def test_the_sampler_reports_the_log_probs_of_the_teacher_forced_pass(params, batch):
    source, mask, _ = batch
    drawn = sampling.Config(max_new_tokens=T, eos_ids=(EOS,), pad_id=CONFIG.pad_id)
    keys = sampling.row_keys(jax.random.key(1), jnp.arange(3))
    said = jax.jit(
        lambda p: sampling.generate(MODEL, p, Prompts(source, mask), keys, config=drawn)
    )(params)
    target = said.tokens[:, S:]
    logits, _ = features(params, source, mask, target, said.response_mask)
    logps = logprobs.of_tokens(logits, target) * said.response_mask
    np.testing.assert_allclose(said.logps, logps, rtol=0, atol=1e-5)
    assert (said.logps[:, 0] < 0).all()


# Dropout


def test_dropout_is_for_training_only_and_comes_from_its_key(params, batch, outputs):
    model = seq2seq.Seq2Seq(
        config.Seq2Seq(golden.SOURCE_VOCAB, golden.TARGET_VOCAB, E, H, dropout=0.5)
    )
    quiet = tiny_models.compiled(model)(params, *batch)
    np.testing.assert_allclose(quiet, outputs[0], rtol=0, atol=1e-6)

    @jax.jit
    def noisy(key):
        keys = {"dropout": key}
        return model.apply(
            {"params": params}, *batch, None, False, rngs=keys, method="features"
        )

    one, again, other = (noisy(jax.random.key(n)) for n in (0, 0, 1))
    chex.assert_trees_all_equal(one, again)
    assert (np.abs(one[0] - other[0]).max((1, 2)) > 1e-3).all()
    # Embeddings are dropped or doubled; the feed itself never is.
    fed, plain = np.array(one[1][..., :E]), np.array(outputs[1][..., :E])
    assert ((fed == 0) | np.isclose(fed, 2 * plain)).all()
    shown = plain != 0
    assert 0.2 < (fed[shown] == 0).mean() < 0.8
    assert (np.array(one[1][:, 1:, E:]) != 0).all()


# Learning


@pytest.mark.slow
def test_it_learns_to_say_the_source_backwards():
    import optax

    model = seq2seq.Seq2Seq(config.Seq2Seq(12, 12, embedding=16, hidden=32))
    rng = np.random.default_rng(0)
    source = jnp.array(rng.integers(4, 12, (64, 5)), jnp.int32)
    held = jnp.array(rng.integers(4, 12, (64, 5)), jnp.int32)
    mask = jnp.ones_like(source)
    tx = optax.adam(1e-2)

    def loss(params, words):
        logits = model.apply({"params": params}, words, mask, words[:, ::-1])
        return -logprobs.of_tokens(logits, words[:, ::-1]).mean()

    def update(carry, key):
        params, state = carry
        words = jax.random.randint(key, source.shape, 4, 12)
        grads = jax.grad(loss)(params, words)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(params):
        keys = jax.random.split(jax.random.key(1), 200)
        (params, _), _ = jax.lax.scan(update, (params, tx.init(params)), keys)
        return loss(params, held)

    params = jax.jit(model.init)(jax.random.key(0), source, mask, source)["params"]
    before = float(jax.jit(loss)(params, held))
    after = float(train(params))
    assert before > np.log(8) and after < 0.5 * np.log(8)


# Misuse


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(hidden=0), "hidden=0: must be a whole number of at least 1"),
        (dict(dropout=1.0), "dropout=1.0: must be a number of at least 0 and below 1"),
        (dict(bos_id=0), "pad_id=0 and unk_id=1 and bos_id=0 and eos_id=3: choose"),
        (dict(source_vocab=3), "from 0 to 2"),
    ],
)
def test_misuse_names_the_value_and_the_fix(changes, message):
    with pytest.raises(ValueError, match=message):
        config.Seq2Seq(**(dict(source_vocab=11, target_vocab=13) | changes))
