"""AV-Flow's streams -> sound, faces and poses: mel (T, 80), face (T, F) and head (T, Z) at
22050 / 256 Hz; face and head are there together or not at all."""

import numpy as np

from avjax.signal import mel, resample, resample_stream
from data_pipelines import decode
from data_pipelines.features.avflow import head_pose, head_stream
from data_pipelines.live import parts

CODEC_AVATAR = "codec avatar expression"  # kind of face code
ANGLES, SIGMA = 4, 5  # of Audio2Photoreal's head: numbers; frames at 30 Hz that smooth it


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
        if self._mode("head") != "released":
            return self._pose_of(self._at_30hz("head", streams["head"]))
        pose_z_NP = self._at_30hz("head", self._pose_of(streams["head"]))
        return smoothed(pose_z_NP) if joint_angles(self._decoder) else pose_z_NP

    def owners_arrays(self, streams):
        """Of codec avatars: face codes and head at 30 Hz. The head of the 50 h release is [R | t],
        by the release's way of resampling between its matrices."""
        if self._decoder.face_kind != CODEC_AVATAR:
            return {}
        if joint_angles(self._decoder):
            return {"face_expression": self.face(streams),
                    "neck_head_pose": self._decoder.pose_of(self.pose_z(streams))}
        if self._mode("head") == "released":
            pose = self._decoder.pose_of(self._pose_of(streams["head"]))
            headpose = self._at_30hz("head", matrices(pose))
        else:
            headpose = matrices(self._decoder.pose_of(self.pose_z(streams)))
        return {"expression_codes": self.face(streams), "headpose": headpose}

    def _pose_of(self, latent_TZ) -> np.ndarray:
        return head_pose.decode(self._decoder.recipes["head"], self._decoder.codecs.get("head", {}),
                                np.asarray(latent_TZ, np.float32))

    def live_motion(self):
        if joint_angles(self._decoder):
            return None
        return Motion(self._decoder, self._mode("face"), self._mode("head"))

    def _at_30hz(self, name, x_TC):
        """Back to the clips' clock, the inverse of how the features were resampled."""
        return resample.from_features(np.asarray(x_TC, np.float32), decode.FPS,
                                      mode=self._mode(name))

    def _mode(self, name):
        return self._decoder.recipes[name].get("resample", resample.MODES[0])


def joint_angles(decoder) -> bool:
    """Whether the head is that of Audio2Photoreal: angles of neck and head."""
    return len(decoder.codecs.get("pose", {}).get("mean", ())) == ANGLES


def smoothed(pose_NP: np.ndarray) -> np.ndarray:
    """By a Gaussian of 5 frames, as the published code smooths the pose of Audio2Photoreal."""
    from scipy.ndimage import gaussian_filter1d  # not at the top: training never decodes

    return gaussian_filter1d(pose_NP, SIGMA, axis=0)


def matrices(pose_T7: np.ndarray) -> np.ndarray:
    """Unit quaternion wxyz, translation (T, 7) -> [R | t] (T, 3, 4)."""
    w, x, y, z = np.moveaxis(pose_T7[:, :4].astype(np.float64), -1, 0)
    rotation_33T = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
    rotation_T33 = np.moveaxis(rotation_33T, -1, 0)
    return np.concatenate([rotation_T33, pose_T7[:, 4:, None]], -1).astype(np.float32)


class Motion:
    """See data_pipelines.live.parts.Motion."""

    def __init__(self, decoder, face_mode: str, head_mode: str):
        self._face = resample_stream.from_features(decode.FPS, face_mode)
        resampling = resample_stream.from_features(decode.FPS, head_mode)
        first = head_mode == "released"  # the VAE before the resampling, as published
        vae = head_stream.StreamedHead(decoder.recipes["head"], decoder.codecs.get("head", {}),
                                       mel.FRAME_RATE if first else decode.FPS)
        self._resampling, self._vae = resampling, vae
        self._head = (vae, resampling) if first else (resampling, vae)
        self._faces: np.ndarray | None = None  # that wait for their poses

    @property
    def look_ahead(self):
        frames = max(self._face.look_ahead, self._resampling.look_ahead)
        waits = (parts.Part("resampling to 30 Hz", frames, mel.FRAME_RATE),)
        if self._vae.look_ahead:
            rate = decode.FPS if self._head[0] is self._resampling else mel.FRAME_RATE
            waits += (parts.Part("head VAE", self._vae.look_ahead, rate),)
        return waits

    def feed(self, streams):
        first, second = self._head
        return self._pairs(self._face.feed(np.asarray(streams["face"], np.float32)),
                           second.feed(first.feed(np.asarray(streams["head"], np.float32))))

    def finish(self):
        first, second = self._head
        last = second.feed(first.finish())
        return self._pairs(self._face.finish(), np.concatenate([last, second.finish()]))

    def _pairs(self, face_NF, pose_NP):
        if self._faces is not None:
            face_NF = np.concatenate([self._faces, face_NF])
        count = len(pose_NP)
        self._faces = face_NF[count:]
        return face_NF[:count], pose_NP
