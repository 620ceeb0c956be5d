"""The game's flags, and the settings of a study that they make."""

import dataclasses

from experiments.pivot_translation import (
    decoding,
    methods,
    published,
    study,
    trainers,
    tuned,
)
from rlhf_jax import optim
from rlhf_jax.algorithms import translation_game as game
from rlhf_jax.algorithms.translation_game import imitation as sil
from rlhf_jax.cli import command
from rlhf_jax.studies import eval_steps, search


@dataclasses.dataclass(frozen=True)
class RL:
    """What every method shares."""

    tokens: int = 512
    """A batch: its sentences' longest languages sum to so many pieces."""
    lesson_tokens: int = 512
    """The same of pretraining text, where S2P learns from it besides."""
    learning_rate: float = 5e-4
    sender_rate: float = 0.2
    """The sender's learning rate, as a share of learning_rate. Below 1 in a short run:
    the receiver has to follow, and the critic to be right, while English is left."""
    schedule: str = "linear"
    max_grad_norm: float = 0.1
    policy_coef: float = 1.0
    value_coef: float = 10.0
    entropy: float = 0.001
    """Coefficient of the messages' entropy, of every method but reinforce_entropy."""
    receiver_coef: float = 1.0
    critic_first: int = 40
    """Steps before the sender learns: until then its baseline is worth nothing."""
    longest: int = 40
    """Tokens of a message."""
    shortest: int = 3
    decay: float = 0.99
    """Of the EMA, once a step."""
    reset_every: int = 80
    """Steps between resets."""


@dataclasses.dataclass(frozen=True)
class SIL:
    """Seeded iterated learning."""

    play: int = 80
    """Steps of the game before a student takes over."""
    imitate: int = 40
    """Updates of the student's sender; fewer are little but the first steps of Adam."""
    tune: int = 40
    """Updates of the student's receiver."""
    learning_rate: float = 1e-4


@dataclasses.dataclass(frozen=True)
class Strengths:
    """How hard each penalty pulls; none of them is published for this game."""

    kl: float = 0.01
    """On the exact KL of the sender to the initial one, nats a token."""
    entropy: float = 0.01
    """On the entropy of messages, nats a token; every other method has rl.entropy."""
    l2: float = 0.001
    """On ½ Σ (θ − θ₀)² of the sender."""


@dataclasses.dataclass(frozen=True)
class Corner:
    """The worst drift that counts in a hypervolume, above the pretrained sender's."""

    bleu_en: float = 15.0
    """BLEU-En lost."""
    text_nll: float = 2.0
    """Nats a token of human English."""
    message_nll: float = 2.0
    """Nats a token of messages, under the judge."""
    kl_initial: float = 60.0
    """Nats a message."""


def settings(config):
    """`study.Settings` of an experiment's flags."""
    rl, own = config.rl, search.read(config.tuned)
    draw = decoding.config(longest=rl.longest, shortest=rl.shortest, temperature=1.0)
    optimizer = optim.Config(
        **published.ADAM, max_grad_norm=rl.max_grad_norm, schedule=rl.schedule
    )
    return study.Settings(
        algorithm=game.Config(sampling=draw, optimizer=optimizer),
        hyper=game.Hyper(
            learning_rate=rl.learning_rate,
            total_updates=config.steps,
            policy_coef=rl.policy_coef,
            value_coef=rl.value_coef,
            entropy_coef=rl.entropy,
            receiver_coef=rl.receiver_coef,
            sender_rate=rl.sender_rate,
            critic_first=rl.critic_first,
        ),
        strengths=config.strengths,
        flow=trainers.Flow(rl.tokens, rl.lesson_tokens, config.text.classes),
        generations=sil.Schedule(config.sil.play, config.sil.imitate, config.sil.tune),
        student_rate=config.sil.learning_rate,
        methods=methods.choose(config.methods),
        seeds=tuple(range(config.first_seed, config.first_seed + config.seeds)),
        steps=config.steps,
        decay=rl.decay,
        reset_every=rl.reset_every,
        eval_every=config.eval_every,
        looks=config.looks,
        save_every=config.save_every,
        keep=config.keep,
        digest=search.digest(command.digest(config), own),
        tuned=own,
    )


def check_looks(settings):
    """Raises ValueError where --looks are too few for the resets of a method."""
    calendars = {name: settings.calendar(name) for name in settings.methods}
    eval_steps.check(settings.steps, calendars, settings.looks)


def tuned_note(config):
    """How methods were tuned, for the report: every one of them, or those not named."""
    own, chosen = search.read(config.tuned), methods.choose(config.methods)
    if not own:
        return (
            "Nothing is tuned: rates are everybody's, penalties "
            f"{dataclasses.asdict(config.strengths)}."
        )
    return search.told(
        config.tuned,
        own,
        chosen,
        lambda name: tuned.command(own[name], methods.METHODS[name], config.rl),
    )


def corners(corner, records):
    """{axis: (drift, reward)}: the pretrained agents' means, moved by `Corner`."""
    start = [r for r in records if r.get("eval/phase") == "start"]

    def mean(name):
        found = [r[name] for r in start if name in r]
        return sum(found) / max(len(found), 1)

    return {
        f"drift/{name}": (mean(f"drift/{name}") + room, mean("eval/reward"))
        for name, room in dataclasses.asdict(corner).items()
    }
