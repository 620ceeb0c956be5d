"""A server that others wrote, holding weights that we have too: the same log-probs.

For instance llama-cpp-python's, in an environment of its own:

    pip install gguf && python -m tests.golden.make_gguf FOLDER model.f32.gguf
    pip install 'llama-cpp-python[server]'
    python -m llama_cpp.server --model model.f32.gguf --logits_all true --n_ctx 2048 \
        --type_k 0 --type_v 0 --port 8123
    RLHF_JAX_ENDPOINT=http://127.0.0.1:8123/v1 RLHF_JAX_ENDPOINT_WEIGHTS=FOLDER \
        python -m pytest -m slow tests/feedback/test_real_server.py

(types 0 are float32 for its cache of keys and values). Version 0.3.36 and SmolLM2-135M
differed by at most 3e-5 on these prompts. It shifts the echo of a prompt
that does not begin with BOS by one token, so prompts here begin with it.
"""

import gzip
import json
import os

import numpy as np
import pytest

from rlhf_jax.feedback import endpoint, labelers

pytest.importorskip("openai", reason="needs the extra [feedback]: the openai client")
URL = os.environ.get("RLHF_JAX_ENDPOINT")
WEIGHTS = os.environ.get("RLHF_JAX_ENDPOINT_WEIGHTS")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.skipif(
        not (URL and WEIGHTS),
        reason="set RLHF_JAX_ENDPOINT to a server's URL and RLHF_JAX_ENDPOINT_WEIGHTS "
        "to the folder of its weights, as transformers reads it",
    ),
]
LABELS = (" Yes", " Not sure")  # of one token, and of more
COUNT = int(os.environ.get("RLHF_JAX_ENDPOINT_PROMPTS", "50"))
PROMPT = "<|im_start|>{prompt} Hard? Answer:"


@pytest.fixture(scope="module")
def prompts(data_folder):
    """The shortest instructions: llama-cpp-python sorts the whole vocabulary in Python
    for every token that it echoes, a quarter of a second each for 49,152 tokens."""
    with gzip.open(data_folder / "llmbar" / "test.jsonl.gz", "rt") as file:
        texts = {json.loads(line)["prompt"] for line in file}
    shortest = sorted(texts, key=lambda text: (len(text), text))[:COUNT]
    return [PROMPT.format(prompt=text) for text in shortest]


def ours(prompts):
    """log p(label | prompt) [N, L] by our own model in float32, and tokens read [N]."""
    import jax.numpy as jnp

    from rlhf_jax import huggingface
    from rlhf_jax.benchmarks import programs
    from rlhf_jax.runtime import parallel
    from rlhf_jax.types import Tokens

    model, params, tokenizer = huggingface.load(WEIGHTS, dtype=jnp.float32)
    layout = parallel.data(1)
    logps, sizes = [], []
    for prompt in prompts:
        before = tokenizer.encode(prompt, add_special_tokens=False)
        rows = [tokenizer.encode(prompt + x, add_special_tokens=False) for x in LABELS]
        assert all(row[: len(before)] == before for row in rows)
        width = -(-max(map(len, rows)) // 16) * 16
        tokens = np.zeros((len(rows), width), np.int32)
        mask, targets = np.zeros_like(tokens), np.zeros_like(tokens)
        for i, row in enumerate(rows):
            tokens[i, : len(row)], mask[i, : len(row)] = row, 1
            targets[i, len(before) : len(row)] = 1
        asked = Tokens(tokens, mask, targets)
        logps.append(programs.score(model, params, asked, layout=layout)[1])
        sizes.append(sum(map(len, rows)))
    return np.array(logps, np.float64), np.array(sizes)


def test_labels_of_a_real_server_are_those_of_our_own_model(prompts):
    options = {"base_url": URL, "key_env": None, "timeout": 300.0, "concurrency": 1}
    facts = endpoint.probe("smollm2", example=prompts[0], **options)
    assert facts["way"] == "echo", facts
    labeler = endpoint.labeler("smollm2", facts=facts, **options)
    readings = labelers.in_order(labeler.read(prompts, LABELS), len(prompts))
    wanted, sizes = ours(prompts)
    # Tokenizers may differ on a text: what is compared was read as the same tokens.
    same = np.array([x.prompt_tokens for x in readings]) == sizes
    found = np.array([x.logps for x in readings])
    difference = np.abs(found - wanted)[same]
    print(
        f"{same.sum()} of {len(same)} prompts alike; largest difference of log-probs "
        f"{difference.max():.2e}, mean {difference.mean():.2e}; {facts}"
    )
    assert same.mean() >= 0.9 and difference.max() < 1e-3
