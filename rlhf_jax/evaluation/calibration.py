"""Calibration: is what a model is sure of as often right as it is sure?"""

import numpy as np


def expected_calibration_error(confidences, correct, *, bins=10):
    """Σ_b n_b/N · |mean correct − mean confidence| over equally wide bins, in [0, 1].

    Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599. Bin b is (b/bins,
    (b + 1)/bins], the first with its 0. It is biased upwards by about the standard
    error of the bins: compare models on the same questions only.

    Args: confidences [N] in [0, 1], of the pick; correct [N], 1 where it is right.
    Raises ValueError for a confidence that is no probability.
    """
    confidences = np.asarray(confidences, np.float64)
    correct = np.asarray(correct, np.float64)
    if not ((confidences >= 0) & (confidences <= 1)).all() or not len(confidences):
        raise ValueError(f"confidences are probabilities, at least one: {confidences}")
    index = np.maximum(np.ceil(confidences * bins).astype(int) - 1, 0)
    gaps = np.bincount(index, correct - confidences, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))
