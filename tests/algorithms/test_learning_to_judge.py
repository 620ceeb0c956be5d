"""Learning to judge: the loss of labels, and of the text beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from rlhf_jax import logprobs
from rlhf_jax.algorithms import judging, sft
from rlhf_jax.types import Prompts, Tokens


def batch(rng, text=True, rows=5):
    tokens = rng.integers(2, tiny.VOCAB, (rows, 7)).astype(np.int32)
    mask = (np.arange(7) >= rng.integers(0, 4, rows)[:, None]).astype(np.int32)
    labels = rng.integers(2, tiny.VOCAB, rows).astype(np.int32)
    if not text:
        return judging.Batch(Prompts(tokens, mask), labels)
    written = rng.integers(2, tiny.VOCAB, (rows, 6)).astype(np.int32)
    valid = (np.arange(6) < rng.integers(3, 7, rows)[:, None]).astype(np.int32)
    targets = valid * (np.arange(6) > 0)
    return judging.Batch(Prompts(tokens, mask), labels, Tokens(written, valid, targets))


def params():
    return tiny.DECODER.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]


def test_the_loss_is_the_labels_negative_log_prob_after_the_question(rng):
    data, weights = batch(rng, text=False), params()
    value, metrics = judging.make_loss(tiny.DECODER)(weights, data, 5.0)
    logits = tiny.DECODER.apply({"params": weights}, *data.questions)[:, -1]
    logps = np.asarray(logprobs.normalize(logits))[np.arange(5), data.labels]
    np.testing.assert_allclose(value, -logps.mean(), rtol=1e-5)
    hits = np.asarray(logits).argmax(-1) == data.labels
    np.testing.assert_allclose(metrics["accuracy"], hits.mean())


def test_padding_before_a_question_changes_nothing(rng):
    data, weights = batch(rng, text=False), params()
    junk = np.where(data.questions.mask == 0, 10**6, data.questions.tokens)
    other = data._replace(questions=data.questions._replace(tokens=junk))
    loss = judging.make_loss(tiny.DECODER)
    np.testing.assert_array_equal(
        loss(weights, data, 5.0)[0], loss(weights, other, 5.0)[0]
    )


def test_text_adds_the_mean_of_its_rows_nll(rng):
    data, weights = batch(rng), params()
    loss = judging.make_loss(tiny.DECODER)
    both, metrics = loss(weights, data, 5.0)
    alone, _ = loss(weights, data._replace(text=None), 5.0)
    rows = [jax.tree.map(lambda x, i=i: x[i : i + 1], data.text) for i in range(5)]
    of_row = sft.make_loss(tiny.DECODER)
    nlls = [of_row(weights, row, sft.count(row))[0] for row in rows]
    np.testing.assert_allclose(metrics["text_nll"], np.mean(nlls), rtol=1e-5)
    np.testing.assert_allclose(both, alone + metrics["text_nll"], rtol=1e-6)


def test_parts_of_a_batch_add_up_to_its_loss(rng):
    """As devices and micro-batches compute it: shares of the global mean."""
    data, weights = batch(rng, rows=6), params()
    loss, count = judging.make_loss(tiny.DECODER), 6.0
    parts = [jax.tree.map(lambda x, s=s: x[s], data) for s in (slice(2), slice(2, 6))]
    whole = loss(weights, data, count)[0]
    np.testing.assert_allclose(
        sum(loss(weights, part, count)[0] for part in parts), whole, rtol=1e-5
    )
    assert sum(judging.count(part) for part in parts) == count
