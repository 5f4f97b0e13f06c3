"""A film of somebody who speaks: its sound, and its motion by the codec of the model's motion.

LIA-X's encoder reads a square of the pictures, 25 a second: of a square film the whole, as the
release does; else one that lies about the face as in the release's sample and stays where it is, so
that the head moves in it. Motion of face codes is read by the eigenfaces of a speaker of the
training data and the track of the face, at 30 Hz, as the clips' was.
Suffixes: T frames of 25 Hz, N samples, M motion, H W size.
"""

import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Iterator

import cv2
import numpy as np
from tqdm import tqdm

from avjax.codecs import eigenface, motion
from avjax.codecs.lia_x.codec import SIZE
from avjax.errors import UserError
from data_pipelines import media
from data_pipelines.features.common import filmed, portraits
from data_pipelines.features.talker import frontend
from data_pipelines.prompting import Input

INPUT = Input("video", "Film of one face. v2a dubs it: motion read of its pictures drives, and the "
                       "film is written with the new sound. Else it gives voice and first frame, "
                       "or with --prefix_seconds is continued.")
FLAG = "--video"
# of the release's sample: side of the picture in widths of the face that the cascade finds, and the
# face's middle in sides
_SIDE, _MIDDLE = 1.82, (0.49, 0.565)
_CROWDED = 0.2  # share of the looks in which a second face is no chance


@dataclasses.dataclass(frozen=True)
class Film:
    """`start` and `end` of the pictures on the file's clock, seconds; `rate` of them, a second;
    `heard`: whether it has a sound track."""

    path: pathlib.Path
    start: float
    end: float
    rate: float
    heard: bool

    @property
    def where(self) -> str:
        return f"{FLAG}={self.path}"

    @property
    def frames(self) -> int:
        """Of 25 Hz that the pictures last."""
        return math.ceil((self.end - self.start) * motion.RATE - 1e-6)

    def pictures(self, rate: float) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 each, so many a second."""
        return (image for _, image in media.frames_at(self.path, rate, self.start, self.end))

    def shown(self) -> tuple[float, Iterator[np.ndarray]]:
        """Pictures a second, and the film's own pictures."""
        return self.rate, self.pictures(self.rate)

    def sound(self, rate: float) -> np.ndarray:
        """(N,) float32 at `rate`, from the first picture on to the end of the sound. UserError:
        there is none."""
        if not self.heard:
            raise UserError("a film without a sound track", where=self.where,
                            expected="the voice of who is seen", found="pictures alone",
                            hint="--audio=FILE beside it")
        heard = media.read_sound(self.path, rate)
        media.say(self.path, heard)
        return heard.between(self.start, max(heard.end, self.start))


def opened(path: str) -> Film:
    """UserError: no such file, no pictures."""
    if not pathlib.Path(path).is_file():
        raise UserError("no such film", where=f"{FLAG}={path}", expected="a film of a face",
                        found="no file")
    times_K = media.video_times(path)
    step = np.median(np.diff(times_K)) if len(times_K) > 1 else 1 / motion.RATE
    return Film(pathlib.Path(path), float(times_K[0]), float(times_K[-1] + step), float(1 / step),
                media.probe(path).audio is not None)


class Reader:
    """Reads the motion of a film as the model's was made.

    Args:
      film: to be read.
      count: frames of 25 Hz, at most, from its beginning.
      request: `face_codec`, `face` and `speaker`.
      decoder: of the model.
      motion_codec: the model's.

    Attributes:
      count: as many of them as there are.
      speaker: whose eigenfaces read it; "" of LIA-X.

    Raises UserError: motion that nothing here reads off pictures, no weights or others, nobody's
    eigenfaces.
    """

    def __init__(self, film: Film, count: int, request, decoder, motion_codec: motion.MotionCodec):
        self.film, self.count = film, min(count, film.frames)
        self._decoder, self._motion_codec = decoder, motion_codec
        self._checked = request.face != portraits.UNCHECKED
        recipe = motion_codec.recipe
        self._lia_x, self.speaker = None, ""
        if recipe["kind"] != motion.KIND:
            self._lia_x = decoder.family.draw_with(request.face_codec)
            self._kind = recipe.get("pictures", {}).get("kind", "recorded")
            return
        kind = recipe["face"].get("kind", "")
        if kind != eigenface.recipe()["kind"]:
            raise UserError("nothing here reads these faces off pictures", where=film.where,
                            expected="a model of LIA-X's motion or of eigenfaces",
                            found=f"faces of kind {kind!r}", hint="--motion=FILE instead")
        codec = decoder.codec("face")
        self.speaker = filmed.whose(film.path, codec, request.speaker, "--speaker")
        self._own = eigenface.unpack(codec, self.speaker)
        self._points = recipe["pose"].get("of", {}).get("kind", "")

    def motion(self) -> np.ndarray:
        """(count, M) z-scored. UserError: no face, several."""
        if self._lia_x:
            bar = tqdm(self._squares(), total=self.count, unit="picture", delay=5, mininterval=1,
                       desc="reading the film")
            return self._motion_codec.encode(self._lia_x.motion(bar))
        film, stats = self.film, self._decoder.codec("pose")
        codes_NK, pose_N7 = filmed.read(film.path, film.start, film.end, self._own, self._points)
        raw_TM = frontend.face_motion(codes_NK, (pose_N7 - stats["mean"]) / stats["std"],
                                      filmed.FPS)
        return self._motion_codec.encode(raw_TM)[:self.count]

    def first(self) -> np.ndarray | None:
        """(1, 512, 512, 3) uint8 to draw on, where the motion is LIA-X's."""
        return np.array([next(self._squares())]) if self._lia_x else None

    def _squares(self) -> Iterator[np.ndarray]:
        """(512, 512, 3) uint8 each."""
        x, y, side = self._square
        for picture in itertools.islice(self.film.pictures(motion.RATE), self.count):
            cut = picture[y:y + side, x:x + side]
            yield cut if side == SIZE else cv2.resize(
                cut, (SIZE, SIZE), interpolation=cv2.INTER_AREA if side > SIZE
                else cv2.INTER_CUBIC)

    @functools.cached_property
    def _square(self) -> tuple[int, int, int]:
        """Left, top and side of what is read, in pixels; the face is looked for once a second."""
        looks = math.ceil(self.count / motion.RATE)
        found, crowded = [], 0
        for picture in itertools.islice(self.film.pictures(1.0), looks if self._checked else 1):
            height, width = picture.shape[:2]
            boxes = portraits.find(picture, self._kind) if self._checked else []
            found += boxes[:1]
            crowded += len(boxes) > 1
        if not self._checked:
            if height != width:
                raise UserError("the film is not square", where=self.film.where,
                                expected="as wide as high, where no face is looked for",
                                found=f"{width} x {height}", hint="leave --face out, or crop it")
            return 0, 0, width
        if len(found) < looks / 2:
            raise UserError("a film without a face", where=self.film.where,
                            expected="one face, from the front",
                            found=f"one in {len(found)} of {looks} looks",
                            hint=f"give another film, or --face={portraits.UNCHECKED} to take it "
                                 "as it is")
        if crowded > _CROWDED * looks:
            raise UserError("a film with several faces", where=self.film.where,
                            expected="one face", found=f"more in {crowded} of {looks} looks",
                            hint="crop the film to one person")
        if height == width:
            return 0, 0, width
        box_4 = np.median(found, axis=0)
        side = int(min(_SIDE * box_4[2], height, width))
        left, top = (int(np.clip(at + size / 2 - share * side, 0, most - side))
                     for at, size, share, most in zip(box_4[:2], box_4[2:], _MIDDLE,
                                                      (width, height), strict=True))
        return left, top, side
