"""A labeler behind an OpenAI-compatible endpoint: vendors, vLLM, llama.cpp, ...

    facts = endpoint.probe("judge-7b", base_url="http://localhost:8000/v1")
    labeler = endpoint.labeler("judge-7b", base_url=..., facts=facts, concurrency=32)

Servers differ in what they tell of a label. A probe asks once, and takes the first of

  ids     vLLM's log-probs of tokens that are named: exact, one request for all labels
          of one token;
  echo    log-probs of prompt + label, echoed: exact, also for a label of many tokens;
          as many requests a prompt as there are labels;
  top     the likeliest next tokens: a label that is not among them is not told, and one
          of many tokens is read piece by piece after the prompt (not in chat);
  votes   shares of sampled answers, where there are no log-probs at all.

The client is an extra, pip install 'rlhf_jax[feedback]'. A server of one's own:

    pip install 'llama-cpp-python[server]'
    python -m llama_cpp.server --model model.gguf --logits_all true --n_ctx 2048

That one (0.3.36) echoes log-probs that are right only where the prompt begins with BOS;
other prompts' are shifted by a token, which the probe notices on its `example`, and
every reading once more. It tells likely tokens by their text, so that two of one text
are one; the written token is told beyond those asked for. It sorts the vocabulary for
each token that it echoes: `top` is faster there by far, and for labels that are likely
it says the same.
"""

import dataclasses
import functools
import itertools
import threading
from concurrent import futures
from typing import NamedTuple

from rlhf_jax.feedback import pacing, probing, transport, ways
from rlhf_jax.feedback import prices as money
from rlhf_jax.feedback.labelers import Failure, Labeler

EXAMPLE = "Question: Is water wet? Answer with Yes or No.\nAnswer:"


class Estimate(NamedTuple):
    """What a job will ask of a server, before it is asked."""

    calls: int
    prompt_tokens: int
    completion_tokens: int  # at most
    money: float


def labeler(
    model,
    *,
    base_url=None,
    key_env="OPENAI_API_KEY",
    kind="auto",
    facts=None,
    server=None,
    revision=None,
    system=None,
    votes=16,
    example=EXAMPLE,
    **limits,
):
    """A Labeler of a model behind an endpoint.

    Args:
      model: the server's name for it; revision: what else tells its weights apart.
      base_url: by default the client's, which is OPENAI_BASE_URL or OpenAI's own.
      key_env: the *name* of an environment variable with the key; None: no key.
      kind: "completions", "chat", or "auto".
      facts: what an earlier `probe` found; by default the server is probed now.
      server: a lasting name for a server whose address changes, so that a ledger finds
        its answers again; by default the address.
      system: a system message, in chat.
      votes: samples a prompt, where there are no log-probs.
      example: a prompt like those to come, for the probe.
      limits: fields of `pacing.Limits`: concurrency, retries, budget_tokens, ...
    Raises ValueError if there is no key, or if the server answers nothing of use.
    """
    limits = pacing.Limits(**limits)
    send, url = transport.sender(base_url, key_env, limits)
    behind = ways.Server(send, model, system)
    if facts is None:
        facts = probing.probe(behind, kind, example)
    identity = {"server": server or url, "model": model, "revision": revision}
    identity |= {"system": system} | _way(facts, votes)
    name = f"{model} ({facts['kind']}, {facts['way']})"
    each = functools.partial(_each, behind, facts, limits.concurrency)
    reader = _reader(facts, votes)

    def read(prompts, labels):
        return each(prompts, lambda asker, prompt: reader(asker, prompt, labels))

    def write(prompts, decoding):
        return each(prompts, lambda x, prompt: ways.write(x.ask, prompt, decoding))

    return Labeler(name, identity, read, write)


def _way(facts, votes):
    """What of the facts an answer depends on."""
    more = {"top": {"top": facts.get("top")}, "votes": {"votes": votes}}
    return {"kind": facts["kind"], "way": facts["way"]} | more.get(facts["way"], {})


def _reader(facts, votes):
    """The way that was chosen, as a function of (asker, prompt, labels)."""
    known = {}  # how labels are spelled, filled in by what the server tells
    return {
        "echo": lambda asker, *x: ways.by_echo(asker.ask, *x),
        "ids": lambda asker, *x: ways.by_ids(asker, facts, *x, known),
        "top": lambda asker, *x: ways.by_top(asker.ask, facts, *x, known),
        "votes": lambda asker, *x: ways.by_votes(asker.ask, facts, *x, votes),
    }[facts["way"]]


def probe(model, *, base_url=None, key_env="OPENAI_API_KEY", kind="auto", **options):
    """What a server can do, in a dictionary that JSON can hold.

    `kind` and `way` are what was chosen and `why` says the reason; `top` is how many
    likely tokens it tells; `tried` has what each attempt came to. Options: `system`,
    `example`, and fields of `pacing.Limits`, as for `labeler`.
    """
    system, example = options.pop("system", None), options.pop("example", EXAMPLE)
    limits = pacing.Limits(**options)
    send, _ = transport.sender(base_url, key_env, limits)
    return probing.probe(ways.Server(send, model, system), kind, example)


def estimate(prompts, asked, *, way="echo", votes=16, prices=None, count=None):
    """The Estimate of reading labels after prompts, or of writing by a `Decoding`.

    Identical prompts count once, as a ledger asks them once; retries do not count.
    Args: asked: the labels, or a Decoding; count: text -> tokens, such as the length of
    a tokenizer's output; by default an overestimate by the text's bytes.
    """

    def tokens(text):
        return pacing.expected(text, 0)[0] if count is None else count(text)

    prompts = list(dict.fromkeys(prompts))
    read = sum(map(tokens, prompts))
    if dataclasses.is_dataclass(asked):
        calls, written = len(prompts), len(prompts) * asked.max_tokens
    elif way == "echo":
        labels = sum(map(tokens, asked))
        read = len(asked) * read + len(prompts) * labels
        calls = written = len(prompts) * len(asked)
    else:
        calls = len(prompts)
        written = calls * (votes * ways.VOTE_TOKENS if way == "votes" else 1)
    return Estimate(calls, read, written, money.cost(prices, read, written))


def _each(server, facts, concurrency, prompts, answer):
    """Yields (index, result) as results arrive. When the caller stops, so do requests
    that wait; answers of those in flight are lost.

    The next prompt is asked when the caller comes back for more, so that of what was
    asked at most `concurrency` prompts are ever in flight or not yet recorded, however
    slow the caller is.
    """
    closing = threading.Event()

    def result(prompt):
        asker = ways.asker(server, facts, closing)
        try:
            return answer(asker, prompt)(asker.usage())
        except (pacing.Refused, transport.Unusable) as error:
            return Failure(str(error))

    pool = futures.ThreadPoolExecutor(concurrency)
    waiting, asked = enumerate(prompts), {}
    try:
        while True:
            for index, prompt in itertools.islice(waiting, concurrency - len(asked)):
                asked[pool.submit(result, prompt)] = index
            if not asked:
                return
            done, _ = futures.wait(asked, return_when=futures.FIRST_COMPLETED)
            first = done.pop()
            yield asked.pop(first), first.result()
    finally:
        closing.set()
        pool.shutdown(wait=False, cancel_futures=True)
