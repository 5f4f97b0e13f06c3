"""Diversity of motion. Div = standard deviation per dimension over the pooled test frames, mean
over dimensions (our reading of AV-Flow's "std across samples in test set"); var_g = mean L2 of
random frame pairs (Audio2Photoreal).
"""

import functools

import numpy as np

from eval import pooling
from eval.registry import PARTS, declare, needed

RECIPE = {"implementation": "avjax eval.metrics.diversity 1",
          "Div": "std per dim over pooled frames, ddof 1, mean over dims",
          "var_g": "mean L2 of 10000 random frame pairs, seed 0"}


def div(frames_ND: np.ndarray) -> float:
    """Mean over dimensions of the standard deviation over frames."""
    return float(np.std(np.asarray(frames_ND, np.float64), axis=0, ddof=1).mean())


def var_g(frames_ND: np.ndarray, pairs: int = 10_000, seed: int = 0) -> float:
    """Mean L2 distance of `pairs` random pairs of frames."""
    frames_ND = np.asarray(frames_ND, np.float64)
    i, j = np.random.default_rng(seed).integers(0, len(frames_ND), (2, pairs))
    return float(np.linalg.norm(frames_ND[i] - frames_ND[j], axis=1).mean())


def _recipe(benchmark, part):
    return RECIPE | benchmark.spread_recipe(part)


for _part, _of in PARTS.items():
    declare(f"Div_{_part}", "truth", f"diversity of {_of}", family="diversity",
            pool=pooling.of_frames(_part, lambda own, _: div(np.concatenate(own))), in_loop=True,
            needs=("motion", "clip", needed(_part)), recipe=functools.partial(_recipe, part=_part))
declare("var_e", "truth", "mean distance of two random frames' face codes", family="diversity",
        pool=pooling.of_frames("e", lambda own, _: var_g(np.concatenate(own))),
        needs=("motion", "clip", "face"), recipe=functools.partial(_recipe, part="e"))
