"""Sound and pictures into files: WAV, and H.264 with AAC, encoded picture by picture so that memory
does not grow with the duration."""

import contextlib
import fractions
import os
import pathlib
from collections.abc import Iterable

import av
import numpy as np
import soundfile

from avjax.errors import UserError
from avjax.storage import atomic

SECONDS_APART = 0.25  # how far sound and pictures may differ in length


class Mp4Writer:
    """Context manager that writes a film; `path` appears, complete, when it ends without an error.

    Args:
      path: of the mp4; its folder is made.
      fps: pictures a second.
      audio: (N,) float in [-1, 1], or None. It is interleaved with the pictures as they come.
      rate: of the audio, Hz.
      crf: libx264's quality.
    """

    def __init__(self, path, fps: float = 30.0, audio: np.ndarray | None = None, rate: int = 22050,
                 crf: int = 18):
        self.path = pathlib.Path(path)
        self.fps = fps
        self.audio = audio
        self.rate = rate
        self.crf = crf
        self.count = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            aside = stack.enter_context(atomic.aside(self.path, shared=True))
            self._container = av.open(os.fspath(aside), "w", format="mp4",
                                      options={"movflags": "faststart"})
            self._stack = stack.pop_all()
        return self

    def add(self, image_HWC: np.ndarray) -> None:
        """The next picture, (H, W, 3) uint8; odd sizes gain an edge pixel. UserError for another
        size than the first's."""
        image_HWC = np.asarray(image_HWC)
        if not self.count:
            self._start(image_HWC.shape)
        if image_HWC.shape != self._shape or image_HWC.dtype != np.uint8:
            raise UserError("frames differ in size or type", where=str(self.path),
                            expected=f"{self._shape} uint8",
                            found=f"{image_HWC.shape} {image_HWC.dtype}")
        height, width = self._shape[:2]
        if height % 2 or width % 2:
            image_HWC = np.pad(image_HWC, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24")
        self._container.mux(self._video.encode(image))
        self.count += 1
        self._sound_until(round(self.count / self.fps * self.rate))

    def __exit__(self, kind, error, traceback):
        with self._stack:  # renames the file, or removes it after an error
            if kind is None:
                self._finish()
            else:
                self._abandon()
                raise error

    def _start(self, shape) -> None:
        if len(shape) != 3 or shape[2] != 3:
            raise UserError("not a picture", where=str(self.path),
                            expected="(height, width, 3) uint8", found=str(shape))
        self._shape = tuple(shape)
        rate = fractions.Fraction(self.fps).limit_denominator(1001)
        self._video = self._container.add_stream("libx264", rate=rate)
        self._video.width, self._video.height = shape[1] + shape[1] % 2, shape[0] + shape[0] % 2
        self._video.pix_fmt = "yuv420p"
        self._video.options = {"crf": str(self.crf), "preset": "veryfast"}
        self._sound, self._heard = None, 0
        if self.audio is not None:
            self._sound = self._container.add_stream("aac", rate=self.rate, layout="mono")

    def _sound_until(self, sample: int) -> None:
        """Encodes the samples before `sample` that have not been."""
        if self._sound is None or sample <= self._heard:
            return
        part_N = np.ascontiguousarray(self.audio[self._heard:sample], np.float32)
        if len(part_N):
            frame = av.AudioFrame.from_ndarray(part_N[None], format="fltp", layout="mono")
            frame.rate = self.rate
            frame.pts = self._heard
            frame.time_base = fractions.Fraction(1, self.rate)
            self._container.mux(self._sound.encode(frame))
        self._heard += len(part_N)

    def _finish(self) -> None:
        if not self.count:
            self._abandon()
            raise UserError("no frames to write", where=str(self.path), expected=">= 1", found="0")
        if self._sound is not None and abs(self.count / self.fps
                                           - len(self.audio) / self.rate) > SECONDS_APART:
            self._abandon()
            raise UserError("sound and pictures differ in length", where=str(self.path),
                            expected=f"within {SECONDS_APART} s",
                            found=f"{self.count / self.fps:.2f} s of pictures, "
                            f"{len(self.audio) / self.rate:.2f} s of sound")
        self._container.mux(self._video.encode(None))
        if self._sound is not None:
            self._sound_until(len(self.audio))
            self._container.mux(self._sound.encode(None))
        self._container.close()

    def _abandon(self) -> None:
        """Closes the file, whose end no longer matters."""
        try:
            self._container.close()
        except (OSError, ValueError):
            pass


def write_mp4(path, frames: Iterable[np.ndarray], fps: float = 30.0,
              audio: np.ndarray | None = None, rate: int = 22050, crf: int = 18) -> None:
    """Writes H.264 (+ AAC), so that `path` is whole or absent.

    frames: iterable of (H, W, 3) uint8, all of one size, read one by one; audio: (N,) float in [-1,
      1].
    Raises UserError when there are no frames, sizes differ, or sound and pictures differ by more
    than 0.25 s.
    """
    with Mp4Writer(path, fps, audio, rate, crf) as file:
        for image_HWC in frames:
            file.add(image_HWC)


def write_wav(path, audio_N: np.ndarray, rate: int) -> None:
    """16-bit PCM of (N,) float in [-1, 1]. OSError with the system's own words where it cannot be
    written."""
    try:
        soundfile.write(path, audio_N, rate, format="WAV", subtype="PCM_16")
    except soundfile.LibsndfileError:  # its words for a full disk are "System error."
        with open(path, "ab") as file:
            file.write(bytes(1 << 16))
        raise
