"""Squares out of a video's frames, at a steady rate, in one decoding pass.

A frame of 1080 x 1920 pixels takes longer to convert to RGB than a face in it. Here the square is
cut out of the frame's planes as they were decoded (Y and the half-sized U and V), turned and sized,
and only that is converted.
"""

import contextlib
import functools
import itertools
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

    def frames_at(self, fps: float, count: int, start: float | None = None
                  ) -> Iterator[tuple[av.VideoFrame, video.Turned]]:
        """Yields `count` decoded frames, and how each is turned: the k-th is the one nearest in
        time to start + k / fps; `start` defaults to the first frame's time. The last one is held
        where there are no more. Nothing is converted, and what follows the last one asked for is
        not decoded. Once only: the file is closed then.

        Raises MediaError as `video.iterate_video` does.
        """
        shown = ((time, length, (frame, turned)) for time, length, frame, _, turned
                 in video.shown(self.path, container=self._container))
        with self._stack:
            for _, found in itertools.islice(video.nearest(shown, fps, start, math.inf), count):
                yield found


class Squares:
    """Cuts squares out of decoded frames of one size: `squares(k, frame, turned)` is the k-th,
    (size, size, 3) uint8 RGB.

    Args:
      middle_N2: of the squares: x and y in pixels, 0 the middle of the first.
      side_N: of the squares, pixels.
      roll_N: radians by which they are turned clockwise in the picture.
      size: of the results, pixels.
      picture: width and height of the upright frames.
    """

    def __init__(self, middle_N2, side_N, roll_N, size: int, picture: tuple[int, int]):
        self._size = size
        cos_N, sin_N = np.cos(roll_N), np.sin(roll_N)
        step_N = np.asarray(side_N) / size
        reach_N = np.asarray(side_N) / 2 * (np.abs(cos_N) + np.abs(sin_N))
        reach_N += 2 * np.maximum(2.0, step_N)
        # pixels are averaged first, by halves, which is fast: interpolation alone would alias
        halved_N = np.ceil(np.log2(np.maximum(step_N, 1e-6)) - 1 - 1e-9).clip(0, 8).astype(int)
        spans, inside = [], []
        for at_N, pixels in zip(np.transpose(middle_N2), picture, strict=True):
            begin_N = np.clip(at_N - reach_N, 0, max(pixels - 2, 0)).astype(int) // 2 * 2
            # an even number, since halves of others are taken five times as slowly
            end_N = (np.maximum(at_N + reach_N, begin_N).astype(int) + 3) // 2 * 2
            spans += [begin_N, np.minimum(end_N, pixels)]
            inside.append(at_N - begin_N + 0.5)
        least_N = np.minimum(spans[1] - spans[0], spans[3] - spans[2])
        halved_N = np.minimum(halved_N, np.log2(np.maximum(least_N, 1)).astype(int))
        first = [x_N / 2**halved_N - 0.5 for x_N in inside]
        self._halved, self._spans = halved_N.tolist(), np.stack(spans, 1).tolist()
        # result pixel -> pixel of the halved part
        cos_N, sin_N = (x * step_N / 2**halved_N for x in (cos_N, sin_N))
        edge = (size - 1) / 2
        self._matrices = np.stack([
            np.stack([cos_N, -sin_N, first[0] - (cos_N - sin_N) * edge], -1),
            np.stack([sin_N, cos_N, first[1] - (sin_N + cos_N) * edge], -1)], 1)

    def __call__(self, k: int, frame: av.VideoFrame, turned: video.Turned) -> np.ndarray:
        left, right, top, bottom = self._spans[k]
        if frame.format.name not in _PLANAR or any(turned):
            part = video.upright(frame, turned)[top:bottom, left:right]
            for _ in range(self._halved[k]):
                part = _half(part)
            return self._turned(k, part)
        luma, u, v = (_view(plane) for plane in frame.planes)
        half = np.s_[top // 2 : -(-bottom // 2), left // 2 : -(-right // 2)]
        luma, u, v = luma[top:bottom, left:right], u[half], v[half]
        for already in range(self._halved[k]):
            luma = cv2.resize(luma, u.shape[::-1], interpolation=cv2.INTER_AREA) if not already \
                else _half(luma)
            if already:
                u, v = _half(u), _half(v)
        if not self._halved[k]:
            u, v = (cv2.resize(c, luma.shape[::-1]) for c in (u, v))
        full = frame.format.name == "yuvj420p" or frame.color_range == 2
        cut = self._turned(k, cv2.merge([luma, u, v]))
        return cv2.transform(cut, _to_rgb(frame.colorspace, full))

    def _turned(self, k: int, part: np.ndarray) -> np.ndarray:
        """Beyond the picture's edge the edge is drawn out."""
        return cv2.warpAffine(part, self._matrices[k], (self._size, self._size),
                              borderMode=cv2.BORDER_REPLICATE,
                              flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _view(plane) -> np.ndarray:
    """(H, W) of a decoded plane, not copied."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def _half(image: np.ndarray) -> np.ndarray:
    """An image at half the size: means of two by two pixels, an odd one at the end left out."""
    height, width = (n // 2 for n in image.shape[:2])
    return cv2.resize(image[: 2 * height, : 2 * width], (width, height),
                      interpolation=cv2.INTER_AREA)


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
