"""An encoder's classifier as a reward: texts in, its own tokens, P(label) out."""

import functools
import types

import directories
import jax
import numpy as np
import pytest
import tiny_models
import tokenizers
import transformers

from rlhf_jax import huggingface
from rlhf_jax.tasks import classifiers

TEXTS = [
    ("a b", " c"),
    ("g", ""),
    ("f e d c b a " * 4, "g g g"),  # longer than the context: its end is read
]


@pytest.fixture(scope="module", params=["distilbert", "roberta"])
def folder(request, tmp_path_factory):
    """A directory whose tokenizer puts [CLS] and [SEP] around a text."""
    path = tmp_path_factory.mktemp(request.param)
    directories.unpack(request.param, path)
    words = ["<unk>", "[PAD]", "[CLS]", "[SEP]", *"abcdefg"]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>")
    built = tokenizers.Tokenizer(model)
    built.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    built.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=built,
        unk_token="<unk>",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(path)
    return path


@functools.cache
def reward(folder, label=1):
    """What `--reward folder` gives a study; an encoder asks nothing of the policy."""
    task = types.SimpleNamespace(tokenizer=directories.TOKENIZER)
    return classifiers.loaded(folder, task, None, label=label)


def test_a_loaded_encoder_scores_texts_with_its_tokenizer(folder):
    prompts, completions = zip(*TEXTS, strict=True)
    result = reward(folder).host(prompts, completions, stars=[1, 2, 3])
    model, params, _ = huggingface.load(folder)
    room = model.config.max_length
    tokens, mask = np.zeros((2, len(TEXTS), room), np.int32)
    for row, words in enumerate(("abc", "g", "fedcba" * 4 + "ggg")):
        text = [4 + "abcdefg".index(word) for word in words]
        ids = [2, *text[-(room - 2) :], 3]
        tokens[row, -len(ids) :], mask[row, -len(ids) :] = ids, 1
    logits = tiny_models.compiled(model)(params, tokens, mask)
    one = model.labels == 1
    expected = logits[:, 0] if one else jax.nn.softmax(logits, axis=-1)[:, 1]
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_a_score_does_not_depend_on_the_texts_beside_it(folder):
    host = reward(folder).host
    together = host(*zip(*TEXTS, strict=True))
    alone = [host([prompt], [completion])[0] for prompt, completion in TEXTS]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_labels_share_the_probability(folder):
    model = huggingface.load(folder)[0]
    if model.labels == 1:
        pytest.skip("a reward model has one label")
    prompts, completions = zip(*TEXTS, strict=True)
    shares = [reward(folder, k).host(prompts, completions) for k in range(model.labels)]
    np.testing.assert_allclose(np.sum(shares, axis=0), 1.0, atol=1e-6)


def test_scores_are_those_of_transformers(folder):
    torch = pytest.importorskip("torch")
    prompts, completions = zip(*TEXTS[:2], strict=True)
    result = reward(folder).host(prompts, completions)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    texts = [p + c for p, c in zip(prompts, completions, strict=True)]
    with torch.no_grad():
        logits = theirs(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    if logits.shape[1] == 1:
        expected = logits[:, 0]
    else:
        expected = logits.softmax(-1)[:, 1]
    np.testing.assert_allclose(result, expected.numpy(), rtol=0, atol=1e-4)
