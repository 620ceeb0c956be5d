"""A template as text: what a labeler reads.

    preamble                                the task
    banner, sample, ending and label        for each exemplar
    banner, sample                          what is to be judged
    ending                                  the label follows

Lee et al. 2023, "RLAIF vs. RLHF", arXiv:2309.00267, section 2.1. Parts are separated by
a blank line. A chain of thought takes two calls (section 2.1.2): the text of the first
ends with a request in place of the ending; that of the second is the first, what was
written, and the ending.
"""

from rlhf_jax.data import conversations
from rlhf_jax.feedback.prompts import template as templates


def render(template, *, shots=0, rationale=None, **values):
    """The text that a label follows.

    Args:
      shots: how many of the exemplars are shown, from the first on.
      rationale: what the labeler wrote after `ask_rationale` of the same arguments.
      values: a text for each field of the sample: context, first, second; of ratings
        context, response. What stands in them is not interpreted; blanks and newlines
        around them are taken off.
    Raises ValueError for other fields, more shots than there are exemplars, and a
    rationale where the template (or an exemplar that is shown) has none.
    """
    if rationale is None:
        return _join(*_question(template, values, shots, False), template.ending)
    asked = ask_rationale(template, shots=shots, **values)
    return _join(_continued(asked, rationale), template.ending)


def ask_rationale(template, *, shots=0, **values):
    """The text that a rationale follows: the first of two calls. As in `render`."""
    if not template.rationale_request:
        raise ValueError(f"the prompt {template.name} has no rationale_request")
    return _join(*_question(template, values, shots, True), *_request(template))


def chat(text, tokenizer, *, opening=""):
    """A rendered prompt as a user's turn, by the tokenizer's chat template.

    opening: what the assistant's turn begins with, moved there from the end of the
    text; or several, of which the text ends with one. With
    `(template.ending, template.rationale_cue)` a label follows what it follows in the
    text. Without it a label begins the turn, where models write no blank before it: use
    labels without one then. Raises ValueError without a chat template, and where the
    text ends otherwise.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("the tokenizer has no chat template; give labelers the text")
    openings = (opening,) if isinstance(opening, str) else tuple(opening)
    start = next((x for x in openings if text.endswith(x)), None)
    if start is None:
        said = " or ".join(map(repr, openings))
        raise ValueError(f"the text ends with {text[-40:]!r}, not with {said}")
    turns = [{"role": "user", "content": text.removesuffix(start).rstrip("\n")}]
    return conversations.prompt(turns, tokenizer) + start


def _question(template, values, shots, thinks):
    """The parts before the ending."""
    if not 0 <= shots <= len(template.exemplars):
        raise ValueError(
            f"shots={shots}: the prompt {template.name} has "
            f"{len(template.exemplars)} exemplars"
        )
    shown = [_exemplar(template, index, thinks) for index in range(shots)]
    banner = [template.sample_banner] if shots else []
    return [template.preamble, *shown, *banner, _sample(template, values)]


def _exemplar(template, index, thinks):
    exemplar = template.exemplars[index]
    parts = [template.example_banner, _sample(template, exemplar.values)]
    if thinks:
        if exemplar.rationale is None:
            raise ValueError(
                f"exemplar {index} of the prompt {template.name} has no rationale"
            )
        parts.append(_continued(_join(*_request(template)), exemplar.rationale))
    return _join(*parts, template.ending + exemplar.label)


def _sample(template, values):
    fields = templates.FIELDS[template.kind]
    if set(values) != set(fields):
        raise ValueError(
            f"the prompt {template.name} has the fields {', '.join(fields)}; given "
            f"were {', '.join(values) or 'none'}"
        )
    for name, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a text, not {value!r}")
    return template.sample.format_map({k: v.strip() for k, v in values.items()})


def _request(template):
    return template.rationale_request, template.rationale_cue


def _continued(text, rationale):
    return f"{text} {rationale.strip()}".rstrip()


def _join(*parts):
    return "\n\n".join(part for part in parts if part)
