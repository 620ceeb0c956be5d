"""The words of a report: endpoints, claims, units and brackets."""

from rlhf_jax.reporting import canvas, results


def claim(finding, study):
    """ "A is better than B", or "A ≈ B"."""
    sign = "is better than" if finding.claim.kind == "greater" else "≈"
    return f"{study.name(finding.claim.method)} {sign} {study.name(finding.other)}"


_AT_AXIS = {
    "hypervolume": "hypervolume, ",
    "reward_at": "reward at matched drift, ",
    "gold_at": "gold at matched drift, ",
    "drift_at": "drift at matched reward, ",
}


def endpoint(name):
    """The printed name of one of `results.endpoints`."""
    group, _, axis = name.partition("/")
    if group in _AT_AXIS:
        return _AT_AXIS[group] + canvas.label(axis)[0]
    return canvas.label(name)[0]


def needed(verdict):
    """ " (about 40 seeds would decide)" for what is undecided, else nothing."""
    if verdict.word != "undecided":
        return ""
    if verdict.seeds_needed is None:
        return " (more than a million seeds would be needed)"
    return f" (about {verdict.seeds_needed} seeds would decide)"


def brackets(summary):
    """What stands in the brackets behind a mean."""
    if summary["interval"] == "t95":
        return "95% t-interval over seeds in brackets"
    return "least and largest seed in brackets, no interval"


def units(axes):
    """ "KL from the initial policy in nats / sample; ...", of axes that have a unit."""
    labels = [canvas.label(axis) for axis in axes]
    return "; ".join(f"{title} in {unit}" for title, unit in labels if unit) + "."


def scale(endpoint):
    """What turns the endpoint's unit into the printed one: accuracy into points."""
    group, _, axis = endpoint.partition("/")
    drift = axis if group in ("hypervolume", "drift_at") else endpoint
    return 100.0 if results.is_tax(drift) else 1.0


def count(n, noun):
    """ "1 seed", "3 seeds"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"
