"""Means and spreads over seeds, and paired differences with their significance."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95  # of intervals
ALPHA = 0.05  # of significance, after Holm's correction


def spread(values: Sequence[float]) -> dict:
    """{"mean", "sd", "n"}; the sample's standard deviation, None of one value."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "n": len(values)}


def paired(differences: Sequence[float]) -> dict:
    """Mean of paired differences, with its t interval and the p of a two-sided t test.

    Returns:
      {"mean", "low", "high", "p", "n"}; low, high and p are None where fewer than two pairs, or
      pairs that all differ alike, say nothing of chance.
    """
    found = spread(differences)
    out = {"mean": found["mean"], "low": None, "high": None, "p": None, "n": found["n"]}
    if not found["sd"] or found["sd"] < 1e-12 * abs(found["mean"]):
        return out
    error, freedom = found["sd"] / math.sqrt(found["n"]), found["n"] - 1
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(found["mean"]) / error, freedom))
    return out | {"low": found["mean"] - reach, "high": found["mean"] + reach, "p": p}


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number by Holm's method; None stays, and is not counted."""
    out: list[float | None] = [None] * len(ps)
    order = sorted((i for i, p in enumerate(ps) if p is not None), key=lambda i: ps[i])
    last = 0.0
    for rank, i in enumerate(order):
        last = max(last, min(1.0, (len(order) - rank) * ps[i]))
        out[i] = last
    return out


def distance(better: str, value: float, truth: float | None) -> float | None:
    """What is compared of a metric: less is better for "down", "zero" and "truth" (distance), more
    for "up"; None where that is not known."""
    if better == "zero":
        return abs(value)
    if better == "truth":
        return None if truth is None else abs(value - truth)
    return value
