"""FID and FVD: how far pictures, and clips of 16 pictures, of a variant are from the truth's, as
distributions of what a network sees in them. Heusel et al. 2017 (arXiv:1706.08500), as pytorch-fid
computes it; Unterthiner et al. 2018 (arXiv:1812.01717), as the PyTorch ports of I3D do.

The truth's pictures are drawn of its own features by the same decoder, so what drawing and codecs
lose is not counted, and the truth's own number is 0 up to rounding. Fewer pictures than Inception
has features (2048), or clips than I3D has (400), give another number: compare numbers of as many.
Suffixes: N pictures or clips, D features.
"""

import operator

import numpy as np

from eval import pooling
from eval.metrics import frechet
from eval.networks.pictures import i3d, inception
from eval.registry import declare

RECIPE = {"implementation": "avjax eval.metrics.judged.distributions 1", "precision": "float64",
          "ddof": 1, "square_root": "eigh",
          "against": "the truth's features, drawn by the same decoder",
          "pooling": "all examples together"}
FID = RECIPE | {"features": "FID's Inception-v3, last average pool", "pictures": "all",
                "resize": f"bilinear, {inception.SIZE} x {inception.SIZE}, no antialiasing"}
FVD = RECIPE | {"features": "I3D of Kinetics-400, logits", "batch_norm_eps": i3d.EPS,
                "clips": f"{i3d.FRAMES} pictures that follow one another, none of them in two",
                "resize": f"bilinear, {i3d.SIZE} x {i3d.SIZE}, no antialiasing"}
FVD_CROP = FVD | {"resize": f"bilinear, shorter side to {i3d.SIZE}, no antialiasing, middle "
                            f"{i3d.SIZE} x {i3d.SIZE}"}


def _inception(case) -> dict[str, np.ndarray]:
    """(N, D) of the variant and of the truth."""
    return {name: _seen(case, signals, "inception") for name, signals in
            (("inception", case.signals), ("true_inception", case.truth))}


def _i3d(case) -> dict[str, np.ndarray]:
    """(N, D) of the variant's and the truth's clips, resized and cropped."""
    own, true = (_seen(case, signals, "i3d") for signals in (case.signals, case.truth))
    return {"i3d": own[:, 0], "true_i3d": true[:, 0], "i3d_crop": own[:, 1],
            "true_i3d_crop": true[:, 1]}


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
        return frechet.of_examples(kept, operator.itemgetter(name, f"true_{name}"))
    return pool_kept


declare("FID", "down", "Fréchet distance of pictures from the truth's, by Inception-v3",
        family="pictures", keep=_inception, pool=of_kept("inception"),
        needs=("motion", "each", "pictures", "network:inception"), recipe=lambda benchmark: FID)
for _name, _kept, _how, _recipe in (
        ("FVD", "i3d", "resized whole", FVD), ("FVD_crop", "i3d_crop", "middle", FVD_CROP)):
    declare(_name, "down", f"Fréchet distance of clips of 16 pictures from the truth's, by I3D; "
            f"{_how}", family="pictures", keep=_i3d, pool=of_kept(_kept),
            needs=("motion", "each", "pictures", "network:i3d"),
            recipe=lambda benchmark, recipe=_recipe: recipe | {"fps": benchmark.decoder.fps})
