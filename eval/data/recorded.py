"""Films and sounds as they were recorded, or as somebody else's system made them: samples and
pictures of files, of clips that keep pictures, and of a folder of recordings that stands for a
dataset.

Suffixes: N samples.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np

from avjax.errors import UserError
from avjax.signal.resample import resampled
from avjax.weights.reader import file_sha256
from data_pipelines import media
from data_pipelines.features.common.clips import to_float
from data_pipelines.ingest.common import passage, recordings
from data_pipelines.media import faces, video

RATE = recordings.RATE
FACE_SIZE, ENLARGED = 128, 4.0  # of crops that landmarks are found in (ours)
MIDDLE, FACE = passage.MIDDLE, passage.FACE  # what of a picture counts


@dataclasses.dataclass(frozen=True)
class Frame:
    """How pictures are taken: `fps` of them a second, each the nearest in time; the `crop` of them
    that counts; resized to `size` pixels square, or 0: as they are. A face that is followed needs a
    size."""

    fps: int
    crop: str = MIDDLE
    size: int = 0

    @property
    def recipe(self) -> dict:
        """For results."""
        return dataclasses.asdict(self) | {"frames": "nearest in time", "resize": "OpenCV, area to "
                                           "shrink, bicubic to enlarge"}


class OfFiles:
    """A recording on disk. Nothing is opened before it is asked for; errors are media.MediaError
    and faces.FaceError.

    Args:
      source: its files.
      frame: how its pictures are taken; None: they do not count.
    """

    def __init__(self, source: recordings.Source, frame: Frame | None):
        self.source, self.frame = source, frame
        self.has_pictures = frame is not None and source.video is not None

    @functools.cached_property
    def has_track(self) -> bool:
        """Whether there is a track of sound, silent or not."""
        return self.source.audio is not None or media.probe(self.source.video).audio is not None

    @property
    def has_sound(self) -> bool:
        """Whether anything is to be heard."""
        return bool(len(self.samples))

    @functools.cached_property
    def _span(self) -> tuple[media.Sound | None, float, float]:
        """(sound, first second, last second). The first picture is where a film begins, with and
        without sound: coders put some milliseconds in front of that."""
        if not self.has_track:
            return None, *recordings.shown(self.source.video)
        sound, begin, end = recordings.clocked(self.source, pictures=self.has_pictures)
        return sound, begin, min(end, sound.end)

    @property
    def seconds(self) -> float:
        """Of what has sound and pictures, where it has both."""
        _, begin, end = self._span
        return end - begin

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """(N,) float32 at RATE; none where nothing is to be heard."""
        sound, begin, end = self._span
        audio_N = np.zeros(0, np.float32) if sound is None else sound.between(begin, end)
        return audio_N if recordings.audible(audio_N) else audio_N[:0]

    @functools.cached_property
    def count(self) -> int:
        """How many pictures there are, one or more. MediaError: "too short" for one."""
        count, fps = int(self.seconds * self.frame.fps + 1e-3), self.frame.fps
        if not count:
            raise media.MediaError("too short", self.source.video, expected="one picture or more, "
                                   f"of {fps} a second", found=f"{self.seconds:.3f} s")
        return count

    def pictures(self) -> tuple[int, Iterator[np.ndarray]]:
        """How many there are, and each (H, W, 3) uint8 RGB, decoded when it is asked for."""
        return self.count, self._followed(self.frame.size) if self.frame.crop == FACE else (
            self._cut(image) for image in self._frames())

    def _frames(self, max_side: int | None = None) -> Iterator[np.ndarray]:
        begin = self._span[1]
        stop = begin + self.count / self.frame.fps
        return (image for _, image in video.frames_at(self.source.video, self.frame.fps, begin,
                                                      stop, max_side))

    def _cut(self, image: np.ndarray) -> np.ndarray:
        image, size = passage.shown(image, MIDDLE, self.source.video), self.frame.size
        if size in (0, len(image)):
            return image
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if size < len(image)
                          else cv2.INTER_CUBIC)

    def _followed(self, size: int) -> Iterator[np.ndarray]:
        with faces.read_from(self.source.video):
            return followed(self._frames, self.frame.fps, size)

    def faces(self, size: int = FACE_SIZE) -> Iterator[np.ndarray]:
        """Crops of the face, which is followed, as landmarks are found in; of `size`, where the
        pictures are not such crops already. Raises faces.FaceError."""
        if self.frame.crop == FACE:
            return self.pictures()[1]
        return self._followed(size)


class OfClip:
    """A clip with the column `audio`, or `pictures`, or both.

    Args:
      example: of the dataset, whose frames may be read one by one (`lazy`).
      rate: of its sound, Hz.
      frame: how its pictures were taken; None: there are none, or they do not count.
    """

    def __init__(self, example: dict, rate: float, frame: Frame | None):
        self._example, self._rate, self.frame = example, rate, frame
        self.has_track = len(example.get("audio", ())) > 0
        self.has_pictures = frame is not None and len(example.get("pictures", ())) > 0

    @property
    def has_sound(self) -> bool:
        """See OfFiles.has_sound."""
        return bool(len(self.samples))

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """See OfFiles.samples."""
        audio_N = to_float(np.asarray(self._example.get("audio", np.zeros(0, np.int16))))
        if not recordings.audible(audio_N):
            return audio_N[:0]
        return audio_N if self._rate == RATE else resampled(audio_N, self._rate, RATE)

    @property
    def seconds(self) -> float:
        if self.has_track:
            return len(self._example["audio"]) / self._rate
        return len(self._example["pictures"]) / self.frame.fps if self.has_pictures else 0.0

    @property
    def count(self) -> int:
        """Of the pictures."""
        return len(self._example["pictures"])

    def pictures(self) -> tuple[int, Iterator[np.ndarray]]:
        """See OfFiles.pictures."""
        stored = self._example["pictures"]
        return self.count, (np.asarray(stored[k]) for k in range(len(stored)))

    def faces(self, size: int = FACE_SIZE) -> Iterator[np.ndarray]:
        """See OfFiles.faces."""
        if self.frame.crop == FACE:
            return self.pictures()[1]
        return followed(lambda _=None: self.pictures()[1], self.frame.fps, size)


def followed(frames: Callable[..., Iterator[np.ndarray]], fps: float,
             size: int = FACE_SIZE) -> Iterator[np.ndarray]:
    """(size, size, 3) crops of the one face of a film. `frames(longest side)` gives its pictures
    anew; a face may be enlarged ENLARGED times. Raises faces.FaceError: no face, two, a cut, or too
    small a face."""
    crop = faces.Cropper(faces.follow(frames(faces.SHRINK), fps), size, fps, ENLARGED)
    return (crop(k, image) for k, image in enumerate(frames()))


class Folder:
    """A folder of recordings (recordings.find: films, sounds, transcripts beside them) with what a
    benchmark asks of a dataset: one split, examples by id, checksums of the files.

    Raises UserError: no such folder, no media in it.
    """

    name, recipes, codecs = "recordings", {}, ()
    features = dict.fromkeys(("id", "speaker", "text"))

    def __init__(self, folder, split: str):
        self.dir = pathlib.Path(folder)
        self._sources = recordings.find(self.dir)
        self.ids = {split: [s.id for s in self._sources]}
        self.splits = {split: len(self._sources)}

    @functools.cached_property
    def checksums(self) -> dict[str, dict]:
        """{file: {"sha256", "bytes"}}; of one that cannot be read, {}."""
        found: dict[str, dict] = {}
        for source in self._sources:
            for path in source.files:
                try:
                    found[source.place(path)] = {"sha256": file_sha256(path),
                                                 "bytes": path.stat().st_size}
                except (OSError, UserError):
                    found[source.place(path)] = {}
        return found

    def files(self, split: str, index: int) -> recordings.Source:
        """Of an example."""
        self._check(split)
        return self._sources[index]

    def source(self, split: str, fields: Iterable[str] | None = None) -> "Rows":
        """Examples with those of "id", "speaker" and "text" that are asked for."""
        self._check(split)
        fields = tuple(self.features if fields is None else fields)
        make = {"id": lambda s: s.id, "speaker": lambda s: s.speaker, "text": recordings.text_of}
        return Rows({name: make[name](s) for name in fields} for s in self._sources)

    def _check(self, split: str) -> None:
        if split not in self.splits:
            raise UserError("unknown split", where=str(self.dir), expected=" or ".join(self.splits),
                            found=split, hint="a folder of recordings is one split")


class Rows(list):
    """Examples with their ids."""

    @property
    def ids(self) -> list[str]:
        return [row["id"] for row in self]


def first(pictures: Iterator[np.ndarray], count: int, side: int) -> np.ndarray | None:
    """(n, H, W, 3) of the first `count` pictures, made smaller where a side is above `side`; None
    of none."""
    def small(image):
        scale = min(1.0, side / max(image.shape[:2]))
        size = tuple(max(1, round(n * scale)) for n in image.shape[1::-1])
        return image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)

    found = [small(image) for image in itertools.islice(pictures, count)]
    return np.stack(found) if found else None
