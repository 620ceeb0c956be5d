"""What supervised recipes measure of a policy besides their loss, as `experiments.rl`
does: its samples, its drift from the initial weights, and a reward.

A reward is measured here and never learned from. `experiments.compare` draws runs that
measured the same one on one front.
"""

import dataclasses
from typing import NamedTuple

import jax

from rlhf_jax import ranges
from rlhf_jax.cli import experiment, options
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import markdown, plots, samples
from rlhf_jax.runtime import metrics_log
from rlhf_jax.studies import evaluators
from rlhf_jax.tasks import prompt_rewards, prompts
from rlhf_jax.types import Prompts

NAMES = ("reward", "drift/text_nll", "drift/kl_initial", "length")  # in reports
_FEW = 16  # samples of an evaluation, where no reward is measured on them
_SCALED_ON = 1024  # training prompts, at most, that a reward is scaled on
_SHOWN = 4  # samples of a report


@dataclasses.dataclass(frozen=True)
class Flags(options.Supervised):
    """What the recipes that train a policy on rows depend on."""

    eval_samples: ranges.Natural | None = None
    """Held-out prompts to complete at every evaluation, for samples.jsonl and the drift
    from the initial weights; by default 16, with --reward all; 0: none."""
    reward: str = ""
    """Measured on those samples, and never learned from: a reward model, or whatever
    --reward of experiments.rl takes."""
    label: ranges.Natural = 1
    """The class that pays, where the reward is a classifier of several."""
    max_new_tokens: ranges.Count = 64
    """Tokens of a sample, at most, within half of the model's context."""
    temperature: ranges.Positive = 1.0
    """Of samples."""
    texts: ranges.Text | None = None
    """Human text that drift is read on: a data set with a column text; by default the
    held-out texts or completions, or prompts where there are pairs."""
    texts_split: ranges.Text = "train"
    """Its split."""
    corner: options.Corner = dataclasses.field(default_factory=options.Corner)

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if self.reward and self.eval_samples == 0:
            yield ("reward", "eval_samples"), "there would be nothing to pay for"
        yield from super().conflicts()


class Measured(NamedTuple):
    """Fields of `interfaces.Study`, and lines for the reader."""

    evaluators: tuple
    axes: tuple
    about: tuple[str, ...]


def measured(config, setting, loaded, found, read):
    """What is `Measured` of a policy.

    Args: loaded: (model, params, tokenizer) of the initial one; found: the recipe's
    `rows.Parts`, None where they are streamed; read: of `tasks.held_out_prompts`, rows
    -> prompts.
    """
    if config.eval_samples == 0:
        return Measured((), (), ())
    if found is None:
        return _streamed(config)
    setting.report("reading prompts ...")
    task = _task(config, setting, loaded, found, read)
    if task is None:
        line = "no samples, and no drift: the held-out rows have no text to complete"
        return Measured((), (), (line,))
    key = jax.random.key(config.seed)

    def evaluate(params, run):
        # The initial weights are on the devices only while they are compared with.
        here = dataclasses.replace(task, params=run.layout.put(task.params))
        metrics, drawn = {}, []
        for one in evaluators.language(here, key=key)[0]:
            found, rows_ = one(params, run)
            metrics, drawn = {**metrics, **found}, [*drawn, *rows_]
        return metrics, drawn

    count, length = len(task.eval_prompts.tokens), task.sampling.max_new_tokens
    line = f"{count} held-out prompts are completed by up to {length} tokens"
    if config.reward:
        line += f", and {config.reward} is measured on them"
    human = f"human text of drift/text_nll: {task.facts['human']}"
    reward = task.rewards["proxy"](config.seed) if config.reward else None
    known = prompt_rewards.axes_of(reward, dataclasses.asdict(config.corner))
    return Measured((evaluate,), known, (line, human))


def _streamed(config):
    """What is `Measured` where rows are streamed: nothing besides the loss."""
    if config.reward:
        raise ValueError(
            f"--reward {config.reward}: rows are streamed, and their prompts are not "
            "known beforehand; leave --data.streaming out, or --reward"
        )
    return Measured((), (), ("no samples, and no drift: the rows are streamed",))


def _task(config, setting, loaded, found, read):
    """The `Task` of the held-out prompts; None where there are none."""
    (model, params, tokenizer), given = loaded, setting.given
    train, held = (
        _asked(part, read, tokenizer, config) for part in (found.train, found.held)
    )
    if held is None:
        return None
    texts, human = held.texts, "the held-out prompts"
    if texts is not None or "completion" in held.rows.column_names:
        human = "the held-out rows"
    if given.texts is not None:
        human = config.texts
        texts = prompts.texts(given.texts, config.texts_split, config.data.eval_rows)
    length = min(config.max_new_tokens, max(model.config.max_length // 2, 1))
    task = prompts.create(
        model,
        jax.device_get(params),
        tokenizer,
        train.rows if config.reward else held.rows,
        held.rows,
        lengths=(None, length),
        cue=held.cue,
        texts=texts,
        temperature=config.temperature,
    )
    rewards = {}
    if config.reward:
        reward = _reward(config, setting, task)
        rewards = {"proxy": lambda seed: reward}
    count = config.eval_samples or (None if config.reward else _FEW)
    return dataclasses.replace(
        task,
        rewards=rewards,
        facts={"human": human},
        eval_prompts=Prompts(*(x[:count] for x in task.eval_prompts)),
        eval_columns={k: v[:count] for k, v in task.eval_columns.items()},
    )


def _asked(part, read, tokenizer, config):
    part = part.select(range(min(len(part), _SCALED_ON)))
    return read(part, tokenizer, cue=config.data.cue)


def _reward(config, setting, task):
    here = dataclasses.replace(task, params=setting.layout.put(task.params))
    return prompt_rewards.create(
        setting.given.reward,
        config.reward,
        task=here,
        layout=setting.layout,
        label=config.label,
        dtype=config.dtype,
        folder=setting.folder,
    )


def check(config):
    """Raises ValueError for misuse that the flags alone reveal."""
    options.check(config, needed=("model", "dataset"))
    prompt_rewards.check(config.reward)


def sections(config, done):
    """Paragraphs of the report: the front where there is a reward, and samples.

    Writes front.png.
    """
    study, parts = done.study, []
    if config.reward:
        plots.front(
            done.records,
            axes.drifts(study.axes),
            done.folder / "front.png",
            rewards=axes.rewards(study.axes),
            labels={name: method.label for name, method in study.methods.items()},
        )
        parts += ["## Reward against drift", "![Reward against drift](front.png)"]
    drawn = metrics_log.read(done.folder / "samples.jsonl")
    if drawn:
        step = max(row["step"] for row in drawn)
        last = [row for row in drawn if row["step"] == step]
        picked = samples.unselected(last, _SHOWN)
        samples.show(picked, console=done.console)
        parts += [f"## Samples after step {step}, unselected", _table(picked)]
    experiment.say(done.console, [str(done.folder / "front.png")] * bool(config.reward))
    return tuple(parts)


def _table(picked):
    scored = "score" in picked[0]
    cut = [
        [
            samples.shorten(row["prompt"], 200),
            samples.shorten(row["completion"], 400),
            *([markdown.number(row["score"])] if scored else []),
        ]
        for row in picked
    ]
    return markdown.table(["prompt", "completion", *["score"] * scored], cut)
