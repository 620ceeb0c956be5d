"""Flags of what may be sampled, for all who sample."""

import dataclasses

from rlhf_jax import ranges, sampling
from rlhf_jax.cli import fields
from rlhf_jax.data import stop_tokens

_TAKEN = {sampling.Config: ("top_k", "top_p", "min_p", "repetition_penalty")}


@dataclasses.dataclass(frozen=True)
class Sampling(fields.group(_TAKEN)):
    """Which tokens may be drawn besides the temperature, and which texts end a row."""

    stop_strings: tuple[ranges.Text, ...] = ()
    """Texts that end a response and stay in it; $'\\n' is a line break in a shell."""

    def conflicts(self):
        """Flags that mean something else than they seem to, and why."""
        if any("\\n" in text for text in self.stop_strings):
            reason = "a backslash and an n are no line break; write $'\\n' in a shell"
            yield ("stop_strings",), reason


def draws(flags, tokenizer):
    """{field: value} of `sampling.Config` that flags of `Sampling` ask for."""
    stops = stop_tokens.matcher(tokenizer, flags.stop_strings)
    return {**fields.of(flags, sampling.Config), "stops": stops}
