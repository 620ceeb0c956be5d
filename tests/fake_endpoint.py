"""A local OpenAI-compatible server with a toy model, and with every fault on demand."""

import contextlib
import hashlib
import http.server
import json
import math
import re
import socket
import struct
import threading
import time

VOCABULARY = [" A", " B", " Yes", " No", *"0123456789", "A", "B", " the", "é"]


def tokens(text):
    """Digits are tokens of their own: "10" has two."""
    return re.findall(r" ?[0-9]|\s?[^\W\d]+|\s|.", text)


def number(token):
    """The id of a token: its bytes as an integer."""
    return int.from_bytes(token.encode(), "big")


def spelled(token_id):
    return token_id.to_bytes((token_id.bit_length() + 7) // 8, "big").decode()


def table(context):
    """{token: log-prob}: a distribution that the whole context determines."""
    weights = {}
    for token in VOCABULARY:
        digest = hashlib.sha256(f"{context}|{token}".encode()).digest()
        weights[token] = digest[0] / 64 + 0.01
    total = sum(math.exp(weight) for weight in weights.values())
    return {token: weight - math.log(total) for token, weight in weights.items()}


def logp(context, token):
    return table(context).get(token, math.log(1e-4))


def label_logp(prompt, label):
    """log p(label | prompt) by the chain rule over the label's tokens."""
    total, context = 0.0, prompt
    for token in tokens(label):
        total, context = total + logp(context, token), context + token
    return total


def _best(context, count):
    found = sorted(table(context).items(), key=lambda pair: -pair[1])
    return dict(found[:count])


class Fake:
    """What the server does, and what it was asked.

    Args: echo: True, False (ignored), or "shifted"; logprobs: the most that are told,
    0: none; named: whether `logprob_token_ids` is known, and a tokenizer's route;
    chat, completions: whether there is such a route; faults: (prompt, how
    often it was asked before) -> the name of a fault or None.
    """

    def __init__(self, *, echo=True, logprobs=5, chat=True, completions=True, **more):
        self.echo, self.logprobs = echo, logprobs
        self.routes = {"/v1/chat/completions": chat, "/v1/completions": completions}
        self.named = more.pop("named", False)
        self.routes["/tokenize"] = self.named
        self.faults = more.pop("faults", lambda prompt, before: None)
        self.delay = more.pop("delay", 0.0)
        self.usage, self.samples = more.pop("usage", True), more.pop("samples", ())
        assert not more, more
        self.lock = threading.Lock()
        self.asked, self.answered, self.bodies, self.times = [], [], [], []
        self.open = self.most = 0  # requests at once
        self.url = None

    def refusal(self, path, body):
        """(status, message) of a request that the server does not take, or None."""
        if not self.routes.get(path):
            return 404, f"no {path} here"
        asked = body.get("top_logprobs", body.get("logprobs")) or 0
        if asked > self.logprobs > 0:
            return 400, f"logprobs must be at most {self.logprobs}"
        return None

    def answer(self, path, body):
        """The JSON of an answer."""
        if path == "/tokenize":
            return {"tokens": [number(x) for x in tokens(body["prompt"])]}
        if path.startswith("/v1/chat"):
            prompt = "".join(turn["content"] for turn in body["messages"])
        else:
            prompt = body["prompt"]
        first = next(iter(_best(prompt, 1)))
        texts = [first] if body.get("logprobs") else self.samples or [f"{first}."]
        many = [texts[i % len(texts)] for i in range(body.get("n", 1))]
        answers = [self._choice(path, body, prompt, *x) for x in enumerate(many)]
        used = {"prompt_tokens": len(tokens(prompt)), "completion_tokens": len(many)}
        return {"choices": answers} | ({"usage": used} if self.usage else {})

    def _choice(self, path, body, prompt, index, text):
        count = min(body.get("top_logprobs", body.get("logprobs")) or 0, self.logprobs)
        if path.startswith("/v1/chat"):
            top = [{"token": t, "logprob": x} for t, x in _best(prompt, count).items()]
            content = [{"token": text, "logprob": -1.0, "top_logprobs": top}]
            found = {"content": content} if count else None
            message = {"role": "assistant", "content": text}
            return {"index": index, "message": message, "logprobs": found}
        echo = body.get("echo") and self.echo
        names = [*tokens(prompt), text] if echo else [text]
        contexts, past = [], "" if echo else prompt
        for name in names:
            contexts.append(past)
            past += name
        shift = 1 if echo and self.echo == "shifted" else 0
        contexts = contexts[shift:] + [past] * shift
        logps = [logp(c, n) for c, n in zip(contexts, names, strict=True)]
        tops = [_best(context, count) for context in contexts]
        if self.named and not echo:
            ids = body.get("logprob_token_ids") or ()
            tops[0] |= {spelled(x): logp(prompt, spelled(x)) for x in ids}
        if echo:
            logps[0] = tops[0] = None
        found = {"tokens": names, "token_logprobs": logps, "top_logprobs": tops}
        whole = prompt + text if echo else text
        return {"index": index, "text": whole, "logprobs": found if count else None}


def _handler(fake):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body.get("prompt") or body["messages"][-1]["content"]
            with fake.lock:
                before = fake.asked.count(prompt)
                fake.asked.append(prompt)
                fake.bodies.append(body)
                fake.times.append(time.monotonic())
                fake.open += 1
                fake.most = max(fake.most, fake.open)
            time.sleep(fake.delay)
            with fake.lock:
                fake.open -= 1
            key = self.headers.get("Authorization", "")
            with contextlib.suppress(OSError):
                _serve(self, fake, body, prompt, fake.faults(prompt, before), key)

    return Handler


def _serve(handler, fake, body, prompt, fault, key):
    refusal = fake.refusal(handler.path, body)
    if refusal:
        return _send(handler, refusal[0], _error(refusal[1]))
    if fault in ("401", "403", "429", "500", "503"):
        return _send(handler, int(fault), _error(f"no, {key}"))
    if isinstance(fault, tuple):  # a status and headers
        return _send(handler, fault[0], _error("wait"), fault[1])
    if fault == "quota":
        return _send(handler, 429, _error("pay", "insufficient_quota"))
    if fault == "timeout":
        time.sleep(2.0)  # longer than the client waits
    if fault == "reset":
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True
        return handler.connection.close()
    data = fake.answer(handler.path, body)
    text = json.dumps(_spoiled(data, fault, key))
    if fault == "truncated":
        return _send(handler, 200, text[: len(text) // 2])
    if fault == "broken off":
        handler.close_connection = True
        return _send(handler, 200, text[: len(text) // 2], size=len(text))
    if fault == "drip":
        return _send(handler, 200, text, pause=0.05)
    if fault != "timeout":
        with fake.lock:
            fake.answered.append(prompt)
    return _send(handler, 200, text)


def _spoiled(data, fault, key):
    first = data.get("choices", [{}])[0]
    if fault == "no log-probs":
        first["logprobs"] = None
    if fault == "short" and first["logprobs"]:
        for values in first["logprobs"].values():
            values.pop()
    if fault == "wrong token" and "tokens" in (first["logprobs"] or {}):
        first["logprobs"]["tokens"] = ["x" for _ in first["logprobs"]["tokens"]]
    if fault == "another answer":
        first["text"] = "what nobody asked" + first["text"]
    if fault == "duplicated":
        data["choices"] = [first, first]
    if fault == "two answers":
        data["choices"] = [first, first | {"text": first["text"] + "!"}]
    if fault == "reordered":
        data["choices"] = [first | {"index": 1, "text": "no"}, first]
    if fault == "key":
        first["text"] = f"I know {key}"
    return [] if fault == "a list" else data


def _error(message, code=None):
    return json.dumps({"error": {"message": message, "type": "x", "code": code}})


def _send(handler, status, text, headers=(), size=None, pause=0.0):
    data = text.encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(size or len(data)))
    for name, value in dict(headers).items():
        handler.send_header(name, value)
    handler.end_headers()
    for part in [bytes([x]) for x in data] if pause else [data]:
        handler.wfile.write(part)
        handler.wfile.flush()
        time.sleep(pause)


@contextlib.contextmanager
def serving(**options):
    """A Fake at work on a free local port, its address in `url`."""
    fake = Fake(**options)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    server.daemon_threads, server.request_queue_size = True, 64
    server.handle_error = lambda *args: None
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
