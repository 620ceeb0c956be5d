"""Flags of every recipe on how its runs end: seeds, the best policy, early stopping.

The names are those of `transformers`' TrainingArguments and EarlyStoppingCallback.
"""

import dataclasses

from rlhf_jax import ranges
from rlhf_jax.studies import best_model


@dataclasses.dataclass(frozen=True)
class Endings:
    """How many runs there are, what ends them, and which policy they leave."""

    seeds: ranges.Count = 1
    """Seeds to run one after the other, --seed the first of them."""
    load_best_model_at_end: bool = False
    """Export the policy of the best evaluation in place of the last one."""
    metric_for_best_model: ranges.Text | None = None
    """What is best: a metric of the evaluations, as eval/nll; by default the recipe's
    own, eval/nll, eval/loss or eval/reward."""
    greater_is_better: bool | None = None
    """Whether more of that metric is better; needed where this is not known."""
    early_stopping_patience: ranges.Natural = 0
    """Evaluations in a row without a better metric that end the run; 0: none do."""
    early_stopping_threshold: ranges.NonNegative = 0.0
    """By how much it must be better, in the metric's unit."""
    callbacks: tuple[ranges.Text, ...] = ()
    """Functions (step, metrics) -> None or "stop" that watch the run, as
    module:function; see `studies.callbacks`."""

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if not self.load_best_model_at_end and not self.early_stopping_patience:
            for name in ("metric_for_best_model", "greater_is_better"):
                if getattr(self, name) is not None:
                    reason = "nothing is chosen by it; ask for one of the two"
                    yield (name, "load_best_model_at_end"), reason
        elif not self._way_is_known():
            names = ("metric_for_best_model", "greater_is_better")
            yield names, "it is not known whether more of it is better; say so"
        if self.early_stopping_threshold and not self.early_stopping_patience:
            names = ("early_stopping_threshold", "early_stopping_patience")
            yield names, "without patience the run never ends early"
        silent = self._silent()
        if self.early_stopping_patience and silent:
            reason = "it is only measured before and after; evaluate in between"
            yield ("early_stopping_patience", silent), reason

    def _way_is_known(self):
        if self.metric_for_best_model is None or self.greater_is_better is not None:
            return True
        try:
            best_model.selection(self.metric_for_best_model)
        except ValueError:
            return False
        return True

    def _silent(self):
        """The flag that leaves out all evaluations on the way; "" where none does."""
        strategy = getattr(self, "eval_strategy", "steps")
        if strategy == "no":
            return "eval_strategy"
        return "eval_every" * (strategy == "steps" and not self.eval_every)
