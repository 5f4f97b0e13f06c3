"""A passage of a recording, from some second to some other, or all of it: its sound and its
pictures, checked. Readers of named corpora make clips of it (recordings.py pairs and checks the
files of a user's own folder).

Only the passage is decoded where the format lets one skip. Pictures are the whole frame, its middle
square, a part of it (`Window`), or a face that is followed.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator

import cv2
import numpy as np

from data_pipelines import media
from data_pipelines.ingest.common import recordings
from data_pipelines.ingest.common.recordings import MIN_SECONDS, RATE
from data_pipelines.media import containers, faces, video
from data_pipelines.media import landmarks as media_landmarks
from data_pipelines.media.containers import MediaError

AUDIO_RECIPE = recordings.AUDIO_RECIPE | {"full_scale": 32768}
APART = 1.0  # seconds by which sound and pictures, or a passage and its file, may end apart
PICTURE, MIDDLE, FACE = "picture", "middle", "face"  # what is shown, beside a Window
_SQUARE = 0.02  # relative difference of the sides of a picture that is taken whole


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of the frame, in pixels of a frame that is `of` pixels high."""

    x: float
    y: float
    width: float
    height: float
    of: float

    def cut(self, image: np.ndarray, path) -> np.ndarray:
        """Raises MediaError("window outside the picture")."""
        scale = image.shape[0] / self.of
        left, top = round(self.x * scale), round(self.y * scale)
        right, bottom = (round(v * scale) for v in (self.x + self.width, self.y + self.height))
        if left < 0 or top < 0 or right > image.shape[1] + 1 or bottom > image.shape[0] + 1:
            raise MediaError("window outside the picture", path,
                             expected=f"at most {image.shape[1]} x {image.shape[0]}",
                             found=f"{right} x {bottom}", hint="fetch the resolution that the list "
                             "names, or --show=face")
        return image[top:bottom, left:right]


@dataclasses.dataclass(frozen=True)
class Passage:
    """T pictures, and the sound of the same seconds."""

    audio: np.ndarray  # (N,) int16 at RATE
    pictures: np.ndarray  # (T, size, size, 3) uint8
    tracks: dict[str, np.ndarray]  # where a face was followed: pose (T, 7), landmarks (T, K, 2)
    mended: list[str]

    def pieces(self, rate: float, longest: float) -> Iterator[tuple[int, "Passage"]]:
        """(first frame, piece): equal pieces of at most `longest` seconds, views of this one."""
        count = len(self.pictures)
        edges = np.linspace(0, count, max(1, math.ceil(count / rate / longest - 1e-6)) + 1)
        edges = edges.round().astype(int).tolist()
        for a, b in zip(edges, edges[1:], strict=False):
            audio = self.audio[round(a / rate * RATE):round(b / rate * RATE)]
            tracks = {name: track[a:b] for name, track in self.tracks.items()}
            yield a, Passage(audio, self.pictures[a:b], tracks, self.mended)


def read(path, *, size: int, rate: float, show: str | Window = PICTURE,
         landmarks: str | None = None, sound_of=None, begin: float | None = None,
         end: float | None = None) -> Passage:
    """Reads and checks one.

    Args:
      path: the video.
      size: side of the pictures, pixels.
      rate: pictures a second.
      show: PICTURE (nearly square ones only), MIDDLE, FACE or a Window.
      landmarks: a kind of media/landmarks.py, of a FACE; brings a full rotation of the head.
      sound_of: another file with all of the sound, which begins when the video does.
      begin, end: seconds from the file's beginning; None: all that has sound and pictures.

    Raises:
      MediaError, faces.FaceError: whose `reason` says why it cannot be used.
    """
    media.check_whole(path)
    first, origin = _start(path)
    begin, end = (None if t is None else t + origin for t in (begin, end))
    if sound_of is None:
        heard, mended = sound(path, begin=begin, end=end)
    else:  # its clock is its own
        heard, mended = sound(sound_of)
        heard = dataclasses.replace(heard, start=origin)
    start = max(heard.start, first) if begin is None else begin
    stop = heard.end if end is None else end
    limit = stop + 2 * APART if end is None else end
    seen = _Seen(path, start)
    pictures, tracks = _pictures(seen, path, show, size, rate, start, limit, landmarks)
    for what, there in (("sound", heard.end), ("pictures", seen.end)):
        if abs(stop - there) > APART if end is None else there < end - APART:
            raise MediaError("wrong duration", path, expected=f"{what} up to {stop - origin:.2f} s",
                             found=f"up to {there - origin:.2f} s",
                             hint="fetch it again, or check that sound and pictures belong "
                                  "together")
    count = min(len(pictures), int((min(stop, heard.end, seen.end) - start) * rate + 1e-3))
    if count < MIN_SECONDS * rate:
        raise MediaError("too short", path, expected=f">= {MIN_SECONDS} s",
                         found=f"{count / rate:.2f} s")
    if end is not None and count < int((end - start) * rate + 1e-3):
        mended.append("passage ends with its file")
    if isinstance(show, Window) and seen.height != show.of:
        mended.append(f"window of {show.of} lines scaled to {seen.height}")
    audio = samples(heard.between(start, start + count / rate))
    tracks = {name: track[:count] for name, track in tracks.items()}
    return Passage(audio, pictures[:count], tracks, mended)


def typical(pictures: np.ndarray) -> np.ndarray:
    """The picture of (T, H, W, 3) that is most like their mean: a portrait of whom they show."""
    small = np.stack([cv2.resize(p, (16, 16), interpolation=cv2.INTER_AREA) for p in pictures])
    small = small.astype(np.float32)
    return pictures[int(np.abs(small - small.mean(0)).mean((1, 2, 3)).argmin())]


def sound(path, *, rate: int = RATE, begin: float | None = None, end: float | None = None,
          shortest: float = MIN_SECONDS) -> tuple[media.Sound, list[str]]:
    """(the sound of a file, what was mended in it); see sound.read for `begin` and `end`.

    Raises MediaError: "unreadable", "truncated", "damaged", "no audio", "too short", "silent",
    "NaN".
    """
    media.check_whole(path)
    heard = media.read_sound(path, rate, begin, end)
    if begin is None:  # FLAC says how many samples there are
        media.check_whole(path, len(heard.samples) / rate)
    if heard.broken:
        raise MediaError("NaN", path, expected="finite numbers",
                         found=f"{heard.broken} that are none", hint="convert it again")
    kept = heard.samples if begin is None else heard.between(begin, min(end, heard.end))
    if begin is None and len(kept) < shortest * rate:
        raise MediaError("too short", path, expected=f">= {shortest} s",
                         found=f"{len(kept) / rate:.2f} s")
    if len(kept):
        recordings.check_level(kept, path)
    return heard, ["channels of the sound"] * bool(heard.remarks)


def samples(audio: np.ndarray) -> np.ndarray:
    """(N,) float -> int16; 16-bit files come out as they went in."""
    return np.clip(np.round(audio * 32768.0), -32768, 32767).astype(np.int16)


def native_rate(path) -> int:
    """Sample rate that a file's header declares, Hz; 0 without sound."""
    found = media.probe(path).audio
    return round(found.rate) if found else 0


class _Seen:
    """The pictures of a file from `start` on; `end` is that of the last one that was taken, and
    `height` its lines."""

    def __init__(self, path, start: float):
        self._path, self._start, self.end, self.height = path, start, start, 0

    def pictures(self, max_side: int | None = None):
        for time, duration, image in video.iterate_video(self._path, max_side, self._start):
            self.end, self.height = time + duration, image.shape[0]
            yield time, duration, image


def _start(path) -> tuple[float, float]:
    """Time of the first picture, and of whatever is first."""
    with containers.opened(path) as container:
        stream = containers.pictures(container, path)
        if stream is None:
            raise MediaError("no video", path, expected="a video stream", found="none")
        _, frame = containers.head(container, stream)
    if frame is None:
        raise MediaError("unreadable", path, expected="at least one picture", found="none")
    first = float(frame.pts * frame.time_base) if frame.pts is not None else 0.0
    heard = media.first_time(path)
    return first, first if heard is None else min(first, heard)


def _pictures(seen: _Seen, path, show, size: int, rate: float, start: float, end: float,
              landmarks: str | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """((T, size, size, 3), {pose, landmarks} where a face is followed)."""
    def frames(max_side: int | None = None):
        return (image for _, image in video.nearest(seen.pictures(max_side), rate, start, end))

    if show != FACE:
        out = [_sized(shown(image, show, path), size, path) for image in frames()]
        return np.stack(out) if out else np.zeros((0, size, size, 3), np.uint8), {}
    track, turn = faces.follow(frames(faces.SHRINK), rate), None
    if landmarks:
        points = media_landmarks.along(track, frames(faces.SHRINK), _finder(landmarks))
        turn = media_landmarks.turn_of(points, rate)
        track = track.turned(turn)
    crop = faces.Cropper(track, size, rate)
    tracks = {"pose": track.pose(turn)} | ({"landmarks": crop.place(points.xy)} if landmarks
                                           else {})
    return np.stack([crop(k, image) for k, image in enumerate(frames())]), tracks


@functools.cache
def _finder(kind: str) -> media_landmarks.Finder:
    return media_landmarks.finder(kind)


def shown(image: np.ndarray, show, path) -> np.ndarray:
    """The part of a picture that is shown, unless a face is followed. Raises MediaError: "not a
    square picture", "window outside the picture"."""
    if isinstance(show, Window):
        return show.cut(image, path)
    height, width = image.shape[:2]
    side = min(height, width)
    if show == PICTURE and max(height, width) > side * (1 + _SQUARE):
        raise MediaError("not a square picture", path, expected="a face that is cut out",
                         found=f"sides of {width / height:.2f} : 1",
                         hint="--show=face follows one")
    top, left = (height - side) // 2, (width - side) // 2
    return image[top:top + side, left:left + side]


def _sized(image: np.ndarray, size: int, path) -> np.ndarray:
    side = min(image.shape[:2])
    if side < size / 2:
        raise MediaError("picture too small", path, expected=f">= {size / 2:.0f} pixels",
                         found=str(side), hint="a smaller --size")
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if side > size
                      else cv2.INTER_CUBIC)
