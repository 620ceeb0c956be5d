"""policy_gradient: whole losses and gradients against torch, on the same logits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from checks import close

from rlhf_jax import training, trees
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import objective, update

torch = pytest.importorskip("torch")

COEF = 0.3
HYPER = tiny.traced(
    clip=0.2, value_clip=0.05, value_coef=0.5, entropy_coef=0.01, lam=0.9
)
TEMPERATURE = 0.7
CONFIGS = {
    "ppo": {},
    "ppo with an entropy bonus": {"entropy_bonus": True},
    "ppo with the KL in the loss": {"kl_in": "loss"},
    "reinforce": {"algorithm": "reinforce"},
    "rloo": {"algorithm": "rloo"},
    "grpo with the KL in the loss": {"algorithm": "grpo", "kl_in": "loss"},
}


def named(name):
    return tiny.config(sampler_changes=(("temperature", TEMPERATURE),), **CONFIGS[name])


@functools.cache
def example(name):
    """(config, params, sample): a rollout of weights that have moved on since."""
    config = named(name)
    state, *_, data = tiny.recorded(config)
    result = policy_gradient.targets(data, jnp.float32(COEF), HYPER, config=config)
    params = tiny.shake(state.learner.params, 7, size=0.5)
    return config, params, objective.Sample(data, result)


@functools.cache
def ours(name):
    """(loss, metrics, gradients)."""
    config, params, sample = example(name)
    loss = update.make_loss(
        networks=tiny.networks(config),
        config=config,
        scale=objective.Scale(HYPER, jnp.float32(COEF)),
    )
    count = sample.data.response_mask.sum()
    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, metrics), grads = run(params, sample, count)
    return value, metrics, grads


def in_torch(tree):
    return jax.tree.map(
        lambda x: torch.tensor(np.asarray(x).astype(np.float64), requires_grad=True),
        tree,
    )


def whole(x):
    return torch.tensor(np.asarray(x).astype(np.int64))


def real(x):
    return torch.tensor(np.asarray(x).astype(np.float64))


@functools.cache
def theirs(name):
    """The same loss written from the papers, in float64: (loss, parts, gradients)."""
    config, params, (data, targets, _) = example(name)
    params = in_torch(params)
    tokens, mask = whole(data.tokens), real(data.response_mask)
    states, drawn = tokens[:, tiny.PROMPT - 1 : -1], tokens[:, tiny.PROMPT :]
    logits = params["policy"]["table"][states] / TEMPERATURE
    every = torch.log_softmax(logits, -1)
    logps = every.gather(-1, drawn[..., None])[..., 0]
    advantages, old = real(targets.advantages), real(data.logps)

    def mean(x):
        return (x * mask).sum() / mask.sum()

    ratio = torch.exp(logps - old)
    near = ratio.clamp(1 - 0.2, 1 + 0.2)
    policy = mean(-torch.minimum(advantages * ratio, advantages * near))
    if config.algorithm == "reinforce":
        policy = mean(-advantages * logps)
    parts = {"policy_loss": policy}
    total = policy
    if config.penalty_in == "loss":
        gap = real(data.reference_logps) - logps
        total = total + COEF * mean(torch.exp(gap) - gap - 1)
    if config.entropy_bonus:
        parts["entropy"] = mean(-(every.exp() * every).sum(-1))
        total = total - 0.01 * parts["entropy"]
    if config.learns_value:
        values, before = params["value"]["values"][states], real(data.values)
        returns = real(targets.returns)
        close_by = before + (values - before).clamp(-0.05, 0.05)
        worst = torch.maximum((values - returns) ** 2, (close_by - returns) ** 2)
        parts["value_loss"] = 0.5 * mean(worst)
        total = total + 0.5 * parts["value_loss"]
    total.backward()
    grads = jax.tree.map(lambda x: x.grad.numpy(), params)
    return total, parts, grads


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradient_are_those_of_torch(name):
    value, metrics, grads = ours(name)
    expected, parts, reference = theirs(name)
    close(value, expected.item(), rtol=1e-5, atol=1e-6)
    for part, number in parts.items():
        close(metrics[part], number.item(), rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda x, y: close(x, y, 1e-4, 1e-6), grads, reference)
    size = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(reference)))
    close(trees.norm(grads), size, rtol=1e-5)


def test_both_clips_bind_somewhere_and_not_everywhere():
    """Else the test above would not see them."""
    _, metrics, _ = ours("ppo")
    assert 0.05 < metrics["clipfrac"] < 0.95
    assert 0.05 < metrics["value_clipfrac"] < 0.95


@pytest.mark.parametrize("name", ["ppo", "reinforce"])
def test_an_update_is_that_of_torch_adam(name):
    """One step of clipping and Adam on the gradient above."""
    config, params, sample = example(name)
    _, _, grads = ours(name)
    tx = tiny.fixed(config)["tx"]
    apply = jax.jit(lambda state, grads: training.apply(state, grads, tx, rate=1e-3))
    state, metrics = apply(training.init(params, tx), grads)
    leaves = in_torch(params)
    flat = jax.tree.leaves(leaves)
    for leaf, grad in zip(flat, jax.tree.leaves(theirs(name)[2]), strict=True):
        leaf.grad = torch.tensor(grad)
    size = torch.nn.utils.clip_grad_norm_(flat, 1.0)
    torch.optim.Adam(flat, lr=1e-3, eps=1e-5).step()
    close(metrics["grad_norm"], size.item(), rtol=1e-5)
    for x, y in zip(jax.tree.leaves(state.params), flat, strict=True):
        close(x, y.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_the_penalty_in_the_loss_is_the_coefficient_times_k3():
    """The two places of the KL differ by exactly that, on the same targets."""
    config, params, sample = example("ppo with the KL in the loss")
    count = sample.data.response_mask.sum()

    @functools.partial(jax.jit, static_argnums=1)
    def loss(coef, kl_in):
        return update.make_loss(
            networks=tiny.networks(config),
            config=dataclasses.replace(config, kl_in=kl_in),
            scale=objective.Scale(HYPER, coef),
        )(params, sample, count)[0]

    without = loss(COEF, "reward")
    close(loss(0.0, "loss"), without)
    single, double = loss(COEF, "loss") - without, loss(2 * COEF, "loss") - without
    close(double, 2 * single, rtol=1e-4)
    assert single > 1e-3
