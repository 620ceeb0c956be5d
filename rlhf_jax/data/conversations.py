"""Conversations as text: what is asked, and what the assistant answers.

A conversation is a list of {"role", "content"}, or one text in which turns begin with
"Human:" and "Assistant:" after a blank line, as in Anthropic's hh-rlhf. Lists are
written by the tokenizer's chat template where it has one, else in those turns.
"""

CUE = "\n\nAssistant:"  # after it an assistant's turn begins
_TURNS = {"user": "\n\nHuman: ", "assistant": f"{CUE} ", "system": "\n\n"}


def prompt(asked, tokenizer=None):
    """The text that an assistant is to continue.

    asked: a list of messages that ends with the user's, or a text, returned as it is.
    """
    if isinstance(asked, str):
        return asked
    _check(asked)
    if asked[-1]["role"] == "assistant":
        raise ValueError(
            "the prompt ends with the assistant's turn; end with the user's"
        )
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(
            asked, tokenize=False, add_generation_prompt=True
        )
        return _without_bos(text, tokenizer)
    turns = [_TURNS[turn["role"]] + turn["content"] for turn in asked]
    return "".join(turns).lstrip("\n") + CUE


def split(conversation, tokenizer=None):
    """(prompt, answer): the texts before and in the assistant's last turn."""
    if isinstance(conversation, str):
        asked, cue, answer = conversation.rpartition(CUE)
        if not cue:
            raise ValueError(f"no turn of an assistant, which begins with {CUE!r}")
        return asked + cue, answer
    _check(conversation)
    *asked, last = conversation
    if last["role"] != "assistant" or not asked:
        raise ValueError(
            f"{len(conversation)} message(s), the last by {last['role']}; needed is an "
            "assistant's answer to an earlier message"
        )
    return prompt(asked, tokenizer), reply(last["content"], tokenizer)


def reply(content, tokenizer=None):
    """An assistant's words as they follow `prompt`: hh turns begin with a blank."""
    templated = getattr(tokenizer, "chat_template", None)
    return content if templated else f" {content}"


def _check(messages):
    for turn in messages:
        role = turn.get("role")
        if role not in _TURNS or not isinstance(turn.get("content"), str):
            raise ValueError(
                f"a message has role {role!r}; needed are role ({', '.join(_TURNS)}) "
                "and content, a text"
            )
    if not messages:
        raise ValueError("a conversation without messages; it needs at least one")


def _without_bos(text, tokenizer):
    """Templates write BOS as text, which most tokenizers add to any text anyway."""
    bos = tokenizer.bos_token
    adds = bos is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return text.removeprefix(bos) if adds else text
