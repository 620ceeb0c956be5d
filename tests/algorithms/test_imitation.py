"""iterated_learning: who learns from whom, when, and what stays as it was."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_game
from checks import close

from rlhf_jax import optim, sampling, training, trees
from rlhf_jax.algorithms.translation_game import imitation as sil
from rlhf_jax.algorithms.translation_game import messages
from rlhf_jax.types import Pairs

GREEDY = sampling.Config(
    max_new_tokens=tiny_game.NEW,
    min_new_tokens=2,
    temperature=0.0,
    eos_ids=(tiny_game.EOS,),
    pad_id=tiny_game.PAD,
)
CONFIG = sil.Config(GREEDY)
TX = optim.transformation(CONFIG.optimizer)
NETWORKS = tiny_game.NETWORKS
HYPER = training.Hyper(jnp.asarray(1e-2), jnp.asarray(1))


def teacher():
    return {name: tiny_game.params()[name] for name in ("sender", "receiver")}


def other():
    """A student of other weights than the teacher's."""

    def bend(x):
        return x + jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)

    return jax.tree.map(bend, teacher())


def pairs(seed=0):
    return Pairs(*tiny_game.batch(seed)[:4])


@functools.cache
def programs():
    fixed = {"networks": NETWORKS, "tx": TX, "config": CONFIG}
    return [jax.jit(functools.partial(f, **fixed)) for f in (sil.imitate, sil.tune)]


@functools.cache
def dictated():
    """What the teacher says to a batch."""
    dictate = functools.partial(sil.dictate, networks=NETWORKS, config=CONFIG)
    return jax.jit(dictate)(teacher(), pairs())


def test_imitation_learns_the_teachers_messages_and_touches_no_receiver():
    student = sil.init(other(), TX)
    moved, metrics = programs()[0](student, teacher(), pairs(), HYPER)
    said = dictated()
    valid = np.asarray(said.mask) * pairs().target_mask.any(-1, keepdims=True)
    logps = jax.jit(functools.partial(messages.logps, NETWORKS.sender))(
        other()["sender"], *pairs()[:2], said.heard, said.mask
    )
    close(metrics["nll"], -np.asarray(logps)[valid == 1].mean(), 1e-5, 1e-6)
    checks.same(moved.receiver, student.receiver)
    assert moved.sender.updates == 1


def test_tuning_learns_the_reference_from_the_teachers_messages():
    student = sil.init(other(), TX)
    moved, metrics = programs()[1](student, teacher(), pairs(), HYPER)
    said, batch = dictated(), pairs()
    logps = jax.jit(functools.partial(messages.logps, NETWORKS.receiver))(
        other()["receiver"], said.heard, said.mask, *batch[2:4]
    )
    expected = -np.asarray(logps)[batch.target_mask == 1].mean()
    close(metrics["nll"], expected, 1e-5, 1e-6)
    checks.same(moved.sender, student.sender)


def test_a_student_learns_to_imitate_its_teacher():
    student, result = sil.init(other(), TX), []
    fast = HYPER._replace(learning_rate=jnp.asarray(0.05))
    for _ in range(60):
        student, metrics = programs()[0](student, teacher(), pairs(), fast)
        result.append(float(metrics["nll"]))
    assert result[-1] < 0.2 * result[0]


def test_a_student_starts_from_the_given_agents_with_new_moments():
    student = sil.init(other(), TX)
    checks.same(sil.agents(student), other())
    for state in student:
        zero = [m for m in jax.tree.leaves(state.opt_state) if m.ndim]
        assert not any(np.any(m) for m in zero)
    held = set(checks.buffers(sil.agents(student)))
    assert held.isdisjoint(checks.buffers(teacher()))


def test_the_teacher_is_read_only():
    before = trees.copy(teacher())
    programs()[0](sil.init(other(), TX), teacher(), pairs(), HYPER)
    checks.same(teacher(), before)


def test_generations_end_every_k1_steps_but_not_with_the_last():
    assert sil.Schedule(play=3).generations(10) == [3, 6, 9]
    assert sil.Schedule(play=3).generations(9) == [3, 6]
    assert sil.Schedule(play=5).generations(4) == []
    assert sil.Schedule() == sil.Schedule(4000, 400, 400)


@pytest.mark.parametrize("changes", [{"play": 0}, {"imitate": -1}, {"tune": -2}])
def test_a_schedule_that_cannot_be_is_one_error(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name}={value}: must be a whole number"):
        sil.Schedule(**changes)


def test_a_teacher_that_draws_is_refused():
    drawn = sampling.Config(max_new_tokens=3, eos_ids=(tiny_game.EOS,))
    with pytest.raises(ValueError, match="temperature=1.0: a student imitates greedy"):
        sil.Config(drawn)
