"""Talk to a model: what does it write after these prompts?

    python -m experiments.generate --model runs/sft/<time>/model --prompts "Once upon"
    python -m experiments.generate --model path/to/model --file prompts.jsonl \\
        --output answers.jsonl --temperature 0.7 --min-p 0.1 --samples 4
    echo "What is RLHF?" | python -m experiments.generate --model path/to/model

Prompts come from flags, a file or stdin, one per line. A JSONL, JSON, CSV or parquet
file needs a column prompt with texts or lists of messages; any other file holds one
prompt per line. If the tokenizer has a chat template, a text becomes a user message,
unless --raw is given. Answers go to stdout, or as JSONL {"prompt", "completion",
"ended"} to --output; an answer that --stop-strings ends keeps the string.

From Python, a model is a name, (model, params, tokenizer), or what a recipe returned:

    rows = generate.complete(model=tuned, prompts=["Once upon"], temperature=0.7)
"""

import dataclasses
import io
import json
import math
import os
import pathlib
import sys
from typing import Annotated, Literal

import jax

from rlhf_jax import huggingface, ranges, sampling
from rlhf_jax.cli import command, library, options, sampled
from rlhf_jax.data import conversations, spans, stop_tokens, tokenization
from rlhf_jax.evaluation import policy
from rlhf_jax.runtime import files, parallel, terminal
from rlhf_jax.tasks import models
from rlhf_jax.tasks import rows as rows_of
from rlhf_jax.types import Prompts


@dataclasses.dataclass(frozen=True)
class Asked:
    """Which prompts to answer, and how long answers are."""

    model: str = ""
    """A model directory, or a name on the hub."""
    prompts: tuple[str, ...] = ()
    """Prompts, each a word of the command line or quoted."""
    file: Annotated[ranges.Text | None, ranges.Was("dataset")] = None
    """Prompts: a table with a column prompt, or text with one prompt per line."""
    output: ranges.Text | None = None
    """A JSONL file to write, one answer per line; by default answers are printed."""
    raw: bool = False
    """Continue texts as they are, without the chat template."""
    system: str = ""
    """The system message, with a chat template."""
    samples: ranges.Count = 1
    """Answers per prompt."""
    max_new_tokens: ranges.Count = 128
    """Tokens of an answer, at most."""
    prompt_length: ranges.Count | None = None
    """Longer prompts keep only their end; by default all that the context allows."""
    temperature: ranges.NonNegative = 1.0
    """0 always picks the most likely token."""


@dataclasses.dataclass(frozen=True)
class Config(sampled.Sampling, Asked):
    """Which prompts to answer, and how to sample answers."""

    seed: ranges.Natural = 0
    """Other seeds draw other answers."""
    rows: ranges.Count = 32
    """Answers sampled at a time; where one ends the next begins, with --layout data."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type."""
    devices: ranges.Count | None = None
    """Devices that share the rows; by default all of them, or a CPU's cores."""
    layout: ranges.Text = "data"
    """data, fsdp, or fsdp:2,tensor:2; see `parallel.layout`."""
    cache: ranges.Text | None = None
    """Folder for compiled programs; by default ~/.cache/rlhf_jax."""

    def conflicts(self):
        """Flags that contradict each other, and why."""
        yield from sampled.Sampling.conflicts(self)
        if self.raw and self.system:
            reason = "a system message needs the chat template; leave one of them out"
            yield ("raw", "system"), reason


CONFIG = Config()


def main():
    config = command.parse(CONFIG, description=__doc__)
    command.main(lambda: run(config))


def complete(**flags):
    """Answers to `prompts`, with flags as keywords: a list of dictionaries."""
    config = library.configure(CONFIG, flags)
    check(config)
    return answers(config, questions(config, io.StringIO()))


def run(config, stdin=None):
    """Prints or writes the answers; returns them as dictionaries, in prompt order."""
    check(config)
    rows = answers(config, questions(config, sys.stdin if stdin is None else stdin))
    if config.output is None:
        show(rows)
    else:
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        files.write(config.output, "".join(f"{line}\n" for line in lines))
        console = terminal.console(stderr=True)
        console.print(f"{len(rows)} answers in {config.output}", highlight=False)
    return rows


def check(config):
    """Raises ValueError for misuse that the flags alone reveal."""
    options.check(library.names(config), needed=("model",))
    if config.output is not None and pathlib.Path(config.output).is_dir():
        raise ValueError(f"--output {config.output} is a folder; name a JSONL file")


def questions(config, stdin):
    """The prompts, texts or lists of messages, from flags, a file and stdin."""
    prompts = list(config.prompts)
    if config.file is not None:
        prompts += rows_of.of_prompts("--file", config.file)["prompt"]
    elif not prompts:
        if stdin.isatty():
            print("prompts, one a line; end with Ctrl-D", file=sys.stderr)
        prompts = [line.rstrip("\n") for line in stdin if line.strip()]
    if not prompts:
        raise ValueError("no prompts: give --prompts, --file, or lines on stdin")
    return prompts


def answers(config, prompts):
    """[{"prompt", "completion", "ended"}], `config.samples` for each prompt."""
    _check_system(config)
    command.prepare_devices(config, command.cache_folder(config), (config.rows,))
    layout = parallel.layout(config.layout, config.devices)
    model, params, tokenizer = models.read_decoder(
        "--model", config.model, config.dtype
    )
    index = [i for i in range(len(prompts)) for _ in range(config.samples)]
    rows, draw = _prepare(config, prompts, model, tokenizer)
    width = rows.tokens.shape[1]
    rows = Prompts(*(x[index] for x in rows))
    turns = _turns(config, layout, len(index))
    program = layout.over_rows(
        policy.make_draw(model, config=draw, rows_per_slot=turns),
        replicated=1,
        chunk=turns * config.rows,
    )
    keyed = policy.prompt_rows(rows, jax.random.key(config.seed))
    rollout = program(layout.put(params), keyed)
    texts = tokenization.texts(
        tokenizer, rollout.tokens[:, width:], rollout.response_mask
    )
    return [
        {"prompt": prompts[i], "completion": text, "ended": bool(ended)}
        for i, text, ended in zip(index, texts, rollout.ended, strict=True)
    ]


def _turns(config, layout, count):
    """How many answers take turns in a row, so that `rows` of them hold all.

    1 on a mesh, where one batch follows another.
    """
    if not isinstance(layout, parallel.Data):
        return 1
    rows = max(config.rows // layout.size, 1)  # of a device
    return math.ceil(math.ceil(count / layout.size) / rows)


def _check_system(config):
    """Raises ValueError for a system message that no template has a place for."""
    if not config.system:
        return
    where, named = config.model, isinstance(config.model, str | os.PathLike)
    tokenizer = huggingface.load_tokenizer(where) if named else where[2]
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"--system {config.system!r}: {models.where('--model', where)} has no chat "
            "template, so a system message has no place; write it into the prompts"
        )


def _prepare(config, prompts, model, tokenizer):
    """(`Prompts`, how answers to them are sampled)."""
    texts = [_text(config, prompt, tokenizer) for prompt in prompts]
    length = _length(config, model.config.max_length)
    rows = tokenization.prompts(tokenizer, texts, length=length)
    _say_cut(tokenizer, texts, length)
    longest = int(rows.mask.sum(-1).max())
    width = min(1 << (longest - 1).bit_length(), length)  # few shapes, little padding
    stops = stop_tokens.stop_ids(tokenizer)
    draw = sampling.Config(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        eos_ids=stops,
        pad_id=tokenization.pad_id(tokenizer, stops),
        vocab_limit=min(len(tokenizer), model.config.vocab_size),
        **sampled.draws(config, tokenizer),
    )
    return Prompts(*(x[:, -width:] for x in rows)), draw


def _length(config, context):
    """Tokens of a prompt, at most. Raises ValueError where answers leave no room."""
    room, asked = context - config.max_new_tokens, config.prompt_length
    length = room if asked is None else asked
    if not 1 <= length <= room:
        also = f" and --prompt-length {asked}" if asked is not None else ""
        raise ValueError(
            f"--max-new-tokens {config.max_new_tokens}{also}: the model's context is "
            f"{context} tokens, for a prompt and its answer; ask for fewer"
        )
    return length


def _say_cut(tokenizer, texts, length):
    """Says on stderr how many prompts lose their beginning, if any do."""
    cut = spans.count_long(tokenizer, texts, length=length, end=0)
    if cut:
        terminal.console(stderr=True).print(
            f"{cut} of {len(texts)} prompts have more than {length} tokens: only their "
            "ends are read",
            highlight=False,
            soft_wrap=True,
        )


def _text(config, prompt, tokenizer):
    """A prompt as the model reads it."""
    if config.raw or not getattr(tokenizer, "chat_template", None):
        return conversations.prompt(prompt, tokenizer)
    prompt = conversations.turn(prompt)
    if config.system and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": config.system}, *prompt]
    return conversations.prompt(prompt, tokenizer)


def show(rows):
    """Prompts and answers on stdout: to a file or a pipe as they are, unwrapped."""
    console = terminal.console()
    plain = {"highlight": False, "markup": False, "soft_wrap": True}
    try:
        for row in rows:
            prompt = row["prompt"]
            prompt = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            answer = row["completion"] + ("" if row["ended"] else " …") + "\n"
            if console.is_terminal:
                console.print(prompt, style="dim", **plain)
                console.print(answer, **plain)
            else:  # a console would replace tabs and leave out control characters
                print(prompt, answer, sep="\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone, as in `| head`
        console.on_broken_pipe()


if __name__ == "__main__":
    main()
