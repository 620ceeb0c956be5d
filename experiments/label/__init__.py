"""Label pairs of answers by a language model: which is better, and how surely?

Rows hold `prompt`, `chosen` and `rejected` (or `prompt`, `response_a` and
`response_b`), texts or lists of messages. The labeler reads each pair in both orders,
and the probabilities of its two labels are averaged (Lee et al. 2023, "RLAIF",
arXiv:2309.00267).

    python -m experiments.label --labeler path/to/model --dataset pairs.jsonl \\
        --template helpful_detailed
    python -m experiments.label --labeler https://api.openai.com/v1 \\
        --endpoint.model gpt-4o-mini --endpoint.kind chat --dataset pairs.jsonl \\
        --limits.prices 0.15 0.6 --limits.budget-money 2 --dry-run
    python -m experiments.reward_model --model path/to/sft \\
        --dataset runs/label/<time>/labels.jsonl

The result is labels.jsonl in the run folder: chosen is what the labeler prefers,
`preference` how surely; rows without a label are in failed.jsonl, with the reason.
report.md says how often the labeler agrees with the data's own labels, how much it
looks at positions, and what was spent. Every call is in ledger.sqlite: killed and
started again with --resume, a job asks only what is not there yet.

From Python, with rows as a list of dictionaries, and a labeler by its name,
(model, params, tokenizer), or a `feedback.labelers.Labeler`:

    labels = label.label(labeler="path/to/model", dataset=rows)
    judge = reward_model.train(model="path/to/sft", dataset=labels.rows)
"""

import dataclasses
import itertools
import pathlib
import time
from typing import Any, Literal, NamedTuple

from experiments.label import estimate, pairs, report
from rlhf_jax import ranges
from rlhf_jax.cli import command, experiment, library
from rlhf_jax.feedback import judging, pairings, prompts
from rlhf_jax.feedback.labelers import Decoding, Labeler
from rlhf_jax.runtime import files, parallel, progress, provenance, terminal
from rlhf_jax.tasks import judges


@dataclasses.dataclass(frozen=True)
class Data:
    """Which rows to read."""

    split: ranges.Text = "train"
    """Split to label."""
    columns: tuple[ranges.Text, ...] = ()
    """Your column names, as in prompt=question chosen=better."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Whose labels, of which pairs, by which prompt."""

    essential = (
        "labeler", "dataset", "data.columns", "template", "shots", "chain_of_thought",
        "samples", "temperature", "limit", "dry_run", "endpoint.model",
        "endpoint.key_env", "limits.budget_tokens", "ledger", "output", "resume",
    )  # fmt: skip
    labeler: str = ""
    """A language model's directory or hub name, or the URL of an OpenAI-compatible
    endpoint, with --endpoint.model."""
    dataset: str = ""
    """A hub name, a folder, or a file."""
    template: ranges.Text = judges.TEMPLATES["pair"]
    """A prompt of the package (summarization, helpful, harmless; _base, _detailed), or
    the path of a TOML file."""
    shots: ranges.Natural = 0
    """Exemplars that are shown."""
    chain_of_thought: bool = False
    """Let the labeler write a rationale first, for each order."""
    samples: ranges.Count = 1
    """Rationales for each order, whose labels are averaged: self-consistency."""
    temperature: ranges.NonNegative = 0.0
    """Of rationales."""
    max_tokens: ranges.Count = 512
    """Of a rationale."""
    limit: ranges.Natural = 0
    """Label the first rows alone; 0: all."""
    dry_run: bool = False
    """Estimate calls, tokens and money, and ask nothing."""
    raw: bool = False
    """Ask a local model without its chat template."""
    ledger: ranges.Text | None = None
    """Where calls are kept; by default ledger.sqlite of the run folder."""
    data: Data = dataclasses.field(default_factory=Data)
    endpoint: judges.Endpoint = dataclasses.field(default_factory=judges.Endpoint)
    limits: judges.Limits = dataclasses.field(default_factory=judges.Limits)
    output: ranges.Text | None = None
    """The run folder; by default a new one under runs/label."""
    resume: bool = False
    """Continue the run in --output, or the latest one, where it stopped."""
    seed: ranges.Natural = 0
    """Of rationales."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of a local model."""
    devices: ranges.Count | None = None
    """That a local model is read on; by default all of them, or a CPU's cores."""
    layout: ranges.Text = "data"
    """data: every device has all weights; fsdp: they are sharded."""
    cache: ranges.Text | None = None
    """Folder for compiled programs; by default ~/.cache/rlhf_jax."""

    @property
    def decoding(self):
        """How rationales are written."""
        return Decoding(self.max_tokens, self.temperature, seed=self.seed)

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if self.samples > 1 and not self.chain_of_thought:
            reason = "without a rationale all samples are one"
            yield ("samples", "chain_of_thought"), reason
        if self.samples > 1 and not self.temperature:
            yield ("samples", "temperature"), "at temperature 0 all samples are one"


CONFIG = Config()


class Labels(NamedTuple):
    """What a job returns."""

    rows: list[dict]  # of labels.jsonl: the data set of the next recipe
    failed: list[dict]  # of failed.jsonl
    results: dict[str, Any]  # of results.json
    folder: pathlib.Path


def main():
    config = command.parse(CONFIG, description=__doc__)
    command.main(lambda: run(config))


def label(*, quiet=False, **flags):
    """Labels with flags as keywords (`cli.library`); returns `Labels`.

    quiet: print nothing.
    """
    console = terminal.console(quiet=True) if quiet else None
    return run(library.configure(CONFIG, flags), console=console)


def check(config):
    """The template; raises ValueError for misuse that the flags alone reveal."""
    needed = {
        "labeler": "a model directory, a hub name, or the URL of an endpoint",
        "dataset": "a hub name, a folder, or a .jsonl, .json, .csv or .parquet file",
    }
    for name, what in needed.items():
        if not getattr(config, name):
            raise ValueError(f"--{name} is needed: {what}")
    ranges.check(config, flags=True)
    if config.labeler == judges.POLICY:
        raise ValueError("--labeler policy: there is no policy here; name a model")
    template = judges.check(_spec(config), "pair", flag="--labeler")
    if config.chain_of_thought:
        nothing = dict.fromkeys(prompts.FIELDS["pair"], "")
        try:
            prompts.ask_rationale(template, shots=config.shots, **nothing)
        except ValueError as error:
            raise ValueError(f"--chain-of-thought: {error}") from None
    return template


def run(config, *, console=None):
    """The whole job; returns `Labels`, or with `dry_run` the lines of the estimate."""
    started, given, config = time.monotonic(), config, _named(config)
    template = check(config)
    console = command.console() if console is None else console
    rows = pairs.read(given.dataset, config.data, config.limit)
    source = None if isinstance(given.labeler, str) else given.labeler
    if config.dry_run:
        return _estimated(config, rows, template, source, console)
    command.prepare_devices(config, command.cache_folder(config), ())
    judges.tokenizer_of(_spec(config), source)  # raises before there is a folder
    folder = _folder(config)
    layout = parallel.layout(config.layout, config.devices)
    with files.lock(folder):
        spec = _spec(config, folder)
        command.write_config(folder, config, layout)
        judge = judges.create(
            spec, "pair", source=source, dtype=config.dtype, layout=layout,
            flag="--labeler",
        )  # fmt: skip
        about = (
            judge.describe(),
            f"{len(rows.pairs)} pairs of {config.dataset}, each in both orders",
        )
        experiment.say(console, (*about, f"folder    {folder}"))
        found = ask(config, judge, rows, console)
        return _finished(config, judge, rows, found, folder, about, started, console)


def ask(config, judge, rows, console):
    """`judging.Preferences` of the rows, both orders written down in the ledger."""
    thought = {}
    if config.chain_of_thought:
        thought = {"decoding": config.decoding, "samples": config.samples}
    else:
        _record(judge, rows)
    total = estimate.calls(rows, config)
    with progress.Progress(total, "labelling", console=console) as bar:
        found = judging.prefer(
            _watched(judge.labeler, bar), judge.template, rows.pairs,
            chain_of_thought=config.chain_of_thought, **thought, **judge.how,
        )  # fmt: skip
    if config.chain_of_thought:
        _record(judge, rows, found.rationales)
    return found


def _record(judge, rows, rationales=None):
    pairings.record(
        judge.ledger, judge.labeler, judge.template, rows.pairs,
        rationales=rationales, **judge.how,
    )  # fmt: skip


def _watched(labeler, bar):
    """A labeler whose answers are counted on a bar."""
    done = itertools.count(1)

    def counted(answers):
        for answer in answers:
            bar.update(next(done))
            yield answer

    return dataclasses.replace(
        labeler,
        read=lambda *asked: counted(labeler.read(*asked)),
        write=lambda *asked: counted(labeler.write(*asked)),
    )


def _finished(config, judge, rows, found, folder, about, started, console):
    """Writes everything; returns `Labels`. Raises ValueError where no row has one."""
    made, lost = pairs.labelled(rows, found), pairs.failed(rows, found)
    pairs.write(folder, made, lost)
    told = report.results(rows, found, judge.ledger)
    told |= {"labeler": judge.labeler.name, "template": judge.template.name}
    told |= {"template_digest": judge.template.digest}
    facts = {**provenance.summary(config), "template digest": judge.template.digest}
    facts |= {"wall time": progress.duration(time.monotonic() - started)}
    report.write(folder, told, about, facts, provenance.command())
    if not made:
        raise ValueError(
            f"none of {len(lost)} pairs got a label; row 0: {lost[0]['failure']} "
            f"({folder / pairs.FAILED} has the others)"
        )
    written = [str(folder / name) for name in (pairs.LABELS, "report.md")]
    experiment.say(console, (*report.lines(told), *written))
    return Labels(made, lost, told, folder)


def _estimated(config, rows, template, source, console):
    """The estimate, on the console too."""
    spec = _spec(config)
    tokenizer, wrap = judges.tokenizer_of(spec, source), None
    if tokenizer is not None and not config.raw:
        wrap = judges.in_chat(template, tokenizer)
    lines = estimate.lines(rows, spec, template, config, tokenizer, wrap)
    experiment.say(console, (*lines, "dry run: nothing was asked"))
    return lines


def _named(config):
    """The config with names in place of objects."""
    if isinstance(config.labeler, Labeler):
        config = dataclasses.replace(config, labeler=config.labeler.name)
    return library.names(config)


def _spec(config, folder=None):
    """The `judges.Spec` of the flags."""
    ledger = config.ledger
    if ledger is None and folder is not None:
        ledger = str(folder / judges.LEDGER)
    return judges.Spec(
        config.labeler,
        template=config.template,
        shots=config.shots,
        raw=config.raw,
        ledger=ledger or "",
        endpoint=config.endpoint,
        limits=config.limits,
    )


def _folder(config):
    """The run folder: a new one, or with --resume an existing one."""
    folder = command.run_dir(config, "label")
    if not config.resume and (folder / judges.LEDGER).exists():
        raise ValueError(
            f"{folder} holds a run already: pass --resume to continue it, or another "
            "--output"
        )
    return folder
