"""Is a difference more than chance? Paired bootstrap intervals and paired permutation tests of
numbers that are functions of sums over examples: means, error rates, F1.

The permutation test is exact for few examples: under the hypothesis that it does not matter which
of the two made an example, each of the 2^n ways to exchange them is as likely (Fisher 1935; Noreen
1989). For more, ways are drawn, and the one that happened counts as one of them (Phipson and Smyth
2010), so that p is never 0.
Suffixes: n examples, C columns of sums, R resamples or permutations.
"""

from collections.abc import Callable

import numpy as np

from eval.pooling import BOOTSTRAP

EXACT = 13  # most examples whose 2^n exchanges are all counted
DRAWN = 9999  # of more
RECIPE = {"interval": BOOTSTRAP | {"of": "the difference, examples drawn with both of their rows"},
          "p": f"two-sided paired permutation test, exact up to {EXACT} examples, else of {DRAWN} "
               "drawn permutations and the one that happened", "p_holm": "Holm's correction over "
          "all metrics, splits and variants of one comparison"}
_BLOCK = 1 << 22  # numbers at a time
Statistic = Callable[[np.ndarray, int], np.ndarray]  # ((R, C) sums, examples) -> (R,)


def difference(first_nC: np.ndarray, second_nC: np.ndarray, statistic: Statistic) -> dict:
    """The statistic of `second` minus that of `first`.

    Returns:
      {"first", "second", "difference", "low", "high", "p", "pairs"}; low, high and p are None of
      fewer than 3 pairs, or where the statistic is not defined.
    """
    n = len(first_nC)
    one, two = (float(statistic(x.sum(0)[None], n)[0]) for x in (first_nC, second_nC))
    out = {"first": one, "second": two, "difference": two - one, "low": None, "high": None,
           "p": None, "pairs": n}
    if n < 3 or not np.isfinite(two - one):
        return out
    low, high = np.nanpercentile(_resampled(first_nC, second_nC, statistic), [2.5, 97.5])
    return out | {"low": float(low), "high": float(high),
                  "p": permutation_p(first_nC, second_nC, statistic)}


def permutation_p(first_nC: np.ndarray, second_nC: np.ndarray, statistic: Statistic) -> float:
    """Two-sided p value: the share of exchanges after which the statistics differ at least as much;
    those in which they are undefined count as such."""
    n, swaps = len(first_nC), second_nC - first_nC
    totals = first_nC.sum(0), second_nC.sum(0)

    def differ(masks_Rn):
        moved_RC = masks_Rn @ swaps
        return np.abs(statistic(totals[1] - moved_RC, n) - statistic(totals[0] + moved_RC, n))

    seen = differ(np.zeros((1, n)))[0]
    least = seen - 1e-9 * max(1.0, abs(seen))  # sums in another order round otherwise
    found = np.concatenate([differ(masks) for masks in _exchanges(n)])
    extreme = int(np.sum(~(found < least)))
    return extreme / len(found) if n <= EXACT else (extreme + 1) / (len(found) + 1)


def _exchanges(n: int):
    """Blocks of (R, n) of 0 and 1: all, or DRAWN that are drawn."""
    count = 2 ** n if n <= EXACT else DRAWN
    draw, block = np.random.default_rng(BOOTSTRAP["seed"]), max(1, _BLOCK // n)
    for first in range(0, count, block):
        size = min(block, count - first)
        if n <= EXACT:
            yield ((np.arange(first, first + size)[:, None] >> np.arange(n)) & 1).astype(float)
        else:
            yield draw.integers(0, 2, (size, n)).astype(float)


def _resampled(first_nC, second_nC, statistic) -> np.ndarray:
    """(R,) differences of resamples of examples."""
    n, draw = len(first_nC), np.random.default_rng(BOOTSTRAP["seed"])
    times_Rn = draw.multinomial(n, np.full(n, 1 / n), BOOTSTRAP["resamples"]).astype(float)
    return statistic(times_Rn @ second_nC, n) - statistic(times_Rn @ first_nC, n)
