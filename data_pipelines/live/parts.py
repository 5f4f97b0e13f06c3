"""Streams that have not ended yet -> the sound and the pictures that are final by now.

`decode` takes whole streams; here the streams of a chunk go in and what is final by then comes out.
Sound is that of a streamed vocoder: exact for BigVGAN, a form of its own for Griffin-Lim. Faces and
poses are resampled to the same numbers.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from avjax.codecs.bigvgan_stream import StreamedBigVGAN
from avjax.signal import mel as mel_lib
from avjax.signal.griffin_lim_stream import ITERATIONS, StreamedGriffinLim
from data_pipelines import decode

Streams = Mapping[str, np.ndarray]


class Part(NamedTuple):
    """Of the look-ahead: what waits, and for how many frames of which rate."""

    name: str
    frames: float  # math.inf: all
    rate: float

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of the vocoder: frames at a time; and Griffin-Lim's frames after them (BigVGAN's are its
    halo) and iterations."""

    block: int = 16
    ahead: int = 8
    iterations: int = ITERATIONS


class Motion(Protocol):
    """How one family decodes motion as it comes; see `StreamDecoder.live_motion`."""

    look_ahead: tuple[Part, ...]

    def feed(self, streams: Streams) -> tuple[np.ndarray, np.ndarray]:
        """New frames of the streams -> (face codes (n, F), z-scored pose (n, 7)) at `fps`."""

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """What is still owed."""


class OwnSound(Protocol):
    """How one family makes sound as it comes without mel; see `StreamDecoder.live_sound`."""

    look_ahead: tuple[Part, ...]

    def compile(self) -> None:
        """Has compiled all that speech will need."""

    def feed(self, streams: Streams) -> np.ndarray:
        """New frames of the streams -> (N,) float32."""

    def finish(self) -> np.ndarray:
        """What is still owed."""


class Whole:
    """Motion of families that decode whole streams only: all of it comes at the end."""

    look_ahead = (Part("motion, as a whole", math.inf, 1.0),)

    def __init__(self, decoder: decode.Decoder):
        self._decoder = decoder
        self._kept: list[Streams] = []

    def feed(self, streams):
        self._kept.append(dict(streams))
        return np.zeros((0, 0), np.float32), np.zeros((0, 7), np.float32)

    def finish(self):
        whole = {name: np.concatenate([part[name] for part in self._kept if name in part])
                 for name in self._kept[0]}
        return self._decoder.face(whole), self._decoder.family.pose_z(whole)


class Sound:
    """One speaker's. `feed` takes the streams of a chunk, `finish` ends them; samples come out."""

    def __init__(self, decoder: decode.Decoder, settings: Settings):
        self._decoder, self._settings = decoder, settings
        self._recipe = decoder.family.mel_recipe
        self._own = decoder.family.live_sound(settings.block)
        self._vocoder = None if self._own else self._new()

    @property
    def look_ahead(self) -> tuple[Part, ...]:
        if self._own:
            return self._own.look_ahead
        name = "Griffin-Lim" if self._decoder.family.vocoder is None else "BigVGAN"
        rate = self._recipe["sample_rate"] / self._recipe["hop"]
        return (Part(f"vocoder, {name}", self._vocoder.look_ahead, rate),)

    def compile(self) -> None:
        """Vocodes as much silence as it takes to have compiled all that speech will need."""
        if self._own:
            self._own.compile()
            return
        vocoder = self._new()
        block = np.full((self._settings.block, self._recipe["bands"]), mel_lib.FLOOR, np.float32)
        for _ in range(3 + 2 * int(vocoder.look_ahead) // self._settings.block):
            vocoder.feed(block)
        vocoder.finish()

    def _new(self) -> StreamedGriffinLim | StreamedBigVGAN:
        s, vocoder = self._settings, self._decoder.family.vocoder
        if vocoder is None:
            return StreamedGriffinLim(self._recipe, block=s.block, ahead=s.ahead,
                                      iterations=s.iterations)
        return StreamedBigVGAN(vocoder, self._recipe, block=s.block)

    def feed(self, streams: Streams) -> np.ndarray:
        """(N,) float32"""
        if not self._decoder.has_audio(streams):
            return np.zeros(0, np.float32)
        if self._own:
            return self._own.feed(streams)
        mel_TM = self._decoder.mel(streams)
        return self._vocoder.feed(mel_lib.denormalise(mel_TM, self._recipe))

    def finish(self) -> np.ndarray:
        """(N,) float32"""
        return (self._own or self._vocoder).finish()


class Pictures:
    """One speaker's. `feed` and `finish` yield (H, W, 3) uint8, drawn when they are asked for;
    `given`: what pictures are painted on. UserError where nothing here can draw."""

    def __init__(self, decoder: decode.Decoder, speaker: str = "", identity=None,
                 given: Streams | None = None):
        self._decoder, self._given = decoder, dict(given or {})
        self._begun = False
        self._paints = decoder.family.paints and identity is None or bool(given)
        if not self._paints:
            self._motion = decoder.family.live_motion() or Whole(decoder)
            self._draw = decoder.drawer(speaker, identity)

    @property
    def look_ahead(self) -> tuple[Part, ...]:
        return () if self._paints else self._motion.look_ahead

    def feed(self, streams: Streams) -> Iterator[np.ndarray]:
        if not self._decoder.has_motion(streams):
            return
        self._begun = True
        if self._paints:
            yield from self._decoder.pictures({**streams, **self._given})[1]
        else:
            yield from self._drawn(*self._motion.feed(streams))

    def finish(self) -> Iterator[np.ndarray]:
        if self._begun and not self._paints:
            yield from self._drawn(*self._motion.finish())

    def _drawn(self, face_NF, pose_NP) -> Iterator[np.ndarray]:
        pose_N7 = self._decoder.pose_of(pose_NP)
        for first in range(0, len(pose_N7), decode.AT_ONCE):
            part = slice(first, first + decode.AT_ONCE)
            yield from self._draw(face_NF[part], pose_N7[part])
