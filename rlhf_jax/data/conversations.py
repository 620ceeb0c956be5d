"""Conversations as text: what is asked, and what the assistant answers.

A conversation is a list of {"role", "content"}, or one text in which turns begin with
"Human:" and "Assistant:" after a blank line, as in Anthropic's hh-rlhf. Lists are
written by the tokenizer's chat template where it has one, else in those turns. The
token that ends the last answer is left to `ends`.
"""

from rlhf_jax.data import ends

CUE = "\n\nAssistant:"  # after it an assistant's turn begins
_TURNS = {"user": "\n\nHuman: ", "assistant": f"{CUE} ", "system": "\n\n"}


def prompt(asked, tokenizer=None):
    """The text that an assistant is to continue.

    asked: a list of messages that ends with the user's, or a text, returned as it is.
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
    """(prompt, answer): the texts before and in the assistant's last turn."""
    if isinstance(conversation, str):
        asked, cue, answer = conversation.rpartition(CUE)
        if not cue:
            raise ValueError(f"no turn of an assistant, which begins with {CUE!r}")
        return asked + cue, answer
    _check(conversation, tokenizer)
    *asked, last = conversation
    if last["role"] != "assistant" or not asked:
        raise ValueError(
            f"{len(conversation)} message(s), the last by {last['role']}; needed is an "
            "assistant's answer to an earlier message"
        )
    return prompt(asked, tokenizer), reply(asked, last["content"], tokenizer)


def reply(asked, content, tokenizer=None):
    """An assistant's words as they follow `prompt(asked)`, without the end of the turn.

    hh turns begin with a blank; a template has its own way with words, which is read
    off the whole conversation where that begins with the prompt.
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
    """[(text, is it the assistant's?), ...]: the conversation up to its last answer.

    Turns of the assistant are told apart from all else, each with the end of its turn
    but the last. Where a template rewrites earlier turns (as some drop thoughts), the
    last answer alone counts as the assistant's.
    """
    _check(messages, tokenizer)
    answers = [i for i, t in enumerate(messages) if i and t["role"] == "assistant"]
    if not answers:
        raise ValueError(
            f"{len(messages)} message(s) without an assistant's answer to an earlier "
            "one, and nothing else is learned"
        )
    found, done = [], ""
    end = _end(tokenizer) if _templated(tokenizer) else ""
    for i in answers:
        before = prompt(messages[:i], tokenizer)
        answer = reply(messages[:i], messages[i]["content"], tokenizer)
        if not before.startswith(done):
            asked, answer = split(messages[: answers[-1] + 1], tokenizer)
            return [(asked, False), (answer, True)]
        last = i == answers[-1]
        found.append((before[len(done) :], False))
        found.append((answer if last else answer + end, True))
        done = before + answer + end
    return found


def _end(tokenizer):
    """The text of the token that ends a turn."""
    return tokenizer.convert_ids_to_tokens(ends.end_id(tokenizer))


def _templated(tokenizer):
    return bool(getattr(tokenizer, "chat_template", None))


def _render(messages, tokenizer, *, add_generation_prompt):
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return _without_bos(text, tokenizer)


def _check(messages, tokenizer):
    """Roles are the template's affair where there is one; contents are texts."""
    if not messages:
        raise ValueError("a conversation without messages; it needs at least one")
    for turn in messages:
        role = turn.get("role")
        known = role in _TURNS or (role and _templated(tokenizer))
        if not known or not isinstance(turn.get("content"), str):
            raise ValueError(
                f"a message has role {role!r}; needed are role ({', '.join(_TURNS)}) "
                "and content, a text"
            )


def _without_bos(text, tokenizer):
    """Templates write BOS as text, which most tokenizers add to any text anyway."""
    bos = tokenizer.bos_token
    adds = bos is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return text.removeprefix(bos) if adds else text
