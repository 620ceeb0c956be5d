"""What happened in one series, as a sentence or two."""

from experiments.objective_mismatch.audit import monitors
from rlhf_jax.reporting import markdown

_FEW = 2.0  # standard errors that are no gain


def verdict(one):
    """The sentence about a series. one: of `measures.of`."""
    if one["gold"] is None:
        return _without_gold(one)
    onset = one["onset"]
    return _together(one) if onset is None else _parted(one, onset)


def first_alarm(one):
    """(monitor, its alarm) of the earliest, None where there is none."""
    rung = [(name, a) for name, a in one["alarms"].items() if a["step"] is not None]
    return min(rung, key=lambda pair: pair[1]["step"], default=None)


def alarm(name, found):
    """ "entropy at step 12 (lead 30 steps)" of an alarm of `monitors.alarms`."""
    label = monitors.MONITORS[name].label
    if found["step"] is None:
        return f"{label}: none"
    text = f"{label} at step {found['step']:g}"
    lead = found["lead"]
    if lead is None:
        return text
    if abs(lead) < 1:
        return f"{text}, at the onset"
    order = "before" if lead > 0 else "after"
    return f"{text}, {abs(lead):.0f} steps {order} the onset"


def near(one, step):
    """ "at step 12"; "near step 12" where looks are means over several steps."""
    return f"near step {step:.0f}" if one["looks"]["each"] > 1 else f"at step {step:g}"


def at_kl(kl, unit):
    """ " (KL 12 nats a sample)"; "" without a KL."""
    return "" if kl is None else f" (KL {markdown.number(kl)} {unit})"


def _parted(one, onset):
    kl = at_kl(onset["kl"], one["kl_unit"])
    proxy, gold = (
        " → ".join(map(markdown.number, onset[role])) for role in ("proxy", "gold")
    )
    text = f"proxy and gold part {near(one, onset['step'])}{kl}: since then proxy "
    text += f"{proxy}, gold {gold}"
    if onset["lost"] is None:
        return text + ", which had gained nothing before"
    if onset["lost"] >= 1:
        return text + "; all that gold had gained is gone"
    return text + f"; {onset['lost']:.0%} of what gold had gained is gone"


def _together(one):
    """Of a series with gold in which nothing parts."""
    looks, proxy = one["looks"], one["proxy"]
    error = looks["error"]
    rise, fall = looks["end"] - looks["start"], looks["peak"] - looks["end"]
    gold = f"{markdown.number(looks['start'])} → {markdown.number(looks['end'])}"
    end = f"by step {one['steps'][1]:g}"
    if proxy["gain"] <= 0:
        text = f"the proxy itself gained nothing {end}; gold {gold}"
        return text + (", below its peak" if fall > looks["drop"] * error else "")
    course = f"proxy {markdown.number(proxy['first'])} → "
    course += f"{markdown.number(proxy['last'])}, gold {gold}"
    if fall > looks["drop"] * error and fall > 0:
        return (
            f"gold fell from {markdown.number(looks['peak'])} "
            f"{near(one, looks['peak_step'])}, but not twice in a row while the proxy "
            f"rose: {course} {end}"
        )
    if rise <= _FEW * error:
        return f"gold gained nothing beyond its error while the proxy rose: {course}"
    return f"no onset: proxy and gold rose together, {course} {end}"


def _without_gold(one):
    proxy = one["proxy"]
    text = "without gold mismatch itself cannot be seen, only signs of it: "
    text += f"proxy {markdown.number(proxy['first'])} → "
    text += markdown.number(proxy["last"])
    if not one["alarms"]:
        return text + "; nothing to watch was logged often enough"
    first = first_alarm(one)
    if first is None:
        return text + "; no monitor left its usual range"
    return text + f"; first alarm: {alarm(*first)}"
