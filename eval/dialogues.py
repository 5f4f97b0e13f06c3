"""Streams of one dialogue of several speakers, and what is heard and seen of them. Everything is
made on demand and kept.

Suffixes: S speakers, T frames at 25 Hz, M what a frame of motion is made of (face code, then pose),
B mel bands.
"""

import functools

import numpy as np

from avjax.signal import mel, rates
from data_pipelines.puppets import face_code
from eval.metrics import turns
from eval.signals import AUDIO, MOTION

FPS = rates.FRAMES
POSE = 7  # the last numbers of a frame of motion


class Dialogue:
    """One variant of one example.

    Args:
      decoder: data_pipelines.decode.Decoder of the dataset's codecs.
      streams: {"mel": (Tm, S, 80), "latents": (T, S, h, w, c), "motion": (T, S, M), ...}; what is
        not there was not made. Motion, where it is given, is taken as it is; else it is read from
        the decoded pictures.
      scored: AUDIO, MOTION: the parts that are this variant's own.
      own_timing: when who speaks was decided by what made it: no frame belongs to one of the truth.
    """

    def __init__(self, decoder, streams: dict[str, np.ndarray], scored: set[str], *,
                 own_timing: bool = False):
        self.decoder, self.streams, self.scored, self.own_timing = decoder, streams, scored, own_timing
        self.has_audio = len(streams.get("mel", ())) > 0
        self.has_motion = len(streams.get("latents", ())) > 0 or len(streams.get("motion", ())) > 0

    @functools.cached_property
    def parties(self) -> list[dict]:
        """The streams of every speaker."""
        return self.decoder.speakers(self.streams)

    @functools.cached_property
    def speakers(self) -> int:
        return next(x.shape[1] for x in self.streams.values() if x.ndim > 1)

    # ---- sound

    @functools.cached_property
    def mel_STB(self) -> list[np.ndarray]:
        """Normalised log-mel of every channel."""
        return list(np.moveaxis(np.asarray(self.streams["mel"], np.float32), 1, 0))

    @property
    def mel_TM(self) -> np.ndarray:
        """All channels, one above the other: what the report draws."""
        return np.concatenate(self.mel_STB, axis=-1)

    @property
    def mel_rate(self) -> float:
        return mel.RECIPE["sample_rate"] / mel.RECIPE["hop"]

    @functools.cached_property
    def total_ms(self) -> int:
        return round(len(self.mel_STB[0]) / self.mel_rate * 1000)

    @functools.cached_property
    def speech(self) -> list[np.ndarray]:
        """(K, 2) ms intervals of speech of every channel."""
        found = [turns.activity(mel.denormalise(x), self.mel_rate) for x in self.mel_STB]
        return [np.minimum(x, self.total_ms) for x in found]

    @functools.cached_property
    def events(self) -> dict[str, np.ndarray]:
        """See eval.metrics.turns.events."""
        return turns.events(self.speech, self.total_ms)

    def speaking(self, frames: int) -> np.ndarray:
        """(S, frames) bool at 25 Hz."""
        at = (np.arange(frames) + 0.5) * 1000 / FPS
        return np.stack([((x[:, :1] <= at) & (at < x[:, 1:])).any(0) for x in self.speech])

    @functools.cached_property
    def waveform(self) -> np.ndarray:
        """The mix of all channels."""
        channels = [self.decoder.waveform(party) for party in self.parties]
        mixed = np.sum([x[:min(map(len, channels))] for x in channels], axis=0)
        return (mixed / max(1.0, np.abs(mixed).max())).astype(np.float32)

    # ---- motion

    @functools.cached_property
    def motion_STM(self) -> list[np.ndarray]:
        """Face code, then z-scored pose, of every speaker at 25 Hz."""
        if "motion" in self.streams:
            return list(np.moveaxis(np.asarray(self.streams["motion"], np.float64), 1, 0))
        return [np.asarray(self.decoder.motion_codes(party), np.float64) for party in self.parties]

    @functools.cached_property
    def apertures(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(inner-lip aperture, mouth width) of every speaker, each (T,). Of puppets alone
        (Benchmark.has_lips)."""
        codec = self.decoder.codec("face")
        return [face_code.lips(face_code.decode(x[:, :-POSE].astype(np.float32), codec))
                for x in self.motion_STM]

    # ---- what eval.report draws: the first speaker's curves

    @property
    def lips(self):
        return self.apertures[0]

    @property
    def face_NF(self):
        return self.motion_STM[0][:, :-POSE]

    @property
    def pose_NP(self):
        return self.motion_STM[0][:, -POSE:]

    @property
    def seconds(self) -> float:
        return self.total_ms / 1000 if self.has_audio else len(self.motion_STM[0]) / FPS


def own_parts(streams, made) -> set[str]:
    """The parts, of AUDIO and MOTION, that a task made."""
    return {part for part, name in ((AUDIO, "mel"), (MOTION, "latents"), (MOTION, "motion"))
            if name in made and len(streams.get(name, ()))}
