"""Whether a metric's curve over an alteration's levels goes the way its declaration says."""

import numpy as np

from eval.registry import Metric

RISES, FALLS, FLAT, MIXED, UNDEFINED = "worse", "better", "flat", "mixed", "-"
STILL = 1e-6  # of the largest value: less is no change
MEANINGS = {
    RISES: "the metric gets worse at every level", FALLS: "it gets better at every level",
    FLAT: "it does not move", MIXED: "it goes both ways; the number is Spearman's correlation of "
    "its loss with the level", UNDEFINED: "not measured, or undefined at a level"}


def losses(metric: Metric, truth: float, values: list[float]) -> np.ndarray:
    """How bad the truth is, then every level: higher is worse, by the metric's direction."""
    found = np.array([truth, *values], np.float64)
    if metric.better == "truth":
        return np.abs(found - truth)
    if metric.better == "zero":
        return np.abs(found)
    return -found if metric.better == "up" else found


def verdict(metric: Metric, truth: float | None, values: list[float | None]) -> str:
    """A key of MEANINGS, MIXED with a number behind it."""
    if truth is None or None in values or not np.isfinite([truth, *values]).all():
        return UNDEFINED
    loss = losses(metric, truth, values)
    steps = np.diff(loss)
    steps[np.abs(steps) <= STILL * np.abs(loss).max()] = 0.0
    if not steps.any():
        return FLAT
    if (steps >= 0).all():
        return RISES
    if (steps <= 0).all():
        return FALLS
    return f"{MIXED} {spearman(np.arange(len(loss)), loss):+.2f}"


def spearman(a, b) -> float:
    """Rank correlation, ties averaged."""
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
