"""Win rates at equal length: what a judge would say, were no answer longer.

Judges, people too, like long answers. A logistic regression explains the judgments by
the lengths, and is read where they are equal: by the ratio of lengths (Lee et al. 2023,
arXiv:2309.00267, appendix J), or by their difference (AlpacaEval 2: Dubois et al. 2024,
arXiv:2404.04475). Both control for length and nothing else: a constant answer that
fools a judge is not unmasked (`constant_answer`). And where all answers of one policy
are the longer ones, no judgment was made at equal length: the value is then the
model's guess. N prompts, D features.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

FOLDS = 5
STRENGTHS = tuple(np.logspace(-4, 4, 10))  # of the fit against its L1 penalty


class Controlled(NamedTuple):
    """A win rate at equal length, with its confidence interval."""

    value: float  # NaN where the fit has no maximum
    low: float
    high: float
    predictions_se: float  # AlpacaEval's "lc_standard_error": not that of the value
    coefficients: np.ndarray  # [D]
    strength: float  # C of the fit that was read; ∞: no penalty
    overlap: float  # of prompts, on the rarer side of equal length; 0: extrapolated
    failures: int  # judgments that are NaN, left out of the fit


class Anchors(NamedTuple):
    """Judgments of the baseline's reworded answers against its own, M rows.

    They say what length alone does, at equal quality: AlpacaEval adds those of a
    verbose and of a concise version, which keep the other coefficients in place.
    """

    probabilities: np.ndarray  # [M] that the reworded answer is better
    differences: np.ndarray  # [M] (other − own length), in standard deviations
    difficulty: np.ndarray | None = None  # [M], if the prompts have theirs
    weight: float = 0.1  # of each row: AlpacaEval's λ = 0.2, shared by two versions


class _Rows(NamedTuple):
    """Rows of a regression: features, targets in [0, 1], weights."""

    features: np.ndarray  # [N, D]
    targets: np.ndarray  # [N]
    weights: np.ndarray  # [N]


def by_ratio(probabilities, lengths, other_lengths, *, units=None, level=0.95):
    """σ(b) of logit p = b + θ·(r − 1), r = length of A / length of B, once fitted.

    Lee et al. 2023, appendix J: the prediction at r = 1. For a harmless rate the other
    length is the mean one of the reference policy. Without penalty, so there is no
    answer (NaN) where some ratio separates all wins from all losses, or where there
    are none of either.

    Args:
      probabilities: [N] that A is better, NaN where the judge failed.
      lengths, other_lengths: [N] of A and B, or a number; in characters; B's above 0.
      units: [N], what rows belong to, for the interval.
    Returns Controlled, with coefficients (θ, b). Raises ValueError for what is none.
    """
    p, own, other = _given(probabilities, lengths, other_lengths)
    if not (other > 0).all():
        raise ValueError(f"row {(other <= 0).argmax()}: B's length must be above 0")
    features = np.stack([own / other - 1.0, np.ones(len(p))], axis=1)
    judged = ~np.isnan(p)
    rows = _Rows(features[judged], p[judged], np.ones(judged.sum()))
    at_equal = np.tile([0.0, 1.0], (len(p), 1))
    read, coefficients = (np.nan,) * 4, np.full(2, np.nan)
    if not _separated(rows):
        (coefficients,) = exact(*rows, [np.inf])
        read = _read(coefficients, rows, at_equal, judged, units, level)
    return _controlled(read, coefficients, np.inf, own, other, judged)


def by_difference(
    probabilities, lengths, other_lengths, *, difficulty=None, anchors=None,
    strength=None, solve=None, units=None, level=0.95,
):  # fmt: skip
    """mean σ(ψ·γ_x + b) of logit p = θ·tanh(Δ/s) + ψ·γ_x + b, fitted to judgments.

    Dubois et al. 2024, and as in alpaca_eval 0.6.6: Δ = B's length − A's with standard
    deviation s over prompts; γ_x the difficulty of a prompt, known from other models'
    judgments; the prediction at Δ = 0. The fit minimises ‖coefficients‖₁ + C·Σ
    cross-entropy; C is chosen among `STRENGTHS` by 5-fold cross-validation. On prompts
    of one's own, without γ_x, the value is σ(b).

    Args:
      probabilities, lengths, other_lengths, units: as in `by_ratio`; N ≥ 5 judged.
      difficulty: [N], γ_x; anchors: rows besides; both as the benchmark supplies them.
      strength: C, instead of choosing it.
      solve: `exact` (the default), or `liblinear` for the leaderboard's last digits.
    Returns Controlled, with coefficients (θ, b), or (θ, ψ, b).
    """
    p, own, other = _given(probabilities, lengths, other_lengths)
    solve = exact if solve is None else solve
    judged = ~np.isnan(p)
    if judged.sum() < FOLDS:
        raise ValueError(f"{judged.sum()} judgments, of {FOLDS} that a fit needs")
    spread = (other - own).std(ddof=1)
    differences = (other - own) / (spread if spread else 1.0)
    features = _features(differences, difficulty, np.ones(len(p)))
    at_equal = _features(np.zeros(len(p)), difficulty, np.ones(len(p)))
    rows = _Rows(features[judged], p[judged], np.ones(judged.sum()))
    rows = rows if anchors is None else _joined(_anchored(anchors, difficulty), rows)
    if strength is None:
        strength = _choose(rows, solve)
    (coefficients,) = solve(*rows, [strength])
    read = _read(coefficients, rows, at_equal, judged, units, level)
    return _controlled(read, coefficients, strength, own, other, judged)


def predicted(coefficients, difficulty):
    """[N]: σ(ψ·γ_x + b), what coefficients (θ, ψ, b) expect of prompts at Δ = 0."""
    _, slope, intercept = coefficients
    return special.expit(slope * np.asarray(difficulty, np.float64) + intercept)


def exact(features, targets, weights, strengths):
    """argmin_β ‖β‖₁/C + Σ_i w_i·(−y_i·log σ(x_iβ) − (1 − y_i)·log σ(−x_iβ)) for each C.

    By L-BFGS on the positive and the negative parts of β, from one C to the next.

    Args: features [N, D]; targets [N] in [0, 1]; weights [N]; strengths, each a C.
    Returns [number of strengths, D] float64.
    """
    from scipy import optimize  # 0.2 s to import

    size = features.shape[1]
    signed = np.concatenate([features, -features], axis=1)

    def loss(parts, strength):
        scores = signed @ parts
        entropy = weights @ (np.logaddexp(0.0, scores) - targets * scores)
        gradient = signed.T @ (weights * (special.expit(scores) - targets))
        return entropy + parts.sum() / strength, gradient + 1 / strength

    path = [np.zeros(2 * size)]
    for strength in strengths:
        found = optimize.minimize(
            loss, path[-1], strength, jac=True, method="L-BFGS-B",
            bounds=[(0.0, None)] * (2 * size),
            options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9},
        )  # fmt: skip
        path.append(found.x)
    return np.stack([parts[:size] - parts[size:] for parts in path[1:]])


def liblinear(features, targets, weights, strengths, *, tolerance=1e-4):
    """The minima that `exact` finds, as near as the leaderboard's solver comes to them.

    AlpacaEval fits with scikit-learn's liblinear, each row once as a win and once as a
    loss, stopped at a tolerance of 1e-4: digits beyond that are the solver's.
    Raises ImportError, naming the extra, without scikit-learn.
    """
    try:
        from sklearn import linear_model
    except ImportError as error:
        raise ImportError(
            "length_control.liblinear needs scikit-learn: pip install "
            "'rlhf_jax[liblinear]'; length_control.exact needs nothing"
        ) from error
    doubled = np.tile(features, (2, 1))
    outcomes = np.repeat([1, 0], len(targets))
    shares = np.concatenate([targets * weights, (1.0 - targets) * weights])
    # One state for the whole path: that is how LogisticRegressionCV shuffles.
    order = np.random.RandomState(123)
    path = [
        linear_model.LogisticRegression(
            l1_ratio=1.0, C=strength, solver="liblinear", fit_intercept=False,
            random_state=order, tol=tolerance,
        ).fit(doubled, outcomes, shares).coef_[0]
        for strength in strengths
    ]  # fmt: skip
    return np.stack(path)


def _given(probabilities, lengths, other_lengths):
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1) | np.isnan(p)).all():
        raise ValueError(f"judgments are [N] probabilities, or NaN where failed: {p}")
    if np.isnan(p).all():
        raise ValueError(f"none of {len(p)} judgments is known")
    found = []
    for name, given in (("A", lengths), ("B", other_lengths)):
        given = np.asarray(given, np.float64)
        known = np.isfinite(given) & (given >= 0)
        if given.shape not in ((), p.shape) or not known.all():
            raise ValueError(
                f"lengths of {name} are numbers of characters, one for each of "
                f"{len(p)} judgments; got {given}, of shape {given.shape}"
            )
        found.append(np.broadcast_to(given, p.shape))
    return p, *found


def _features(differences, difficulty, intercept):
    """[N, 2] or, with difficulties, [N, 3]."""
    columns = [np.tanh(differences), intercept]
    if difficulty is not None:
        columns.insert(1, np.asarray(difficulty, np.float64))
        found = columns[1]
        if found.shape != intercept.shape or not np.isfinite(found).all():
            raise ValueError(
                f"difficulties are finite, one for each of {len(intercept)} rows; "
                f"got {found}, of shape {found.shape}"
            )
    return np.stack(columns, axis=1)


def _anchored(anchors, difficulty):
    """Anchors as rows: the baseline is as good as itself, so b is not theirs."""
    p, differences = (np.asarray(x, np.float64) for x in anchors[:2])
    gammas = None if difficulty is None else anchors.difficulty
    features = _features(differences, gammas, np.zeros(len(p)))
    kept = ~np.isnan(p)
    return _Rows(features[kept], p[kept], np.full(kept.sum(), anchors.weight))


def _joined(first, second):
    return _Rows(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


def _separated(rows):
    """Whether a threshold of the first feature parts all wins from all losses."""
    x = rows.features[:, 0]
    wins, losses = x[rows.targets > 0], x[rows.targets < 1]
    if not len(wins) or not len(losses):
        return True
    if x.min() == x.max():
        return x[0] != 0  # nothing says what another ratio would do
    return wins.min() >= losses.max() or losses.min() >= wins.max()


def _choose(rows, solve):
    """The C of `STRENGTHS` with the best mean held-out likelihood; the least of equals.

    Rows are dealt to the folds from the last one on, which is what scikit-learn's
    GroupKFold does with a group a row.
    """
    fold = np.arange(len(rows.targets))[::-1] % FOLDS
    held_out = np.zeros(len(STRENGTHS))
    for k in range(FOLDS):
        train = _Rows(*(x[fold != k] for x in rows))
        test = _Rows(*(x[fold == k] for x in rows))
        scores = test.features @ solve(*train, STRENGTHS).T
        likelihood = test.targets[:, None] * scores - np.logaddexp(0.0, scores)
        held_out += (test.weights[:, None] * likelihood).mean(0) / FOLDS
    return STRENGTHS[held_out.argmax()]


def _controlled(read, coefficients, strength, own, other, judged):
    shorter, longer = (own <= other)[judged].mean(), (own >= other)[judged].mean()
    overlap, failures = float(min(shorter, longer)), int((~judged).sum())
    return Controlled(*read, coefficients, float(strength), overlap, failures)


def _read(coefficients, rows, at_equal, judged, units, level):
    """(value, low, high, its predictions' error); judged prompts are the last rows."""
    predictions = special.expit(at_equal @ coefficients)
    value, n = float(predictions.mean()), len(predictions)
    influence = predictions - value
    influence[judged] += _moved_by(coefficients, rows, at_equal)[-judged.sum() :]
    low, high = _interval(value, influence, units, level)
    se = float(predictions.std(ddof=1) / n**0.5) if n > 1 else np.nan
    return value, low, high, se


def _moved_by(coefficients, rows, at_equal):
    """[rows]: N times how far each moves the mean prediction: N·ḡᵀH⁻¹·x(y − σ(xβ)).

    Infinite where the rows do not determine it, and the penalty did.
    """
    fitted = special.expit(rows.features @ coefficients)
    curvature = rows.weights * fitted * (1 - fitted)
    hessian = (rows.features * curvature[:, None]).T @ rows.features
    predictions = special.expit(at_equal @ coefficients)
    gradient = (predictions * (1 - predictions)) @ at_equal
    scores = rows.features * (rows.weights * (rows.targets - fitted))[:, None]
    direction = np.linalg.pinv(hessian, hermitian=True) @ gradient
    if not np.allclose(hessian @ direction, gradient, rtol=1e-6, atol=1e-9):
        return np.full(len(scores), np.inf)
    return scores @ direction


def _interval(value, influence, units, level):
    """Student's interval of the logit, by the influence of prompts or of their units.

    The delta method with a sandwich variance; it knows nothing of the penalty and of
    the choice of its strength.
    """
    n = len(influence)
    if units is not None:
        units = np.asarray(units)
        if units.shape != influence.shape:
            raise ValueError(f"units of shape {units.shape} for {n} rows")
        _, index = np.unique(units, return_inverse=True)
        influence = np.bincount(index, influence)
    count = len(influence)
    if count == 1 or not 0 < value < 1:
        return 0.0, 1.0
    error = (np.square(influence).sum() * count / (count - 1)) ** 0.5 / n
    half = special.stdtrit(count - 1, (1 + level) / 2) * error / (value * (1 - value))
    middle = special.logit(value)
    return float(special.expit(middle - half)), float(special.expit(middle + half))
