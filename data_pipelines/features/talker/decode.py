"""Talker-T2AV's streams -> sound, faces and poses: audio (T, A) and motion (T, M) at 25 Hz; either
may be absent or without frames."""

import functools

from avjax.codecs import latents, motion
from avjax.signal import resample, resample_stream
from data_pipelines import decode
from data_pipelines.live import parts


class StreamDecoder(decode.StreamDecoder):
    """See data_pipelines.decode.StreamDecoder."""

    heard = ("audio",)
    seen = ("motion",)
    mel_recipe = latents.MEL

    def __init__(self, decoder):
        super().__init__(decoder)
        recipe = decoder.recipes.get("motion", {})
        self.has_face = recipe.get("kind") == motion.KIND
        self.face_recipe = recipe.get("face", {})

    @classmethod
    def matches(cls, recipes):
        """Sound as audio latents."""
        return "audio" in recipes and "mel" not in recipes

    @functools.cached_property
    def _audio_codec(self) -> latents.AudioCodec:
        return latents.from_recipe(self._decoder.recipes.get("audio", {}),
                                   self._decoder.codec("audio"))

    @functools.cached_property
    def _motion_codec(self) -> motion.MotionCodec:
        return motion.from_recipe(self._decoder.recipes["motion"], self._decoder.codec("motion"))

    def mel(self, streams):
        return self._audio_codec.mel(streams["audio"])

    def face(self, streams):
        return _at_30hz(self._motion_codec.face_and_pose(streams["motion"])[0])

    def pose_z(self, streams):
        return _at_30hz(self._motion_codec.face_and_pose(streams["motion"])[1])

    def live_motion(self):
        return Motion(self._motion_codec) if self.has_face else None


class Motion:
    """See data_pipelines.live.parts.Motion."""

    def __init__(self, codec: motion.MotionCodec):
        self._codec = codec
        self._face, self._pose = (resample_stream.convert(motion.RATE, decode.FPS)
                                  for _ in range(2))

    @property
    def look_ahead(self):
        return (parts.Part("resampling to 30 Hz", self._face.look_ahead, motion.RATE),)

    def feed(self, streams):
        face_TF, pose_TP = self._codec.face_and_pose(streams["motion"])
        return self._face.feed(face_TF), self._pose.feed(pose_TP)

    def finish(self):
        return self._face.finish(), self._pose.finish()


def _at_30hz(x_TC):
    return resample.convert(x_TC, motion.RATE, decode.FPS,
                            max(1, round(len(x_TC) / motion.RATE * decode.FPS)))
