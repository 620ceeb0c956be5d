"""What did alignment cost a model that exists already, and what gives it back?

    python -m experiments.alignment_tax --before path/to/sft --after path/to/rlhf \\
        --suites data/arc_easy data/piqa:validation --prompts prompts.jsonl \\
        --reward rewards:helpful
    python -m experiments.alignment_tax --before base --after adapters \\
        --suites own_questions.jsonl --write averaged
    python -m experiments.alignment_tax --before base --after rlhf \\
        --write averaged --weight 0.8

Both models answer the suites; then so do models between and around them that need no
training: averages of weights (MA; HMA, whose few ratios are fitted to samples on the
prompts), merges of what alignment changed, extrapolations. --after may be a PEFT
adapter on top of --before. report.md says what was lost, which average returns how much
of it, and what of the reward that takes; front.png draws it; results.json has every
item. Weights are on the aligned model: "20% of the starting weights" is 0.8.

--write makes a directory that transformers opens: the advised model, or that of
--weight or --method. With one of these and no --suites, nothing is measured.
"""

import dataclasses
import functools
import math
import pathlib
import time
from typing import Annotated, Literal

from experiments.alignment_tax.two_models import front, measured, merges, report
from experiments.alignment_tax.two_models import write as writing
from rlhf_jax import ranges
from rlhf_jax.benchmarks import suites
from rlhf_jax.cli import command, experiment, options
from rlhf_jax.huggingface import comparable
from rlhf_jax.runtime import parallel, progress, provenance
from rlhf_jax.tasks import models, prompt_rewards

_Inside = Annotated[float, ranges.Range(above=0, below=1)]
_Beyond = Annotated[float, ranges.Range(above=1, at_most=2)]
_Family = Literal[
    "ma", "hma", "beyond", "ties", "dare", "della", "breadcrumbs", "graft"
]


@dataclasses.dataclass(frozen=True)
class Hma:
    """How the ratios of heterogeneous averages are fitted."""

    blocks: ranges.Count = 3
    """K: contiguous blocks of layers with a ratio each."""
    draws: ranges.Count = 512
    """Samples of the aligned model on the prompts."""
    keep: ranges.Count = 256
    """Those of the highest reward, to which the ratios are fitted."""
    learning_rate: ranges.Positive = 1e-2
    """Of the ratios, at its peak."""
    rows: ranges.Count = 4
    """Of an update."""
    epochs: ranges.Count = 2
    """Passes over the samples that HMA learns from."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Two models, what to ask them, and which models to make of them."""

    before: str = ""
    """The model that alignment started from: a directory, or a name on the hub."""
    after: str = ""
    """The aligned model, or a PEFT adapter on top of --before."""
    suites: tuple[ranges.Text, ...] = ()
    """Data sets with right answers, PATH[:SPLIT] each; the split is test by default."""
    count: ranges.Count = 200
    """Questions of each suite, at most, and texts of --text."""
    chat: bool = False
    """Questions, and prompts that are texts, become a user's turn in the template."""
    normalize: Literal["raw", "characters", "bytes"] = "characters"
    """What divides the log-likelihood of an option."""
    length: ranges.Count | None = None
    """Tokens of a question with its answer; by default what the context allows."""
    text: ranges.Text | None = None
    """Human text, PATH[:SPLIT] with a column text: its NLL is drift."""
    prompts: ranges.Text | None = None
    """A table with a column prompt, or text with one prompt per line."""
    prompt_count: ranges.Count = 128
    """Prompts, at most."""
    samples: ranges.Count = 1
    """Of every model on each prompt."""
    max_new_tokens: Annotated[ranges.Count, ranges.Was("response_length")] = 64
    """Tokens of a sample, at most."""
    temperature: ranges.Positive = 1.0
    """Logits are divided by it before sampling."""
    reward: str = ""
    """A reward model's directory or hub name, module:function, or ai:LABELER..., as in
    experiments.rl."""
    label: ranges.Natural = 1
    """The class that pays, where the reward is a classifier of several."""
    families: tuple[_Family, ...] = tuple(merges.FAMILIES)
    """Which models to make; hma needs --prompts."""
    weights: tuple[_Inside, ...] = tuple(k / 10 for k in range(1, 10))
    """On the aligned model, of MA; means of the ratios, of HMA."""
    beyond: tuple[_Beyond, ...] = (1.1, 1.25)
    """Weights above 1: extrapolation."""
    densities: tuple[_Inside, ...] = (0.2, 0.5)
    """Shares of the change that merges keep."""
    hma: Hma = dataclasses.field(default_factory=Hma)
    pay: ranges.Share = 0.1
    """The most of the reward gained that advice may pay."""
    write: ranges.Text | None = None
    """A folder for the advised model, or for that of --weight or --method."""
    weight: Annotated[float, ranges.Range(at_least=0, at_most=2)] | None = None
    """Write the plain average with this weight on the aligned model."""
    method: ranges.Text | None = None
    """Write this model of the table, for instance ties_0.2."""
    streamed: bool = False
    """Write a plain average tensor by tensor, from disk to disk; so are models for
    which memory is short, when nothing is measured."""
    output: ranges.Text | None = None
    """The report's folder; by default a new one under runs/alignment_tax."""
    seed: ranges.Natural = 0
    """Of the samples, and of the questions that are drawn."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; averages are float32."""
    devices: ranges.Count | None = None
    """Devices that share the rows; by default all of them."""
    layout: ranges.Text = "data"
    """data, fsdp, or fsdp:2,tensor:2; see `parallel.layout`."""
    cache: ranges.Text | None = None
    """Folder for compiled programs; by default ~/.cache/rlhf_jax."""

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if not self.suites and (self.method or "").startswith("hma"):
            yield (
                ("method", "suites"),
                "HMA is fitted in a run that measures: name suites",
            )
        if self.reward and self.prompts is None:
            yield ("reward", "prompts"), "a reward is read off samples: give --prompts"
        if self.weight is not None and self.method is not None:
            yield ("weight", "method"), "only one model is written: leave one out"
        if self.write is None and (self.weight, self.method) != (None, None):
            names = ("write", "weight" if self.method is None else "method")
            yield names, "name the folder to write the model to"
        asked = {"weight": self.weight, "method": self.method}
        if self.streamed and (self.write is None or self.method is not None):
            yield ("streamed", "write", "method"), "only plain averages are streamed"
        if not self.suites and not any(x is not None for x in asked.values()):
            yield ("suites",), "nothing to measure: name data sets with right answers"
        for name in ("weights", "beyond", "densities", "families"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                yield (name,), "one of them stands twice"


CONFIG = Config()
_NEEDED = {
    "before": "the model that alignment started from, a directory or a hub name",
    "after": "the aligned model, a directory, a hub name or an adapter",
}


def main():
    config = command.parse(CONFIG, description=__doc__)
    command.main(lambda: run(config))


def check(config):
    """Raises ValueError for misuse that the flags alone reveal."""
    for name, what in _NEEDED.items():
        if not getattr(config, name):
            raise ValueError(f"--{name} is needed: {what}")
    options.check(config)
    prompt_rewards.check(config.reward)
    if config.method is not None:
        family = merges.named(config.method).family
        if family == "hma" and config.prompts is None:
            raise ValueError(
                f"--method {config.method}: its ratios are fitted to samples; give "
                "--prompts"
            )


def run(config, *, console=None):
    """Measures, reports and writes what the flags ask for; returns the results, None
    where only a model was written."""
    check(config)
    console = command.console() if console is None else console
    command.prepare_devices(config, command.cache_folder(config), (1,))
    pair = comparable.read(config.before, config.after)
    if config.write is not None:
        writing.check(config.write, pair)
    if config.streamed and pair.adapter is not None:
        raise ValueError(
            f"--streamed: {config.after} is an adapter, which is merged in memory; "
            "leave the flag out"
        )
    experiment.say(console, [f"note: {note}" for note in pair.notes])
    if not config.suites:
        writing.unmeasured(config, pair, console)
        return None
    folder = _folder(config)
    asked = measured.read(config, pair.tokenizer)
    layout = parallel.layout(config.layout, config.devices)
    return _measured(config, pair, asked, folder, layout, console)


def _measured(config, pair, asked, folder, layout, console):
    """The results of both models and all points, reported and, if asked, written."""
    started = time.monotonic()
    both = tuple(map(layout.put, comparable.load(pair)))
    pair = pair._replace(model=models.with_dtype(pair.model, config.dtype))
    inputs = measured.prepare(config, asked, pair, both[0], layout)
    points = _points(config, inputs)
    experiment.say(console, _announced(config, inputs, points, layout))
    fitter = measured.fitter(config, pair, both, inputs, layout)
    readings, points, fitted = _readings(
        functools.partial(measured.measure, config, pair, both[0], inputs, layout),
        fitter,
        both,
        points,
        console,
    )
    about = {
        "command": provenance.command(),
        "config": provenance.to_json(config),
        "notes": list(pair.notes),
        "hma": fitted,
        "memory": writing.held(both[0]),
        "seconds": time.monotonic() - started,
        "commit": provenance.commit(),
        **provenance.versions(),
    }
    facts = suites.facts(inputs.suites)
    results = report.write(folder, config, points, readings, inputs, facts, about)
    report.show(results, folder, console)
    if config.write is not None:
        point = writing.chosen(config, results, points)
        writing.write(config, pair, point, both, console)
    return results


def _readings(measure, fit, both, points, console):
    """({name: `Reading`}, points that can all be made, {name: how HMA was fitted}).

    Args: measure(params) -> `Reading`; fit(mean) -> (make, metrics); both: parameters.
    """
    readings, made, fitted = {}, [], {}
    with progress.Progress(len(points) + 2, "measuring", console=console) as bar:
        for name, params in zip(("before", "after"), both, strict=True):
            with bar.phase("compiling" if name == "before" else "measuring"):
                readings[name] = measure(params)
            bar.update(len(readings), **_shown(readings[name]))
        for point in points:
            if point.make is None:
                with bar.phase(f"fitting {point.label}"):
                    make, fitted[point.name] = fit(point.weight)
                point = point._replace(make=make)
            made.append(point)
            # The last model's buffers are free before the next one is made.
            readings[point.name] = measure(point.make(*both))
            bar.update(len(readings), **_shown(readings[point.name]))
    return readings, made, fitted


def _points(config, inputs):
    """The rows to measure, that of --method among them."""
    families = set(config.families)
    if inputs.task is None:
        families.discard("hma")
    along = {k: getattr(config, k) for k in ("weights", "beyond", "densities")}
    points = merges.points(families, **along)
    if config.method is not None and config.method not in [p.name for p in points]:
        points.append(merges.named(config.method))
    return points


def _announced(config, inputs, points, layout):
    """What is about to happen."""
    listed = [f"{k}, {x}" for k, x in suites.facts(inputs.suites).items()]
    counts = {}
    for point in points:
        label = merges.FAMILIES[point.family].label
        counts[label] = counts.get(label, 0) + 1
    made = ", ".join(f"{n} {label}" for label, n in counts.items())
    lines = [f"before    {config.before}", f"after     {config.after}"]
    lines += [f"suite     {text}" for text in listed]
    if inputs.task is not None:
        count, reward = len(inputs.task.prompts.tokens), config.reward or "no reward"
        lines.append(f"prompts   {count}, {config.samples} sample(s) each; {reward}")
    if "hma" in config.families and inputs.task is None:
        lines.append(
            "HMA is left out: it is fitted to samples, and --prompts is not set"
        )
    axis = report.axis(inputs)
    lines.append(f"front     score against {front.TITLES[axis]}")
    devices = f"{layout.size} {layout.devices[0].platform} device(s)"
    return [*lines, f"models    2 and {len(points)} made of them: {made}; {devices}"]


def _shown(reading):
    """Numbers of a model for the bar."""
    shown = {"score": float(reading.scores().mean())}
    if reading.reward is not None:
        shown["reward"] = float(reading.reward.mean())
    elif reading.kl is not None:
        shown["kl"] = float(reading.kl.mean())
    return {k: x for k, x in shown.items() if math.isfinite(x)}


def _folder(config):
    """A folder for the report that holds none yet."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    folder = pathlib.Path(config.output or f"runs/alignment_tax/{now}")
    if (folder / report.RESULTS).exists():
        raise ValueError(
            f"--output {folder} holds results already: name another folder"
        )
    return folder
