"""What points of a face tell of it: how open lips and eyes are, and whether it smiles.

Lengths are in distances of the outer corners of the eyes; what rotation shortens is undone: lengths
across the face by the cosine of yaw, lengths down it by that of pitch.
"""

import dataclasses

import numpy as np

from data_pipelines.media import head_rotation
from data_pipelines.media.facial import shape

# of `expression`; `tau`: a mouth is closed below so many mouth widths [ours: where the two kinds
# agree best with each other, F1 0.84 on 7 recordings of talking people]. The face mesh never quite
# closes a mouth, and hardly a blinking eye (correlation with 68 points' 0.0 to 0.8).
TAU = {468: 0.1, 68: 0.05}
SWEEP = {468: [0.02, 0.05, 0.08, 0.1, 0.15], 68: [0.02, 0.03, 0.05, 0.08, 0.12]}
RECIPE = {"implementation": "facial/signals 1", "unit": "distance of the eyes' outer corners",
          "rotation": head_rotation.RECIPE}


@dataclasses.dataclass(frozen=True)
class _Indices:
    lips: tuple  # pairs of the inner lips, upper and lower
    corners: tuple[int, int]  # of the inner lips
    eyes: tuple  # of each: (pairs of lids), (corners)
    outer: tuple[int, int]  # corners of the eyes


_OF = {
    68: _Indices(((61, 67), (62, 66), (63, 65)), (60, 64),
                 ((((37, 41), (38, 40)), (36, 39)), (((43, 47), (44, 46)), (42, 45))), (36, 45)),
    468: _Indices(((82, 87), (13, 14), (312, 317)), (78, 308),
                  ((((160, 144), (158, 153)), (33, 133)), (((385, 380), (387, 373)), (362, 263))),
                  (33, 263)),
}


@dataclasses.dataclass(frozen=True)
class Expression:
    """Of N frames."""

    aperture: np.ndarray  # (N,) between the inner lips
    width: np.ndarray  # (N,) of the mouth
    smile: np.ndarray  # (N,) width of the mouth and how far its corners are above its middle
    eyes: np.ndarray  # (N,) opening of the eyes by their own width; a blink is a dip


def expression(points_NK2, rate: float) -> Expression:
    """Signals of 68 or 468 points, x to the right and y down in any unit; NaN in frames that have
    none, which are interpolated. UserError: another number of points, or no frame has them."""
    points = np.asarray(points_NK2, np.float64)
    shape.rigid(points.shape[1])
    of = _OF[points.shape[1]]
    yaw, pitch, _ = np.radians(head_rotation.angles(head_rotation.fit(points, rate))).T
    shortened = np.maximum(np.cos(np.stack([yaw, pitch], 1)), 0.3)
    right = points[:, of.outer[1]] - points[:, of.outer[0]]
    unit = np.linalg.norm(right, axis=-1)
    right /= unit[:, None]
    down = np.stack([-right[:, 1], right[:, 0]], 1)
    unit = unit / shortened[:, 0]

    def along(a, b):  # (N, 2): across and down the face, from a to b
        off = (points[:, b] - points[:, a]) / unit[:, None]
        return np.stack([np.sum(off * right, -1), np.sum(off * down, -1)], 1) / shortened

    def gap(pairs):
        return np.mean([np.maximum(along(a, b)[:, 1], 0) for a, b in pairs], axis=0)

    width = np.linalg.norm(along(*of.corners), axis=-1)
    centre = np.mean([along(of.corners[0], k)[:, 1] for pair in of.lips for k in pair], axis=0)
    lift = centre - along(*of.corners)[:, 1] / 2
    eyes = np.mean([gap(pairs) / np.linalg.norm(along(*ends), axis=-1)
                    for pairs, ends in of.eyes], axis=0)
    return Expression(*(_filled(x) for x in (gap(of.lips), width, width + lift, eyes)))


def _filled(x_N: np.ndarray) -> np.ndarray:
    known = np.flatnonzero(np.isfinite(x_N))
    return np.interp(np.arange(len(x_N)), known, x_N[known])
