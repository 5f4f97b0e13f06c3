"""AV-Flow's streams -> sound, faces and poses: mel (T, 80), face (T, F) and head (T, Z) at
22050 / 256 Hz; face and head are there together or not at all."""

import numpy as np

from avjax.signal import mel, resample, resample_stream
from data_pipelines import decode
from data_pipelines.features.avflow import head_pose, head_stream
from data_pipelines.live import parts


class StreamDecoder(decode.StreamDecoder):
    """See data_pipelines.decode.StreamDecoder."""

    heard = ("mel",)
    seen = ("face",)
    has_face = True
    mel_recipe = mel.RECIPE
    arrays = ("tokens",)  # that a text became

    def __init__(self, decoder):
        super().__init__(decoder)
        self.face_recipe = decoder.recipes.get("face", {})

    @classmethod
    def matches(cls, recipes):
        """Sound as mel, of one speaker."""
        return "mel" in recipes and not {"units", "pictures"} & recipes.keys()

    def mel(self, streams):
        return np.asarray(streams["mel"], np.float32)

    def face(self, streams):
        return self._at_30hz("face", streams["face"])

    def pose_z(self, streams):
        return head_pose.decode(self._decoder.recipes["head"], self._decoder.codecs.get("head", {}),
                                self._at_30hz("head", streams["head"]))

    def live_motion(self):
        return Motion(self._decoder, self._mode("face"), self._mode("head"))

    def _at_30hz(self, name, x_TC):
        """Back to the clips' clock, the inverse of how the features were resampled."""
        return resample.from_features(np.asarray(x_TC, np.float32), decode.FPS,
                                      mode=self._mode(name))

    def _mode(self, name):
        return self._decoder.recipes[name].get("resample", resample.MODES[0])


class Motion:
    """See data_pipelines.live.parts.Motion."""

    def __init__(self, decoder, face_mode: str, head_mode: str):
        self._face = resample_stream.from_features(decode.FPS, face_mode)
        self._latent = resample_stream.from_features(decode.FPS, head_mode)
        self._head = head_stream.StreamedHead(decoder.recipes["head"],
                                              decoder.codecs.get("head", {}))
        self._faces: np.ndarray | None = None  # that wait for their poses

    @property
    def look_ahead(self):
        frames = max(self._face.look_ahead, self._latent.look_ahead)
        waits = (parts.Part("resampling to 30 Hz", frames, mel.FRAME_RATE),)
        if self._head.look_ahead:
            waits += (parts.Part("head VAE", self._head.look_ahead, decode.FPS),)
        return waits

    def feed(self, streams):
        return self._pairs(self._face.feed(np.asarray(streams["face"], np.float32)),
                           self._head.feed(self._latent.feed(
                               np.asarray(streams["head"], np.float32))))

    def finish(self):
        last = self._head.feed(self._latent.finish())
        return self._pairs(self._face.finish(), np.concatenate([last, self._head.finish()]))

    def _pairs(self, face_NF, pose_NP):
        if self._faces is not None:
            face_NF = np.concatenate([self._faces, face_NF])
        count = len(pose_NP)
        self._faces = face_NF[count:]
        return face_NF[:count], pose_NP
