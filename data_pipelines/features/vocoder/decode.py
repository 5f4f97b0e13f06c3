"""A vocoder's streams are sound already: audio (T, hop), a mel frame's samples side by side."""

import numpy as np

from avjax.signal import mel
from data_pipelines import decode


class StreamDecoder(decode.StreamDecoder):
    """See data_pipelines.decode.StreamDecoder. "mel" is the sound's own, at the scale of the other
    systems'."""

    heard = ("audio",)
    sound_by = "the system itself"

    def __init__(self, decoder):
        super().__init__(decoder)
        # what it is scored and listened to by, in units of the other systems
        self.mel_recipe = decoder.recipes["mel"] | {k: mel.RECIPE[k] for k in ("mean", "std")}

    @property
    def vocoder(self):
        """None: nothing is left to do."""
        return None

    def mel(self, streams):
        return mel.normalise(mel.log_mel(self.waveform(streams), self.mel_recipe), self.mel_recipe)

    def waveform(self, streams):
        return np.clip(np.asarray(streams["audio"], np.float32).ravel(), -1.0, 1.0)
