"""Streams of one conversation of several speakers, and what is heard and seen of them.

Suffixes: S speakers, T frames at 25 Hz, M face code followed by pose, B mel bands.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np

from avjax.encoders.voice_activity import Detector, energy, turn_taking
from avjax.encoders.voice_activity.segments import inside
from avjax.signal import mel, rates
from avjax.signal.runs import intervals
from data_pipelines.media.facial import signals
from data_pipelines.puppets import face_code
from eval.data.clips import fit
from eval.metrics import onsets
from eval.registry import AUDIO, MOTION

FPS = rates.FRAMES
POSE = 7  # the last columns of a frame of motion
COLUMNS = {"e": slice(None, -POSE), "h": slice(-POSE, None)}  # of the parts of motion


def side_by_side(decoder, streams, identities=None) -> np.ndarray | None:
    """All faces of a dialogue, (T, H, S W, 3) uint8; None where there are none. identities: (S, I)
    puppets that are drawn where streams are of motion alone."""
    drawn = not len(streams.get("latents", ()))
    if not decoder.has_motion(streams) or (drawn and (identities is None or not decoder.draws)):
        return None
    speakers = decoder.speakers(streams)
    whose = [{}] * len(speakers) if identities is None else [{"identity": x} for x in identities]
    return np.concatenate([decoder.frames(speaker, **one)
                           for speaker, one in zip(speakers, whose, strict=True)], axis=2)


class Conversation:
    """One variant of one example. Everything is made on demand and kept.

    Args:
      decoder: data_pipelines.decode.Decoder of the dataset's codecs.
      streams: {"mel": (Tm, S, 80), "latents": (T, S, h, w, c), "motion": (T, S, M), ...}, each
        optional. "motion" is used as it is; without it motion is read from the decoded pictures.
      scored: AUDIO, MOTION: what the variant made itself.
      own_timing: whether the variant decided who speaks when; its frames then correspond to none of
        the truth's.
      detector: the voice activity, of the sound that the mel makes; None: energy, of the mel.
      reader: eval.data.pictured.Reader of real faces.
      like: a Conversation whose sound it has, cut or looped to its own length, and whose words.
      mouths_beside: a Conversation whose sound its mouths are held against; None: its own.
      hear: (samples, rate) -> words, where a recogniser knows the corpus' words.
    """

    def __init__(self, decoder, streams: dict[str, np.ndarray], scored: set[str], *,
                 own_timing: bool = False, detector: Detector | None = None, reader=None,
                 like: "Conversation | None" = None, hear: Callable | None = None,
                 mouths_beside: "Conversation | None" = None):
        self.decoder = decoder
        self.streams = streams
        self.scored = scored
        self.own_timing = own_timing
        self.detector, self.reader = detector, reader
        self.like, self.hear, self.mouths_beside = like, hear, mouths_beside
        self.own_length = AUDIO in scored
        self.computed_s: float | None = None  # that making it took, where that was measured
        self.has_audio = len(streams.get("mel", ())) > 0
        self.has_motion = len(streams.get("latents", ())) > 0 or len(streams.get("motion", ())) > 0

    @functools.cached_property
    def speakers(self) -> list[dict]:
        """The streams of every speaker."""
        return self.decoder.speakers(self.streams)

    @functools.cached_property
    def alone(self) -> list["Speaker"]:
        """What is heard and seen of each of them."""
        return [Speaker(self, number) for number in range(len(self.speakers))]

    @property
    def transcript(self) -> str:
        """Words heard of each, one after the other."""
        return " / ".join(speaker.transcript for speaker in self.alone)

    # ---- sound

    @functools.cached_property
    def channels(self) -> list[np.ndarray]:
        """Samples in [-1, 1] of every speaker, at the decoder's rate."""
        if self.like is not None:
            samples = len(self.mel_STB[0]) * mel.RECIPE["hop"]
            return [fit(x, samples) for x in self.like.channels]
        return [np.asarray(self.decoder.waveform(x), np.float32) for x in self.speakers]

    @functools.cached_property
    def mel_STB(self) -> list[np.ndarray]:
        """Normalised log-mel of every channel."""
        return list(np.moveaxis(np.asarray(self.streams["mel"], np.float32), 1, 0))

    @property
    def mel_TM(self) -> np.ndarray:
        """(Tm, S B): all channels side by side."""
        return np.concatenate(self.mel_STB, axis=-1)

    @property
    def mel_rate(self) -> float:
        return mel.RECIPE["sample_rate"] / mel.RECIPE["hop"]

    @functools.cached_property
    def total_ms(self) -> int:
        """Duration of the sound."""
        return round(len(self.mel_STB[0]) / self.mel_rate * 1000)

    @functools.cached_property
    def speech(self) -> list[np.ndarray]:
        """(K, 2) ms intervals of speech of every channel."""
        if self.detector:
            seconds = self.detector(self.channels, self.decoder.sample_rate)
        else:
            seconds = [intervals(energy.loud(mel.denormalise(x))) / self.mel_rate
                       for x in self.mel_STB]
        return [np.minimum(np.round(1000 * x).astype(np.int64), self.total_ms) for x in seconds]

    @functools.cached_property
    def events(self) -> dict[str, np.ndarray]:
        """See turn_taking.events."""
        return turn_taking.events(self.speech, self.total_ms)

    def speaking(self, frames: int) -> np.ndarray:
        """(S, frames) bool at 25 Hz."""
        at = (np.arange(frames) + 0.5) * 1000 / FPS
        return np.stack([inside(x, at) for x in self.speech])

    @functools.cached_property
    def waveform(self) -> np.ndarray:
        """The mix of all channels."""
        mixed = np.sum([x[:min(map(len, self.channels))] for x in self.channels], axis=0)
        return (mixed / max(1.0, np.abs(mixed).max())).astype(np.float32)

    # ---- motion

    @functools.cached_property
    def motion_STM(self) -> list[np.ndarray]:
        """Face code, then z-scored pose, of every speaker at 25 Hz."""
        if "motion" in self.streams:
            return list(np.moveaxis(np.asarray(self.streams["motion"], np.float64), 1, 0))
        return [np.asarray(self.decoder.motion_codes(x), np.float64) for x in self.speakers]

    def motion(self, part: str) -> list[np.ndarray]:
        """(T, width) of "e" or "h", of every speaker."""
        return [x[:, COLUMNS[part]] for x in self.motion_STM]

    @functools.cached_property
    def apertures(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(inner-lip aperture, mouth width) of every speaker, each (T,): read from the pictures, or
        told by puppets' codes (see Benchmark.has_lips)."""
        if self.reader:
            return [(x.aperture, x.width) for x in self.expressions]
        codec = self.decoder.codec("face")
        return [face_code.lips(face_code.decode(x[:, :-POSE].astype(np.float32), codec))
                for x in self.motion_STM]

    @functools.cached_property
    def expressions(self) -> list[signals.Expression]:
        """Lips, smile and eyes of every speaker, read from the pictures; empty where there are
        none, or a face is not seen in them."""
        if not self.reader or not len(self.streams.get("latents", ())):
            return []
        found = [self.reader(self.decoder.pictures(x)[1]) for x in self.speakers]
        return [] if any(x is None for x in found) else found

    # ---- the first speaker's curves, which the report draws

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
    def length(self) -> int:
        """Of which lengths are compared: milliseconds of sound."""
        return self.total_ms

    @property
    def seconds(self) -> float:
        """Of the sound where it has its own, else of the faces."""
        if AUDIO in self.scored or not self.has_motion:
            return self.total_ms / 1000
        return len(self.motion_STM[0]) / FPS


class Speaker:
    """One speaker of a Conversation, as metrics of clips ask for it."""

    def __init__(self, conversation: Conversation, speaker: int):
        self._all, self._number = conversation, speaker
        self.streams = conversation.speakers[speaker]
        self.scored, self.own_timing = conversation.scored, conversation.own_timing
        self.has_audio, self.has_motion = conversation.has_audio, conversation.has_motion
        self.seen: dict[str, np.ndarray] = {}  # {network: what it makes of the pictures}

    @property
    def seconds(self) -> float:
        return self._all.seconds

    @property
    def waveform(self) -> np.ndarray:
        """Samples in [-1, 1] at the decoder's rate."""
        return self._all.channels[self._number]

    @property
    def lips(self) -> tuple[np.ndarray, np.ndarray]:
        """(aperture, mouth width), see `Conversation.apertures`."""
        return self._all.apertures[self._number]

    @functools.cached_property
    def loudness(self) -> np.ndarray:
        """(frames,) dB of the sound that the mouth is held against, at the rate of `lips`; see
        onsets.loudness."""
        if self._all.mouths_beside is not None:
            return self._all.mouths_beside.alone[self._number].loudness
        fps = self._all.reader.fps if self._all.reader else FPS
        return onsets.loudness(self.waveform, self._all.decoder.sample_rate, fps)

    def faces(self, size: int = 0) -> Iterator[np.ndarray]:
        """See Signals.faces of clips."""
        del size  # decoded as they are
        return self._all.decoder.pictures(self.streams)[1]

    @functools.cached_property
    def transcript(self) -> str:
        """Words heard."""
        if self._all.like is not None:
            return self._all.like.alone[self._number].transcript
        return self._all.hear(self.waveform, self._all.decoder.sample_rate)


def made_kinds(streams, made) -> set[str]:
    """AUDIO, MOTION: what a task that makes the streams `made` made."""
    return {kind for kind, name in ((AUDIO, "mel"), (MOTION, "latents"), (MOTION, "motion"))
            if name in made and len(streams.get(name, ()))}
