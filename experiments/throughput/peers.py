"""Our side of a comparison: peers' processes, and the files they read.

A peer runs in its own Python, on the same weights where it can read them, and waits for
a command before each round, so that its rounds alternate with ours.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

from experiments.throughput import workloads
from rlhf_jax import huggingface

PATH = (str(pathlib.Path(__file__).resolve().parents[2]),)  # a peer imports from here
_FIRST_CHARACTER = 0xF0000  # in a private-use plane: one character per token

PEERS = {
    "trl": ("experiments.throughput.against_trl", "rloo", "trl==1.16.0 torch"),
    "tunix": ("experiments.throughput.against_tunix", "grpo", "google-tunix==0.1.7"),
}


def check(names):
    """Raises ValueError for the name of an unknown peer."""
    for name in names:
        if name not in PEERS:
            raise ValueError(f"--against {name}: choose from {', '.join(PEERS)}")


class Peer:
    """A peer's process, which ends with its `with` block."""

    def __init__(self, name, python, spec, folder):
        self.name, self._python = name, python or sys.executable
        module, _, self._packages = PEERS[name]
        folder = pathlib.Path(folder)
        file = folder / f"{name}.json"
        file.write_text(json.dumps(spec))
        self.log = folder / f"{name}.log"
        environment = dict(os.environ, HF_HUB_OFFLINE="1")
        environment["PYTHONPATH"] = os.pathsep.join(PATH)
        environment.pop("XLA_FLAGS", None)  # ours; a peer runs with its defaults
        with self.log.open("w") as log, self._explain_missing():
            self._process = subprocess.Popen(
                [self._python, "-m", module, str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    @contextlib.contextmanager
    def _explain_missing(self):
        try:
            yield
        except FileNotFoundError:
            raise ValueError(
                f"--peer-python {self._python}: there is no such program; name the "
                f"Python that has {self._packages}"
            ) from None

    def ask(self, command):
        """The answer to a command, as a dictionary; "" waits for the first one."""
        if command:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(command + "\n")
                self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"failed": "its process ended"}
        if "missing" in answer:
            raise ValueError(
                f"--against {self.name}: {self._python} has no {answer['missing']}; "
                f"install it with `{self._python} -m pip install {self._packages}`, "
                "or name a Python that has it with --peer-python"
            )
        if "failed" in answer:
            raise ValueError(
                f"--against {self.name}: {answer['failed']}; {self.log} has the rest"
            )
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):  # it may have ended by itself
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def write_models(work, folder, algorithm=None):
    """Writes a workload's policy and reward model; returns the spec for a peer."""
    folder = pathlib.Path(folder)
    tokenizer = save_tokenizer(folder / "tokenizer", work.decoder.vocab_size)
    made = {"policy": workloads.policy}
    if work.judged:
        made["reward"] = workloads.reward_model
    for name, make in made.items():
        model, params = make(work)
        huggingface.save(folder / name, model, params, tokenizer)
    prompts = workloads.prompts(work, work.rows).tokens
    c = work.decoder
    return {
        "policy": str(folder / "policy"),
        "reward": str(folder / "reward") if work.judged else None,
        "prompts": ["".join(map(character, row)) for row in prompts.tolist()],
        "rows": work.rows,
        "prompt_length": work.prompt_length,
        "new_tokens": work.new_tokens,
        "minibatches": work.minibatches,
        "micro_batches": work.micro_batches,
        "candidates": work.candidates,
        "algorithm": algorithm,
        "dtype": work.decoder.dtype,
        "rank": work.rank,
        "eos": workloads.EOS,
        "pad": workloads.PAD,
        "first": character(0),
        "rotary": c.positions == "rotary",
        "shape": {
            name: getattr(c, name)
            for name in (
                *("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim"),
                *("hidden", "norm_eps", "rope_theta", "tied", "max_length"),
            )
        },
    }


def character(token):
    """The text of a token: one character, so that texts join as tokens do."""
    return chr(_FIRST_CHARACTER + token)


def save_tokenizer(folder, size):
    """Saves and opens a `transformers` tokenizer of `size` one-character tokens."""
    import transformers

    words = [character(token) for token in range(size)]
    names = {"eos_token": words[workloads.EOS], "pad_token": words[workloads.PAD]}
    special = {"single_word": False, "lstrip": False, "rstrip": False}
    special |= {"normalized": False, "special": True}
    ids = (workloads.EOS, workloads.PAD)
    split = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated"}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": words[i], **special} for i in ids],
        "normalizer": None,
        "pre_tokenizer": {**split, "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: i for i, word in enumerate(words)},
            "unk_token": words[workloads.EOS],
        },
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | names))
    return transformers.AutoTokenizer.from_pretrained(str(folder))
