"""AV-Flow's streams -> sound, faces and poses: mel (T, 80), face (T, F) and head (T, Z) at
22050 / 256 Hz; face and head are there together or not at all."""

import numpy as np

from avjax.signal import griffin_lim, mel, resample
from data_pipelines import decode
from data_pipelines.features.avflow import head_pose


class StreamDecoder(decode.StreamDecoder):
    """See data_pipelines.decode.StreamDecoder."""

    heard = ("mel",)
    seen = ("face",)
    has_face = True
    mel_recipe = mel.RECIPE

    def __init__(self, decoder):
        super().__init__(decoder)
        self.face_recipe = decoder.recipes.get("face", {})

    @classmethod
    def matches(cls, recipes):
        """Sound as mel, of one speaker."""
        return "mel" in recipes and not {"units", "pictures"} & recipes.keys()

    def mel(self, streams):
        return np.asarray(streams["mel"], np.float32)

    def waveform(self, streams):
        """By Griffin-Lim."""
        return griffin_lim.waveform(self.mel(streams), iterations=self._decoder.iterations,
                                    normalised=True)

    def face(self, streams):
        return self._at_30hz("face", streams["face"])

    def pose_z(self, streams):
        return head_pose.decode(self._decoder.recipes["head"], self._decoder.codecs.get("head", {}),
                                self._at_30hz("head", streams["head"]))

    def _at_30hz(self, name, x_TC):
        """Back to the clips' clock, the inverse of how the features were resampled."""
        mode = self._decoder.recipes[name].get("resample", resample.MODES[0])
        return resample.from_features(np.asarray(x_TC, np.float32), decode.FPS, mode=mode)
