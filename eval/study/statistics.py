"""Intervals, agreement and power of people's judgements."""

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from scipy import stats

from eval.sweep.statistics import ALPHA, LEVEL

MOST_RATERS = 100_000


def half_width(values: Sequence[float]) -> float | None:
    """Of the 95 % t interval of a mean: t(0.975, n - 1) s / sqrt(n); None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def krippendorff(units: Mapping[Hashable, Sequence], *, nominal: bool = False) -> float | None:
    """Krippendorff's alpha (Content Analysis, 2004, ch. 11) of what was said of each unit.

    Raters may be missing anywhere; a unit with one answer says nothing. Answers are numbers, whose
    squared differences count, or with `nominal` names, which differ or do not.

    Returns:
      1 for agreement, 0 for chance; None where no two answers belong to one unit or all are alike.
    """
    pairable = [list(x) for x in units.values() if len(x) > 1]
    everything = [value for x in pairable for value in x]
    if not everything:
        return None

    def apart(values) -> float:
        """Sum of differences over all ordered pairs."""
        if nominal:
            counts = np.unique(values, return_counts=True)[1]
            return float(len(values) ** 2 - (counts ** 2).sum())
        x = np.asarray(values, np.float64)
        x = x - x.mean()
        return float(2 * len(x) * (x ** 2).sum())

    n = len(everything)
    expected = apart(everything) / (n * (n - 1))
    observed = sum(apart(x) / (len(x) - 1) for x in pairable) / n
    return 1 - observed / expected if expected > 1e-12 else None


def icc(ratings_NK) -> tuple[float, float] | None:
    """(ICC(2,1), ICC(2,k)) of N targets by the same K raters: two-way random effects, absolute
    agreement, of one rater and of the mean of all (Shrout and Fleiss, 1979). None for fewer than
    two of either, or ratings that are all alike."""
    x = np.asarray(ratings_NK, np.float64)
    n, k = x.shape
    if n < 2 or k < 2 or np.ptp(x) == 0:
        return None
    rows, columns = x.mean(1), x.mean(0)
    between = k * ((rows - x.mean()) ** 2).sum() / (n - 1)
    judges = n * ((columns - x.mean()) ** 2).sum() / (k - 1)
    error = ((x - rows[:, None] - columns + x.mean()) ** 2).sum() / ((n - 1) * (k - 1))
    one = between + (k - 1) * error + k * (judges - error) / n
    mean = between + (judges - error) / n
    if min(abs(one), abs(mean)) < 1e-12:
        return None
    return float((between - error) / one), float((between - error) / mean)


def sign_test(wins: int, losses: int) -> dict:
    """{"rate", "low", "high", "p"} of wins without ties: Wilson's 95 % interval, two-sided binomial
    p; {"rate": None, ...} of nothing."""
    if not wins + losses:
        return dict.fromkeys(("rate", "low", "high", "p"))
    found = stats.binomtest(wins, wins + losses)
    low, high = found.proportion_ci(LEVEL, method="wilson")
    return {"rate": wins / (wins + losses), "low": float(low), "high": float(high),
            "p": float(found.pvalue)}


def power(raters: int, effect: float) -> float:
    """Chance that a two-sided paired t test at 5 % finds a difference of `effect` standard
    deviations of the raters' differences (Cohen's d_z)."""
    freedom, shift = raters - 1, effect * math.sqrt(raters)
    limit = stats.t.ppf(1 - ALPHA / 2, freedom)
    found = stats.nct.sf(limit, freedom, shift) + stats.nct.cdf(-limit, freedom, shift)
    return float(found) if np.isfinite(found) else 1.0  # far off, where the tail is not computed


def raters_needed(difference: float, differences: Sequence[float],
                  wanted: float = 0.8) -> int | None:
    """The least number of raters who find a difference with a chance of `wanted`, where theirs
    spread as the measured `differences` (one a rater) do. None where these show no spread, or it
    takes more than MOST_RATERS."""
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    if spread < 1e-9:
        return None
    effect = difference / spread
    low, high = 1, 2
    while power(high, effect) < wanted:
        low, high = high, 2 * high
        if high > MOST_RATERS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, effect) >= wanted else (middle, high)
    return high
