"""Frechet distance between Gaussian fits: FD_g on frames, FD_k on frame differences, per clip or
pooled.

Definition: |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), float64, ddof 1. The square root is taken
by symmetric eigendecompositions of S1^(1/2) S2 S1^(1/2), which stays exact when there are fewer
frames than dimensions; the usual `sqrtm` with 1e-6 on the diagonal is off by 1e-4 relative there.
"""

import functools
from collections.abc import Iterable

import numpy as np

from eval import pooling
from eval.registry import PARTS, declare, needed

RECIPE = {"implementation": "avjax eval.metrics.frechet 1", "precision": "float64", "ddof": 1,
          "square_root": "eigh",
          "FD_g": "frames", "FD_k": "frame differences"}


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


def moments(parts: Iterable[np.ndarray]) -> Moments | None:
    """Of (N, D) arrays that come one after the other; None of none."""
    found = None
    for part_ND in parts:
        found = found or Moments(part_ND.shape[1])
        found.add(part_ND)
    return found


def frechet_of_parts(a: Iterable[np.ndarray], b: Iterable[np.ndarray]) -> float:
    """FD_g of two sets of frames in parts, of which one at a time is in memory; NaN where either
    has fewer than 2 frames."""
    sides = moments(a), moments(b)
    if any(side is None or side.count < 2 for side in sides):
        return float("nan")
    return distance(*sides[0].gaussian(), *sides[1].gaussian())


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
for _part, _of in PARTS.items():
    declare(f"FD_{_part}_pooled", "down", f"Fréchet distance of {_of}, all clips' frames together",
            family="motion", pool=pooling.of_frames(_part, frechet_of_parts),
            needs=("motion", "clip", needed(_part)), recipe=functools.partial(_pooled, part=_part))
for _part, _of in PARTS.items():
    declare(f"FK_{_part}", "down", f"Fréchet distance of the changes of {_of}, per clip",
            family="motion", score=functools.partial(_differences, part=_part),
            needs=("motion", "clip", needed(_part)),
            recipe=functools.partial(_per_example, part=_part))
