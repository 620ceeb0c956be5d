"""Talk to a model: what does it write after these prompts?

    python -m experiments.generate --model runs/sft/<time>/model --prompts "Once upon"
    python -m experiments.generate --model path/to/model --file prompts.jsonl \\
        --output answers.jsonl --temperature 0.7 --top-p 0.9 --samples 4
    echo "What is RLHF?" | python -m experiments.generate --model path/to/model

Prompts come from flags, a file or stdin, one per line. A JSONL, JSON, CSV or parquet
file needs a column prompt with texts or lists of messages; any other file holds one
prompt per line. If the tokenizer has a chat template, a text becomes a user message,
unless --raw is given. Answers go to stdout, or as JSONL {"prompt", "completion",
"ended"} to --output.

From Python, a model is a name, (model, params, tokenizer), or what a recipe returned:

    rows = generate.complete(model=tuned, prompts=["Once upon"], temperature=0.7)
"""

import dataclasses
import io
import json
import pathlib
import sys
from typing import Annotated, Literal

import jax

from rlhf_jax import ranges, sampling
from rlhf_jax.cli import command, library, options
from rlhf_jax.data import conversations, stop_tokens, tokenization
from rlhf_jax.evaluation import policy
from rlhf_jax.runtime import files, parallel, terminal
from rlhf_jax.tasks import models
from rlhf_jax.tasks import rows as rows_of
from rlhf_jax.types import Prompts


@dataclasses.dataclass(frozen=True)
class Config:
    """Which prompts to answer, and how to sample answers."""

    model: str = ""
    """A model directory, or a name on the hub."""
    prompts: tuple[str, ...] = ()
    """Prompts, each a word of the command line or quoted."""
    file: ranges.Text | None = None
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
    top_k: ranges.Natural = 0
    """Only the k most likely tokens are sampled; 0: all."""
    top_p: Annotated[float, ranges.Range(above=0, at_most=1)] = 1.0
    """Only the most likely tokens of this total probability are sampled."""
    seed: ranges.Natural = 0
    """Of the samples."""
    rows: ranges.Count = 32
    """Answers sampled at a time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type."""
    devices: ranges.Count | None = None
    """Devices that share the answers; by default all of them."""
    layout: ranges.Text = "data"
    """data, fsdp, or fsdp:2,tensor:2; see `parallel.layout`."""
    cache: ranges.Text | None = None
    """Folder for compiled programs; by default ~/.cache/rlhf_jax."""


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
    command.prepare_devices(config, command.cache_folder(config), (config.rows,))
    layout = parallel.layout(config.layout, config.devices)
    model, params, tokenizer = models.read_decoder(
        "--model", config.model, config.dtype
    )
    index = [i for i in range(len(prompts)) for _ in range(config.samples)]
    rows, draw = _prepare(config, prompts, model, tokenizer)
    width = rows.tokens.shape[1]
    rows = Prompts(*(x[index] for x in rows))
    program = layout.over_rows(
        policy.make_draw(model, config=draw), replicated=1, chunk=config.rows
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


def _prepare(config, prompts, model, tokenizer):
    """(`Prompts`, how answers to them are sampled)."""
    texts = [_text(config, prompt, tokenizer) for prompt in prompts]
    room = model.config.max_length - config.max_new_tokens
    length = config.prompt_length or room
    if not 1 <= length <= room:
        raise ValueError(
            f"--max-new-tokens {config.max_new_tokens}, --prompt-length "
            f"{config.prompt_length}: the model's context is "
            f"{model.config.max_length}; lower them"
        )
    rows = tokenization.prompts(tokenizer, texts, length=length)
    longest = int(rows.mask.sum(-1).max())
    width = min(1 << (longest - 1).bit_length(), length)  # few shapes, little padding
    stops = stop_tokens.stop_ids(tokenizer)
    draw = sampling.Config(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        eos_ids=stops,
        pad_id=tokenization.pad_id(tokenizer, stops),
        vocab_limit=min(len(tokenizer), model.config.vocab_size),
    )
    return Prompts(*(x[:, -width:] for x in rows)), draw


def _text(config, prompt, tokenizer):
    """A prompt as the model reads it."""
    if config.raw or not getattr(tokenizer, "chat_template", None):
        return conversations.prompt(prompt, tokenizer)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if config.system and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": config.system}, *prompt]
    return conversations.prompt(prompt, tokenizer)


def show(rows):
    """Prompts and answers on stdout."""
    console = terminal.console()
    for row in rows:
        prompt = row["prompt"]
        prompt = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        console.print(prompt, style="dim", highlight=False, markup=False)
        cut = "" if row["ended"] else " …"
        console.print(row["completion"] + cut + "\n", highlight=False, markup=False)


if __name__ == "__main__":
    main()
