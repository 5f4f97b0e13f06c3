"""Sound and pictures written while they are made: raw PCM, WAV, and MP4 in fragments, each of which
plays as far as it was written. None needs to seek, so all can go down a pipe.

A film's fragment begins with every picture that stands alone (`GROUP` apart) and wherever
`FRAGMENT` has passed, so that much may be missing at a cut.
"""

import fractions
import struct
from collections.abc import Iterable
from typing import BinaryIO, Protocol

import av
import numpy as np

PCM = {"s16le": "<i2", "f32le": "<f4"}  # FFmpeg's names
FORMATS = (*PCM, "wav", "mp4")
UNKNOWN = 0xFFFFFFFF  # bytes of a WAV that is not over, as FFmpeg and SoX write it to pipes
HEADER = 44  # bytes of it
GROUP, FRAGMENT = 1.0, 0.25  # seconds


class Writer(Protocol):
    """What all writers here do; `file` stays open."""

    def add(self, sound_N: np.ndarray, pictures: Iterable[np.ndarray]) -> None:
        """Samples (N,) float in [-1, 1], and pictures (H, W, 3) uint8, that follow those before."""

    def finish(self) -> None:
        """Ends it, complete or cut."""


class PcmWriter:
    """Mono samples without a header; pictures are left out.

    Args:
      file: open for writing bytes.
      kind: one of PCM.
    """

    def __init__(self, file: BinaryIO, kind: str):
        self._file, self._kind = file, PCM[kind]

    def add(self, sound_N, pictures=()):
        if self._kind == PCM["s16le"]:
            sound_N = np.round(np.clip(sound_N, -1.0, 1.0) * 32767.0)
        self._file.write(np.asarray(sound_N).astype(self._kind).tobytes())
        self._file.flush()

    def finish(self):
        self._file.flush()


class WavWriter(PcmWriter):
    """16-bit mono. Its header says that the length is unknown; `finish` mends that in a file that
    can seek."""

    def __init__(self, file: BinaryIO, rate: int):
        super().__init__(file, "s16le")
        self._rate = rate
        self._file.write(self._header(UNKNOWN))

    def finish(self):
        super().finish()
        if self._file.seekable():
            size = self._file.tell() - HEADER
            self._file.seek(0)
            self._file.write(self._header(min(size, UNKNOWN)))
            self._file.flush()

    def _header(self, size: int) -> bytes:
        whole = min(size + HEADER - 8, UNKNOWN)
        return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", whole, b"WAVE", b"fmt ", 16, 1, 1,
                           self._rate, 2 * self._rate, 2, 16, b"data", size)


class Fragments:
    """What FFmpeg has written, whole fragments at any time; it cannot seek here."""

    def __init__(self):
        self._parts: list[bytes] = []

    def write(self, data) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """What has come since the last time."""
        data = b"".join(self._parts)
        self._parts = []
        return data


class FragmentedMp4Writer:
    """H.264 and AAC, mono. Sound that comes before the first picture waits for it.

    Args:
      file: open for writing bytes.
      fps: pictures a second.
      rate: samples a second.
      crf: libx264's quality.
      alone: where no picture comes, whether the film has sound alone; else nothing is written.
    """

    def __init__(self, file: BinaryIO, fps: float, rate: int, *, crf: int = 18,
                 alone: bool = True):
        self._file, self._fps, self._rate, self._crf = file, fps, rate, crf
        self._alone = alone
        # the encoder's delay is in an edit list, which a moov written beforehand cannot hold
        self._fragments = Fragments()
        self._container = av.open(self._fragments, "w", format="mp4", options={
            "movflags": "frag_keyframe+delay_moov+default_base_moof",
            "frag_duration": str(round(FRAGMENT * 1e6)), "flush_packets": "1"})
        self._video = self._audio = None
        self._early: list[np.ndarray] = []
        self._heard = 0

    def add(self, sound_N, pictures=()):
        for image_HWC in pictures:
            if self._video is None:
                self._begin(image_HWC.shape)
            height, width = image_HWC.shape[:2]
            if height % 2 or width % 2:
                image_HWC = np.pad(image_HWC, [(0, height % 2), (0, width % 2), (0, 0)],
                                   mode="edge")
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24")
            self._container.mux(self._video.encode(image))
        if len(sound_N):
            self._early.append(np.asarray(sound_N, np.float32))
        if self._video is not None:
            self._hear()
        self._write()

    def finish(self):
        if self._video is None and self._early and self._alone:
            self._begin(None)
        if self._audio is not None:
            self._hear()
            if self._video is not None:
                self._container.mux(self._video.encode(None))
            self._container.mux(self._audio.encode(None))
        self._container.close()
        self._write()

    def _write(self) -> None:
        """Whole fragments at once, so that a kill hardly ever cuts one."""
        if data := self._fragments.take():
            self._file.write(data)
            self._file.flush()

    def _begin(self, shape) -> None:
        if shape is not None:
            rate = fractions.Fraction(self._fps).limit_denominator(1001)
            self._video = self._container.add_stream("libx264", rate=rate)
            self._video.width, self._video.height = (n + n % 2 for n in (shape[1], shape[0]))
            self._video.pix_fmt = "yuv420p"
            # no picture waits for a later one
            self._video.options = {"crf": str(self._crf), "preset": "veryfast",
                                   "tune": "zerolatency", "g": str(round(GROUP * self._fps))}
        self._audio = self._container.add_stream("aac", rate=self._rate, layout="mono")

    def _hear(self) -> None:
        for sound_N in self._early:
            frame = av.AudioFrame.from_ndarray(sound_N[None], format="fltp", layout="mono")
            frame.rate, frame.pts = self._rate, self._heard
            frame.time_base = fractions.Fraction(1, self._rate)
            self._container.mux(self._audio.encode(frame))
            self._heard += len(sound_N)
        self._early = []


def writer(file: BinaryIO, kind: str, rate: int) -> Writer:
    """The one for sound alone of a format of FORMATS."""
    return WavWriter(file, rate) if kind == "wav" else PcmWriter(file, kind)
