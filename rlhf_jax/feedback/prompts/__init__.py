"""Prompts as data: templates in TOML files, and the texts that are made of them.

    template = prompts.load("summarization_detailed")
    prompts.render(template, context=post, first=one, second=other)

They have the four parts of Lee et al. 2023, "RLAIF vs. RLHF", arXiv:2309.00267, section
2.1, but words of their own, so the paper's numbers are not expected to the digit.
`template` says what a file holds; one's own is loaded by its path.
"""

from rlhf_jax.feedback.prompts.rendering import ask_rationale, chat, render
from rlhf_jax.feedback.prompts.template import FIELDS, Exemplar, Template, load, names

__all__ = [
    "FIELDS",
    "Exemplar",
    "Template",
    "ask_rationale",
    "chat",
    "load",
    "names",
    "render",
]
