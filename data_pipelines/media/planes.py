"""Squares out of a video's frames, at a steady rate, in one decoding pass.

A frame of 1080 x 1920 pixels takes longer to convert to RGB than a face in it. Here the square is
cut out of the frame's planes as they were decoded (Y and the half-sized U and V), turned and sized,
and only that is converted.
"""

import contextlib
import functools
import math
from collections.abc import Iterator

import av
import cv2
import numpy as np

from data_pipelines.media import containers, video

# luma weights of red and blue by FFmpeg's numbers of colour spaces; others as those of 601, which
# swscale takes for files that do not say
_LUMA = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_601 = (0.299, 0.114)
_PLANAR = ("yuv420p", "yuvj420p")


class Film:
    """A video file, opened once: what its header says, then its frames.

    Attributes: path; `declared`, as media.probe has it, None for a file without pictures.
    Raises MediaError("unreadable").
    """

    def __init__(self, path):
        self.path = path
        self._stack = contextlib.ExitStack()
        self._container = self._stack.enter_context(containers.opened(path))
        self.declared = containers.declared(self._container).video

    def close(self) -> None:
        self._stack.close()

    def frames_at(self, fps: float, count: int, start: float | None = None
                  ) -> Iterator[tuple[av.VideoFrame, video.Turned]]:
        """Yields `count` decoded frames, and how each is turned: the k-th is the one nearest in
        time to start + k / fps; `start` defaults to the first frame's time. The last one is held
        where there are no more. Nothing is converted, and what follows the last one asked for is
        not decoded. Once only: the file is closed then.

        Raises MediaError as `video.iterate_video` does.
        """
        held, k = None, 0
        for time, _, frame, _, turned in video.shown(self.path, container=self._container):
            start = time if start is None else start
            while held is not None and k < count and (wanted := start + k / fps) <= time:
                yield (frame, turned) if time - wanted < wanted - held[0] else held[1]
                k += 1
            if k >= count:
                return
            held = time, (frame, turned)
        for _ in range(k, count):
            yield held[1]


def square(frame: av.VideoFrame, turned: video.Turned, middle, side: float, roll: float, size: int
           ) -> np.ndarray:
    """(size, size, 3) uint8 RGB.

    Args:
      frame, turned: of any format, as `Film.frames_at` yields them.
      middle: of the square: x and y in pixels, 0 the middle of the first.
      side: of the square, pixels.
      roll: radians by which it is turned clockwise in the picture.
      size: of the result, pixels.
    """
    x, y = middle
    if frame.format.name not in _PLANAR or any(turned):
        return _cut(video.upright(frame, turned), x, y, side, roll, size)
    luma, u, v = (_view(plane) for plane in frame.planes)
    left, right, top, bottom = _around(x, y, side, roll, size, *luma.shape)
    half = np.s_[top // 2 : -(-bottom // 2), left // 2 : -(-right // 2)]
    luma, u, v, unit = luma[top : bottom, left : right], u[half], v[half], 1
    if side > 2 * size:  # averages pixels first: interpolation alone would alias
        luma, unit = cv2.resize(luma, u.shape[::-1], interpolation=cv2.INTER_AREA), 2
    else:
        u, v = (cv2.resize(c, luma.shape[::-1], interpolation=cv2.INTER_LINEAR) for c in (u, v))
    x, y = ((at - corner + 0.5) / unit - 0.5 for at, corner in ((x, left), (y, top)))
    cut = _cut(cv2.merge([luma, u, v]), x, y, side / unit, roll, size)
    full = frame.format.name == "yuvj420p" or frame.color_range == 2
    return cv2.transform(cut, _to_rgb(frame.colorspace, full))


def _view(plane) -> np.ndarray:
    """(H, W) of a decoded plane, not copied."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def _cut(image: np.ndarray, x: float, y: float, side: float, roll: float, size: int) -> np.ndarray:
    """The square of an image (H, W, 3); beyond its edge the edge is drawn out."""
    left, right, top, bottom = _around(x, y, side, roll, size, *image.shape[:2])
    part, unit = image[top : bottom, left : right], 1
    while side > 2 * unit * size and min(part.shape[:2]) > 1:  # by halves, which is fast
        part = part[: len(part) // 2 * 2, : part.shape[1] // 2 * 2]
        part = cv2.resize(part, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        unit *= 2
    # result pixel -> pixel of the halved part
    step = side / size / unit
    cos, sin = step * math.cos(roll), step * math.sin(roll)
    middle = (size - 1) / 2
    first = (x - left + 0.5) / unit - 0.5 - (cos - sin) * middle
    second = (y - top + 0.5) / unit - 0.5 - (sin + cos) * middle
    matrix = np.array([[cos, -sin, first], [sin, cos, second]])
    return cv2.warpAffine(part, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE,
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _around(x, y, side, roll, size, height, width) -> tuple[int, int, int, int]:
    """Left, right, top and bottom of what a square needs of an image."""
    reach = side / 2 * (abs(math.cos(roll)) + abs(math.sin(roll))) + 2 * max(2.0, side / size)
    return *_span(x - reach, x + reach, width), *_span(y - reach, y + reach, height)


def _span(first: float, last: float, size: int) -> tuple[int, int]:
    """Pixels from `first` to `last` as far as there are any, at least two where there are: from an
    even one, an even number, since halves of others are taken five times as slowly."""
    begin = min(max(int(first), 0), max(size - 2, 0)) // 2 * 2
    return begin, min(max(int(last) + 2, begin + 1) + 1, size + 1) // 2 * 2 if size > 1 else 1


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
