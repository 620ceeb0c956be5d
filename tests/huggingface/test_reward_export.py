"""Reward models that are exported score alike in `transformers`."""

import functools

import chex
import directories
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
import tokenizers
import transformers
from golden import make

from experiments import reward_model
from rlhf_jax import huggingface, trees
from rlhf_jax.huggingface import adapters as hf_adapters
from rlhf_jax.huggingface import score_bias
from rlhf_jax.models import lora
from rlhf_jax.tasks import models
from rlhf_jax.types import Preferences

SHIFT = 2.785
# Families with a place for a bias: two in their last LayerNorm, one in its head.
SHIFTED = ("gpt2_reward", "neox_classifier", "distilbert")
FIXED = ("llama_classifier", "gemma3_reward")
SHAPE = lora.Config(rank=2, alpha=2.0)

compiled = functools.cache(tiny_models.compiled)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """case → (model, params, tokenizer), each read once."""

    @functools.cache
    def find(case):
        folder = tmp_path_factory.mktemp(case)
        directories.unpack(case, folder)
        return huggingface.load(folder)

    return find


def batch(case):
    return [jnp.array(x, jnp.int32) for x in make.batch(case)]


def scores(model, params, case):
    return np.asarray(compiled(model)(params, *batch(case)))


def moved(params, shift=SHIFT):
    """The same with another bias of its scores."""
    bias = params["head"]["bias"]
    bias = bias + shift * jnp.arange(1, 1 + len(bias), dtype=jnp.float32)
    return {**params, "head": {**params["head"], "bias": bias}}


def in_torch(folder, case):
    """The scores of `transformers`."""
    import torch

    auto = transformers.AutoModelForSequenceClassification
    return torch_scores(auto.from_pretrained(folder), case, torch)


def torch_scores(model, case, torch):
    tokens, mask = (torch.tensor(x) for x in make.batch(case))
    more = {}
    if case not in make.ENCODERS:
        more["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model.eval()(tokens, attention_mask=mask, **more).logits.numpy()


@pytest.mark.parametrize("case", SHIFTED)
def test_a_bias_is_written_where_transformers_reads_it(case, loaded, tmp_path):
    model, params, tokenizer = loaded(case)
    biased = moved(params)
    huggingface.save(tmp_path / "reward", model, biased, tokenizer)
    tensors, described = directories.read(tmp_path / "reward")
    assert "score.bias" not in tensors and "score_offset" not in described
    kept = huggingface.load(tmp_path / "reward")[1]
    expected = scores(model, biased, case)
    np.testing.assert_allclose(scores(model, kept, case), expected, rtol=0, atol=2e-5)
    assert np.abs(expected - scores(model, params, case)).max() > 1
    changed = [
        path
        for path, x, y in zip(
            trees.paths(params),
            jax.tree.leaves(params),
            jax.tree.leaves(kept),
            strict=True,
        )
        if np.any(x != y)
    ]
    head = case in make.ENCODERS
    assert changed == ["head/bias" if head else "trunk/final_norm/bias"]


@pytest.mark.parametrize("case", [*SHIFTED, *FIXED])
def test_exported_scores_are_those_of_transformers(case, loaded, tmp_path):
    pytest.importorskip("torch")
    model, params, tokenizer = loaded(case)
    biased = score_bias.removed(model, moved(params))
    models.export(tmp_path / "reward", model, biased, tokenizer)
    theirs, ours = in_torch(tmp_path / "reward", case), scores(model, biased, case)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", FIXED)
def test_a_bias_that_no_weight_can_hold_is_said_and_not_trained(case, loaded, tmp_path):
    model, params, tokenizer = loaded(case)
    assert not score_bias.expressible(model)
    biased = moved(params)
    assert score_bias.folded(model, biased) is biased
    huggingface.save(tmp_path / "reward", model, biased, tokenizer)
    offset = directories.read(tmp_path / "reward")[1]["score_offset"]
    np.testing.assert_allclose(offset, biased["head"]["bias"])
    if model.labels == 1:
        read = models.read_classifier("--model", tmp_path / "reward", "float32", 0)
        chex.assert_trees_all_equal(read[1], score_bias.removed(model, biased))
        assert not np.any(read[1]["head"]["bias"])


def test_a_head_without_weights_keeps_its_bias(loaded):
    model, params, _ = loaded("gpt2_reward")
    head = {"kernel": jnp.zeros((16, 1)), "bias": jnp.ones(1)}
    empty = {**params, "head": head}
    assert score_bias.folded(model, empty) is empty


@pytest.mark.parametrize("case", ["gpt2_reward", "distilbert"])
def test_centred_scores_have_mean_zero_on_training_pairs(case, loaded):
    model, params, _ = loaded(case)
    params = moved(params)
    if model.labels > 1:
        head = jax.tree.map(lambda x: x[..., :1], params["head"])
        params, model = {**params, "head": head}, model.clone(labels=1)
    rows = [np.concatenate([x, x[::-1]]) for x in make.batch(case)]
    chosen, rejected = ([x[:4] for x in rows], [x[4:] for x in rows])
    pairs = Preferences(*chosen, *rejected, np.ones(4, np.float32), np.zeros(4))
    score = lambda p, x: np.asarray(compiled(model)(p, *x))[:, 0]  # noqa: E731
    assert abs(score(params, chosen).mean()) > 1
    centred = reward_model.centered(score, model, params, pairs=pairs)
    assert abs(score(centred, chosen).mean()) < 1e-5
    assert np.any(centred["head"]["bias"]) == (case == "distilbert")


# Adapters


@pytest.mark.parametrize("case", ["gpt2_reward", "distilbert"])
def test_adapters_score_as_the_finished_model(case, loaded, tmp_path):
    model, params, tokenizer = loaded(case)
    made = lora.init(params, jax.random.key(0), rank=2, targets="attention/query")
    made = {**jax.tree.map(lambda x: x + 0.1, made), "head": params["head"]}
    merged = lora.merge(params, made, scale=SHAPE.scale)
    finished = score_bias.folded(model, moved(merged))
    whole = score_bias.beside(model, made, merged, finished)
    plain = score_bias.beside(model, made, merged, merged)
    assert ("final_norm" in whole["trunk"]) == (case == "gpt2_reward")
    assert "final_norm" not in plain["trunk"] and plain["head"] is merged["head"]
    hf_adapters.save(tmp_path / "adapters", model, whole, SHAPE)
    again, shape = hf_adapters.load(tmp_path / "adapters", model)
    joined = lora.merge(params, again, scale=shape.scale)
    expected = scores(model, finished, case)
    found = scores(model, joined, case)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    models.export(tmp_path / "base", model, params, tokenizer)
    auto = transformers.AutoModelForSequenceClassification
    base = auto.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapters")
    there = torch_scores(theirs, case, torch)
    np.testing.assert_allclose(there, expected, rtol=0, atol=1e-4)


# Padding


def test_padding_of_a_reward_model_is_no_end(loaded):
    """There, a score is read at the last token that is not padding."""
    model = loaded("gpt2_reward")[0]
    tokenizer = directories.word_tokenizer()
    assert models.scoring_tokenizer(model, tokenizer) is tokenizer
    for pad in ("</s>", None):
        tokenizer.pad_token = pad
        changed = models.scoring_tokenizer(model, tokenizer)
        assert changed.pad_token_id not in (None, changed.eos_token_id)
        assert changed.pad_token in changed.all_special_tokens
        assert tokenizer.pad_token == pad  # a copy
    assert models.scoring_tokenizer(loaded("distilbert")[0], tokenizer) is tokenizer


def test_a_reward_model_without_a_token_to_pad_with_has_none(loaded, tmp_path):
    model, params, _ = loaded("gpt2_reward")
    words = tokenizers.models.WordLevel({"a": 0, "</s>": 1}, "a")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), eos_token="</s>", pad_token="</s>"
    )
    words = models.scoring_tokenizer(model, tokenizer)
    assert words.pad_token is None and words.eos_token == "</s>"
    models.export(tmp_path / "reward", model, params, tokenizer)
    assert directories.read(tmp_path / "reward")[1]["pad_token_id"] is None
    assert huggingface.load_tokenizer(tmp_path / "reward").pad_token is None
