"""Frechet distance between Gaussian fits: FD_g on frames, FD_k on frame differences, per clip or
pooled.

Definition: |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), float64, ddof 1. The square root is taken
by symmetric eigendecompositions of S1^(1/2) S2 S1^(1/2), which stays exact when there are fewer
frames than dimensions; the usual `sqrtm` with 1e-6 on the diagonal is off by 1e-4 relative there.
Intervals of pooled distances: see eval/jackknife.py.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from eval import jackknife, pooling
from eval.registry import PARTS, declare, needed

RECIPE = {"implementation": "avjax eval.metrics.frechet 1", "precision": "float64", "ddof": 1,
          "square_root": "eigh",
          "FD_g": "frames", "FD_k": "frame differences"}


# features from which on a distance takes seconds (3.5 of a processor at 2048), and the blocks then
WIDE, WIDE_BLOCKS = 1000, 10


def gaussian(x_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D), ddof 1, of N >= 2 samples."""
    x_ND = np.asarray(x_ND, np.float64)
    if x_ND.ndim != 2 or len(x_ND) < 2:
        raise ValueError(f"a Gaussian needs an (N >= 2, D) array, got shape {x_ND.shape}")
    return x_ND.mean(0), np.atleast_2d(np.cov(x_ND, rowvar=False, ddof=1))


class Moments:
    """Count, mean and second moment of samples that come in parts and are never all in memory.

    Attributes:
      count: of the samples so far.
      mean_D: their mean, float64; zeros of none.
      scatter_DD: sum of the outer products of their deviations from it.
    """

    def __init__(self, width: int):
        self.count, self.mean_D, self.scatter_DD = 0, np.zeros(width), np.zeros((width, width))

    def add(self, x_ND: np.ndarray) -> None:
        """N samples more, of which there may be none."""
        if len(x_ND):
            part, x_ND = Moments(self.mean_D.size), np.asarray(x_ND, np.float64)
            part.count, part.mean_D = len(x_ND), x_ND.mean(0)
            part.scatter_DD = (x_ND - part.mean_D).T @ (x_ND - part.mean_D)
            self.merge(part)

    def merge(self, other: "Moments") -> None:
        """The samples of another (Chan et al. 1979: exact, whatever the parts)."""
        count = self.count + other.count
        if not other.count:
            return
        apart_D = other.mean_D - self.mean_D
        self.scatter_DD += other.scatter_DD + np.outer(
            apart_D, apart_D * (self.count * other.count / count))
        self.mean_D = self.mean_D + apart_D * (other.count / count)
        self.count = count

    def without(self, other: "Moments") -> "Moments":
        """Of the samples but another's, which are some of these."""
        out = Moments(self.mean_D.size)
        out.count = self.count - other.count
        if out.count:
            apart_D = other.mean_D - self.mean_D
            out.mean_D = self.mean_D - apart_D * (other.count / out.count)
            out.scatter_DD = self.scatter_DD - other.scatter_DD - np.outer(
                apart_D, apart_D * (self.count * other.count / out.count))
        return out

    def gaussian(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) and covariance (D, D), ddof 1. ValueError of fewer than 2 samples."""
        if self.count < 2:
            raise ValueError(f"a Gaussian needs 2 samples or more, got {self.count}")
        return self.mean_D, self.scatter_DD / (self.count - 1)


def _sqrt_psd(s_DD: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(s_DD)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def distance(mean1, cov1, mean2, cov2) -> float:
    """Frechet distance of two Gaussians; symmetric, >= 0."""
    root = _sqrt_psd(cov1)
    inner = root @ cov2 @ root
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh((inner + inner.T) / 2), 0)).sum()
    value = float(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross)
    return max(value, 0.0)


def frechet(a_ND: np.ndarray, b_MD: np.ndarray) -> float:
    """FD_g of two sets of frames."""
    return distance(*gaussian(a_ND), *gaussian(b_MD))


def _apart(one: Moments, other: Moments) -> float:
    """FD_g; NaN of fewer than 2 samples."""
    if min(one.count, other.count) < 2:
        return float("nan")
    return distance(*one.gaussian(), *other.gaussian())


def of_examples(examples: Sequence[Any],
                pair: Callable[[Any], tuple[np.ndarray, np.ndarray]]) -> dict:
    """{"value", "n", "low", "high"}: FD_g of the frames of all examples together, with an interval
    (eval/jackknife.py) where there are examples enough and the two sides differ.

    Args:
      examples: one or more.
      pair: an example -> its frames (N, D), and the truth's (M, D); called twice for each, so that
        no more than a block's moments are in memory beside those of all.
    """
    def of(some: Iterable[int]) -> list[Moments]:
        sides = [Moments(x.shape[1]) for x in pair(examples[0])]
        for k in some:
            for side, x_ND in zip(sides, pair(examples[k]), strict=True):
                side.add(x_ND)
        return sides

    own, true = sides = of(range(len(examples)))
    value, out = _apart(own, true), {"n": len(examples)}
    same = np.array_equal(own.mean_D, true.mean_D) and np.array_equal(own.scatter_DD,
                                                                      true.scatter_DD)
    some = jackknife.blocks(len(examples), WIDE_BLOCKS if own.mean_D.size > WIDE
                            else jackknife.BLOCKS)
    if same or len(some) < jackknife.LEAST:
        return {"value": value, **out}
    without = [_apart(*(side.without(part) for side, part in zip(sides, of(block), strict=True)))
               for block in some]
    return {"value": value, **out, **jackknife.interval(value, without, list(map(len, some)))}


def frechet_kinetic(a_ND: np.ndarray, b_MD: np.ndarray) -> float:
    """FD_k: the same on frame differences (motion rather than pose)."""
    return frechet(np.diff(a_ND, axis=0), np.diff(b_MD, axis=0))


def _of_speakers(case, part: str, distance) -> float:
    """Mean over the speakers of an example; NaN of fewer than 3 frames."""
    pairs = zip(case.signals.motion(part), case.truth.motion(part), strict=True)
    return float(np.mean([distance(a, b) if min(len(a), len(b)) > 2 else np.nan
                          for a, b in pairs]))


def _frames(case, part):
    return {f"FD_{part}": _of_speakers(case, part, frechet)}


def _differences(case, part):
    return {f"FK_{part}": _of_speakers(case, part, frechet_kinetic)}


def _per_example(benchmark, part):
    return RECIPE | benchmark.motion_recipe(part) | {"pooling": benchmark.pooling_of_motion}


def _pooled(benchmark, part):
    return RECIPE | benchmark.motion_recipe(part) | {"pooling": "all clips' frames together"}


for _part, _of in PARTS.items():
    declare(f"FD_{_part}", "down", f"Fréchet distance of {_of}, per clip", family="motion",
            score=functools.partial(_frames, part=_part), needs=("motion", needed(_part)),
            recipe=functools.partial(_per_example, part=_part), in_loop=True,
            of_shuffled=_part != "h")
@pooling.labelled("frames of all examples together")
def _all_frames(name, pool):
    """NaN where these are 2 or fewer."""
    stored = pool.benchmark.stored_parts[name.split("_")[1]]
    pair = operator.itemgetter(stored, f"true_{stored}")
    moving = [f for f in pool.frames if stored in f and all(map(len, pair(f)))]
    if sum(len(f[stored]) for f in moving) <= 2:
        return {"value": np.nan, "n": len(moving)} if moving else None
    return of_examples(moving, pair)


for _part, _of in PARTS.items():
    declare(f"FD_{_part}_pooled", "down", f"Fréchet distance of {_of}, all clips' frames together",
            family="motion", pool=_all_frames,
            needs=("motion", "clip", needed(_part)), recipe=functools.partial(_pooled, part=_part))
for _part, _of in PARTS.items():
    declare(f"FK_{_part}", "down", f"Fréchet distance of the changes of {_of}, per clip",
            family="motion", score=functools.partial(_differences, part=_part),
            needs=("motion", "clip", needed(_part)),
            recipe=functools.partial(_per_example, part=_part))
