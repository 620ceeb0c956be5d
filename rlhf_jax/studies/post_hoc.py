"""Policies that no run is made for: read off another run, or off the initial policy.

A `derive` is a function of `interfaces.Source` that returns a policy as it was trained:
averaging weights (the nulls of Noukhovitch et al. 2023; WiSE-FT and the model averaging
of Lin et al. 2023), an EMA that is never reset to, an early stop.
"""

import dataclasses

from rlhf_jax.studies import interfaces


def interpolate(weight):
    """(1 − w)·π₀ + w·π, w the weight on the trained policy."""
    return lambda source: source.mix(source.policy, weight)


def average(source):
    """The EMA of the run, never reset to."""
    return source.average


def best(source):
    """The policy at the checkpoint that the study selects: an early stop."""
    return source.best


@dataclasses.dataclass(frozen=True)
class Apart:
    """Trains a derived method by itself: its source, with settings of its own.

    Averaging wants a livelier run than the run itself does: held to the rate that is
    best for its source it would be a weaker null than it is.
    """

    train: object  # of the source's row
    derive: object

    @property
    def rate(self):
        """The flag of its learning rate, the source's."""
        return self.train.rate

    @property
    def penalty(self):
        """The flag of its penalty's strength, None if there is none."""
        return getattr(self.train, "penalty", None)

    def __call__(self, study, run):
        """The source's `Trainer`, whose policy is what is derived from its state."""
        trainer = self.train(study, run)

        def policy(state):
            return self.derive(interfaces.read(trainer, state))

        return trainer._replace(policy=policy)
