"""Every family says what torch says: whole texts, token by token, and saved again."""

import dataclasses
import functools

import chex
import directories
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from golden import make

from rlhf_jax import huggingface, trees
from rlhf_jax.huggingface import read_config, write_config
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder, heads, stacks

PROMPT = 6  # longer than the windows
GENERATORS = [case for case in make.CASES if "Sequence" not in make.CASES[case][0]]
# One for each way of decoding; the others differ in what both passes share.
OWN_WAYS = (
    *("gpt2", "neox", "llama_stretched", "mistral", "qwen2_mixed", "qwen3_mixed"),
    *("gemma2", "gemma3"),
)


def batch(case):
    return tuple(jnp.array(x, jnp.int32) for x in make.batch(case))


@functools.partial(jax.jit, static_argnums=0)
def answer(model, params, tokens, mask):
    return model.apply({"params": params}, tokens, mask)


def answer_stepwise(model, params, tokens, mask):
    """Logits [B, T - PROMPT + 1, V] of decoding token by token after a prompt."""
    start, step = (tiny_models.compiled(model, name) for name in ("prefill", "step"))
    length = tokens.shape[1]
    logits, memory = start(params, tokens[:, :PROMPT], mask[:, :PROMPT], length)
    said = [logits]
    for t in range(PROMPT, length):
        logits, memory = step(params, tokens[:, t], mask[:, :t].sum(1), memory)
        said.append(logits)
    return np.stack(said, axis=1)


def assert_same(ours, theirs, case):
    """Equal to 1e-4 where tokens are valid (classifiers: everywhere)."""
    shown = np.array(make.batch(case)[1], bool) if theirs.ndim == 3 else ...
    np.testing.assert_allclose(ours[shown], theirs[shown], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", make.CASES)
def test_a_whole_batch_is_answered_as_torch_answers(tmp_path, case):
    theirs = directories.unpack(case, tmp_path)
    model, params, _ = huggingface.load(tmp_path)
    assert isinstance(model, heads.Classifier) == (theirs.ndim == 2)
    assert_same(answer(model, params, *batch(case)), theirs, case)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case in OWN_WAYS else pytest.mark.slow)
        for case in GENERATORS
    ],
)
def test_decoding_answers_as_torch_answers_the_whole(tmp_path, case):
    theirs = directories.unpack(case, tmp_path)
    model, params, _ = huggingface.load(tmp_path)
    left = tuple(x[: make.LEFT] for x in batch(case))
    ours = answer_stepwise(model, params, *left)
    expected = theirs[: make.LEFT, PROMPT - 1 :]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", make.CASES)
def test_what_is_saved_is_what_was_loaded(tmp_path, case):
    (tmp_path / "theirs").mkdir()
    directories.unpack(case, tmp_path / "theirs")
    model, params, tokenizer = huggingface.load(tmp_path / "theirs")
    huggingface.save(tmp_path / "ours", model, params, tokenizer)
    again, read_back, _ = huggingface.load(tmp_path / "ours")
    assert again == model
    chex.assert_trees_all_equal(read_back, params)
    theirs, ours = (directories.read(tmp_path / x) for x in ("theirs", "ours"))
    chex.assert_trees_all_equal(theirs[0], ours[0])
    for key in ("model_type", "architectures"):
        assert theirs[1][key] == ours[1][key]


@pytest.mark.parametrize("case", make.CASES)
def test_live_answers_of_torch_survive_a_round_trip(tmp_path, case):
    pytest.importorskip("torch")
    make.build(case, tmp_path / "theirs")
    directories.TOKENIZER.save_pretrained(tmp_path / "theirs")
    answers = make.answers(tmp_path / "theirs", case)
    model, params, tokenizer = huggingface.load(tmp_path / "theirs")
    assert_same(answer(model, params, *batch(case)), answers, case)
    huggingface.save(
        tmp_path / "ours", model, params, tokenizer, max_shard_bytes=10_000
    )
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    np.testing.assert_array_equal(make.answers(tmp_path / "ours", case), answers)


@pytest.mark.parametrize("case", OWN_WAYS)
def test_logits_of_some_positions_are_torchs_at_those(tmp_path, case):
    theirs = directories.unpack(case, tmp_path)
    model, params, _ = huggingface.load(tmp_path)
    last = make.batch(case)[1].cumsum(1).argmax(1)

    def some(at):
        hidden = model.apply({"params": params}, *batch(case), at, method="hidden")
        return model.apply({"params": params}, hidden, method="unembed")

    between = slice(PROMPT - 1, -1)
    left = some(between)[: make.LEFT]
    np.testing.assert_allclose(left, theirs[: make.LEFT, between], rtol=0, atol=1e-4)
    at_last = theirs[np.arange(len(theirs)), last]
    ours = some(jnp.array(last))[:, 0]
    np.testing.assert_allclose(ours, at_last, rtol=0, atol=1e-4)


def test_a_window_that_is_left_out_is_noticed(tmp_path):
    """The goldens could not tell a window from none if no answer depended on it."""
    theirs = directories.unpack("mistral", tmp_path)
    model, params, _ = huggingface.load(tmp_path)
    blind = decoder.Decoder(dataclasses.replace(model.config, window=None))
    error = np.abs(answer(blind, params, *batch("mistral")) - theirs)[0].max(-1)
    window = model.config.window
    assert error[:window].max() < 1e-4 < 1e-2 < error[window:].min()


@pytest.mark.parametrize(
    ("case", "without"),
    [
        ("gemma2", {"unit_offset": False}),
        ("gemma2", {"scaled_embedding": False}),
        ("gemma2", {"score_dim": None}),
        ("gemma2", {"score_cap": None}),
        ("gemma2", {"logit_cap": None}),
        ("gemma2", {"windowed": (False, True)}),
        ("gemma3", {"window_theta": None}),
        ("gemma3", {"rope_scaling": None}),
        ("gemma3", {"windowed": (False, True)}),
    ],
)
def test_every_peculiarity_of_gemma_is_in_its_goldens(tmp_path, case, without):
    theirs = directories.unpack(case, tmp_path)
    model, params, _ = huggingface.load(tmp_path)
    other = decoder.Decoder(dataclasses.replace(model.config, **without))
    assert np.abs(answer(other, params, *batch(case)) - theirs)[0].max() > 1e-2


def test_a_window_moves_with_the_text_and_not_with_its_padding(rng):
    c = model_config.llama(
        vocab_size=11, width=8, layers=1, heads=2, max_length=12, window=3
    )
    model = decoder.Decoder(c)
    params = tiny_models.draw(model)
    text = rng.integers(0, 10, 6)
    tokens, mask = np.zeros((2, 3, 12), np.int32)
    for row, at in enumerate((0, 3, 6)):
        tokens[row, at : at + 6], mask[row, at : at + 6] = text, 1
    said = np.array(answer(model, params, tokens, mask))
    for row, at in ((1, 3), (2, 6)):
        np.testing.assert_allclose(
            said[row, at : at + 6], said[0, :6], atol=1e-6, rtol=1e-6
        )
    tokens[1, 3] += 1
    moved = np.abs(answer(model, params, tokens, mask) - said)[1].max(-1)
    # One layer, three tokens in sight: the first text token is seen up to the third.
    assert (moved[3:6] > 1e-6).all() and not moved[6:9].any()


def test_windows_in_some_layers_only_are_scanned_and_remembered(tmp_path, monkeypatch):
    theirs = directories.unpack("qwen2_mixed", tmp_path)
    model, params, _ = huggingface.load(tmp_path)
    monkeypatch.setattr(stacks, "_SHALLOW", 0)
    remat = dataclasses.replace(model.config, remat="full")
    scanned = tiny_models.compiled(decoder.Decoder(remat))
    assert_same(scanned(params, *batch("qwen2_mixed")), theirs, "qwen2_mixed")


def test_attention_on_accelerators_answers_as_torch_does(tmp_path, monkeypatch):
    """By `jax.nn.dot_product_attention`: a window, an encoder's mask, a scale of its
    own; and without it where scores are capped."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for case in ("mistral", "bert", "gemma2", "gemma3"):
        (tmp_path / case).mkdir()
        theirs = directories.unpack(case, tmp_path / case)
        model, params, _ = huggingface.load(tmp_path / case)
        ours = tiny_models.compiled(model)(params, *batch(case))
        assert_same(ours, theirs, case)


# What cannot be read or written


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "='relative_key': not"),
        ("bert", {"is_decoder": True}, "is_decoder=True: not supported"),
        ("bert", {"architectures": ["BertForMaskedLM"]}, "'BertForMaskedLM'; of bert"),
        ("roberta", {"hidden_act": "mish"}, "activation 'mish' is not one of"),
        ("distilbert", {"dim": None}, "config.json has no 'dim'"),
        ("distilbert", {"n_heads": 3}, "width=16 is no multiple of heads=3"),
        (
            "qwen2_mixed",
            {"layer_types": ["chunked_attention"] * 2},
            "layer_types.*chun",
        ),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "=0.5: not sup"),
        ("neox", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn' is not"),
        (
            "neox",
            {"rotary_pct": 0.4, "rope_parameters": None},
            "rotary_dim=3 and .* pairs",
        ),
        (
            "llama",
            {"model_type": "gemma3"},  # with images
            "model_type 'gemma3' is not one of .*gemma3_text",
        ),
        ("gemma2", {"use_bidirectional_attention": True}, "=True: not supported"),
        (
            "gemma3",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}},
            "rope_type='linear': not supported",
        ),
    ],
)
def test_what_is_not_understood_says_why(tmp_path, case, changes, message):
    directories.unpack(case, tmp_path)
    directories.change(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as failure:
        huggingface.load(tmp_path)
    assert "\n" not in str(failure.value)


def test_gemmas_published_configuration_is_a_model_of_its_size():
    """Gemma 3 1B, as its config.json was first written: 302M of embedding, 698M more
    ("Gemma 3 Technical Report", arXiv:2503.19786, table 1)."""
    described = {
        "model_type": "gemma3_text",
        "vocab_size": 262144,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "max_position_embeddings": 32768,
        "query_pre_attn_scalar": 256,
        "rope_theta": 1000000,
        "rope_local_base_freq": 10000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
    }
    c = read_config.read(described)
    assert (c.rope_theta, c.window_theta, c.window) == (1e6, 1e4, 512)
    assert c.windowed == ((True,) * 5 + (False,)) * 4 + (True, True)
    assert c.tied and c.activation == "gelu_new" and c.norm_eps == 1e-6
    module, tokens = decoder.Decoder(c), jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens)
    assert trees.size(shapes) / 1e6 == pytest.approx(302 + 698, rel=1e-3)
    assert read_config.read(write_config.describe(c)) == c


def test_other_spellings_of_neox_and_bert_files_are_read(tmp_path):
    import safetensors.numpy

    spellings = {
        "neox": lambda name: name.replace("embed_out", "lm_head"),
        "bert": lambda name: name.replace("Norm.weight", "Norm.gamma").replace(
            "Norm.bias", "Norm.beta"
        ),
    }
    for case, rename in spellings.items():
        folder = tmp_path / case
        folder.mkdir()
        directories.unpack(case, folder)
        new = huggingface.load(folder)
        tensors, described = directories.read(folder)
        tensors = {rename(name): x for name, x in tensors.items()}
        tensors["gpt_neox.layers.0.attention.masked_bias"] = np.zeros(())
        tensors["bert.embeddings.position_ids"] = np.zeros((1, 16))
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
        if case == "neox":
            rope = described["rope_parameters"]
            old = {"rotary_pct": 0.25, "rotary_emb_base": rope["rope_theta"]}
            directories.change(folder, rope_parameters=None, **old)
        model, params, _ = huggingface.load(folder)
        assert model == new[0]
        chex.assert_trees_all_equal(params, new[1])


def test_a_roberta_keeps_its_first_position(tmp_path):
    (tmp_path / "theirs").mkdir()
    directories.unpack("roberta", tmp_path / "theirs")
    model, params, _ = huggingface.load(tmp_path / "theirs")
    assert (model.config.first_position, model.config.max_length) == (2, 14)
    tokenizer = directories.word_tokenizer()
    tokenizer.pad_token = "a"
    assert tokenizer.pad_token_id != 1  # and yet
    huggingface.save(tmp_path / "ours", model, params, tokenizer)
    assert directories.read(tmp_path / "ours")[1]["pad_token_id"] == 1


@pytest.mark.parametrize("turned", [2, 6, 14, 22])
def test_a_share_of_turned_numbers_is_read_back_as_it_was(turned):
    c = model_config.neox(
        vocab_size=9, width=44, layers=1, heads=2, rotary_dim=turned, max_length=8
    )
    part = write_config.describe(c)["rope_parameters"]["partial_rotary_factor"]
    assert int(22 * part) == turned  # what transformers makes of it
    assert read_config.read(write_config.describe(c)) == c


def test_encoders_do_not_care_for_the_side_of_padding(tmp_path):
    directories.unpack("roberta", tmp_path)
    model, params, _ = huggingface.load(tmp_path)
    tokens, mask = batch("roberta")
    right = answer(model, params, tokens, mask)
    by = mask.shape[1] - mask.sum(1)
    left = (
        jnp.stack([jnp.roll(row, n) for row, n in zip(x, by, strict=True)])
        for x in (jnp.where(mask == 0, 10**6, tokens), mask)
    )
    np.testing.assert_allclose(answer(model, params, *left), right, atol=1e-6)
    with pytest.raises(ValueError, match="15 tokens exceed the context of 14"):
        model.apply({"params": params}, jnp.zeros((1, 15), jnp.int32))
