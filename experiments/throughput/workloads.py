"""Named workloads: sizes and random weights of what is timed.

No end token is ever drawn, so everyone generates the same number of tokens. Legend:
B rows, P prompt tokens, T new tokens, S = P + T, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import sampling
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder, heads, lora

EOS, PAD = 0, 1  # a peer's end token, which it never draws, and padding


@dataclasses.dataclass(frozen=True)
class Workload:
    """An RL iteration: a policy, a reward model of its size, prompts and responses."""

    summary: str
    decoder: model_config.Decoder  # of policy, reward model and critic
    rows: int  # responses per iteration
    prompt_length: int
    new_tokens: int
    minibatches: int = 1  # updates per iteration
    micro_batches: int = 1
    candidates: int = 2  # samples per prompt, for rloo and grpo
    packed: bool = False  # their prompt is read once in updates too
    raced: str | None = None  # what is raced against a peer; None: the peer's usual
    judged: bool = True  # by a reward model of the policy's size; else by a rule
    keep_average: bool = True
    weights: str = "float32"  # storage type
    rank: int = 0  # of LoRA adapters; 0: all weights are trained
    cpu_devices: int | None = None  # None: as many cores as divide the rows
    twin: str | None = None  # of equal size, for a peer without this architecture
    accelerator: bool = False  # too large for a CPU

    @property
    def adapter(self):
        """`lora.Config` of the rank, None where all weights are trained."""
        return lora.Config(self.rank, 2.0 * self.rank) if self.rank else None

    @property
    def length(self):
        """S, prompt and response."""
        return self.prompt_length + self.new_tokens

    def algorithm(self, name):
        """The static configuration of an algorithm, with one pass over a rollout."""
        grouped = name in ("rloo", "grpo")
        return policy_gradient.Config(
            sampling=sampling.Config(
                max_new_tokens=self.new_tokens,
                eos_ids=(self.decoder.vocab_size,),  # no token: never drawn
                pad_id=PAD,
            ),
            algorithm=name,
            candidates=self.candidates if grouped else 1,
            packed=self.packed and grouped,
            keep_average=self.keep_average,
            epochs=1,
            minibatches=self.minibatches,
            micro_batches=self.micro_batches,
            kl_in="loss" if name == "grpo" else "reward",
        )


_REFERENCE = Workload(
    "GPT-2 style, 4 layers × 256, vocabulary 8192, 32 × (32 + 64) tokens, 1 update",
    model_config.preset("gpt2-base", vocab_size=8192, max_length=96),
    rows=32,
    prompt_length=32,
    new_tokens=64,
    twin="reference-llama",
)
_LARGE = Workload(
    "Llama 3.2 1B, all weights trained, bf16 compute, 64 × (128 + 128) tokens",
    model_config.llama(
        vocab_size=128256,
        width=2048,
        layers=16,
        heads=32,
        kv_heads=8,
        hidden=8192,
        max_length=256,
        tied=True,
        dtype="bfloat16",
        remat="full",
    ),
    rows=64,
    prompt_length=128,
    new_tokens=128,
    micro_batches=8,
    accelerator=True,
)
_SMOLLM2 = Workload(
    "GRPO on SmolLM2-135M, all weights, 16 × (40 + 64) tokens in groups of 4, 1 update",
    model_config.llama(
        vocab_size=49152,
        width=576,
        layers=30,
        heads=9,
        kv_heads=3,
        hidden=1536,
        max_length=104,
        rope_theta=100000.0,
        tied=True,
    ),
    rows=16,
    prompt_length=40,
    new_tokens=64,
    micro_batches=4,
    candidates=4,
    packed=True,
    raced="grpo",
    judged=False,
    keep_average=False,
    cpu_devices=1,  # the products of a model of this size share the cores themselves
)
_TINY = Workload(
    "tiny, to rehearse: 2 layers × 16, vocabulary 64, 8 × (8 + 8) tokens, 1 update",
    model_config.llama(
        vocab_size=64, width=16, layers=2, heads=2, max_length=16, tied=True
    ),
    rows=8,
    prompt_length=8,
    new_tokens=8,
    cpu_devices=1,
)
WORKLOADS = {
    "tiny": _TINY,
    "tiny-lora": dataclasses.replace(_TINY, summary="tiny with LoRA of rank 2", rank=2),
    "reference": _REFERENCE,
    "smollm2": _SMOLLM2,
    "smollm2-lora": dataclasses.replace(
        _SMOLLM2, summary="smollm2 with LoRA of rank 8", rank=8
    ),
    "smollm2-bf16": dataclasses.replace(
        _SMOLLM2,
        summary="smollm2, computed in bf16",
        decoder=dataclasses.replace(_SMOLLM2.decoder, dtype="bfloat16"),
    ),
    "reference-llama": dataclasses.replace(
        _REFERENCE,
        summary="reference, as a Llama of equal size",
        decoder=model_config.preset("base", vocab_size=8192, max_length=96),
        twin=None,
    ),
    "microworld": Workload(
        "the default run: micro Llama, vocabulary 390, 64 × (13 + 36), 4 updates",
        model_config.preset("micro", vocab_size=390, max_length=64),
        rows=64,
        prompt_length=13,
        new_tokens=36,
        minibatches=4,
    ),
    "gpt2-124m": Workload(
        "GPT-2 small, bf16 compute, 64 × (64 + 64) tokens, 1 update",
        model_config.gpt2(dtype="bfloat16", tied=True),
        rows=64,
        prompt_length=64,
        new_tokens=64,
        accelerator=True,
    ),
    "llama-1b": _LARGE,
    "llama-7b-lora": dataclasses.replace(
        _LARGE,
        summary="Llama 2 7B held in bf16, LoRA of rank 16, 64 × (128 + 128) tokens",
        decoder=model_config.llama(
            hidden=11008, max_length=256, dtype="bfloat16", remat="full"
        ),
        weights="bfloat16",
        rank=16,
    ),
}
DEFAULT = ("reference", "microworld")
ACCELERATED = ("gpt2-124m", "smollm2-bf16", "llama-1b", "llama-7b-lora")
REHEARSED = ("tiny", "tiny-lora")  # in their place on a CPU


def choose(names):
    """{name: Workload}, in the order given; ValueError for an unknown name."""
    for name in names:
        if name not in WORKLOADS:
            raise ValueError(
                f"--workloads {name}: no such workload; choose from "
                f"{', '.join(WORKLOADS)}"
            )
    return {name: WORKLOADS[name] for name in names}


def layout_for(work, layout):
    """Of a `parallel.Data` layout, the devices on which a workload runs fastest."""
    count = work.cpu_devices if layout.devices[0].platform == "cpu" else None
    return dataclasses.replace(layout, devices=layout.devices[:count])


def random_params(module, seed, dtype="float32"):
    """Random parameters of a module, leaf by leaf: normal of deviation 0.02, norms 1.

    Unlike an initialiser's, they are never held in another type than `dtype`.
    """
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens)["params"]

    def draw(key):
        keys = iter(jax.random.split(key, len(jax.tree.leaves(shapes))))

        def leaf(path, x):
            key, name = next(keys), path[-1].key
            if name in ("scale", "bias"):
                return jnp.full(x.shape, float(name == "scale"), dtype)
            return 0.02 * jax.random.normal(key, x.shape, dtype)

        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return jax.jit(draw)(jax.random.key(seed))


def policy(work):
    """(module, parameters) of the policy."""
    module = decoder.Decoder(work.decoder)
    return module, random_params(module, 0, work.weights)


def rule(tokens):
    """A reward without a model: how many tokens are even. [b, T] → [b]."""
    return (tokens % 2 == 0).sum(-1)


def scorer(work):
    """(score(frozen, tokens, mask) -> [b], frozen) of a workload's reward."""
    if not work.judged:
        start = work.prompt_length
        return lambda frozen, tokens, mask: rule(tokens[:, start:]), ()
    judge, params = reward_model(work)

    def score(frozen, tokens, mask):
        return judge.apply({"params": frozen}, tokens, mask)[:, 0]

    return score, params


def reward_model(work):
    """(module, parameters) of a reward model as large as the policy."""
    module = heads.Classifier(work.decoder)
    return module, random_params(module, 1, work.weights)


def prompts(work, count, seed=0):
    """`count` random prompts: Batch."""
    shape = (count, work.prompt_length)
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, work.decoder.vocab_size, shape, dtype=np.int32)
    ids = np.arange(count, dtype=np.int32)
    return policy_gradient.Batch(tokens, np.ones(shape, np.int32), ids)
