"""A workload through Tunix's GRPO and its sampler, on a Llama of the same shape.

Run by `peers` as a separate process, in a Python that has google-tunix. Policy and
reward model are Tunix's Llama with random weights; the reward is jitted.
"""

from experiments.throughput import worker

LEARNING_RATE = 1e-5
PACKAGES = ("google-tunix", "jax", "flax")


def main(channel, spec):
    """Times rounds of "iteration" and "generate" on request."""
    if not spec["rotary"]:
        raise ValueError("Tunix has no GPT-2: choose a Llama workload")
    import jax
    import numpy as np
    from tunix.rl.grpo import grpo_learner

    devices = np.array(jax.devices()).reshape(-1, 1)
    mesh = jax.sharding.Mesh(devices, ("fsdp", "tp"))
    tokenizer = Characters(spec)
    with jax.set_mesh(mesh):
        cluster = build(spec, mesh, tokenizer)
        learner = grpo_learner.GRPOLearner(
            rl_cluster=cluster,
            algo_config=grpo_learner.GRPOConfig(
                num_generations=spec["candidates"], num_iterations=1, beta=0.05
            ),
            reward_fns=[reward(spec, tokenizer)],
        )
        channel.answer(versions=worker.versions(PACKAGES), devices=devices.size)
        calls = {"generate": lambda: generate(cluster, spec)}
        learner.train(batches(channel, calls, cluster, spec))


class Characters:
    """A tokenizer with one character per token; the end token never occurs."""

    def __init__(self, spec):
        self._first, self._size = ord(spec["first"]), spec["shape"]["vocab_size"]
        self._pad = spec["pad"]

    def encode(self, text, **_):
        return [ord(letter) - self._first for letter in text]

    def decode(self, ids, **_):
        return "".join(chr(self._first + int(i)) for i in ids)

    def bos_id(self):
        return None

    def eos_id(self):
        return self._size  # beyond the vocabulary

    def pad_id(self):
        return self._pad


def llama(spec, seed):
    """Tunix's Llama in the workload's shape, in float32, with random weights."""
    import jax
    from flax import nnx
    from tunix.models.llama3 import model as llama3

    s = spec["shape"]
    config = llama3.ModelConfig(
        num_layers=s["layers"],
        vocab_size=s["vocab_size"],
        embed_dim=s["width"],
        hidden_dim=s["hidden"],
        num_heads=s["heads"],
        head_dim=s["head_dim"],
        num_kv_heads=s["kv_heads"],
        rope_theta=s["rope_theta"],
        norm_eps=s["norm_eps"],
        weight_tying=s["tied"],
    )
    model = llama3.Llama3(config, rngs=nnx.Rngs(seed))
    keys = iter(jax.random.split(jax.random.key(seed), 10_000))
    noise = jax.tree.map(  # Tunix initialises many kernels to zero
        lambda x: x + 0.02 * jax.random.normal(next(keys), x.shape, x.dtype),
        nnx.state(model),
    )
    nnx.update(model, noise)
    return model


def build(spec, mesh, tokenizer):
    """Tunix's cluster: actor, reference and sampler on one mesh."""
    import optax
    from tunix.rl import rl_cluster
    from tunix.rl.rollout import base_rollout

    count = spec["rows"] // spec["candidates"]
    config = rl_cluster.ClusterConfig(
        role_to_mesh={role: mesh for role in rl_cluster.Role},
        rollout_engine="vanilla",
        offload_to_cpu=False,
        training_config=rl_cluster.RLTrainingConfig(
            actor_optimizer=optax.chain(
                optax.clip_by_global_norm(1.0), optax.adam(LEARNING_RATE)
            ),
            eval_every_n_steps=1_000_000,
            max_steps=1_000_000,
            mini_batch_size=count // spec["minibatches"],
            train_micro_batch_size=count // spec["minibatches"],
            rollout_micro_batch_size=count,
            compute_logps_micro_batch_size=count,
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=spec["new_tokens"],
            max_prompt_length=spec["prompt_length"],
            kv_cache_size=spec["prompt_length"] + spec["new_tokens"],
            temperature=1.0,
            top_p=1.0,
            top_k=None,
        ),
    )
    return rl_cluster.RLCluster(
        actor=llama(spec, 0),
        reference=llama(spec, 0),
        tokenizer=tokenizer,
        cluster_config=config,
    )


def reward(spec, tokenizer):
    """A reward function that scores texts with a model as large as the policy."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    graph, weights = nnx.split(llama(spec, 1))
    length = spec["prompt_length"] + spec["new_tokens"]

    @jax.jit
    def score(weights, tokens):
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        causal = jnp.tril(jnp.ones((length, length), bool))
        causal = jnp.broadcast_to(causal, (len(tokens), length, length))
        # Only one logit is read, so XLA computes no others.
        logits, _ = nnx.merge(graph, weights)(tokens, positions, None, causal)
        return logits[:, -1, 0]

    def call(prompts, completions, **_):
        rows = [
            tokenizer.encode(p + c) for p, c in zip(prompts, completions, strict=True)
        ]
        tokens = np.full((len(rows), length), spec["pad"], np.int32)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids
        return np.asarray(score(weights, tokens)).tolist()

    return call


def generate(cluster, spec):
    """Samples a rollout with Tunix's sampler, from texts to texts."""
    out = cluster.generate(spec["prompts"])
    if {len(tokens) for tokens in out.tokens} != {spec["new_tokens"]}:
        raise ValueError("the sampler did not return as many tokens as requested")


def batches(channel, calls, cluster, spec):
    """Yields prompts to Tunix's loop, once for each requested iteration."""
    import jax
    import numpy as np
    from flax import nnx

    prompts = np.array(spec["prompts"][: spec["rows"] // spec["candidates"]])
    while True:
        channel.rounds(calls, "iteration")
        clock = worker.Clock()
        yield {"prompts": prompts}
        jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
        channel.answer(**clock.read(), peak_bytes=worker.peak_bytes())


if __name__ == "__main__":
    worker.run(main)
