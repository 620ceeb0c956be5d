"""Labelers by name: words of a command line as something that judges.

    spec = judges.parse("ai:path/to/model,template=helpful_rating")
    judge = judges.create(spec, "rating")
    judging.rate(judge.labeler, judge.template, contexts, responses, **judge.how)

A labeler is a model directory or a hub name, read in this process and asked in its chat
template if it has one, or the URL of an OpenAI-compatible endpoint, which is sent
prompts as they are ("completions") or as a user's turn ("chat"). On one word its
settings follow, by the names of the fields below:

    ai:http://localhost:8000/v1,model=judge-7b,key_env=JUDGE_KEY,ledger=calls.sqlite

A key is never among them: `key_env` is the name of the environment variable it is in.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
import re
from collections.abc import Callable
from typing import Literal, NamedTuple
from urllib import parse as urls

from rlhf_jax import huggingface, ranges
from rlhf_jax.feedback import (
    endpoint,
    in_process,
    ledger,
    prices,
    prompts,
    transport,
)
from rlhf_jax.feedback.labelers import Labeler
from rlhf_jax.runtime import files
from rlhf_jax.tasks import models

PREFIX = "ai:"
POLICY = "policy"  # in place of a directory: the initial policy itself
LEDGER = "ledger.sqlite"  # in a run folder
TEMPLATES = {"pair": "helpful_detailed", "rating": "helpful_rating"}  # by default
_KEY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """What is asked, where the labeler is a URL."""

    model: str = ""
    """The server's name for the model; needed."""
    key_env: ranges.Text = "OPENAI_API_KEY"
    """The NAME of the environment variable that holds the key; '' where the server
    asks for none."""
    kind: Literal["auto", "completions", "chat"] = "auto"
    """The route that is asked; auto: completions where labels can be read there."""
    system: str = ""
    """A system message, in chat."""
    votes: ranges.Count = 16
    """Samples a prompt, of servers that tell no log-probs."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """How fast a server may be asked, and for how much."""

    concurrency: ranges.Count = 8
    """Requests at a time."""
    requests_per_minute: ranges.Limit = math.inf
    """Calls a minute, at most; inf: no limit."""
    tokens_per_minute: ranges.Limit = math.inf
    """Tokens a minute, read and written, at most; inf: no limit."""
    retries: ranges.Natural = 6
    """Attempts after the first."""
    timeout: ranges.Positive = 120.0
    """Seconds an attempt."""
    budget_tokens: ranges.Limit = math.inf
    """What one command may use; --resume begins a new budget."""
    budget_money: ranges.Limit = math.inf
    """In the currency of the prices."""
    prices: tuple[ranges.NonNegative, ranges.NonNegative] | None = None
    """Of a million prompt tokens and a million completion tokens, as in 0.15 0.6."""

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if math.isfinite(self.budget_money) and self.prices is None:
            yield ("budget_money", "prices"), "what tokens cost is not known"


@dataclasses.dataclass(frozen=True)
class Spec:
    """A labeler, and how it is asked."""

    where: str
    template: str = ""  # of the package, or a file; by default one of `TEMPLATES`
    shots: ranges.Natural = 0
    raw: bool = False  # ask a model in this process without its chat template
    ledger: str = ""  # a file that every call goes through
    scale: ranges.Natural = 256  # samples of π₀ that a reward is scaled on; 0: it isn't
    endpoint: Endpoint = dataclasses.field(default_factory=Endpoint)
    limits: Limits = dataclasses.field(default_factory=Limits)

    @property
    def remote(self):
        """Whether the labeler is behind a URL."""
        return self.where.startswith(("http://", "https://"))


class Judge(NamedTuple):
    """A labeler with the prompt it is asked by."""

    labeler: Labeler
    template: prompts.Template
    shots: int
    wrap: Callable | None  # of `judging.prefer`: the chat template of a model here
    ledger: ledger.Ledger | None

    @property
    def how(self):
        """Arguments of `judging.prefer` and `judging.rate`."""
        return {"shots": self.shots, "wrap": self.wrap}

    def describe(self):
        """Who judges by which prompt, in a line."""
        template = self.template
        shots = f", {self.shots} shots" * bool(self.shots)
        chat = " in its chat template" * (self.wrap is not None)
        kept = f"; calls in {self.ledger.path}" if self.ledger is not None else ""
        return (
            f"{self.labeler.name}{chat}, prompt {template.name}, version "
            f"{template.version} ({template.digest[:8]}){shots}{kept}"
        )


def named(reward):
    """Whether a --reward names a labeler."""
    return isinstance(reward, str) and reward.startswith(PREFIX)


def parse(text, **defaults):
    """The `Spec` of "ai:WHERE[,name=value]...".

    Names are fields of `Spec`, `Endpoint` and `Limits`; prices are two numbers with a
    colon. Args: defaults: of fields of `Spec`. Raises ValueError for a name that is not
    known and for a value of another kind.
    """
    where, *words = text.removeprefix(PREFIX).split(",")
    spec = Spec(where, **defaults)
    parts = {"": spec, "endpoint": spec.endpoint, "limits": spec.limits}
    known = {
        field.name: part
        for part, holder in parts.items()
        for field in dataclasses.fields(holder)
        if field.name not in ("where", *parts)
    }
    for word in words:
        name, _, value = word.partition("=")
        # A value that does not belong here may be a key: it is not repeated.
        if name not in known or not value:
            what = name if name in known or name.isidentifier() else "a setting"
            raise ValueError(
                f"--reward {PREFIX}...: {what} is not name=value with a name of "
                f"{', '.join(known)}"
            )
        part = known[name]
        value = _value(name, getattr(parts[part], name), value)
        parts[part] = dataclasses.replace(parts[part], **{name: value})
    spec = parts.pop("")
    return dataclasses.replace(spec, **parts)


def of_reward(text, folder=None):
    """The `Spec` of --reward ai:..., checked as a rater.

    Calls to a server go through the ledger of the run folder, unless it names another.
    """
    spec = parse(text)
    check(spec, "rating")
    if spec.remote and not spec.ledger and folder is not None:
        return dataclasses.replace(spec, ledger=str(pathlib.Path(folder) / LEDGER))
    return spec


def _value(name, default, text):
    """A value on the word as a field holds it."""
    try:
        if name == "prices":
            one, other = map(float, text.split(":"))
            return one, other
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(default)(text)
    except (ValueError, KeyError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}
        wanted = wanted.get(type(default), "two numbers with a colon between")
        raise ValueError(
            f"--reward {PREFIX}...: {name}={text} must be {wanted}"
        ) from None


def check(spec, kind, *, flag=f"--reward {PREFIX}..."):
    """The template of a `Spec`, checked with all that needs nothing loaded.

    Args: kind: "pair" or "rating". Raises ValueError, naming the flag and the fix; no
    message repeats what may hold a key.
    """
    if not spec.where:
        raise ValueError(
            f"{flag}: whose judgment? Name a model directory, a hub name, or the URL "
            "of an endpoint"
        )
    if spec.remote:
        _check_remote(spec, flag)
    elif spec.endpoint != Endpoint():
        raise ValueError(
            f"{flag}: endpoint settings (model, key_env, ...) go with a URL, and "
            f"{spec.where} is none"
        )
    for part in (spec.endpoint, spec.limits, spec):
        try:
            ranges.check(part)
        except ValueError as error:
            raise ValueError(f"{flag}: {error}") from None
    template = prompts.load(spec.template or TEMPLATES[kind])
    if template.kind != kind:
        fitting = [x for x in prompts.names() if prompts.load(x).kind == kind]
        raise ValueError(
            f"{flag}: the prompt {template.name} is of kind {template.kind}, and "
            f"{kind} is needed, such as {', '.join(fitting)}"
        )
    if spec.shots > len(template.exemplars):
        raise ValueError(
            f"{flag}: {spec.shots} shots, and the prompt {template.name} has "
            f"{len(template.exemplars)} exemplars"
        )
    return template


def _check_remote(spec, flag):
    key_env = spec.endpoint.key_env
    if transport.may_hold_secret(spec.where) or not urls.urlsplit(spec.where).hostname:
        raise ValueError(
            f"{flag}: the URL must be scheme, host and path alone; a key belongs in an "
            "environment variable, and its name in key_env"
        )
    if not spec.endpoint.model:
        raise ValueError(
            f"{flag}: a URL needs the server's name of the model: --endpoint.model "
            "NAME, or model=NAME after ai:URL"
        )
    usual = key_env == Endpoint.key_env  # a server of one's own may want none
    is_set = _KEY_NAME.fullmatch(key_env) and os.environ.get(key_env, "").strip()
    if key_env and not usual and not is_set:
        raise ValueError(
            f"{flag}: key_env names no environment variable that is set; put the key "
            "in one, and give the variable's name, never the key"
        )


def create(spec, kind, *, source=None, dtype="float32", layout=None, flag="--reward"):
    """The `Judge` of a `Spec`; a server is asked once what it can do.

    Args:
      kind: of the template, "pair" or "rating".
      source: in place of what `spec.where` names: (model, params, tokenizer) or a
        `labelers.Labeler`.
      layout: the devices of a model in this process.
    """
    template, wrap, paid = check(spec, kind, flag=flag), None, None
    if isinstance(source, Labeler):
        labeler = source
    elif spec.remote:
        labeler, kind = _behind(spec)
        paid = prices.Prices(*spec.limits.prices) if spec.limits.prices else None
        template = _for_chat(template) if kind == "chat" else template
    else:
        labeler, tokenizer = _here(spec, source, dtype, layout, flag)
        wrap = None if spec.raw else in_chat(template, tokenizer)
    book = None
    if spec.ledger:
        book = ledger.open_file(spec.ledger)
        labeler = ledger.through(book, labeler, prices=paid)
    return Judge(labeler, template, spec.shots, wrap, book)


def in_chat(template, tokenizer):
    """`wrap` of `judging.prefer` for a tokenizer with a chat template, else None.

    What a label follows begins the assistant's turn.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    openings = tuple(filter(None, (template.ending, template.rationale_cue)))
    return functools.partial(prompts.chat, tokenizer=tokenizer, opening=openings)


def _here(spec, source, dtype, layout, flag):
    """(labeler, tokenizer) of a model in this process."""
    source = spec.where if source is None else source
    model, params, tokenizer = models.read_decoder(flag, source, dtype)
    made = in_process.labeler(model, params, tokenizer, name=spec.where, layout=layout)
    return made, tokenizer


def _behind(spec):
    """(labeler, kind of route) of a URL."""
    asked, limits = spec.endpoint, dataclasses.asdict(spec.limits)
    how = {"base_url": spec.where, "key_env": asked.key_env or None}
    how |= {"system": asked.system or None}
    facts = _facts(spec, lambda: endpoint.probe(
        asked.model, kind=asked.kind, **how, **limits
    ))  # fmt: skip
    made = endpoint.labeler(
        asked.model, facts=facts, votes=asked.votes, **how, **limits
    )
    return made, facts["kind"]


def _facts(spec, probe):
    """What a probe found, kept beside the ledger: a job that goes on asks no more."""
    if not spec.ledger:
        return probe()
    file = pathlib.Path(f"{spec.ledger}.endpoints.json")
    known = json.loads(file.read_text()) if file.exists() else {}
    asked = spec.endpoint
    name = json.dumps([spec.where, asked.model, asked.kind, asked.system])
    if name not in known:
        known[name] = probe()
        files.write_json(file, known)
    return known[name]


def _for_chat(template):
    """A template whose labels begin an assistant's turn, where none has a blank."""
    labels = tuple(label.lstrip() for label in template.labels)
    return dataclasses.replace(template, labels=labels)


def tokenizer_of(spec, source=None):
    """The tokenizer of a model in this process, read alone; None for others."""
    if spec.remote or isinstance(source, Labeler):
        return None
    return source[2] if source is not None else huggingface.load_tokenizer(spec.where)
