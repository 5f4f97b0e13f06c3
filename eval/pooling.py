"""How a metric of one example becomes one of a split: means, counts and frames taken together, with
bootstrap intervals over examples (those of distances of distributions: eval/jackknife.py).

A pooling is a function (metric's name, eval.registry.Pool) -> {"value", "n", and "low" and
"high" where there is an interval}, or None where no example has anything. Its `label` is what the
documentation calls it.
"""

import functools
from collections.abc import Callable

import numpy as np

# key of an entry: {"1 to 2": {"value", "n"}} of each pair of three or more speakers
PAIRS = "pairs"
BOOTSTRAP = {"resamples": 1000, "interval": 0.95, "over": "examples", "seed": 0}


def labelled(label: str) -> Callable:
    """Decorator that names a pooling."""
    def name(function):
        function.label = label
        return function
    return name


@labelled("mean over examples")
def by_mean(name: str, pool) -> dict | None:
    """Mean over the examples with a finite number under the metric's name."""
    found = pool.entries(name)
    if not found:
        return None
    values = np.array([np.nan if x is None else x for x in found], np.float64)
    return interval(values[np.isfinite(values)], mean)


def of_frames(part: str, statistic: Callable[[list, list], float]) -> Callable:
    """Pooling of the frames of all examples together; NaN where these are 2 or fewer.

    Args:
      part: key of registry.PARTS.
      statistic: (own frames, true frames), each a list of (N, width), one an example -> number.
    """
    @labelled("frames of all examples together")
    def pool_frames(name, pool):
        own, true = pool.once(_frames)[part]
        if not own:
            return None
        few = sum(map(len, own)) <= 2
        return {"value": np.nan if few else statistic(own, true), "n": len(own)}
    return pool_frames


def _frames(pool) -> dict[str, tuple[list, list]]:
    """{part: (own frames, true frames)}, an array an example."""
    stored = pool.benchmark.stored_parts
    return {part: tuple([f[key] for f in pool.frames if len(f.get(key, ()))]
                        for key in (name, f"true_{name}"))
            for part, name in stored.items()}


def interval(values: np.ndarray, statistic) -> dict:
    """{"value", "n", "low", "high"}: percentile bootstrap over the first axis; no interval for
    fewer than 3 examples, or of what is undefined.

    `statistic` maps (..., n, columns) to (...): all resamples go through it at once.
    """
    values = values[:, None] if values.ndim == 1 else values
    out = {"value": float(statistic(values)), "n": len(values)}
    if len(values) < 3:
        return out
    drawn = statistic(values[_draws(len(values))])
    if not np.isfinite(drawn).any():
        return out
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return out | {"low": float(low), "high": float(high)}


@functools.lru_cache(maxsize=4)
def _draws(count: int) -> np.ndarray:
    """(resamples, count) indices, the same for all metrics of as many examples."""
    random = np.random.default_rng(BOOTSTRAP["seed"])
    return random.integers(0, count, (BOOTSTRAP["resamples"], count))


def ratio(values_nC):
    """Sum of the first column over that of the second; NaN of 0."""
    above, below = np.moveaxis(values_nC.sum(-2), -1, 0)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def mean(values_nC):
    """Of the only column; NaN of nothing."""
    return values_nC[..., 0].mean(-1) if values_nC.shape[-2] else np.nan
