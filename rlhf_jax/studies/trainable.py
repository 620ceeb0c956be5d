"""What of a model is trained: all of its weights, or adapters beside frozen ones.

Everything that trains goes through `Trainable`, so that nothing else asks which of the
two it is. Adapters leave the base out of the state: it is held once, travels as the
first argument of a compiled program, and is in no checkpoint.
"""

import dataclasses
from typing import Any

from rlhf_jax import averaging, trees
from rlhf_jax.models import lora


@dataclasses.dataclass(frozen=True)
class Trainable:
    """Initial weights, and what of them learns.

    params: the weights training starts from, which it does not change; adapter: None
    trains all of them; whole: names of parts that learn besides adapters, as "head".
    """

    params: Any
    adapter: lora.Config | None = None
    whole: tuple[str, ...] = ()

    @property
    def base(self):
        """What compiled programs take first: (), nothing, without adapters."""
        return () if self.adapter is None else self.params

    def start(self, key):
        """What is trained, before the first update; shares no buffer with `params`.

        With adapters: fresh ones from `key`, which change nothing yet.
        """
        if self.adapter is None:
            return trees.copy(self.params)
        rank, targets = self.adapter.rank, self.adapter.targets
        adapters = lora.init(self.params, key, rank=rank, targets=targets)
        return adapters | {name: trees.copy(self.params[name]) for name in self.whole}

    def weights(self, trained):
        """Parameters to apply the model with; of adapters none is a copy."""
        if self.adapter is None:
            return trained
        return lora.join(self.params, trained, scale=self.adapter.scale)

    def mix(self, trained, weight):
        """What lies at (1 − w)·initial + w·trained in the space of weights, as trained.

        Of adapters exactly too: B is scaled.
        """
        if self.adapter is None:
            return averaging.interpolate(self.params, trained, weight)
        return lora.weigh(trained, weight)

    def merge(self, trained):
        """Plain weights, as a model directory holds them."""
        if self.adapter is None:
            return trained
        return lora.merge(self.params, trained, scale=self.adapter.scale)

    def describe(self):
        """What is trained, in a few words."""
        if self.adapter is None:
            return f"all {trees.size(self.params):,} weights are trained"
        count = lora.count(self.params, self.adapter)
        count += sum(trees.size(self.params[name]) for name in self.whole)
        rank = self.adapter.rank
        return f"{count:,} weights are trained: adapters of rank {rank}"


def bind(model, base, adapter):
    """The model as a compiled step applies it to what is trained."""
    return model if adapter is None else lora.Bound(model, base, adapter.scale)
