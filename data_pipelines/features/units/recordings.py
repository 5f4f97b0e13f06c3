"""Clips with one speaker or several, as units are made of them: channels at 16 kHz, and who says
what when.

Suffixes: N samples.
"""

import dataclasses
import json

import numpy as np

from avjax.encoders.plain_text import plain
from avjax.encoders.speech_frames import MEL
from avjax.signal import level as level_library
from avjax.signal.resample import resampled
from data_pipelines.features.common.clips import to_float
from data_pipelines.features.common.units import SAMPLE_RATE
from data_pipelines.features.tavid import conversations
from data_pipelines.features.tavid.script import Script, Turn
from data_pipelines.store import dataset as store

SHORTEST = MEL["n_fft"]  # samples at SAMPLE_RATE: what a frame of either kind sees, at most
_SILENT = 1e-3  # peak, of full scale


@dataclasses.dataclass(frozen=True)
class Recording:
    """channels: (N,) float32 at 16 kHz of every speaker. script: with times where known; without
    turns where nothing is known of what is said. frames: of units, where that does not follow from
    the sound."""

    clip: dict
    names: tuple[str, ...]
    channels: tuple[np.ndarray, ...]
    script: Script
    frames: int | None = None


class Recordings:
    """The recordings of a clip dataset, each once.

    Args:
      clips: an opened dataset of clips.
      level: recipe of the level that speech is brought to; None = as loud as it comes.

    `carried`: columns of the clips that examples have too.
    """

    def __init__(self, clips, level: dict | None):
        self.clips, self.level = clips, level
        self.prefixes = conversations.speaker_prefixes(clips)
        own = [p + c for p in self.prefixes for c in ("speaker", "words", "identity")]
        self.carried = [c for c in ("id", "text", *own) if c in clips.features]
        wanted = [*self.carried, "events", *(p + "audio" for p in self.prefixes)]
        self._fields = tuple(c for c in wanted if c in clips.features)
        self._sources, self._indices = {}, {}

    def indices(self, split: str) -> np.ndarray:
        """Of the split's recordings, the longest first; of a dialogue with a record for either
        side, the first's."""
        if split not in self._indices:
            samples = self.clips.lengths(split, ["audio"])["audio"]
            order = np.argsort(-samples, kind="stable")
            if "side" in self.clips.features:  # which is in the records, all of them
                sides = self.clips.source(split, ("side",))
                order = order[np.array([row["side"] == "0" for row in sides])[order]]
            self._indices[split] = order
        return self._indices[split]

    def seconds(self, split: str, indices) -> np.ndarray:
        """Of all the channels of a recording, from the length of the first."""
        samples = self.clips.lengths(split, ["audio"])["audio"][indices]
        return samples * len(self.prefixes) / self.clips.features["audio"].rate

    def read(self, split: str, index: int) -> Recording:
        """Raises store.Unusable."""
        if split not in self._sources:
            self._sources[split] = self.clips.source(split, self._fields)
        clip = self._sources[split][int(index)]
        try:
            return self._alone(clip) if len(self.prefixes) == 1 else self._together(clip)
        except store.Unusable as error:
            raise error.of(clip["id"]) from None

    def _alone(self, clip: dict) -> Recording:
        audio_N = to_float(clip["audio"])
        rate = self.clips.features["audio"].rate
        if not np.isfinite(audio_N).all():
            raise store.Unusable("sound is not finite", found="NaN or infinity")
        if len(audio_N) * SAMPLE_RATE < SHORTEST * rate:
            raise store.Unusable("too short", expected=f"at least {SHORTEST / SAMPLE_RATE:g} s",
                                 found=f"{len(audio_N) / rate:.3f} s")
        if np.abs(audio_N).max() < _SILENT:
            raise store.Unusable("silent", expected="speech", found="nothing to hear")
        said = _said(clip, len(audio_N) / rate)
        audio_N = level_library.normalised(audio_N, rate, self.level)
        name = clip.get("speaker", "")
        return Recording(clip, (name,), (resampled(audio_N, rate, SAMPLE_RATE),),
                         Script((said,) if said else (), (name,)))

    def _together(self, clip: dict) -> Recording:
        rate = int(self.clips.features["audio"].rate)
        found = conversations.conversation(clip, self.prefixes, rate=rate, level=self.level,
                                           needs_script=bool(clip.get("text", "").strip()))
        return Recording(clip, found.names,
                         tuple(resampled(a, rate, SAMPLE_RATE) for a in found.audio),
                         found.script, 2 * found.frames)


def _said(clip: dict, seconds: float) -> Turn | None:
    """All that is said, as one turn: from the first word to the last where their times are known,
    else from end to end."""
    text = " ".join(plain(clip.get("text", "")).split())
    words = json.loads(clip.get("words") or "[]")
    times = [t for _, *span in words for t in span if t is not None]
    start, end = (max(min(times), 0.0), min(max(times), seconds)) if times else (0.0, seconds)
    if start >= end:
        start, end = 0.0, seconds
    return Turn(0, text, start=start, end=end) if any(map(str.isalnum, text)) else None
