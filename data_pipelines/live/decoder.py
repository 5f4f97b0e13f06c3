"""Whole streams, decoded as if they came bit by bit: what streaming costs can be scored."""

import numpy as np

from data_pipelines import decode
from data_pipelines.live import parts


class StreamedDecoder(decode.Decoder):
    """A Decoder whose sound, faces and poses are those of `avjax generate --stream`.

    Args:
      recipes, codecs, kw: see Decoder.
      settings: of the vocoder.
    """

    def __init__(self, recipes, codecs, settings: parts.Settings, **kw):
        super().__init__(recipes, codecs, **kw)
        self._settings = settings
        self._read = (None, None)  # the streams that were decoded last, and their motion

    @property
    def decoding(self) -> dict:
        """Goes into the recipes of results."""
        s = self._settings
        return super().decoding | {"streamed": f"vocoder by {s.block} frames and {s.ahead} ahead"}

    def waveform(self, streams):
        """(N,) float32 samples at `sample_rate`."""
        sound = parts.Sound(self, self._settings)
        return np.concatenate([sound.feed(streams), sound.finish()])

    def face(self, streams):
        """Face codes (N, F) at `fps`."""
        return self._moved(streams)[0]

    def pose(self, streams):
        """(N, 7) at `fps`; see Decoder."""
        return self.pose_of(self._moved(streams)[1])

    def _moved(self, streams):
        if self._read[0] is not streams:
            self._read = streams, self._motion(streams)
        return self._read[1]

    def _motion(self, streams):
        motion = self.family.live_motion()
        if motion is None:
            return self.family.face(streams), self.family.pose_z(streams)
        fed, last = motion.feed(streams), motion.finish()
        return tuple(np.concatenate(pair) for pair in zip(fed, last, strict=True))
