"""What is heard and seen in a recording: sound and pictures only, no streams of any system."""

import functools
from collections.abc import Iterator

import numpy as np

from avjax.errors import UserError
from avjax.signal import mel
from data_pipelines.media import faces
from eval.data.clips import Signals
from eval.data.recorded import FACE_SIZE, OfClip, OfFiles
from eval.registry import AUDIO, MOTION

FILM = "film"  # the only stream


class Film(Signals):
    """One variant of one example. Files are opened when a metric asks for what is in them, so that
    whatever is wrong with one is an error of its example.

    Args:
      benchmark: eval.benchmarks.named.films.Benchmark.
      recording: None: there is no file, for the reason `lacking`.
      made: AUDIO, MOTION: what of it a system made, the rest being an input.
      truth: whose sound is heard where the recording has none; None of the truth itself.
    """

    def __init__(self, benchmark, recording: OfFiles | OfClip | None, made: set[str], *,
                 truth: "Film | None" = None, lacking: str = ""):
        self.benchmark, self._recording, self._made = benchmark, recording, made
        self._truth, self._lacking = truth, lacking
        self.speaker = ""
        self.streams = {FILM: self}
        self.seen: dict[str, np.ndarray] = {}
        self.own_length = benchmark.free_length
        self._like = None

    @property
    def recording(self) -> OfFiles | OfClip:
        """UserError where there is none."""
        if self._recording is None:
            raise UserError(self._lacking)
        return self._recording

    @property
    def has_audio(self) -> bool:
        return self.recording.has_sound or self._truth is not None and self._truth.has_audio

    @property
    def has_motion(self) -> bool:
        return self.recording.has_pictures

    @functools.cached_property
    def scored(self) -> set[str]:
        """What it made and has."""
        has = {AUDIO: self.recording.has_sound, MOTION: self.recording.has_pictures}
        return {kind for kind in self._made if has[kind]}

    @functools.cached_property
    def seconds(self) -> float:
        return self.recording.seconds

    @functools.cached_property
    def expressions(self) -> list:
        """See Signals.expressions; the face is followed whatever of the pictures counts. A face
        that the truth shows and this does not is an error, faces.FaceError."""
        reader = self.benchmark.reader
        if not reader or not self.has_motion or self._truth and not self._truth.expressions:
            return []
        try:
            found = reader(self.faces())
        except faces.FaceError:
            if self._truth:
                raise
            return []
        return [] if found is None else [found]

    def faces(self, size: int = FACE_SIZE) -> Iterator[np.ndarray]:
        """See Signals.faces; the face is followed whatever of the pictures counts."""
        return self.recording.faces(size)

    @functools.cached_property
    def waveform(self) -> np.ndarray:
        """Samples in [-1, 1] at the benchmark's rate, the truth's of what is mute."""
        if self.recording.has_sound or self._truth is None:
            return self.recording.samples
        return self._truth.waveform

    @functools.cached_property
    def mel_TM(self) -> np.ndarray:
        """Normalised log-mel of the sound at one level of speech."""
        return mel.of_speech(self.waveform)

    @property
    def audio_seconds(self) -> float:
        return len(self.waveform) / self.benchmark.sample_rate
