"""Points of a face, frame by frame: found in pictures by a network that a package carries, or given
by a corpus.

Kinds: "mesh468" (default choice: steadier, faster, tells a hidden face, licences allow any use) and
"dlib68" (iBUG's 68, which most corpora give; not for commercial use). Packages are imported when a
finder is made.
"""

import dataclasses
import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterable

import cv2
import numpy as np

from avjax.errors import UserError
from data_pipelines.media import faces, head_rotation

KINDS = ("mesh468", "dlib68")  # files of facial/
WHOLEBODY = slice(23, 91)  # the face's 68 points among the 133 of COCO-WholeBody
_LOWER = 0.05  # of the face's middle below that of its box, in face widths

# (picture (H, W, 3) uint8, x, y, width of the face in pixels, roll) -> (points (K, 2), certainty)
Finder = Callable[[np.ndarray, float, float, float, float], tuple[np.ndarray, float]]


@dataclasses.dataclass(frozen=True)
class Points:
    """Of one face over N frames, in picture widths."""

    xy: np.ndarray  # (N, K, 2) float32
    seen: np.ndarray  # (N,) how certain it is that they are a face's, 0 .. 1
    light: np.ndarray  # (N,) mean grey of the face, 0 .. 255
    height: float  # of the picture, in widths


def recipe(kind: str) -> dict:
    """The definition of a kind's points. UserError for an unknown kind."""
    return dict(_module(kind).KIND)


def lacking(kind: str) -> str:
    """What to install for a kind: a pip command; "" where its packages are here."""
    module = _module(kind)
    return "" if all(importlib.util.find_spec(name) for name in module.NEEDS) else module.INSTALL


def finder(kind: str) -> Finder:
    """Finds the points of one face in a picture. Raises UserError: an unknown kind, or its packages
    are missing."""
    command = lacking(kind)
    if command:
        raise UserError("a package is missing", where=f"--landmarks={kind}",
                        expected=" and ".join(_module(kind).NEEDS), hint=command)
    return _loaded(kind, threading.get_ident())


@functools.cache
def _loaded(kind: str, thread: int) -> Finder:
    """Loaded once a thread: one network serves no two at a time, and dlib's takes a second."""
    del thread
    if _module(kind).NOTE:
        print(_module(kind).NOTE, file=sys.stderr, flush=True)
    return _module(kind).Finder()


def along(track: faces.Track, frames: Iterable[np.ndarray], find: Finder) -> Points:
    """Points of the tracked face in every frame (RGB pictures of one size)."""
    xy, seen, light, height = [], [], [], 1.0
    for k, image in zip(range(len(track.width)), frames, strict=True):
        scale = image.shape[1]
        x, y = track.centre[k] * scale
        width = track.width[k] * scale
        points, certain = find(image, x, y + _LOWER * width, width, track.roll[k])
        xy.append(points / scale)
        seen.append(certain)
        light.append(_grey(image, points))
        height = image.shape[0] / scale
    return Points(np.array(xy, np.float32), np.array(seen), np.array(light), height)


def turn_of(points: Points, rate: float) -> np.ndarray:
    """(N, 4) rotation of a head; frames of which nothing is seen are interpolated."""
    seen = points.seen >= 0.5
    if not seen.any():
        raise faces.FaceError("face hidden", expected="frames in which landmarks are found",
                              found=f"none of {len(seen)}")
    xy = np.where(seen[:, None, None], points.xy, np.nan)
    return head_rotation.fit(xy, rate)


def in_crop(crop: np.ndarray, find: Finder) -> tuple[np.ndarray, float]:
    """(K, 2) points as fractions of the side, and certainty, of one crop as faces.Cropper cuts
    them."""
    side = crop.shape[0]
    width = side / faces.MARGIN
    points, certain = find(crop, side / 2, side / 2 + _LOWER * width - faces.LOWER * side,
                           width, 0.0)
    return points / side, certain


def of_wholebody(keypoints_N1333) -> tuple[np.ndarray, np.ndarray]:
    """(N, 68, 2) float32 points in pixels and (N, 68) float32 scores, of COCO-WholeBody's 133
    keypoints (x, y, score), as Seamless Interaction gives them."""
    face_N683 = np.asarray(keypoints_N1333, np.float32)[:, WHOLEBODY]
    return face_N683[..., :2], face_N683[..., 2]


def _module(kind: str):
    if kind not in KINDS:
        raise UserError("unknown landmarks", where="--landmarks", expected=" or ".join(KINDS),
                        found=repr(kind))
    return importlib.import_module(f"data_pipelines.media.facial.{kind}")


def _grey(image: np.ndarray, points: np.ndarray) -> float:
    """Mean grey inside the points' bounding box; 0 where that is outside the picture."""
    left, top = np.maximum(points.min(0), 0).astype(int)
    right, bottom = np.maximum(np.ceil(points.max(0)), 0).astype(int)
    part = image[top:bottom, left:right]
    return float(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY).mean()) if part.size else 0.0
