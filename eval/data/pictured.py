"""Lips, smiles and blinks of faces in pictures that a variant made, by landmarks: of real people,
whose face codes tell nothing of them."""

from collections.abc import Iterable

import numpy as np

from data_pipelines.media import landmarks
from data_pipelines.media.facial import signals
from eval.metrics import lips

COLUMN = "landmarks"  # of clips
SURE = 0.5  # certainty of a face below which a frame tells nothing
NAMES = "F1_lips, F1_lips_dtw, F1_lips_clip, smile_corr, blinks_per_minute"


class Reader:
    """Reads faces off pictures as their clips' landmarks were found.

    Args:
      kind: of media/landmarks.py.
      fps: of the pictures.
    """

    def __init__(self, kind: str, fps: float):
        self.find, self.fps, self.points = landmarks.finder(kind), fps, landmarks.recipe(kind)
        count = self.points["points"]
        self.recipe = {"of": self.points, **signals.RECIPE}
        self.lip_recipe = lips.RECIPE | {"tau": signals.TAU[count], "sweep": signals.SWEEP[count],
                                         "fps": fps, "read from": "pictures", **self.recipe}

    def __call__(self, pictures: Iterable[np.ndarray]) -> signals.Expression | None:
        """Of (H, W, 3) uint8 pictures whose face fills them; None where no face is seen."""
        found = [landmarks.in_crop(picture, self.find) for picture in pictures]
        points = [xy if sure >= SURE else np.full_like(xy, np.nan) for xy, sure in found]
        if not any(np.isfinite(xy).all() for xy in points):
            return None
        return signals.expression(np.array(points), self.fps)

    def given(self, points_NK2: np.ndarray, rate: float) -> signals.Expression | None:
        """Of a clip's own landmarks, brought to `fps`; None where they are of another kind."""
        if points_NK2.shape[1] != self.points["points"]:
            return None
        found = signals.expression(points_NK2, rate)
        at = np.arange(int(len(points_NK2) * self.fps / rate)) * rate / self.fps
        return signals.Expression(*(np.interp(at, np.arange(len(x)), x)
                                    for x in vars(found).values()))


def reader(clips, draws: bool, fps: float) -> tuple[Reader | None, str]:
    """The reader for benchmarks of these clips, or why there is none; neither for clips that
    never had faces to read.

    Args:
      clips: the clip dataset, or None.
      draws: whether the variants' pictures can be had.
    """
    if clips is None or COLUMN not in clips.features:
        return None, ("clips with landmarks (avjax prepare --landmarks)" if draws else "")
    if not draws:
        return None, "pictures, which nothing here can draw of these streams"
    kind = clips.recipes.get(COLUMN, {}).get("kind")
    # those that a corpus gives cannot be found in pictures by what found them
    kind = kind if kind in landmarks.KINDS else landmarks.KINDS[0]
    command = landmarks.lacking(kind)
    return (None, command) if command else (Reader(kind, fps), "")
