"""Conversations as text: prompts, and the assistant's answers.

A conversation is a list of {"role", "content"}, or one text whose turns begin with
"Human:" and "Assistant:" after a blank line, as in Anthropic's hh-rlhf. Lists are
rendered by the tokenizer's chat template if it has one, otherwise as such turns. The
token that ends the last answer is not part of the text: see `stop_tokens`.
"""

from collections.abc import Mapping

from rlhf_jax.data import diagnosis, stop_tokens

CUE = "\n\nAssistant:"  # the start of an assistant's turn
_TURNS = {"user": "\n\nHuman: ", "assistant": f"{CUE} ", "system": "\n\n"}


def turn(asked):
    """A prompt as messages: a text is what a user says."""
    return [{"role": "user", "content": asked}] if isinstance(asked, str) else asked


def prompt(asked, tokenizer=None):
    """The text for an assistant to continue.

    asked: a list of messages ending with the user's, or a text, returned unchanged.
    """
    if isinstance(asked, str):
        return asked
    _check(asked, tokenizer)
    if asked[-1]["role"] == "assistant":
        raise ValueError(
            "the prompt ends with the assistant's turn; end with the user's"
        )
    if _templated(tokenizer):
        return _render(asked, tokenizer, add_generation_prompt=True)
    turns = [_TURNS[turn["role"]] + turn["content"] for turn in asked]
    return "".join(turns).lstrip("\n") + CUE


def split(conversation, tokenizer=None):
    """(prompt, answer): the text before the assistant's last turn, and that turn."""
    if isinstance(conversation, str):
        asked, cue, answer = conversation.rpartition(CUE)
        if not cue:
            raise ValueError(
                f"no assistant's turn in the text; it should begin with {CUE!r}"
            )
        return asked + cue, answer
    _check(conversation, tokenizer)
    *asked, last = conversation
    if last["role"] != "assistant" or not asked:
        raise ValueError(
            f"{len(conversation)} message(s), the last by {last['role']}; the last one "
            "must be an assistant's answer to an earlier message"
        )
    return prompt(asked, tokenizer), reply(asked, last["content"], tokenizer)


def last_answer(messages, what):
    """The content of the last of an assistant's messages; errors call them `what`."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        raise ValueError(f"{what} must end with a message whose role is assistant")
    if not isinstance(last.get("content"), str):
        raise ValueError(
            f"the content of {what} is {diagnosis.named(last.get('content'))}; it must "
            "be a text"
        )
    return last["content"]


def reply(asked, content, tokenizer=None):
    """The assistant's answer as text after `prompt(asked)`, without the end of turn.

    hh answers begin with a blank. A template may change the text, so its answer is cut
    out of the rendered conversation, if that begins with the prompt.
    """
    if not _templated(tokenizer):
        return f" {content}"
    before = prompt(asked, tokenizer)
    turns = [*asked, {"role": "assistant", "content": content}]
    whole = _render(turns, tokenizer, add_generation_prompt=False)
    if not whole.startswith(before):
        return content
    answer, end, _ = whole[len(before) :].rpartition(_end(tokenizer))
    return answer if end else whole[len(before) :]


def parts(messages, tokenizer=None):
    """The conversation up to its last answer: [(text, is it the assistant's?), ...].

    Every assistant's turn includes its end of turn, except the last. If the template
    rewrites earlier turns (some drop reasoning), only the last answer is marked.
    """
    _check(messages, tokenizer)
    answers = [i for i, t in enumerate(messages) if i and t["role"] == "assistant"]
    if not answers:
        raise ValueError(
            f"{len(messages)} message(s) without an assistant's answer to an earlier "
            "one, so there is nothing to learn"
        )
    spans, done = [], ""
    end = _end(tokenizer) if _templated(tokenizer) else ""
    for i in answers:
        before = prompt(messages[:i], tokenizer)
        answer = reply(messages[:i], messages[i]["content"], tokenizer)
        if not before.startswith(done):
            asked, answer = split(messages[: answers[-1] + 1], tokenizer)
            return [(asked, False), (answer, True)]
        last = i == answers[-1]
        spans.append((before[len(done) :], False))
        spans.append((answer if last else answer + end, True))
        done = before + answer + end
    return spans


def form(tokenizer, *, texts, cue=""):
    """A line about how prompts and answers become one text.

    texts: whether they are texts, or else messages; cue: as in `examples.read`.
    """
    end = tokenizer.convert_ids_to_tokens(stop_tokens.end_id(tokenizer))
    if texts:
        between = f", {cue!r} between them" if cue else ""
        instead = ", without the chat template" if _templated(tokenizer) else ""
        return (
            f"prompts and answers are joined as they are{between}{instead}; {end}"
            + (" ends each answer")
        )
    if _templated(tokenizer):
        return f"messages are written by the chat template; {end} ends each answer"
    return (
        "the tokenizer has no chat template: messages are written as turns that begin "
        f"with Human: and Assistant:; {end} ends the last answer"
    )


def _end(tokenizer):
    """The text of the token that ends a turn."""
    return tokenizer.convert_ids_to_tokens(stop_tokens.end_id(tokenizer))


def _templated(tokenizer):
    return bool(getattr(tokenizer, "chat_template", None))


def _render(messages, tokenizer, *, add_generation_prompt):
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    # Without the template's BOS, if the tokenizer adds one anyway.
    bos = tokenizer.bos_token
    adds = bos is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return text.removeprefix(bos) if adds else text


def _check(messages, tokenizer):
    """Checks messages; a chat template may have roles of its own."""
    if not isinstance(messages, list):
        raise ValueError(
            f"{diagnosis.named(messages)}, where a list of messages is needed"
        )
    if not messages:
        raise ValueError("a conversation without messages; it needs at least one")
    for turn in messages:
        if not isinstance(turn, Mapping):
            raise ValueError(
                f"a message is {diagnosis.named(turn)}; a message is "
                '{"role": "user", "content": "..."}'
            )
        role, content = turn.get("role"), turn.get("content")
        known = role in _TURNS or (role and _templated(tokenizer))
        if not known:
            raise ValueError(
                f"a message has role {role!r}; it needs a role ({', '.join(_TURNS)}) "
                "and a content, a text"
            )
        if not isinstance(content, str):
            raise ValueError(
                f"the content of a message of role {role!r} is "
                f"{diagnosis.named(content)}; it must be a text"
            )
