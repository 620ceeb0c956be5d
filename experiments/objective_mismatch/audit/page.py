"""What an audit says: on the terminal, and in report.md."""

from experiments.objective_mismatch.audit import measures, series, verdicts
from rlhf_jax.reporting import markdown

_MANY = 6  # series beyond which details stand in report.md alone
_REASONS = (
    "Gold is judged by its standard error: a decline counts where gold is --drop of "
    f"them ({measures.DROP:g} unless given) below its best so far at two successive "
    "looks. The onset is the first look from that best on at which gold falls and the "
    "proxy rises, by slopes over three looks.",
    "Intervals are of a moving-block bootstrap within one run: they describe it, and "
    "are no test. Two series that rise correlate whatever they measure, which is why "
    "differences between successive looks stand beside levels.",
    "Regret is the best gold of any look minus gold at the look that was chosen; the "
    "best of noisy looks is the luckiest, so regrets are too large by the luck.",
    "Gold since the first look is fitted by Gao et al.'s form of RL, d·(α − β·ln d) "
    f"with d = √KL, up to {measures.KL_FITTED:g} nats (arXiv:2210.10760); it was found "
    "for KL summed over a sample. The extrapolation fits the lower half of d and "
    "predicts the upper.",
    "Length's share of the proxy's gain supposes that a token is worth what it was "
    "worth from one step to the next on average. Other things change in step with "
    "length, so it is at most that.",
    "A monitor that sees no gold gives an alarm when the cumulative sum of its "
    "deviations from the first looks passes a threshold. Every run that learns moves "
    "its monitors: without control runs, in which nothing is hacked, an alarm is a "
    "question and no finding.",
)


def announced(found, notes):
    """What was read, as lines. found: of type `Series`."""
    lines = []
    for one in found:
        roles = [f"{r}={c}" for r, c in one.columns.items()]
        lines.append(f"{one.name}: {markdown.count(len(one.steps), 'step')}")
        if one is found[0] or one.columns != found[0].columns:
            lines.append(f"  --columns {' '.join(roles)}")
            lines += _missing(one)
        lines += [f"  note: {note}" for note in one.notes]
    return [*lines, *(f"note: {note}" for note in notes), ""]


def _missing(one):
    """Roles without a column that would tell more."""
    names = [r for r in ("gold", "kl", "length") if r not in one.columns]
    if names:
        said = markdown.join(f"{name} ({series.ROLES[name]})" for name in names)
        yield f"  not in the log, or under a name that is not known: {said}"


def said(results):
    """The verdicts, and details of a few series, as lines."""
    measured = results["series"]
    lines = []
    for one in measured:
        lines.append(f"{one['name']}: {verdicts.verdict(one)}")
        if len(measured) <= _MANY:
            lines += [f"  {line}" for line in _details(one)]
    return [*lines, ""]


def page(results, picture):
    """The text of report.md."""
    measured = results["series"]
    parts = [
        "# Audit: do proxy and gold part?",
        "\n".join(f"- **{x['name']}**: {verdicts.verdict(x)}." for x in measured),
        f"![Proxy, gold and monitors]({picture})",
        _table(measured),
    ]
    for one in measured:
        parts += [f"## {one['name']}", _columns(one)]
        parts.append("\n".join(f"- {line}" for line in _details(one)))
        if one["gold"] is not None:
            parts += [_correlations(one), _regrets(one)]
    parts += ["## How to read this", "\n".join(f"- {text}" for text in _REASONS)]
    left = [f"- {note}" for note in results["notes"]]
    parts += ["## Left out", "\n".join(left)] if left else []
    parts += ["## How it was made", f"```\n{results['about']['command']}\n```"]
    parts.append(f"Commit {results['about']['commit']}, {results['about']['date']}.")
    return "\n\n".join(parts) + "\n"


def _table(measured):
    header = ["series", "steps", "KL", "proxy", "gold", "onset", "regret", "alarm"]
    return markdown.table(header, [_row(one) for one in measured])


def _row(one):
    kl, gold, onset = one["kl"], one["gold"], one["onset"]
    first = verdicts.first_alarm(one)
    regret = one["regret"]["best proxy"]["regret"] if gold else None
    return [
        one["name"],
        one["n"],
        "–" if kl is None else f"{markdown.number(kl[1])} {one['kl_unit']}",
        _course(one["proxy"]),
        "–" if gold is None else _course(gold),
        "–" if onset is None else verdicts.near(one, onset["step"]),
        markdown.number(regret),
        "–" if first is None else verdicts.alarm(*first).split(",")[0],
    ]


def _course(course):
    text = f"{markdown.number(course['first'])} → {markdown.number(course['last'])}"
    return f"{text}, best {markdown.number(course['best'])}"


def _columns(one):
    roles = [f"{role} is `{column}`" for role, column in one["columns"].items()]
    text = f"`{one['source']}`: {', '.join(roles)}."
    return "\n\n".join([text, *(f"Note: {note}." for note in one["notes"])])


def _details(one):
    """Lines about a series, without the verdict."""
    first, last = one["steps"]
    text = f"{markdown.count(one['n'], 'step')}, {first:g} to {last:g}"
    if one["kl"] is not None:
        least, most, end = map(markdown.number, one["kl"])
        text += f"; KL {least} to {most} {one['kl_unit']}, {end} at the end"
    yield text
    yield f"proxy {_course(one['proxy'])}"
    if one["gold"] is not None:
        yield from _of_gold(one)
    if one["length"] is not None:
        yield _length(one["length"])
    for name, found in one["alarms"].items():
        by = f"{markdown.count(found['controls'], 'control run')}"
        how = f"threshold {found['threshold']:.3g}, " + (
            f"from {by}" if found["controls"] else "without controls"
        )
        yield f"alarm of {verdicts.alarm(name, found)} ({how})"


def _of_gold(one):
    looks, levels = one["looks"], one["correlation"]
    yield f"gold {_course(one['gold'])}"
    each = looks["each"]
    averaged = f", means of {each} steps" if each > 1 else ""
    error = markdown.number(looks["error"])
    yield (
        f"read at {markdown.count(looks['n'], 'look')}{averaged}; standard error of "
        f"gold {error}, {looks['error_from']}"
    )
    yield (
        f"correlation of proxy and gold {_interval(levels['levels'])}, of differences "
        f"{_interval(levels['differences'])}; before gold's peak "
        f"{_interval(levels['before_peak'])}, after it "
        f"{_interval(levels['after_peak'])}"
    )
    lag = one["peak_lag"]
    yield (
        f"gold peaks {verdicts.near(one, looks['peak_step'])}, "
        + (
            f"{abs(lag):.0f} steps {'before' if lag < 0 else 'after'}"
            if lag
            else "with"
        )
        + " the proxy"
    )
    chosen = (
        f"{how} {markdown.number(row['regret'])} ({verdicts.near(one, row['step'])})"
        for how, row in one["regret"].items()
    )
    yield f"gold forgone by choosing {', '.join(chosen)}"
    yield _fit(one["fit"])


def _interval(found):
    if found["value"] != found["value"]:
        return f"– (n = {found['n']})"
    low, high = f"{found['low']:.2f}", f"{found['high']:.2f}"
    return f"{found['value']:.2f} [{low}, {high}] (n = {found['n']})"


def _fit(fit):
    if "reason" in fit:
        return f"no fit of gold in √KL: {fit['reason']}"
    alpha, beta, r2 = fit["alpha"], fit["beta"], markdown.number(fit["r2"])
    form = f"{markdown.number(alpha)} {'+' if beta < 0 else '−'} "
    form += f"{markdown.number(abs(beta))}·ln d"
    text = f"gold ≈ d·({form}), R² {r2} over {fit['n']} looks"
    if fit["beta"] > 0 and fit["peak"] <= fit["range"][1]:
        text += f", peak at d = {markdown.number(fit['peak'])}"
    held = fit["extrapolation"]
    if "reason" in held:
        return f"{text}; no extrapolation: {held['reason']}"
    return (
        f"{text}; fitted to the lower half of d it misses the upper by "
        f"{markdown.number(held['error'])}, {markdown.number(held['relative'])} times "
        "the deviation there"
    )


def _length(length):
    first, last = markdown.number(length["first"]), markdown.number(length["last"])
    text = f"length {first} → {last}, correlation with the proxy "
    text += f"{_rho(length['correlation'])}, of differences "
    text += _rho(length["differences"])
    if length["share"] == length["share"]:
        text += f"; at most {length['share']:.0%} of the proxy's gain"
    return text


def _rho(value):
    return "–" if value != value else f"{value:.2f}"


def _correlations(one):
    names = {
        "levels": "levels",
        "differences": "differences",
        "before_peak": "up to gold's peak",
        "after_peak": "from gold's peak on",
    }
    rows = [[names[k], _interval(x)] for k, x in one["correlation"].items()]
    return markdown.table(["proxy and gold", "Spearman's ρ"], rows)


def _regrets(one):
    rows = [
        [
            how,
            verdicts.near(one, row["step"]),
            *map(markdown.number, (row["gold"], row["regret"])),
        ]
        for how, row in one["regret"].items()
    ]
    return markdown.table(["checkpoint chosen by", "where", "gold", "regret"], rows)
