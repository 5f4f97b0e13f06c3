"""Who judges what, in which order: balanced over raters, a pure function of the seed."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

DESIGNS = {"full": "every rater judges every item in every condition",
           "latin": "every rater judges every item once, in a condition that turns with the raters"}


def square(n: int) -> list[list[int]]:
    """Orders of n conditions, balanced for what comes before what (E. J. Williams, Experimental
    designs balanced for the estimation of residual effects of treatments, 1949): over all rows,
    every condition is at every place equally often, and directly after every other one equally
    often. n rows where n is even, else 2 n."""
    zigzag = [(k + 1) // 2 if k % 2 else (n - k // 2) % n for k in range(n)]
    rows = [[(x + shift) % n for x in zigzag] for shift in range(n)]
    return rows + [row[::-1] for row in rows] if n % 2 else rows


def orders(items: int, conditions: int, raters: int, design: str,
           seed: int) -> list[list[tuple[int, int]]]:
    """For every rater the (item, condition) pairs in their order.

    A rater goes through the items once for every condition, each time in another random order;
    which condition an item has in which round follows a row of `square`, the next rater's the next
    row. So an item comes back only in the next round, and no condition is mostly early or late.
    """
    rows = square(conditions)
    out = []
    for rater in range(raters):
        own = []
        for turn in range(conditions if design == "full" else 1):
            shuffled = np.random.default_rng([seed, rater, turn]).permutation(items).tolist()
            own += [(item, rows[(rater + item) % len(rows)][turn]) for item in shuffled]
        out.append(own)
    return out


def sides(order: Sequence[Sequence[tuple[int, int]]]) -> Iterator[list[tuple[int, int, bool]]]:
    """The same for pairs, with whether left and right change places: every second rater who gets an
    item's pair sees it the other way round."""
    seen: Counter[tuple[int, int]] = Counter()
    for own in order:
        out = []
        for item, pair in own:
            out.append((item, pair, (item + pair + seen[item, pair]) % 2 == 1))
            seen[item, pair] += 1
        yield out


def with_checks(own: list, checks: Sequence, seed: int, rater: int) -> list:
    """A rater's trials with the attention checks between them: one in every stretch of equal
    length, in another order and at other places for every rater."""
    rng = np.random.default_rng([seed, rater, len(own)])
    out, last = [], 0
    for k, check in enumerate(rng.permutation(len(checks)).tolist(), 1):
        end = round(k * len(own) / len(checks))
        # never the very first trial
        at = int(rng.integers(min(last + 1, end), end + 1))
        out += [*own[last:at], checks[check], *own[at:end]]
        last = end
    return out + own[last:]
