"""Squares out of a video's frames, at a steady rate, in one decoding pass.

A frame of 1080 x 1920 pixels takes longer to convert to RGB than a face in it. Here the square is
cut out of the frame's planes as they were decoded (Y and the half-sized U and V), turned and sized,
and only that is converted.
"""

import functools
import math
from collections.abc import Iterator

import av
import cv2
import numpy as np

from data_pipelines.media import video

# luma weights of red and blue by FFmpeg's numbers of colour spaces; others as those of 601, which
# swscale takes for files that do not say
_LUMA = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_601 = (0.299, 0.114)
_PLANAR = ("yuv420p", "yuvj420p")


def frames_at(path, fps: float, count: int, start: float | None = None) -> Iterator[av.VideoFrame]:
    """Yields `count` decoded frames, the k-th the one nearest in time to start + k / fps; `start`
    defaults to the first frame's time. The last one is held where there are no more. Nothing is
    converted, and frames that follow the last one asked for are not decoded.

    Raises MediaError as `video.iterate_video` does.
    """
    held, k = None, 0
    for time, _, frame, _ in video.shown(path):
        start = time if start is None else start
        while held is not None and k < count and (wanted := start + k / fps) <= time:
            yield frame if time - wanted < wanted - held[0] else held[1]
            k += 1
        if k >= count:
            return
        held = time, frame
    for _ in range(k, count):
        yield held[1]


def square(frame: av.VideoFrame, middle, side: float, roll: float, size: int) -> np.ndarray:
    """(size, size, 3) uint8 RGB.

    Args:
      frame: decoded, of any format.
      middle: of the square: x and y in pixels, 0 the middle of the first.
      side: of the square, pixels.
      roll: radians by which it is turned clockwise in the picture.
      size: of the result, pixels.
    """
    x, y = middle
    if frame.format.name not in _PLANAR or "DISPLAYMATRIX" in frame.side_data:
        return _cut(video.upright(frame), x, y, side, roll, size)
    luma, *chroma = (_view(plane) for plane in frame.planes)
    # chroma samples lie on every other column and between two rows
    planes = [_cut(luma, x, y, side, roll, size)]
    planes += [_cut(c, x / 2, y / 2 - 0.25, side / 2, roll, size) for c in chroma]
    full = frame.format.name == "yuvj420p" or frame.color_range == 2
    return cv2.transform(cv2.merge(planes), _to_rgb(frame.colorspace, full))


def _view(plane) -> np.ndarray:
    """(H, W) of a decoded plane, not copied."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def _cut(image: np.ndarray, x: float, y: float, side: float, roll: float, size: int) -> np.ndarray:
    """The square of an image (H, W) or (H, W, 3); beyond its edge the edge is drawn out."""
    cos, sin = math.cos(roll), math.sin(roll)
    step = side / size  # pixels of the image a pixel of the result
    reach = side / 2 * (abs(cos) + abs(sin)) + 2 * max(1.0, step)
    height, width = image.shape[:2]
    left, right = _span(x - reach, x + reach, width)
    top, bottom = _span(y - reach, y + reach, height)
    # averages pixels first, by halves, which is fast: interpolation alone would alias
    halved = 0
    while step > 2 ** (halved + 1) and min(bottom - top, right - left) >= 2 ** (halved + 1):
        halved += 1
    unit = 2**halved
    part = image[top : bottom - (bottom - top) % unit, left : right - (right - left) % unit]
    for _ in range(halved):
        part = cv2.resize(part, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    # result pixel -> pixel of the image -> pixel of the halved part
    middle = (size - 1) / 2
    first = (x - step * (cos - sin) * middle - left + 0.5) / unit - 0.5
    second = (y - step * (sin + cos) * middle - top + 0.5) / unit - 0.5
    step /= unit
    matrix = np.array([[step * cos, -step * sin, first], [step * sin, step * cos, second]])
    return cv2.warpAffine(part, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE,
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _span(first: float, last: float, size: int) -> tuple[int, int]:
    """Pixels from `first` to `last` as far as there are any, at least one."""
    begin = min(max(int(first), 0), size - 1)
    return begin, max(begin + 1, min(int(last) + 2, size))


@functools.cache
def _to_rgb(colorspace: int, full: bool) -> np.ndarray:
    """(3, 4) matrix of 8-bit Y, U, V, 1 to R, G, B."""
    red, blue = _LUMA.get(int(colorspace), _601)
    green = 1 - red - blue
    y, c = (1.0, 1.0) if full else (255 / 219, 255 / 224)
    u, v = 2 * (1 - blue) * c, 2 * (1 - red) * c
    matrix = np.array([[y, 0, v], [y, -u * blue / green, -v * red / green], [y, u, 0]])
    offset = -matrix @ np.array([0.0 if full else 16.0, 128, 128])
    return np.concatenate([matrix, offset[:, None]], 1)
