"""Talk to a model: what does it write after these prompts?

    python -m experiments.generate --model runs/sft/<time>/model --prompts "Once upon"
    python -m experiments.generate --model path/to/model --file prompts.jsonl \\
        --output answers.jsonl --temperature 0.7 --top-p 0.9 --samples 4
    echo "What is RLHF?" | python -m experiments.generate --model path/to/model

Prompts come from flags, from a file (JSONL, JSON, CSV or parquet with a column prompt,
which holds texts or lists of messages; any other file: a prompt a line) or from stdin,
a prompt a line. Where the tokenizer has a chat template a text is taken for what a user
says, unless --raw. Answers go to stdout, or as JSONL {"prompt", "completion", "ended"}
to --output.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Literal

import jax
import rich.console

from rlhf_jax import sampling
from rlhf_jax.cli import command, recipes
from rlhf_jax.data import conversations, sources, stop_tokens, tokenization
from rlhf_jax.evaluation import policy
from rlhf_jax.runtime import metrics_log, parallel
from rlhf_jax.tasks import models
from rlhf_jax.types import Prompts

_TABLES = (".jsonl", ".json", ".csv", ".parquet", ".gz")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is asked, and how answers are drawn."""

    model: str = ""
    """A model directory, or a name on the hub."""
    prompts: tuple[str, ...] = ()
    file: str | None = None
    """Prompts: a table with a column prompt, or text with a prompt a line."""
    output: str | None = None
    """A JSONL file to write, a line an answer; by default answers are printed."""
    raw: bool = False
    """Continue texts as they are, whatever the chat template."""
    system: str = ""
    """What the system's message says, with a chat template."""
    samples: int = 1
    """Answers to each prompt."""
    max_new_tokens: int = 128
    prompt_length: int | None = None
    """Of longer prompts the end is kept; by default what the context leaves."""
    temperature: float = 1.0
    """0: always the likeliest token."""
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    rows: int = 32
    """Answers drawn at a time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    devices: int | None = None
    layout: str = "data"
    cache: str | None = None


CONFIG = Config()


def main():
    config = command.parse(CONFIG, description=__doc__)
    command.main(lambda: run(config))


def run(config, stdin=None):
    """All answers as dictionaries, in the order of the prompts."""
    recipes.check(config, needed=("model",))
    for name in ("samples", "rows"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name} {getattr(config, name)}: at least 1 is needed")
    asked = questions(config, sys.stdin if stdin is None else stdin)
    command.prepare_devices(config, command.cache_folder(config), (config.rows,))
    layout = parallel.layout(config.layout, config.devices)
    model, params, tokenizer = models.read_decoder(
        "--model", config.model, config.dtype
    )
    found = answers(config, asked, model, layout.place(params), tokenizer, layout)
    if config.output is None:
        show(found)
    else:
        lines = (json.dumps(row, ensure_ascii=False) for row in found)
        metrics_log.write_text(config.output, "".join(f"{line}\n" for line in lines))
        console = rich.console.Console(stderr=True)
        console.print(f"{len(found)} answers in {config.output}", highlight=False)
    return found


def questions(config, stdin):
    """The prompts, texts or lists of messages, from flags, a file and stdin."""
    asked = list(config.prompts)
    if config.file is not None:
        path = pathlib.Path(config.file).expanduser()
        if not path.is_file():
            raise ValueError(f"--file {config.file}: there is no such file")
        if path.suffix in _TABLES:
            asked += sources.load(path, columns=["prompt"])["prompt"]
        else:
            asked += [t for t in path.read_text("utf-8").splitlines() if t.strip()]
    elif not asked:
        if stdin.isatty():
            print("prompts, one a line; end with Ctrl-D", file=sys.stderr)
        asked = [line.rstrip("\n") for line in stdin if line.strip()]
    if not asked:
        raise ValueError("no prompts: give --prompts, --file, or lines on stdin")
    return asked


def answers(config, asked, model, params, tokenizer, layout):
    """[{"prompt", "completion", "ended"}], `config.samples` for each prompt."""
    texts = [_text(config, prompt, tokenizer) for prompt in asked]
    room = model.config.max_length - config.max_new_tokens
    length = config.prompt_length or room
    if not 1 <= length <= room:
        raise ValueError(
            f"--max-new-tokens {config.max_new_tokens}, --prompt-length "
            f"{config.prompt_length}: the model's context is "
            f"{model.config.max_length}; ask for less"
        )
    rows = tokenization.prompts(tokenizer, texts, length=length)
    longest = int(rows.mask.sum(-1).max())
    width = min(1 << (longest - 1).bit_length(), length)  # few shapes, little padding
    index = [i for i in range(len(texts)) for _ in range(config.samples)]
    rows = Prompts(*(x[index, -width:] for x in rows))
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
    program = layout.over_rows(
        policy.make_draw(model, config=draw), whole=1, chunk=config.rows
    )
    out = program(params, policy.prompt_rows(rows, jax.random.key(config.seed)))
    written = tokenization.texts(tokenizer, out.tokens[:, width:], out.response_mask)
    return [
        {"prompt": asked[i], "completion": text, "ended": bool(ended)}
        for i, text, ended in zip(index, written, out.ended, strict=True)
    ]


def _text(config, prompt, tokenizer):
    """A prompt as the model is to see it."""
    if config.raw or not getattr(tokenizer, "chat_template", None):
        return conversations.prompt(prompt, tokenizer)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if config.system and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": config.system}, *prompt]
    return conversations.prompt(prompt, tokenizer)


def show(found):
    """Prompts and answers on stdout."""
    console = rich.console.Console()
    for row in found:
        asked = row["prompt"]
        asked = asked if isinstance(asked, str) else asked[-1]["content"]
        console.print(asked, style="dim", highlight=False, markup=False)
        cut = "" if row["ended"] else " …"
        console.print(row["completion"] + cut + "\n", highlight=False, markup=False)


if __name__ == "__main__":
    main()
