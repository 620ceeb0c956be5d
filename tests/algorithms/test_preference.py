"""algorithms.preference: log-probs of answers against loops, losses on batches."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from checks import close

from rlhf_jax import trees
from rlhf_jax.algorithms import preference
from rlhf_jax.types import Preferences

ROWS, LENGTH, BETA = 4, 7, 0.3
KINDS = {
    "dpo": {"loss": "dpo", "beta": BETA, "label_smoothing": 0.1},
    "ipo": {"loss": "ipo", "beta": BETA},
    "mpo": {
        "loss": ("sigmoid", "bco_pair", "sft", "orpo"),
        "loss_weights": (0.8, 0.2, 1.0, 0.5),
        "beta": BETA,
    },
    "wpo": {"loss": ("hinge", "ipo"), "use_weighting": True, "beta": BETA},
}


def side(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, tiny.VOCAB, (ROWS, LENGTH)).astype(np.int32)
    lengths = rng.integers(4, LENGTH + 1, ROWS)
    return tokens, (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)


PAIRS = Preferences(*side(0), *side(1), np.linspace(0, 1, ROWS).astype(np.float32))
STARTS = np.array([1, 2, 3, 1], np.int32)


@functools.partial(jax.jit, static_argnames="mean")
def logps(params, pairs=PAIRS, starts=STARTS, mean=False):
    return preference.sequence_logps(tiny.BIGRAM, params, pairs, starts, mean=mean)


def by_hand(params, mean):
    """The same in float64, token after token."""
    table = np.asarray(params["table"], np.float64)
    table = table - np.log(np.exp(table).sum(-1, keepdims=True))
    sides = (PAIRS.chosen, PAIRS.chosen_mask), (PAIRS.rejected, PAIRS.rejected_mask)
    result = np.zeros((ROWS, 2))
    for k, (tokens, mask) in enumerate(sides):
        for row in range(ROWS):
            places = [t for t in range(STARTS[row], LENGTH) if mask[row, t]]
            terms = [table[tokens[row, t - 1], tokens[row, t]] for t in places]
            result[row, k] = np.mean(terms) if mean else np.sum(terms)
    return result


def batch(reference):
    return preference.Batch(PAIRS, STARTS, np.asarray(reference, np.float32))


def count(rows=ROWS):
    """The `Count` of all rows; the starts of `PAIRS` are after token 0."""
    position = np.arange(LENGTH)
    answers = PAIRS.chosen_mask[:rows] * (position >= STARTS[:rows, None])
    return preference.Count(jnp.float32(rows), jnp.float32(answers.sum()))


@pytest.mark.parametrize("mean", [False, True])
def test_log_probs_of_answers_are_the_loop_over_tokens(mean):
    params = tiny.policy_params()
    close(logps(params, mean=mean), by_hand(params, mean), rtol=1e-5)


def test_padding_changes_no_bit_and_prompts_are_not_scored():
    params = tiny.policy_params()
    pairs = PAIRS._replace(
        chosen=np.where(PAIRS.chosen_mask, PAIRS.chosen, tiny.PAD),
        rejected=np.where(PAIRS.rejected_mask, PAIRS.rejected, tiny.PAD),
    )
    longer = Preferences(
        *(np.pad(x, ((0, 0), (0, 3))) for x in pairs[:4]), pairs.preference
    )
    for other in (pairs, longer):
        np.testing.assert_array_equal(logps(params, other), logps(params))
    starts = np.full(ROWS, 2, np.int32)
    asked = pairs._replace(chosen=pairs.chosen.copy())
    asked.chosen[:, 0] = 3  # the last token of a prompt is read, those before are not
    np.testing.assert_array_equal(
        logps(params, asked, starts), logps(params, pairs, starts)
    )


@pytest.mark.parametrize(("kind", "value"), [("dpo", np.log(2)), ("ipo", 0.25 / 0.09)])
def test_at_the_reference_the_loss_is_known(kind, value):
    """DPO: log 2. IPO: (1/2β)², whatever the labels."""
    params = tiny.policy_params()
    loss = preference.make_loss(tiny.BIGRAM, **KINDS[kind])
    reference = logps(params)
    total, metrics = jax.jit(loss)(params, batch(reference), count())
    close(total, value, rtol=1e-5)
    close(metrics["rewards/margins"], 0.0)
    close(metrics["logps/chosen"], np.mean(reference[:, 0]), rtol=1e-5)
    assert metrics["rewards/accuracies"] == 0.5  # ties are half right
    assert {*metrics} == {
        *("loss", "rewards/chosen", "rewards/rejected", "rewards/margins"),
        *("rewards/accuracies", "logps/chosen", "logps/rejected"),
    }


def test_the_gradient_at_the_reference_is_the_papers():
    """∇L = −β σ(0) (∇log π_c − ∇log π_r) for hard labels (Rafailov et al., eq. 7)."""
    params = tiny.policy_params()
    pairs = PAIRS._replace(preference=np.ones(ROWS, np.float32))
    data = batch(logps(params))._replace(pairs=pairs)
    loss = preference.make_loss(tiny.BIGRAM, beta=BETA)
    result = jax.jit(jax.grad(lambda p: loss(p, data, count())[0]))(params)

    def gap(params):
        both = logps(params)
        return (both[:, 0] - both[:, 1]).mean()

    wanted = jax.tree.map(lambda g: -0.5 * BETA * g, jax.jit(jax.grad(gap))(params))
    close(result["table"], wanted["table"], rtol=1e-5, atol=1e-6)


def test_a_step_down_the_gradient_prefers_what_was_chosen():
    params = tiny.policy_params()
    data = batch(logps(params))
    data = data._replace(pairs=PAIRS._replace(preference=np.ones(ROWS, np.float32)))
    loss = preference.make_loss(tiny.BIGRAM, beta=BETA)
    value = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (before, _), grads = value(params, data, count())
    moved = trees.lerp(params, trees.subtract(params, grads), 0.1)
    (after, metrics), _ = value(moved, data, count())
    assert after < before and metrics["rewards/margins"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_shares_add_up_to_the_same_loss_and_gradient(kind):
    params, reference = tiny.policy_params(), by_hand(tiny.policy_params(seed=1), False)
    data = batch(reference)

    def run(params, part, axis_name=None):
        loss = preference.make_loss(tiny.BIGRAM, **KINDS[kind])
        result = jax.value_and_grad(loss, has_aux=True)(params, part, count())
        return result if axis_name is None else jax.lax.psum(result, axis_name)

    whole = jax.jit(run)(params, data)
    halves = jax.tree.map(lambda x: np.asarray(x).reshape(2, -1, *x.shape[1:]), data)
    mapped = functools.partial(run, axis_name=checks.AXIS)
    mapped = jax.jit(jax.vmap(mapped, (None, 0), axis_name=checks.AXIS))
    parts = mapped(params, halves)
    for half in range(2):
        jax.tree.map(lambda x, y, i=half: close(x[i], y, 1e-5, 1e-6), parts, whole)


def test_the_reference_is_data():
    """Another reference moves the loss, and no gradient flows to it."""
    params = tiny.policy_params()
    loss = preference.make_loss(tiny.BIGRAM, beta=BETA)
    value = jax.value_and_grad(
        lambda r: loss(params, batch(0)._replace(reference=r), count())[0]
    )
    tables = (tiny.policy_params(seed=seed) for seed in (1, 2))
    result = [jax.jit(value)(logps(table)) for table in tables]
    assert result[0][0] != result[1][0]
    assert not np.any(result[0][1])


def test_denominators_are_pairs_and_tokens_of_chosen_answers():
    found = jax.jit(preference.count)(batch(np.zeros((ROWS, 2))))
    assert found == count()
    # A row that is all answer: its first token has no log-prob.
    whole = batch(np.zeros((ROWS, 2)))._replace(starts=np.zeros(ROWS, np.int32))
    assert preference.count(whole).tokens == PAIRS.chosen_mask[:, 1:].sum()


def test_lengths_and_weights_of_answers_are_the_loops():
    """A pair weighs Π over its answers of exp(mean_t log π(y_t) − log Σ_v π(v)²)."""
    params = tiny.policy_params()
    read = functools.partial(preference.read_answers, tiny.BIGRAM, weighting=True)
    answers = jax.jit(read)(params, PAIRS, STARTS)
    table = np.asarray(params["table"], np.float64)
    table = table - np.log(np.exp(table).sum(-1, keepdims=True))
    sides = (PAIRS.chosen, PAIRS.chosen_mask), (PAIRS.rejected, PAIRS.rejected_mask)
    for row in range(ROWS):
        weight = 1.0
        for k, (tokens, mask) in enumerate(sides):
            places = [t for t in range(STARTS[row], LENGTH) if mask[row, t]]
            assert answers.lengths[row, k] == len(places)
            before = [table[tokens[row, t - 1]] for t in places]
            terms = [
                p[tokens[row, t]] - np.log((np.exp(p) ** 2).sum())
                for p, t in zip(before, places, strict=True)
            ]
            weight *= np.exp(np.mean(terms))
        close(answers.weights[row], weight, rtol=1e-4)


def test_a_mixture_is_the_weighted_sum_of_its_losses():
    params, data = tiny.policy_params(), batch(logps(tiny.policy_params(seed=1)))

    @jax.jit
    def run(params):
        loss = functools.partial(preference.make_loss, tiny.BIGRAM, beta=BETA)
        parts = [loss(loss=name)(params, data, count()) for name in ("dpo", "hinge")]
        names, weights = ("sigmoid", "hinge"), (0.8, 0.2)
        return parts, loss(loss=names, loss_weights=weights)(params, data, count())

    (dpo, hinge), (mixed, metrics) = run(params)
    close(mixed, 0.8 * dpo[0] + 0.2 * hinge[0], rtol=1e-5)
    close(metrics["loss/sigmoid"], dpo[0])
    close(metrics["loss/hinge"], hinge[0])
    close(metrics["rewards/margins"], dpo[1]["rewards/margins"])


def test_without_a_reference_none_matters():
    params = tiny.policy_params()
    settings = preference.configure(loss=("simpo", "sft"), beta=2.0)
    assert not settings.refers() and preference.configure(loss=("sft", "dpo")).refers()
    loss = preference.make_loss(tiny.BIGRAM, **settings._asdict())
    data = batch(np.zeros((ROWS, 2)))
    value = jax.jit(lambda r: loss(params, data._replace(reference=r), count()))
    nothing = np.zeros((ROWS, 2), np.float32)
    jax.tree.map(np.testing.assert_array_equal, value(nothing), value(nothing + np.nan))


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="must be one of dpo, sigmoid"):
        preference.make_loss(None, loss="kto", beta=BETA)
    with pytest.raises(ValueError, match="=0.1 and loss=.*without effect"):
        preference.make_loss(None, loss="ipo", beta=BETA, label_smoothing=0.1)
    with pytest.raises(ValueError, match="beta=0.0: must be a number above 0"):
        preference.make_loss(None, beta=0.0)


def test_soft_labels_are_refused_by_losses_of_hard_ones():
    labels = np.array([1.0, 0.75, 0.5])
    for loss in ("dpo", ("sigmoid", "hinge"), "exo_pair"):
        smooth = 0.1 if loss == "exo_pair" else 0.0
        settings = preference.configure(loss=loss, label_smoothing=smooth)
        preference.check_labels(settings, labels)
    settings = preference.configure(loss=("dpo", "aot"))
    preference.check_labels(settings, labels[:1])
    with pytest.raises(ValueError, match="loss aot takes .* preference is 0.75 in 2"):
        preference.check_labels(settings, labels)
