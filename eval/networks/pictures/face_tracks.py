"""Tracks of a face through pictures, and its crops, as the `run_pipeline.py` of
github.com/joonson/syncnet_python makes them for SyncNet ("protocol B"); who finds faces is another
matter.

Suffixes: T frames, H W picture.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from scipy import signal

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
OVERLAP = 0.5  # intersection over union of the same face in two frames, more than
MISSED = 25  # frames without a face after which a track ends
LEAST, SMALLEST = 100, 100  # found faces of a track, mean width or height in pixels: more than
SCALE, SMOOTH, GREY = 0.40, 13, 110  # of the crop; frames of the median filter; the border
RECIPE = {"overlap": OVERLAP, "missed": MISSED, "found": LEAST, "smallest": SMALLEST,
          "crop_scale": SCALE, "median_filter": SMOOTH, "border": GREY}


@dataclasses.dataclass(frozen=True)
class Track:
    """A face in every frame from `first` on: middle (x, y) and half its longer side, smoothed, each
    (T,) in pixels."""

    first: int
    x: np.ndarray
    y: np.ndarray
    half: np.ndarray

    def __len__(self):
        return len(self.x)

    def crops(self, pictures: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
        """(size, size, 3) of the track's frames; `pictures`: (H, W, 3) uint8 from frame 0 on."""
        for frame, picture in enumerate(pictures):
            k = frame - self.first
            if 0 <= k < len(self):
                yield cv2.resize(cropped(picture, self.x[k], self.y[k], self.half[k]),
                                 (size, size))


def cropped(picture_HW3: np.ndarray, x: float, y: float, half: float) -> np.ndarray:
    """The square about a face: from its top to 0.8 halves below it, and 1.4 halves to each side;
    grey beyond the picture."""
    border = int(half * (1 + 2 * SCALE))
    padded = np.pad(picture_HW3, ((border, border), (border, border), (0, 0)),
                    constant_values=GREY)
    x, y = x + border, y + border
    return padded[int(y - half):int(y + half * (1 + 2 * SCALE)),
                  int(x - half * (1 + SCALE)):int(x + half * (1 + SCALE))]


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)


def tracks(found: Sequence[Sequence[Box]]) -> list[Track]:
    """Of the faces found in each frame of one shot, in the order in which they begin."""
    left = [list(boxes) for boxes in found]
    out = []
    while chain := _chain(left):
        if len(chain) <= LEAST:
            continue
        at, boxes = np.array([k for k, _ in chain]), np.array([box for _, box in chain])
        frames = np.arange(at[0], at[-1] + 1)
        boxes = np.stack([np.interp(frames, at, side) for side in boxes.T], axis=1)
        size = boxes[:, 2:] - boxes[:, :2]
        if size.mean(0).max() > SMALLEST:
            x, y = (boxes[:, :2] + boxes[:, 2:]).T / 2
            out.append(Track(int(at[0]), *(signal.medfilt(values, SMOOTH)
                                           for values in (x, y, size.max(1) / 2))))
    return out


def _chain(left: list[list[Box]]) -> list[tuple[int, Box]]:
    """(frame, box) of one face, taken out of `left`: the first that is there, and whatever overlaps
    it from frame to frame."""
    chain: list[tuple[int, Box]] = []
    for frame, boxes in enumerate(left):
        for box in list(boxes):
            if chain and frame - chain[-1][0] > MISSED:
                return chain
            if not chain or overlap(box, chain[-1][1]) > OVERLAP:
                chain.append((frame, box))
                boxes.remove(box)
    return chain
