"""Portrait's streams -> sound, face codes and poses."""

import numpy as np

from avjax.signal import mel, resample
from data_pipelines import decode


class StreamDecoder(decode.StreamDecoder):
    """See data_pipelines.decode.StreamDecoder."""

    heard = ("mel",)
    seen = ("face",)
    has_face = True
    mel_recipe = mel.RECIPE

    def __init__(self, decoder):
        super().__init__(decoder)
        self.face_recipe = decoder.recipes["face"]

    def mel(self, streams):
        """As it is."""
        return np.asarray(streams["mel"], np.float32)

    def face(self, streams):
        """At the clips' 30 Hz."""
        return resample.from_features(np.asarray(streams["face"], np.float32), self.fps)

    def pose_z(self, streams):
        """At the clips' 30 Hz."""
        return resample.from_features(np.asarray(streams["head"], np.float32), self.fps)
