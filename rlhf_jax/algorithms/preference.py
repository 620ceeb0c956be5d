"""Learning from preference pairs without a reward model: DPO and its family.

The implicit reward is β(log π − log ρ), ρ the reference. The reference's log-probs are
data, computed once or before each step by `sequence_logps`. A loss is one of `KINDS`,
by TRL's name for it, or a weighted sum of several (MPO: Wang et al. 2024, "Enhancing
the Reasoning Ability of Multimodal LLMs via Mixed Preference Optimization",
arXiv:2411.10442).
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import losses, masking, preference_losses, ranges, reference_free
from rlhf_jax.models import responses
from rlhf_jax.types import Preferences

_SMOOTHING = ("label_smoothing", "label_smoothing")


class Kind(NamedTuple):
    """A loss, and what it is called with."""

    loss: Callable
    means: bool = False  # log-probs per token, not sums
    reference: bool = True  # the reference's log-probs too
    soft: bool = False  # soft labels
    weighted: bool = True  # WPO's weights of pairs
    tokens: bool = False  # lengths of the chosen answers, and their sum
    takes: tuple = ()  # (argument, setting) besides β


def _sft(policy_chosen, policy_rejected, lengths, *, tokens, mask, **_):
    del policy_rejected
    return reference_free.sft(policy_chosen, lengths, mask=mask, count=tokens)


_DPO = Kind(losses.dpo, soft=True, takes=(_SMOOTHING,))
KINDS = {
    "dpo": _DPO,
    "sigmoid": _DPO,  # TRL's name
    "sigmoid_norm": _DPO._replace(means=True),
    "hinge": Kind(preference_losses.hinge, soft=True),
    "ipo": Kind(losses.ipo, means=True, soft=True),
    "exo_pair": Kind(preference_losses.exo_pair, soft=True, takes=(_SMOOTHING,)),
    "nca_pair": Kind(preference_losses.nca_pair),
    "robust": Kind(preference_losses.robust, soft=True, takes=(_SMOOTHING,)),
    "bco_pair": Kind(preference_losses.bco_pair, soft=True),
    "sppo_hard": Kind(preference_losses.sppo_hard, soft=True),
    "aot": Kind(preference_losses.aot, weighted=False, takes=(_SMOOTHING,)),
    "aot_unpaired": Kind(
        preference_losses.aot_unpaired, weighted=False, takes=(_SMOOTHING,)
    ),
    "apo_zero": Kind(preference_losses.apo_zero),
    "apo_down": Kind(preference_losses.apo_down),
    "discopop": Kind(preference_losses.discopop, takes=(("tau", "discopop_tau"),)),
    "simpo": Kind(
        reference_free.simpo,
        means=True,
        reference=False,
        soft=True,
        takes=(("gamma", "simpo_gamma"), _SMOOTHING),
    ),
    "cpo": Kind(
        reference_free.cpo,
        reference=False,
        weighted=False,
        tokens=True,
        takes=(("alpha", "cpo_alpha"), _SMOOTHING),
    ),
    "orpo": Kind(
        reference_free.orpo, means=True, reference=False, weighted=False, tokens=True
    ),
    "sft": Kind(_sft, reference=False, weighted=False, tokens=True),
}
LOSSES = tuple(KINDS)


Name = Literal[LOSSES]


class Settings(NamedTuple):
    """Which losses are added up, and what they are called with."""

    loss: tuple[Name, ...] = ("dpo",)
    """Names of losses, as TRL's loss_type; several are added up."""
    loss_weights: tuple[ranges.NonNegative, ...] = ()
    """Weights of several losses, in their order; by default 1 each."""
    beta: ranges.Positive = 0.1
    """β of the implicit reward, β(log π − log ρ)."""
    label_smoothing: Annotated[float, ranges.Range(at_least=0, below=0.5)] = 0.0
    """How often labels are wrong, a share (cDPO, robust DPO, EXO and others)."""
    simpo_gamma: ranges.NonNegative = 0.5
    """γ, the reward margin that SimPO aims at."""
    cpo_alpha: ranges.NonNegative = 1.0
    """Weight of the chosen answers' likelihood in CPO."""
    discopop_tau: ranges.Positive = 0.05
    """Temperature at which DiscoPOP passes from one loss to the other."""
    use_weighting: bool = False
    """Weigh pairs by how likely the policy would write them (WPO)."""

    def parts(self):
        """[(name, `Kind`, weight)] of the losses."""
        weights = self.loss_weights or (1.0,) * len(self.loss)
        kinds = [KINDS[name] for name in self.loss]
        return list(zip(self.loss, kinds, weights, strict=True))

    def refers(self):
        """Whether any of the losses asks the reference."""
        return any(KINDS[name].reference for name in self.loss)

    def conflicts(self):
        """Settings that contradict each other, and why."""
        if len(set(self.loss)) < len(self.loss) or not self.loss:
            yield ("loss",), "name at least one loss, and each of them once"
        if self.loss == ("sft",):
            reason = "it learns no preference; add a loss, or use experiments.sft"
            yield ("loss",), reason
        if self.loss_weights and len(self.loss_weights) != len(self.loss):
            yield ("loss_weights", "loss"), "give each loss one weight"
        if self.loss_weights and not any(self.loss_weights):
            yield ("loss_weights", "loss"), "nothing would be learned; give one above 0"
        for name in _PARAMETERS:
            if getattr(self, name) != Settings._field_defaults[name]:
                if not any(_takes(KINDS[loss], name) for loss in self.loss):
                    yield (name, "loss"), f"without effect; {_takers(name)}"
        if "exo_pair" in self.loss and not self.label_smoothing:
            reason = "EXO needs labels that may be wrong; its paper has 0.001"
            yield ("loss", "label_smoothing"), reason
        fixed = [name for name in self.loss if not KINDS[name].weighted]
        if self.use_weighting and fixed:
            yield ("use_weighting", "loss"), f"the pairs of {fixed[0]} have no weights"


_PARAMETERS = ("label_smoothing", "simpo_gamma", "cpo_alpha", "discopop_tau")


def _takes(kind, name):
    return name in [setting for _, setting in kind.takes]


def _takers(name):
    takers = [loss for loss, kind in KINDS.items() if _takes(kind, name)]
    return f"{', '.join(takers)} take{'s' * (len(takers) == 1)} it"


def configure(*, loss="dpo", **settings):
    """`Settings`, checked; loss: one name or several.

    Raises ValueError for a loss that does not exist, for a value out of its range and
    for settings that contradict each other.
    """
    names = (loss,) if isinstance(loss, str) else tuple(loss)
    made = Settings(names, **settings)
    ranges.check(made)
    return made


class Batch(NamedTuple):
    """Preference pairs with the reference's log-probs."""

    pairs: Preferences  # [B, T]
    starts: jax.Array  # [B] int32, where both answers begin
    reference: jax.Array  # [B, 2] float32, summed log-probs of chosen and rejected


class Answers(NamedTuple):
    """What a policy says of both answers, (chosen, rejected)."""

    logps: jax.Array  # [B, 2] float32, summed log-probs
    lengths: jax.Array  # [B, 2] float32, tokens
    weights: jax.Array  # [B] float32, of the pair; 1 without WPO


class Count(NamedTuple):
    """Denominators of a minibatch; None: of the rows given."""

    pairs: jax.Array | None = None  # []
    tokens: jax.Array | None = None  # [], of the chosen answers


_ALL = Count()


def read_answers(model, params, pairs, starts, *, weighting=False):
    """`Answers` of a policy; weighting: WPO's weights too. Both sides are one batch."""
    tokens = jnp.concatenate([pairs.chosen, pairs.rejected])
    mask = jnp.concatenate([pairs.chosen_mask, pairs.rejected_mask])
    both = jnp.concatenate([starts, starts])
    logps, answer, *collisions = responses.of_answers(
        model, params, tokens, mask, both, collisions=weighting
    )
    weights = jnp.ones(len(starts), jnp.float32)
    if weighting:
        each = preference_losses.wpo_weights(logps, *collisions, answer)
        weights = jnp.prod(_sides(each), axis=-1)
    lengths = answer.sum(-1).astype(jnp.float32)
    return Answers(_sides(logps.sum(-1)), _sides(lengths), weights)


def _sides(x):
    """[2 · B] → [B, 2]: chosen and rejected."""
    return jnp.stack(jnp.split(x, 2), axis=-1)


def sequence_logps(model, params, pairs, starts, *, mean=False):
    """log π(answer | prompt) of both answers: [B, 2] float32, nats.

    Σ_t log π(token_t | tokens_<t) over the answer's tokens, EOS included, or with
    `mean` their mean, as IPO needs (Azar et al. 2023).
    """
    answers = read_answers(model, params, pairs, starts)
    return answers.logps / jnp.maximum(answers.lengths, 1) if mean else answers.logps


def make_loss(model, **settings):
    """`loss(params, batch: Batch, count: Count) -> ([], metrics)`.

    settings: arguments of `configure`. Metrics are those of `compare`.
    """
    settings = configure(**settings)

    def value(params, batch, count):
        pairs, starts, reference = batch
        answers = read_answers(
            model, params, pairs, starts, weighting=settings.use_weighting
        )
        return compare(answers, reference, pairs.preference, settings, count)

    return value


def compare(answers, reference, preference, settings, count=_ALL):
    """(loss [], metrics) of a policy's `Answers` and the reference's log-probs.

    Args: reference [B, 2]; preference [B], the probability that `chosen` is better.
    Metrics have TRL's names: rewards/{chosen, rejected, margins, accuracies}, those of
    the first loss that has rewards, logps/{chosen, rejected}, and what losses name
    besides; of several losses the value of each, loss/{name}.
    """
    total, rewards, besides = 0.0, {}, {}
    parts = settings.parts()
    rows = jnp.ones(answers.weights.shape)
    given = answers, reference, preference, settings
    for name, kind, weight in parts:
        value, metrics = _apply(kind, given, rows, count)
        if settings.use_weighting:
            every = Count(rows.sum() if count.pairs is None else count.pairs)
            value, _ = _apply(kind, given, answers.weights, every)
        total = total + weight * value
        if len(parts) > 1:
            besides[f"loss/{name}"] = value
        rewards = rewards or (metrics if "margins" in metrics else {})
        besides |= {k: metrics[k] for k in ("nll", "log_odds") if k in metrics}
    return total, {
        "loss": total,
        **{f"rewards/{k}": x for k, x in rewards.items() if k not in besides},
        **besides,
        "logps/chosen": masking.mean(answers.logps[:, 0], rows, count=count.pairs),
        "logps/rejected": masking.mean(answers.logps[:, 1], rows, count=count.pairs),
    }


def _apply(kind, given, mask, count):
    """(loss [], metrics) of one loss; mask [B]: the weights of pairs."""
    answers, reference, preference, settings = given
    scale = jnp.maximum(answers.lengths, 1) if kind.means else 1.0
    sides = [*(answers.logps / scale).T]
    named = {argument: getattr(settings, name) for argument, name in kind.takes}
    if kind.reference:
        sides += [*(reference / scale).T]
    if kind.tokens:
        sides.append(answers.lengths[:, 0])
        named["tokens"] = count.tokens
    if kind.soft:
        named["preference"] = preference
    return kind.loss(*sides, beta=settings.beta, mask=mask, count=count.pairs, **named)


def check_labels(settings, preference):
    """Raises ValueError for soft labels where a loss takes hard ones alone.

    Args: preference [N], on the host, the probability that `chosen` is better.
    """
    hard = [name for name, kind, _ in settings.parts() if not kind.soft]
    odd = np.flatnonzero(np.asarray(preference) != 1)
    if hard and len(odd):
        soft = ", ".join(name for name, kind in KINDS.items() if kind.soft)
        raise ValueError(
            f"loss {hard[0]} takes pairs whose chosen answer is surely better, and "
            f"preference is {preference[odd[0]]:g} in {len(odd)} of them; leave the "
            f"column out, or choose a loss with soft labels: {soft}"
        )


def count(batch):
    """The `Count` of this device's batch, for the loss's denominators."""
    answer = responses.answer_mask(batch.pairs.chosen_mask, batch.starts)
    pairs = jnp.asarray(batch.starts.shape[0], jnp.float32)
    return Count(pairs, answer.sum().astype(jnp.float32))
