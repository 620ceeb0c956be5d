"""post_hoc: averages by blocks of layers, their training, and what is logged of it."""

import dataclasses
import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_models
from checks import close

from rlhf_jax import averaging, heterogeneous, ratios, trees
from rlhf_jax.evaluation import policy
from rlhf_jax.models import config, decoder, lora
from rlhf_jax.runtime import loop, parallel
from rlhf_jax.studies import eval_steps, post_hoc, runner
from rlhf_jax.studies import heterogeneous as blockwise
from rlhf_jax.studies.interfaces import (
    Method,
    Run,
    Schedule,
    Source,
    Study,
    Trainer,
    Unit,
)
from rlhf_jax.studies.task import Reward, Task
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.types import Prompts

LAYOUT = parallel.data(1)
L, N = 3, 32
MODEL = decoder.Decoder(
    config.llama(
        vocab_size=tiny.VOCAB, width=8, layers=L, heads=2, max_length=tiny.PROMPT + 5
    )
)
SFT = tiny_models.draw(MODEL)
LEARNED = Trainable(SFT)
QUICK = {"learning_rate": 0.05, "rows": 8, "epochs": 8}


def nudged(layers, seed=1, size=0.4):
    """SFT with other linear layers in some layers."""
    rng, where = np.random.default_rng(seed), np.isin(np.arange(L), layers)

    def leaf(x):
        noise = size * rng.normal(size=x.shape)
        return x + jnp.asarray(noise * where.reshape(-1, 1, 1), x.dtype)

    def kernels(path, x):
        return leaf(x) if "layers" in path and path.endswith("kernel") else x

    return jax.tree_util.tree_map_with_path(
        lambda path, x: kernels(trees.path_name(path), x), SFT
    )


RLHF = nudged([0, 1, 2])


@functools.cache
def texts(layers=(0,)):
    """Samples of a model that is aligned in some of its layers, and not in others."""
    truth = jax.tree.map(
        lambda a, b: (
            jnp.where(
                np.isin(np.arange(L), layers).reshape(-1, *(1,) * (a.ndim - 1)), b, a
            )
            if a.shape[:1] == (L,)
            else a
        ),
        SFT,
        RLHF,
    )
    return blockwise.high_reward_samples(
        task(), truth, Reward(arrays=lucky), LAYOUT, draws=4 * N, keep=4 * N
    )


def lucky(rollout):
    return np.asarray((rollout.tokens == tiny.LUCKY).sum(-1), np.float32)


@functools.cache
def task():
    """A task of which only prompts, samples and rewards are read."""
    batch = tiny.batch(rows=N)
    prompts = Prompts(batch.tokens, batch.mask)
    fields = {field.name: None for field in dataclasses.fields(Task)}
    given = {
        "model": MODEL,
        "params": SFT,
        "sampling": tiny.sampler(),
        "prompts": prompts,
        "eval_prompts": prompts,
        "decode": lambda tokens, mask: ["" for _ in tokens],
        "rewards": {"proxy": lambda seed: Reward(arrays=lucky)},
        "columns": {},
        "eval_columns": {},
    }
    return Task(**{**fields, **given})


def fit(text=None, *, layout=LAYOUT, seed=0, **changes):
    given = {**QUICK, "mean": 0.5, **changes}
    text = texts() if text is None else text
    return blockwise.fit(
        MODEL,
        LEARNED,
        SFT,
        RLHF,
        text,
        config=blockwise.Config(**given),
        layout=layout,
        seed=seed,
    )


def learned(metrics, K=3):
    return np.array([metrics[f"average/ratio_{k}"] for k in range(K)])


@pytest.fixture(scope="module")
def fitted():
    return fit()


# Training ratios


def nll(params, text):
    measured = jax.jit(policy.make_text_nll(MODEL))(params, text)
    total, tokens = jax.device_get(measured)
    return float(np.sum(total, dtype=np.float64) / np.sum(tokens))


def test_the_block_that_explains_the_texts_gets_the_weight(fitted):
    """Texts of a model that is aligned in its first layer alone."""
    alphas = learned(fitted.metrics)
    assert abs(alphas.mean() - 0.5) < 1e-6 and alphas.min() >= 0 <= 1 - alphas.max()
    assert np.argmax(alphas) == 0 and alphas[0] > 0.6
    assert fitted.metrics["average/nll"] < fitted.metrics["average/nll_uniform"]


def test_what_is_logged_is_what_was_made_of_the_models(fitted):
    alphas, metrics = learned(fitted.metrics), fitted.metrics
    blocks = heterogeneous.layer_blocks(SFT, 3)
    between = heterogeneous.average(SFT, RLHF, alphas, blocks=blocks, mean=0.5)
    jax.tree.map(lambda x, y: close(x, y, 1e-5, 1e-6), fitted.policy, between)
    close(metrics["average/moved"], np.abs(alphas - 0.5).max(), 1e-5)
    close(metrics["average/nll"], nll(between, texts()), 1e-5)
    plain = averaging.interpolate(SFT, RLHF, 0.5)
    close(metrics["average/nll_uniform"], nll(plain, texts()), 1e-5)


def test_the_first_update_is_adams_along_the_numerical_gradient():
    """Adam's first step has the length of its rate, whatever the gradient."""
    rate, eps = 0.05, 0.05
    found = fit(rows=len(texts().tokens), epochs=1, learning_rate=rate)
    blocks, start = heterogeneous.layer_blocks(SFT, 3), ratios.init(3, mean=0.5)

    def loss(scores):
        alphas = ratios.of_scores(scores, mean=0.5)
        return nll(heterogeneous.average(SFT, RLHF, alphas, blocks=blocks), texts())

    steps = eps * np.eye(3, dtype=np.float32)
    slopes = np.array([loss(start + e) - loss(start - e) for e in steps]) / (2 * eps)
    assert np.abs(slopes).min() > 1e-4  # a sign that rounding could turn proves nothing
    expected = ratios.of_scores(start - rate * np.sign(slopes), mean=0.5)
    close(learned(found.metrics), expected, 1e-3)


def test_devices_share_the_rows_and_change_nothing(fitted):
    """Not even of the penalty, which is not added once for each of them."""
    one, two = (fit(layout=parallel.data(n), penalty=0.01) for n in (1, 2))
    close(learned(two.metrics), learned(one.metrics), 1e-3)
    assert one.metrics["average/moved"] < fitted.metrics["average/moved"]


def test_the_form_of_the_paper_is_an_option():
    found = fit(offset=0.5, mean=0.4)
    alphas = learned(found.metrics)
    least, greatest = ratios.reach(3, mean=0.4, offset=0.5)
    assert abs(alphas.mean() - 0.4) < 1e-6 and np.argmax(alphas) == 0
    assert least <= alphas.min() <= alphas.max() <= greatest
    with pytest.raises(ValueError, match="ratios end at 1"):
        fit(offset=0.2, mean=0.8)


def test_embeddings_count_in_a_mean_over_parameters():
    changes = {"by_parameters": True, "embeddings": 0}
    alphas = learned(fit(**changes).metrics)
    blocks = heterogeneous.layer_blocks(SFT, 3, embeddings=0)
    sizes = heterogeneous.block_sizes(SFT, 3, blocks=blocks)
    assert sizes[0] > sizes[1] == sizes[2]
    assert abs(alphas @ sizes / sizes.sum() - 0.5) < 1e-6
    assert abs(alphas.mean() - 0.5) > 1e-3


def test_adapters_are_averaged_beside_their_base():
    adapter = lora.Config(2, 4.0, ("mlp", "attention"))
    trained = Trainable(SFT, adapter)
    rng = np.random.default_rng(5)
    adapters = jax.tree.map(
        lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype),
        trained.start(jax.random.key(0)),
    )
    none = trained.mix(adapters, 0.0)
    target = jax.tree_util.tree_map_with_path(  # adapted in the last layer alone
        lambda path, x: x.at[:2].set(0.0) if path[-1].key == lora.B else x, adapters
    )
    text = blockwise.high_reward_samples(
        task(), trained.weights(target), Reward(arrays=lucky), LAYOUT, draws=4 * N
    )
    given = blockwise.Config(mean=0.5, **QUICK)
    found = blockwise.fit(
        MODEL, trained, none, adapters, text, config=given, layout=LAYOUT
    )
    alphas = learned(found.metrics)
    assert np.argmax(alphas) == 2 and abs(alphas.mean() - 0.5) < 1e-6
    assert jax.tree.structure(found.policy) == jax.tree.structure(adapters)
    whole = heterogeneous.average(
        SFT,
        trained.merge(adapters),
        alphas,
        blocks=heterogeneous.layer_blocks(SFT, 3, others="sft"),
    )
    merged = trained.merge(found.policy)
    jax.tree.map(lambda x, y: close(x, y, 1e-4, 1e-5), merged, whole)


def test_ratios_of_a_model_that_is_not_finite_are_refused():
    broken = {**RLHF, "embedding": {"token": RLHF["embedding"]["token"] * jnp.nan}}
    given = blockwise.Config(mean=0.5, **QUICK)
    with pytest.raises(loop.NotFinite, match="not finite"):
        blockwise.fit(MODEL, LEARNED, SFT, broken, texts(), config=given, layout=LAYOUT)


# Samples


def test_the_samples_are_those_of_the_highest_reward():
    draw = functools.partial(
        blockwise.high_reward_samples, task(), RLHF, Reward(arrays=lucky), LAYOUT
    )
    every, best = draw(draws=50, keep=50), draw(draws=50, keep=20)
    counts = lucky(every)
    assert (np.diff(counts) <= 0).all() and counts[0] > counts[-1]
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:20], y), every, best)
    assert best.tokens.shape[0] == 20
    assert not best.target_mask[:, : tiny.PROMPT].any()
    assert (best.target_mask <= best.mask).all() and best.target_mask.any(1).all()
    prompts = {tuple(x) for x in task().prompts.tokens}
    assert {tuple(x[: tiny.PROMPT]) for x in every.tokens} == prompts
    assert np.any(draw(draws=50, keep=20, seed=1).tokens != best.tokens)


# Policies derived from a run


def train(study, run):
    """A run that goes from SFT to RLHF in two steps."""
    return Trainer(
        start=lambda: run.layout.put(trees.copy(SFT)),
        advance=lambda state, i: (averaging.interpolate(SFT, RLHF, i / 1.0), {}, None),
        policy=lambda state: state,
        mix=LEARNED.mix,
    )


def of_layers(params, run):
    """How far each layer is on its way, and the table of embeddings."""

    def way(x, first, last):
        return float(jnp.abs(x - first).sum() / jnp.abs(last - first).sum())

    kernels = [tree["layers"]["mlp"]["up"]["kernel"] for tree in (params, SFT, RLHF)]
    return {f"eval/layer_{i}": way(*(k[i] for k in kernels)) for i in range(L)}, []


@dataclasses.dataclass(frozen=True)
class Settings:
    adapter: lora.Config | None = None


def study(**methods):
    return Study(
        methods={"walk": Method("walk", "", train=train), **methods},
        units=(Unit(0, 0),),
        schedule=Schedule(2, eval_steps.alike(2, 2)),
        evaluators=(of_layers,),
        task=task(),
        settings=Settings(),
    )


def source(study=None, policy=RLHF, mix=LEARNED.mix):
    return Source(policy, None, None, mix, study, Run("walk", Unit(0, 0), LAYOUT))


def row(derive):
    return Method("", "", source="walk", derive=derive, at_end=True)


def test_a_study_logs_the_ratios_beside_what_it_measures(tmp_path):
    sizes = post_hoc.samples(draws=4 * N, keep=2 * N)
    made = study(
        hma=row(post_hoc.heterogeneous(0.5, texts=sizes, **QUICK)),
        input=row(post_hoc.part("input", 0.25)),
        both=row(post_hoc.with_ratios([0.9, 0.5, 0.1])),
    )
    records = runner.run(made, tmp_path, LAYOUT)
    last = {r["method"]: r for r in records if r.get("eval/phase") == "final"}
    alphas = learned(last["hma"])
    measured = {
        name: [last[name][f"eval/layer_{i}"] for i in range(L)] for name in last
    }
    close(measured["hma"], alphas, 1e-4)
    close(measured["input"], [0.25, 1.0, 1.0], 1e-4)
    close(measured["both"], [0.9, 0.5, 0.1], 1e-4)
    assert last["hma"]["average/moved"] > 1e-3 and "average/moved" not in last["input"]
    run = Run("hma", Unit(0, 0), LAYOUT)
    saved = runner.policy(made, tmp_path, LAYOUT, run)
    close(of_layers(saved, run)[0]["eval/layer_0"], alphas[0], 1e-4)


@pytest.mark.parametrize("name", ["input", "middle", "output"])
def test_a_part_is_a_third_of_the_layers_at_a_weight_and_the_rest_is_trained(name):
    moved = tiny.shake(RLHF, 7)  # norms and embeddings too
    kept = post_hoc.part(name, 0.0)(source(policy=moved))
    index = ["input", "middle", "output"].index(name)
    for path, first, last, out in zip(
        trees.paths(SFT), *map(jax.tree.leaves, (SFT, moved, kept)), strict=True
    ):
        expected = last
        if "layers" in path:
            expected = last.at[index].set(first[index])
        checks.same(out, expected)
    checks.same(post_hoc.part(name, 1.0)(source(policy=moved)), moved)


def test_embeddings_may_go_with_the_input_part():
    moved = tiny.shake(RLHF, 7)
    for embeddings in (False, True):
        derive = post_hoc.part("input", 0.0, embeddings=embeddings)
        out = derive(source(policy=moved))["embedding"]
        checks.same(out, SFT["embedding"] if embeddings else moved["embedding"])
    with pytest.raises(ValueError, match="no part 'head': choose from input, middle"):
        post_hoc.part("head", 0.5)


def test_equal_ratios_are_interpolation():
    one = post_hoc.with_ratios([0.8, 0.8, 0.8])(source())
    close_trees(one, post_hoc.interpolate(0.8)(source()))


def close_trees(one, two):
    jax.tree.map(lambda x, y: close(x, y, 1e-6, 1e-6), one, two)


def test_labelled_texts_train_a_ratio_for_each_layer():
    """On texts of a model that is aligned in its last layer alone."""
    derive = post_hoc.adaptive(0.5, lambda source: texts((2,)), **QUICK)
    found = derive(source(study()))
    assert np.argmax(learned(found.metrics, L)) == 2
    assert f"average/ratio_{L}" not in found.metrics


def test_a_graft_takes_what_moved_furthest_of_all_weights():
    checks.same(post_hoc.graft(0.3)(source()), averaging.graft(SFT, RLHF, 0.3))
    adapters = Trainable(SFT, lora.Config(2, 4.0, ("query",)))
    trained = adapters.start(jax.random.key(0))
    with pytest.raises(ValueError, match="train them, no --lora"):
        post_hoc.graft(0.3)(source(policy=trained, mix=adapters.mix))


def test_ratios_that_a_run_learned_are_reordered_and_redrawn():
    fit = post_hoc.heterogeneous(0.5, texts=lambda source: texts((2,)), **QUICK)
    asked = []

    def derive(source):
        asked.append(source)
        return fit(source)

    known, here = post_hoc.learned(derive), source(study())
    alphas = known(here)
    close(alphas, learned(fit(here).metrics, 3), 1e-6)
    turned = post_hoc.with_ratios(post_hoc.permuted(known, (2, 0, 1)), mean=0.5)(here)
    close_trees(turned, post_hoc.with_ratios(alphas[[2, 0, 1]], mean=0.5)(here))
    drawn = [post_hoc.redrawn(known, number)(here) for number in (0, 0, 1)]
    checks.same(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3
    for other in drawn:
        close(other.mean(), 0.5, 1e-5)
        close(other.std(), alphas.std(), 1e-4)
    assert len(asked) == 1  # the run is fitted once


def test_what_is_kept_of_a_policy_is_not_used_for_another():
    made = post_hoc.learned(
        post_hoc.heterogeneous(0.5, texts=lambda source: texts((2,)), **QUICK)
    )
    here = source(study())
    other = source(study(), policy=tiny.shake(RLHF, 7))
    first, second = made(here), made(other)
    assert np.abs(first - second).max() > 1e-4
    checks.same(made(here), first)
