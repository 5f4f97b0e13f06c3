"""Talker-T2AV's streams -> sound, faces and poses: audio (T, A) and motion (T, M) at 25 Hz; either
may be absent or without frames. Motion of LIA-X is drawn on a portrait, (1, 512, 512, 3) uint8,
where the streams have one."""

import functools

import numpy as np

from avjax.codecs import latents, motion
from avjax.codecs.lia_x import codec as lia_x
from avjax.errors import UserError
from avjax.signal import resample, resample_stream
from data_pipelines import decode
from data_pipelines.features.talker import audio_codec
from data_pipelines.live import parts

WEIGHTS = "lia_x"  # what draws, in a workdir
PORTRAITS = 8  # kept at a time, for as many requests at once


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
        sound = decoder.recipes.get("audio", {})
        self._is_sound = sound.get("kind") == audio_codec.KIND
        self.sound_by = f"WhisperX-VAE {sound['weights']}" if self._is_sound else ""
        self.fps = decode.FPS if self.has_face else round(motion.RATE)
        self._face_codec = ""  # file that draws
        self._drawn_on: list[tuple] = []  # the last portraits, and what is kept of each

    @classmethod
    def matches(cls, recipes):
        """Sound as audio latents."""
        return "audio" in recipes and "mel" not in recipes

    @functools.cached_property
    def _audio_codec(self) -> latents.AudioCodec:
        self._decoder.codec("audio")  # or says that it is missing
        return audio_codec.from_recipe(self._decoder.recipes["audio"], self._decoder.codecs)

    @functools.cached_property
    def _motion_codec(self) -> motion.MotionCodec:
        return motion.from_recipe(self._decoder.recipes["motion"], self._decoder.codec("motion"))

    @property
    def vocoder(self):
        """None where the audio codec makes sound itself. UserError: a vocoder beside it."""
        if not self._is_sound:
            return super().vocoder
        if self._decoder.vocoder or not self._decoder.may_keep:
            raise UserError("this model's latents are made sound of by their own codec",
                            where="--vocoder, or WORKDIR/vocoder", expected="none",
                            found="Griffin-Lim or a vocoder of mel", hint="leave it out")
        return None

    def mel(self, streams):
        return self._audio_codec.mel(streams["audio"])

    def waveform(self, streams):
        if self._is_sound:
            return self._audio_codec.waveform(streams["audio"])
        return super().waveform(streams)

    def live_sound(self, block):
        return Sound(self._audio_codec, block) if self._is_sound else None

    def face(self, streams):
        return _at_30hz(self._motion_codec.face_and_pose(streams["motion"])[0])

    def pose_z(self, streams):
        return _at_30hz(self._motion_codec.face_and_pose(streams["motion"])[1])

    def draw_with(self, file: str) -> lia_x.LiaX:
        """LIA-X of a file or folder, default WORKDIR/lia_x; draws from now on. UserError: motion of
        another codec, no weights, or others than the motion was made with."""
        recipe, workdir = self._decoder.recipes.get("motion", {}), self._decoder.workdir
        if recipe.get("kind") != lia_x.KIND:
            raise UserError("this motion is not LIA-X's", where="recipes.json, motion",
                            expected=f"kind {lia_x.KIND}", found=recipe.get("kind", "none"),
                            hint="no --portrait or --video for this model: it draws the faces it "
                                 "learnt from")
        kept = workdir / WEIGHTS if workdir else None
        if not file and (kept is None or not kept.exists()):
            raise UserError("nothing to draw with", where="--face_codec", found="none",
                            expected=f"LIA-X's weights, or WORKDIR/{WEIGHTS}")
        codec = lia_x.loaded(str(file or kept))
        if recipe.get("weights", codec.weights) != codec.weights:
            raise UserError("the weights of another LIA-X", where=f"--face_codec={file or kept}",
                            expected=f"weights {recipe['weights']}, which made the motion that the "
                            "model learnt", found=codec.weights)
        if self._face_codec not in ("", file):
            raise UserError("two codecs of one motion", where=f"--face_codec={file or kept}",
                            expected=self._face_codec, found="another file",
                            hint="give all requests the same")
        self._face_codec = file
        return codec

    def portrait(self, picture_1HWC: np.ndarray) -> lia_x.Portrait:
        """What to draw on; computed once for a picture, also where several take turns."""
        for picture, kept in self._drawn_on:
            if picture is picture_1HWC:
                return kept
        codec = self.draw_with(self._face_codec)
        kept = codec.portrait(np.asarray(picture_1HWC[0]))
        self._drawn_on = [*self._drawn_on[1 - PORTRAITS:], (picture_1HWC, kept)]
        return kept

    def paints_on(self, given):
        return "portrait" in given

    def painter(self, streams):
        if not self.paints_on(streams):
            return None
        codec, on = self.draw_with(self._face_codec), self.portrait(streams["portrait"])
        motion_TM = self._motion_codec.decode(streams["motion"])
        return len(motion_TM), lambda part: np.stack(list(codec.draw(on, motion_TM[part])))

    def live_motion(self):
        return Motion(self._motion_codec) if self.has_face else None


class Sound:
    """See data_pipelines.live.parts.OwnSound. `block`: mel frames."""

    def __init__(self, codec: audio_codec.WhisperXVAE, block: int):
        self._codec, self._block = codec, max(1, block // latents.STACK)
        self._streamed = audio_codec.Streamed(codec, self._block)

    @property
    def look_ahead(self):
        return (parts.Part("WhisperX-VAE", self._streamed.look_ahead, latents.RATE),)

    def compile(self):
        fresh = audio_codec.Streamed(self._codec, self._block)
        fresh.feed(np.zeros((1, latents.DIM), np.float32))
        fresh.finish()

    def feed(self, streams):
        return self._streamed.feed(streams["audio"])

    def finish(self):
        return self._streamed.finish()


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
