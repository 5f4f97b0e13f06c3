"""F1_lips: is the mouth closed on the frames where it should be?

A frame is closed when the inner-lip distance is below tau times the mouth's width; precision and
recall are pooled over all frames of all clips (after Richard et al. 2021, who give no code; tau is
our choice, in no paper). The sweep over tau shows how much the number depends on it.
"""

import numpy as np

RECIPE = {"implementation": "avjax eval.metrics.lips 1", "closed": "aperture < tau * mouth width",
          "tau": 0.02, "sweep": [0.01, 0.02, 0.04, 0.08], "pooling": "frames of all clips",
          "fps": 30}


def closure_counts(aperture_N, truth_N, width, tau: float) -> np.ndarray:
    """(true positives, false positives, false negatives). Apertures and width share a unit; width
    scalar or (N,)."""
    predicted, actual = np.asarray(aperture_N) < tau * width, np.asarray(truth_N) < tau * width
    return np.array([np.sum(predicted & actual), np.sum(predicted & ~actual),
                     np.sum(~predicted & actual)], np.int64)


def f1(counts):
    """F1 of pooled counts (3, ...); NaN where neither side ever closes."""
    tp, fp, fn = np.asarray(counts, np.float64)
    return np.divide(2 * tp, 2 * tp + fp + fn, out=np.full_like(tp, np.nan), where=tp + fp + fn > 0)


def sweep(aperture_N, truth_N, width, taus=tuple(RECIPE["sweep"])) -> dict[str, np.ndarray]:
    """Closure counts for every tau."""
    return {f"{tau:g}": closure_counts(aperture_N, truth_N, width, tau) for tau in taus}
