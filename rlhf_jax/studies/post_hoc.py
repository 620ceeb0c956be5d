"""Policies that no run is made for: read off another run, or off the initial policy.

A `derive` is a function of `interfaces.Source` that returns a policy as it was trained:
averaging weights (the nulls of Noukhovitch et al. 2023; WiSE-FT and the model averaging
of Lin et al. 2023), an EMA that is never reset to, an early stop.
"""


def interpolate(weight):
    """(1 − w)·π₀ + w·π, w the weight on the trained policy."""
    return lambda source: source.mix(source.policy, weight)


def average(source):
    """The EMA of the run, never reset to."""
    return source.average


def best(source):
    """The policy at the checkpoint that the study selects: an early stop."""
    return source.best
