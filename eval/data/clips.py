"""Streams of one clip, and what a listener and a viewer would get from them.

Suffixes: T frames of a stream, N frames at 30 Hz, F face codes, P pose, M mel bands, C motion
codes.
"""

import functools
from collections.abc import Iterator

import numpy as np

from avjax.signal import rates
from data_pipelines.media import head_rotation
from data_pipelines.media.facial import signals
from eval.metrics import onsets
from eval.registry import AUDIO, MOTION

FPS = rates.VIDEO


def fit(x: np.ndarray, length: int) -> np.ndarray:
    """Cuts or loops along the first axis."""
    shape = (length, *x.shape[1:])
    return np.resize(x, shape) if len(x) else np.zeros(shape, x.dtype)


class Signals:
    """Everything is made on demand and kept.

    Args:
      benchmark: eval.benchmarks.common.clips.ClipBenchmark, for its decoder and statistics.
      streams: {stream: (frames, width)}; a stream without frames counts as absent.
      scored: AUDIO, MOTION: what the variant made itself; None = all that it has. The rest was an
        input of the model: it is heard and seen, but not scored.
      like: Signals of the same audio streams, whose waveform, onsets and words are taken instead of
        being made again.
      speaker: whose face is drawn.
    """

    def __init__(self, benchmark, streams: dict[str, np.ndarray], *, scored: set[str] | None = None,
                 like=None, speaker: str = ""):
        self.benchmark, self.streams, self.speaker = benchmark, streams, speaker
        self.has_audio = bool(benchmark.decoder.has_audio(streams))
        self.has_motion = bool(benchmark.decoder.has_motion(streams))
        has = {AUDIO: self.has_audio, MOTION: self.has_motion}
        self.scored = {kind for kind, found in has.items()
                       if found and (scored is None or kind in scored)}
        self.own_length = True  # else its length was an input
        self.computed_s: float | None = None  # that making it took, where that was measured
        self.seen: dict[str, np.ndarray] = {}  # {network: what it makes of the pictures}
        self._like = like

    @functools.cached_property
    def seconds(self) -> float:
        """Duration of the longest stream."""
        return max((len(x) / self.benchmark.rates[k] for k, x in self.streams.items()), default=0.0)

    @property
    def length(self) -> float:
        """Of which lengths are compared: seconds."""
        return self.seconds

    @functools.cached_property
    def mel_TM(self) -> np.ndarray:
        """Normalised log-mel."""
        return self.benchmark.decoder.mel(self.streams)

    @property
    def mel_rate(self) -> float:
        """Frames of `mel_TM` a second."""
        return len(self.mel_TM) / self.audio_seconds

    @functools.cached_property
    def audio_seconds(self) -> float:
        """What `mel_TM` covers."""
        name = next(k for k, x in self.streams.items() if len(x)
                    and self.benchmark.decoder.has_audio({k: x}))
        return len(self.streams[name]) / self.benchmark.rates[name]

    @functools.cached_property
    def face_NF(self) -> np.ndarray:
        """Face codes at 30 Hz."""
        return np.asarray(self.benchmark.decoder.face(self.streams), np.float64)

    @functools.cached_property
    def pose_NP(self) -> np.ndarray:
        """z-scored with the corpus' statistics, so that rotation and translation weigh alike."""
        pose = np.asarray(self.benchmark.decoder.pose(self.streams), np.float64)
        return (pose - self.benchmark.pose_mean) / self.benchmark.pose_std

    @functools.cached_property
    def codes_TC(self) -> np.ndarray:
        """Motion codes at their own rate."""
        return np.asarray(self.benchmark.decoder.motion_codes(self.streams), np.float64)

    def motion(self, part: str) -> list[np.ndarray]:
        """(frames, width) of a part (registry.PARTS), of every speaker: one."""
        return [{"e": lambda: self.face_NF, "h": lambda: self.pose_NP,
                 "m": lambda: self.codes_TC}[part]()]

    @functools.cached_property
    def waveform(self) -> np.ndarray:
        """Samples in [-1, 1] at the decoder's rate."""
        if self._like is not None:
            return self._like.waveform
        return np.asarray(self.benchmark.decoder.waveform(self.streams), np.float32)

    @functools.cached_property
    def onsets_s(self) -> np.ndarray:
        """Audio onsets in seconds."""
        if self._like is not None:
            return self._like.onsets_s
        return onsets.onset_times(self.waveform, self.benchmark.sample_rate)

    @functools.cached_property
    def loudness(self) -> np.ndarray:
        """(frames,) dB of the sound at the rate of `lips`, see onsets.loudness."""
        return onsets.loudness(self.waveform, self.benchmark.sample_rate,
                               self.benchmark.lip_recipe["fps"])

    @functools.cached_property
    def lips(self) -> tuple[np.ndarray, np.ndarray | float]:
        """(aperture (N,), mouth width) at 30 Hz."""
        if self.benchmark.reader:
            return self.expressions[0].aperture, self.expressions[0].width
        aperture, width = self.benchmark.decoder.lips(self.streams)
        return np.asarray(aperture, np.float64), np.asarray(width, np.float64)

    @functools.cached_property
    def expressions(self) -> list[signals.Expression]:
        """Lips, smile and eyes of every speaker, of whom there is one, read from the pictures;
        empty where no face is seen in them."""
        reader = self.benchmark.reader
        if not reader or not self.benchmark.decoder.has_motion(self.streams):
            return []
        found = reader(self.faces())
        return [] if found is None else [found]

    def faces(self, size: int = 0) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 pictures that the face fills, made anew. size: that they would best
        have, where they can be had in several."""
        del size  # drawn as they are
        return self.benchmark.decoder.pictures(self.streams, speaker=self.speaker)[1]

    @functools.cached_property
    def smile(self) -> np.ndarray:
        """(N,) how much it smiles at 30 Hz, in the unit of `Benchmark.smile_recipe`."""
        if self.benchmark.reader:
            return self.expressions[0].smile
        return np.asarray(self.benchmark.decoder.smile(self.streams), np.float64)

    @functools.cached_property
    def pitch(self) -> np.ndarray:
        """(N,) degrees by which the head looks down, at 30 Hz."""
        pose_NP = np.asarray(self.benchmark.decoder.pose(self.streams), np.float64)
        return head_rotation.angles(pose_NP[:, :4])[:, 1]

    @property
    def apertures(self) -> list[tuple[np.ndarray, np.ndarray | float]]:
        """`lips` of every speaker: one."""
        return [self.lips]

    @functools.cached_property
    def transcript(self) -> str:
        """Words heard by the recogniser."""
        if self._like is not None:
            return self._like.transcript
        return self.benchmark.recogniser.transcribe(self.waveform, self.benchmark.sample_rate)
