"""The face of one side, from its keypoints: where to crop, points, head pose; and its face code.

Arrays have a row a frame of the video (up to 5 more or fewer), whatever its rate, or, where that
does not fit, a row every 1/30 s. They are brought to 30 Hz by the nearest row. A row without a
valid box, with keypoints that are not finite or that the detector is not sure of shows no face; up
to BRIDGED seconds of such are bridged, also at the ends.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from avjax.signal import rates
from avjax.signal.runs import intervals
from data_pipelines.ingest.common import arrays
from data_pipelines.media import faces, head_rotation, landmarks
from data_pipelines.store.dataset import Unusable

FPS = rates.VIDEO
POINTS = 68
BRIDGED = 0.5  # seconds without a face [ours]
SURE = 0.3  # mean score of a face's points from which they count [ours]
SLACK = 5  # rows by which arrays and pictures differ in sound files [measured by others: -3 .. +5]
# proportions of a frontal Haar box, which `faces` crops by, in what the 68 points tell [ours]
_WIDTH, _BELOW = 2.5, 0.12
_SMALLEST = 8.0  # pixels between the eyes
HELD = f"frames without a face, up to {BRIDGED} s: bridged"
ROWS = f"keypoints and pictures up to {SLACK} frames apart: cut to the shorter"
NAN = "keypoints that are not finite: as frames without a face"
ZERO = f"face code without values, up to {BRIDGED} s: bridged"


@dataclasses.dataclass(frozen=True)
class Face:
    """N frames at 30 Hz. `known`: (N,) where there is a face, or one was bridged."""

    cropper: faces.Cropper
    points: np.ndarray  # (N, 68, 2) float32, in sides of the crops
    pose: np.ndarray  # (N, 7) float32
    known: np.ndarray


def rows_at(rows: int, frames: int, fps: float, seconds: float, notes: set[str]) -> np.ndarray:
    """The row of each 1/30 s, as far as there are rows.

    Args:
      rows: of the arrays.
      frames, fps: of the video.
      seconds: of sound.

    Raises Unusable: neither a row a frame nor one every 1/30 s.
    """
    if abs(rows - frames) <= SLACK:
        rate = fps
        notes.update([ROWS] * (rows != frames))
    elif abs(rows - seconds * FPS) <= SLACK:
        rate = FPS
    else:
        raise Unusable("keypoints of another length", expected=f"{frames} rows, one a frame",
                       found=f"{rows} for {seconds:.2f} s")
    count = int(rows * FPS / rate + 1e-6)
    return np.minimum(np.floor(np.arange(count) * rate / FPS + 0.5).astype(int), rows - 1)


def face(box_N4, valid_N, keypoints_N1333, rows_K: np.ndarray, picture: tuple[int, int],
         size: int, notes: set[str]) -> Face:
    """The face in frames that are shown at rows_K.

    Args:
      picture: width and height, pixels.
      size: of the crops.
      notes: gets what was mended.

    Raises Unusable: no frame that shows one.
    """
    width, height = picture
    points, score = (x[rows_K] for x in landmarks.of_wholebody(keypoints_N1333))
    box, valid = np.asarray(box_N4, np.float64)[rows_K], np.asarray(valid_N)[rows_K].ravel() > 0
    finite = np.isfinite(points).all((1, 2)) & np.isfinite(score).all(1) & np.isfinite(box).all(1)
    if not finite[valid].all():
        notes.add(NAN)
    points = np.where(finite[:, None, None], points, 0).astype(np.float64)
    apart = np.linalg.norm(_eyes(points)[1] - _eyes(points)[0], axis=-1)
    middle = points.mean(1)
    inside = ((middle >= 0) & (middle < (width, height))).all(1)
    boxed = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
    seen = valid & finite & boxed & inside & (np.nan_to_num(score).mean(1) >= SURE)
    seen &= apart >= _SMALLEST
    if not seen.any():
        raise Unusable("no face", expected="a frame with a valid box and sure keypoints",
                       found=f"none of {len(seen)}")
    known = bridged(seen, notes, HELD)
    at = np.arange(len(seen))
    flat = points.reshape(len(points), -1)
    filled = np.stack([np.interp(at, at[seen], column[seen]) for column in flat.T], 1)
    points = filled.reshape(points.shape)
    track = _track(points, width)
    rotation = head_rotation.fit(np.where(seen[:, None, None], points, np.nan), FPS,
                                 np.clip(np.nan_to_num(score), 0, 1))
    track = track.turned(rotation)
    cropper = faces.Cropper(track, size, FPS)
    large = cropper.large(width)
    if not (known & large).any():
        raise Unusable("face too small", expected=f"crops of {size / cropper.enlarged:.0f} pixels",
                       found=f"{cropper.side.max() * width:.0f} at most",
                       hint="a smaller --size takes smaller faces")
    return Face(cropper, cropper.place(points / width), track.pose(rotation),
                known & large)


def code(expression_NF, valid_N, rows_K: np.ndarray, notes: set[str]
         ) -> tuple[np.ndarray, np.ndarray]:
    """(K, F) float32 face code, and (K,) where it is known: elsewhere the owners left zeros."""
    code_KF = np.asarray(expression_NF, np.float32)[rows_K]
    seen = (np.asarray(valid_N)[rows_K].ravel() > 0) & np.isfinite(code_KF).all(1)
    seen &= np.abs(code_KF).max(1) > 0
    if not seen.any():
        raise Unusable("no face code", expected="a block of 60 frames that is valid",
                       found=f"none of {len(seen)} frames")
    return arrays.filled(code_KF, ~seen, "", 1.0), bridged(seen, notes, ZERO)


def bridged(seen_N: np.ndarray, notes: set[str], note: str) -> np.ndarray:
    """`seen_N` with its gaps of at most BRIDGED seconds closed."""
    out = seen_N.copy()
    for first, last in runs(~seen_N):
        if last - first <= BRIDGED * FPS:
            out[first:last] = True
            notes.add(note)
    return out


def runs(mask_N: np.ndarray) -> list[tuple[int, int]]:
    """[(first, last + 1), ...] of the stretches that are true."""
    return [(a, b) for a, b in intervals(mask_N).tolist()]


def _eyes(points_N68_2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the eyes: of the picture's left, of its right."""
    return points_N68_2[:, 36:42].mean(1), points_N68_2[:, 42:48].mean(1)


def _track(points: np.ndarray, picture_width: int) -> faces.Track:
    """Where a frontal face detector would see the face: by the eyes, how far they are apart or, of
    turned heads, how far the upper lip is below them."""
    left, right = _eyes(points)
    across, between = right - left, (left + right) / 2
    roll = np.unwrap(np.arctan2(across[:, 1], across[:, 0]))
    down = np.stack([-np.sin(roll), np.cos(roll)], 1)
    lip = np.abs(np.sum((points[:, 51] - between) * down, 1))
    width = _WIDTH * np.maximum(np.linalg.norm(across, axis=1), lip)
    centre = between + _BELOW * width[:, None] * down
    raw = np.concatenate([centre, np.log(width)[:, None], roll[:, None]], 1)
    smooth = ndimage.gaussian_filter1d(raw, 0.04 * FPS, axis=0, mode="nearest")
    return faces.Track(smooth[:, :2] / picture_width, np.exp(smooth[:, 2]) / picture_width,
                       smooth[:, 3], np.zeros(len(smooth), bool))
