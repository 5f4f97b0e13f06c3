"""Pictures out of any file, each at its time, upright, with square pixels and without hidden
colours."""

import heapq
from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np

from data_pipelines.media import containers
from data_pipelines.media.containers import MediaError

BACKGROUND = 255  # what shows through transparent pixels: white, here and in portraits
# pictures by which one may be coded before it is shown (the most that H.264 allows)
_REORDERED = 16
# Seconds between looks at how a video is turned. A frame's list of side data refers to the frame,
# and that to it (PyAV 18.1): such frames, of 3 to 25 MB, stay until garbage is collected.
_TURNED = 1.0
Turned = tuple[bool, bool, bool]  # rows and columns change places; mirrored; upended
_WIDEST = 4.0  # a pixel this many times as wide as high, or the reverse, is a broken header


def iterate_video(path, max_side: int | None = None,
                  start: float | None = None) -> Iterator[tuple[float, float, np.ndarray]]:
    """Yields (time, duration in seconds, (H, W, 3) uint8 RGB) in order of presentation, shrunk to
    `max_side`; from the last one before `start` on, or some more, where the format lets one skip.

    All have the first one's size. Frames not later than the one before are dropped. Raises
    MediaError: "unreadable" when the file cannot be opened or holds no picture that can be decoded;
      "no video"; "truncated"; "damaged".
    """
    size = None
    for time, duration, frame, pixel, turned in shown(path, start):
        if size is None:
            size = _square(frame.width, frame.height, pixel, max_side)
            size = size[::-1] if turned[0] else size
        yield time, duration, upright(frame, turned, size)


def upright(frame, turned: Turned, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a decoded frame, turned and mirrored as the file says. `size`: width
    and height of the result; None for those that it has."""
    quarter, mirrored, upended = turned
    if size is None:
        width, height = frame.width, frame.height
    else:
        width, height = size[::-1] if quarter else size
    image = _opaque(frame, width, height)
    image = image.transpose(1, 0, 2) if quarter else image
    image = image[::-1] if upended else image
    return np.ascontiguousarray(image[:, ::-1] if mirrored else image)


def frames_at(path, fps: float = 30.0, start: float | None = None, end: float | None = None,
              max_side: int | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (time, image) at start + k / fps while that is before `end`: each the decoded frame
    nearest in time.

    `start` defaults to the first frame's time, `end` to the last one's plus its duration. The first
    frame is held before its time and the last one after it.
    """
    return nearest(iterate_video(path, max_side, start), fps, start, end)


def nearest(frames: Iterable[tuple[float, float, Any]], fps: float, start: float | None = None,
            end: float | None = None) -> Iterator[tuple[float, Any]]:
    """`frames_at` of what `iterate_video` yields, or of (time, duration, anything)."""
    held = None  # (time, image): the latest frame not after the wanted time
    k = 0
    stop = None
    for time, duration, image in frames:
        start = time if start is None else start
        while held is not None and (wanted := start + k
                                    / fps) <= time and (end is None or wanted < end - 1e-6):
            yield wanted, image if time - wanted < wanted - held[0] else held[1]
            k += 1
        if end is not None and start + k / fps >= end - 1e-6:
            return
        held, stop = (time, image), time + duration
    end = stop if end is None else end
    while (wanted := start + k / fps) < end - 1e-6:
        yield wanted, held[1]
        k += 1


def video_times(path) -> np.ndarray:
    """Presentation times in seconds of the pictures that `iterate_video` would yield, decoded but
    not converted."""
    return np.array([time for time, *_ in shown(path)])


def shown(path, start: float | None = None, container=None):
    """Yields (time, duration, decoded frame, how many times as wide as high its pixels are, how it
    is turned) in order of presentation; `start` and errors as of `iterate_video`. `container`: of
    the file, where it is open already; it is closed in the end."""
    last, asked, turned = -np.inf, -np.inf, None
    with containers.opened(path) if container is None else container as container:
        stream = containers.pictures(container, path)
        if stream is None:
            raise MediaError("no video", path, expected="a video stream", found="audio only")
        stream.thread_type = "AUTO"
        if start is not None:
            containers.skip_to(container, stream, start)
        usual = 1 / float(stream.average_rate) if stream.average_rate else 1 / 30
        pixel, tick = float(stream.sample_aspect_ratio or 1), float(stream.time_base)
        for time, frame in _timed(container, stream, path):
            time = last + usual if time is None and np.isfinite(last) else time or 0.0
            if time > last:
                last = time
                if turned is None or frame.key_frame and time - asked >= _TURNED:
                    turned, asked = _orientation(frame), time
                yield time, frame.duration * tick if frame.duration else usual, frame, pixel, turned
    if last == -np.inf:
        raise MediaError("unreadable", path, expected="at least one picture", found="none")


def _timed(container, stream, path):
    """Yields (time or None, frame) as the decoder does. In AVI times are those of the pictures'
    places in the file, so the picture that is shown n-th has the n-th smallest one."""
    if container.format.name != "avi":
        for frame in containers.decoded(container, stream, path):
            yield frame.time, frame
        return
    waiting, places = [], []
    for frame in containers.decoded(container, stream, path):
        waiting.append(frame)
        heapq.heappush(places, frame.pts or 0)
        if len(waiting) > _REORDERED:
            frame = waiting.pop(0)
            yield float(heapq.heappop(places) * frame.time_base), frame
    for frame in waiting:
        yield float(heapq.heappop(places) * frame.time_base), frame


def _square(width: int, height: int, pixel: float, max_side: int | None) -> tuple[int, int]:
    """(width, height) with square pixels: the shorter direction of a pixel is stretched."""
    pixel = pixel if 1 / _WIDEST <= pixel <= _WIDEST else 1.0
    wide, high = width * max(pixel, 1.0), height * max(1 / pixel, 1.0)
    shrink = min(1.0, (max_side or np.inf) / max(wide, high))
    return max(1, round(wide * shrink)), max(1, round(high * shrink))


def _orientation(frame) -> Turned:
    """Whether rows and columns change places, and then the picture is mirrored left to right, and
    top to bottom.

    The display matrix has rows (a, b, u), (c, d, v), (x, y, w): the pixel (p, q) is shown at (a p +
    c q, b p + d q).
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.float64)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _opaque(frame, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB, transparent pixels over BACKGROUND."""
    if not frame.format.has_palette and not any(c.is_alpha for c in frame.format.components):
        return frame.to_ndarray(format="rgb24", width=width, height=height)
    # before shrinking, which would mix hidden colours in
    shown = over_background(frame.to_ndarray(format="rgba"))
    frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
    return frame.to_ndarray(format="rgb24", width=width, height=height)


def over_background(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 with straight alpha -> (H, W, 3) uint8."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + BACKGROUND * (255 - alpha) + 127) // 255).astype(np.uint8)
