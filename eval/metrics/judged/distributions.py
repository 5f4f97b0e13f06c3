"""FID: how far pictures of a variant are from the truth's, as distributions of what a network sees
in them. Heusel et al. 2017 (arXiv:1706.08500), as pytorch-fid computes it.

The truth's pictures are drawn of its own features by the same decoder, so what drawing and codecs
lose is not counted, and the truth's own number is 0. Fewer pictures than the network has features
(2048) give a larger number: compare numbers of as many pictures only.
Suffixes: N pictures, D features.
"""

import numpy as np

from eval import pooling
from eval.metrics import frechet
from eval.networks import inception
from eval.registry import declare

RECIPE = {"implementation": "avjax eval.metrics.judged.distributions 1", "precision": "float64",
          "ddof": 1, "square_root": "eigh",
          "against": "the truth's features, drawn by the same decoder",
          "pooling": "all examples together"}
FID = RECIPE | {"features": "FID's Inception-v3, last average pool", "pictures": "all",
                "resize": f"bilinear, {inception.SIZE} x {inception.SIZE}, no antialiasing"}


def _inception(case) -> dict[str, np.ndarray]:
    """(N, D) of the variant and of the truth."""
    return {name: _seen(case, signals, "inception") for name, signals in
            (("inception", case.signals), ("true_inception", case.truth))}


def _seen(case, signals, network: str) -> np.ndarray:
    """What a network makes of the pictures; once of the truth, for all variants."""
    if network not in signals.seen:
        signals.seen[network] = case.benchmark.networks[network](case.pictures(signals)[1])
    return signals.seen[network]


def of_kept(name: str):
    """Pooling: the Fréchet distance of all `name` from all `true_<name>` that were kept."""
    @pooling.labelled("what a network sees in all examples together")
    def pool_kept(metric, pool):
        kept = [f for f in pool.frames if f.get(name, np.zeros(0)).size]
        if not kept:
            return None
        own, true = (frechet.Moments(kept[0][name].shape[1]) for _ in range(2))
        for f in kept:
            own.add(f[name])
            true.add(f[f"true_{name}"])
        if min(own.count, true.count) < 2:
            return None
        return {"value": frechet.distance(*own.gaussian(), *true.gaussian()), "n": len(kept)}
    return pool_kept


declare("FID", "down", "Fréchet distance of pictures from the truth's, by Inception-v3",
        family="pictures", keep=_inception, pool=of_kept("inception"),
        needs=("motion", "clip", "pictures", "network:inception"), recipe=lambda benchmark: FID)
