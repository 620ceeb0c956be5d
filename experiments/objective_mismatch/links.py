"""The three links of the chain as statements, each with a smallest effect of its own.

Declared before any run. Families are items of the checklist: what Gao et al. 2022
(arXiv:2210.10760) and Coste et al. 2023 (arXiv:2310.02743) saw, and what Lambert &
Calandra 2023 (arXiv:2311.00168) ask about. A unit is a world; a reward model is one
within it, and runs on it are nested.
"""

from experiments.objective_mismatch import curves, measures, methods, ranking
from rlhf_jax.evaluation import overoptimization
from rlhf_jax.evaluation.axes import LENGTH, SKILLS
from rlhf_jax.reporting import statements
from rlhf_jax.reporting.statements import Statement

INITIAL = curves.INITIAL
_REWARDS = {*methods.REWARDS, "refresh"}
SD = 0.1  # of gold and of rewards, in deviations of π₀'s samples
POINTS = 0.03  # of accuracies
TAU = 0.1  # of rank correlations
LINKS = {
    "L1": "Reward model and policy: does the model still order what the policy writes?",
    "L2": "Reward model and evaluation: does the better model make the better policy?",
    "L3": "Policy and evaluation: does more reward mean a better model?",
}
PART = "Proxy and gold part (L1)"
FALLS = "The reward model orders the policy's own pairs worse and worse (L1)"
FITS = "Gao's forms, by their error on the held-out upper half"
SIZES = "Larger reward models peak higher (L2)"
DATA = "More and cleaner labels peak higher (L2)"
EQUAL = "Best-of-n and PPO: alike at equal proxy, not at equal KL"
FRONTIER = "A KL penalty does not move the gold-KL frontier"
ENSEMBLES = "Conservative ensembles do not over-optimise"
RANKING = "A model's numbers order policies worse than a second run does (L2)"
ALONG = "So do numbers of the run itself (L2)"
EVALUATION = "Reward rises while something else falls (L3)"
LENGTHS = "Length"
COSTS = "Selecting by the proxy costs gold"
REGRET = "Another reward reduces what selecting costs"
REGRETS = "A penalty, a reset or an average reduces what selecting costs"
CONTROLS = "Where nothing may be found"


def judge(records):
    """Every statement that records can be asked about, as rows of results.json."""
    read = curves.of_records(records), curves.best_of(records), curves.models(records)
    return statements.judge(declared(*read))


def declared(runs, best, models):
    """The `statements.Statement`s, with their evidence. Args: as `curves` reads."""
    parts = (
        _parting(runs, best),
        _ordering(runs),
        _fits(runs, best),
        _sizes(runs),
        _alike(runs, best),
        _ensembles(runs, best),
        _rankings(runs, best, models),
        _evaluations(runs),
        _lengths(runs, models),
        _regrets(runs),
        _controls(runs),
    )
    return [one for part in parts for one in part]


# L1


def _parting(runs, best):
    base = curves.of_base(runs)
    yield _sd(PART, "gold falls after its peak, PPO", curves.each(base, curves.fall))
    yield _sd(
        PART,
        "proxy rises after gold's peak, PPO",
        curves.each(base, curves.rise_after_peak),
    )
    for name in methods.ALGORITHMS[1:]:
        text = f"gold falls after its peak, {methods.LABELS[name]}"
        yield _sd(PART, text, curves.each(curves.of(runs, (name,)), curves.fall))
    picked = {u: [c] for u, c in best.get(methods.BASE, {}).items()}
    yield _sd(
        PART, "gold falls after its peak, best-of-n", curves.each(picked, curves.fall)
    )


def _ordering(runs):
    def lost(curve):
        first, *_, last = curves.accuracy(curve)
        return first - last

    for text, names in (
        ("all reward models", tuple(methods.MODELS)),
        (methods.LABELS[methods.BASE], (methods.BASE,)),
    ):
        yield _points(
            FALLS,
            f"accuracy falls along PPO, {text}",
            curves.each(curves.of(runs, names), lost),
        )


# Fits


def _fits(runs, best):
    def advantage(form, other):
        def of(curve):
            errors = [curves.extrapolated(curve, one) for one in (other, form)]
            return errors[0] - errors[1]

        return of

    log, square = overoptimization.RL, overoptimization.BEST_OF_N
    text = "d(α − β log d) predicts PPO better than d(α − βd)"
    yield _sd(
        FITS, text, curves.each(curves.of_base(runs), advantage(log, square)), SD / 2
    )
    picked = {u: [c] for u, c in best.get(methods.BASE, {}).items()}
    text = "d(α − βd) predicts best-of-n better than d(α − β log d)"
    yield _sd(FITS, text, curves.each(picked, advantage(square, log)), SD / 2)


# L2


def _sizes(runs):
    sizes = ("medium", "small"), ("large", "medium"), ("large", "small")
    data = ("medium", "few"), ("many", "medium"), ("many", "few"), ("clean", "medium")
    for family, pairs in ((SIZES, sizes), (DATA, data)):
        for one, other in pairs:
            labels = [methods.MODELS[name][1] for name in (one, other)]
            text = f"gold peaks higher: {' above '.join(labels)}"
            yield _sd(family, text, curves.gap(runs, one, other, curves.peak))


def _rankings(runs, best, models):
    lacking = ranking.shortfalls(ranking.table(runs, best, models))
    for name, by_unit in lacking.items():
        family = ALONG if name in ranking.ALONG else RANKING
        yield Statement(family, worse_than_ceiling(name), by_unit, TAU)


def worse_than_ceiling(number):
    """What is said of a number of reward models."""
    return f"{ranking.NUMBERS[number]} orders policies worse than a second run does"


# Remedies


def _alike(runs, best):
    picked = best.get(methods.BASE, {})
    base = curves.of_base(runs)
    units = [u for u in picked if u in base]
    at_proxy = {
        u: curves.mean(_at(c, picked[u], "proxy") for c in base[u]) for u in units
    }
    text = "gold of PPO is that of best-of-n at equal proxy"
    yield Statement(EQUAL, text, at_proxy, 2 * SD, kind="equal", unit="sd")
    at_kl = {u: curves.mean(-_at(c, picked[u], "kl") for c in base[u]) for u in units}
    text = "proxy of best-of-n is above that of PPO at equal KL"
    yield _sd(EQUAL, text, at_kl)
    pairs = {
        u: curves.mean(curves.gold_at_kl(runs["kl"][u], c) for c in base[u])
        for u in runs.get("kl", {})
        if u in base
    }
    text = "gold at matched KL is that of PPO without the penalty"
    yield Statement(FRONTIER, text, pairs, SD, kind="equal", unit="sd")


def _at(curve, picked, what):
    """PPO − best-of-n where both have the same proxy (gold) or the same KL (proxy)."""
    ours, theirs = (curve.proxy[""], picked.proxy)
    if what == "proxy":
        y = curve.gold[""], picked.gold[""]
    else:
        ours, theirs = curve.kl, picked.distance**2
        y = curve.proxy[""], picked.proxy
    return curves.matched((ours, y[0]), (theirs, y[1]))


def _ensembles(runs, best):
    for name in ("worst", "uncertainty", "mean"):
        label = methods.REWARDS[name][1]
        picked = {u: [c] for u, c in best.get(name, {}).items()}
        falls, text = curves.each(picked, curves.fall), f"best-of-n by {label}"
        text += " does not decline"
        yield Statement(ENSEMBLES, text, falls, SD, kind="equal", unit="sd")

    def growth(curve):
        spread = curve.other[measures.SPREAD.key]
        return spread[-1] / spread[0]

    text = "members come to disagree more under the mean than under mean − ½ variance"
    yield Statement(
        ENSEMBLES, text, curves.gap(runs, "mean", "uncertainty", growth), 0.1
    )
    text = "PPO on mean − ½ variance declines less than PPO on one model"
    yield _sd(
        ENSEMBLES, text, curves.gap(runs, methods.BASE, "uncertainty", curves.fall)
    )


# L3, length, regret


def _evaluations(runs):
    base = curves.of_base(runs)

    def change(key):
        return lambda curve: curve.other[key][-1] - curve.other[key][0]

    text = "proxy is higher at the end of PPO than at its start"
    yield _sd(EVALUATION, text, curves.each(base, lambda c: c.proxy[""][-1]))
    lost = curves.each(base, lambda c: -change(SKILLS.key)(c))
    yield _points(EVALUATION, "skills are lost by the end of PPO", lost)
    longer = curves.each(base, change(LENGTH.key))
    yield Statement(EVALUATION, "responses get longer", longer, 1.0, unit="tokens")


def _lengths(runs, models):
    def bias(known):
        return known["longer"] - known["shorter"]

    for name in (methods.BASE, "trunk", "clean"):
        label = methods.MODELS[name][1]
        gaps = {u: bias(known) for u, known in models.get(name, {}).items()}
        yield _points(
            LENGTHS, f"{label}: more accurate where the chosen one is longer", gaps
        )
    pairs = curves.paired(models.get(methods.BASE, {}), models.get("odin", {}))
    tied = {
        u: abs(a["length_correlation"]) - abs(b["length_correlation"])
        for u, (a, b) in pairs.items()
    }
    yield Statement(LENGTHS, "ODIN's reward is less correlated with length", tied, 0.05)
    text = "PPO on a learned reward ends with more gold than PPO on length alone"
    yield _sd(LENGTHS, text, curves.gap(runs, methods.BASE, "length", curves.end))
    text = "a length penalty ends with more gold than none"
    found = curves.gap(runs, "length_penalized", methods.BASE, curves.end)
    yield _sd(LENGTHS, text, found)


def _regrets(runs):
    base = curves.each(curves.of_base(runs), curves.regret)
    yield _sd(COSTS, "keeping the look of the highest proxy costs gold, PPO", base)
    for name in methods.REMEDIES:
        if name in runs and name not in ("early_stop", "mean"):
            text = f"{methods.LABELS[name]} reduces what that costs"
            gaps = curves.gap(runs, methods.BASE, name, curves.regret)
            yield _sd(REGRET if name in _REWARDS else REGRETS, text, gaps)


def _controls(runs):
    text = "on gold itself, gold does not fall after its peak"
    found = curves.each(curves.of(runs, ("gold",)), curves.fall)
    yield Statement(CONTROLS, text, found, SD, kind="equal", unit="sd")
    text = "on gold itself, keeping the look of the highest proxy costs nothing"
    found = curves.each(curves.of(runs, ("gold",)), curves.regret)
    yield Statement(CONTROLS, text, found, SD, kind="equal", unit="sd")
    text = "two runs on one reward model end alike"
    found = curves.gap(runs, methods.BASE, methods.REPEATED[methods.BASE], curves.end)
    yield Statement(CONTROLS, text, found, SD, kind="equal", unit="sd")


def _sd(family, text, differences, smallest=SD):
    return Statement(family, text, differences, smallest, unit="sd")


def _points(family, text, differences):
    return Statement(family, text, differences, POINTS, scale=100.0, unit="points")
