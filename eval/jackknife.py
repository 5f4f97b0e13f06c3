"""Intervals of what is computed of all examples together and grows by itself when fewer are seen:
Fréchet and Wasserstein distances of distributions.

Examples drawn with replacement, as the bootstrap draws them, are fewer different ones, so such a
distance of them is larger than that of all: on Gaussians with 95 % asked for, percentiles of the
bootstrap hold the expected distance in 1 to 91 % of cases. Leaving a block of examples out moves
the distance's bias by a common amount, which a variance does not see. So: the examples in up to
BLOCKS blocks, the number without each, and value +- t s, with s by the delete-a-block jackknife,
also of blocks of unequal size (Busing, Meijer and van der Leeden 1999, Statistics and Computing 9).

The interval is of where the number would lie with as many other examples. It is not of the distance
between the distributions themselves, from which the number is off by its bias: compare numbers of
as many examples.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

BLOCKS, LEAST = 20, 3  # of examples; fewer give no interval
LEVEL = 0.95
RECIPE = {"of": "distances of all examples together", "method": "delete-a-block jackknife, t",
          "blocks": BLOCKS, "interval": LEVEL, "over": "examples",
          "about": "the number of as many examples, with its bias"}


def blocks(count: int, most: int = BLOCKS) -> list[range]:
    """0 to `count` in at most `most` stretches, none longer than another by more than one."""
    edges = [count * k // min(count, most) for k in range(min(count, most) + 1)] if count else [0]
    return [range(*pair) for pair in zip(edges, edges[1:], strict=False)]


def interval(value: float, without: Sequence[float], sizes: Sequence[int]) -> dict[str, float]:
    """{"low", "high"}, neither below 0; {} of fewer than LEAST blocks, or of what is undefined.

    Args:
      value: of all examples.
      without: the number without each block.
      sizes: examples in each.
    """
    without_G, count = np.asarray(without, np.float64), len(without)
    if count < LEAST or not math.isfinite(value) or not np.isfinite(without_G).all():
        return {}
    share_G = np.asarray(sizes) / np.sum(sizes)
    pseudo_G = value / share_G - (1 / share_G - 1) * without_G
    estimate = count * value - np.sum((1 - share_G) * without_G)
    error = math.sqrt(np.mean((pseudo_G - estimate) ** 2 / (1 / share_G - 1)))
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    return {"low": max(0.0, value - half), "high": value + half}


def of_examples(count: int, statistic: Callable[[Sequence[int]], float]) -> dict[str, float]:
    """{"value", "low", "high"} of a statistic of some of `count` examples, given their indices."""
    value, some = statistic(range(count)), blocks(count)
    without = [statistic([k for k in range(count) if k not in block])
               for block in some if len(some) >= LEAST]
    return {"value": value, **interval(value, without, list(map(len, some)))}
