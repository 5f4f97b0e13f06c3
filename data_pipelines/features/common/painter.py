"""What the clips show, as pictures: puppets are drawn, eigenfaces decoded, recorded pictures
resized.

Picture k of a clip is at k / FPS seconds. Codes are interpolated to that time before anything is
drawn; of recorded pictures the nearest in time is taken.
"""

import cv2
import numpy as np

from avjax.codecs import eigenface
from avjax.errors import UserError
from avjax.signal import rates, resample
from data_pipelines.features.common.portraits import SEARCHABLE
from data_pipelines.media import faces
from data_pipelines.store.schema import arrays_hash

FPS = rates.FRAMES
_CODES = ("face", "pose", "pose_z")


class Painter:
    """Pictures of either speaker of a clip dataset's records.

    Args:
      clips: the dataset. It has `pictures` (time, H, W, 3) uint8, and perhaps `portrait` (H, W, 3),
        or a face code of kind "puppet" or "eigenface" with its pose.
      size: side of the pictures.
      zoom: of puppets, see puppets/render.py.

    Raises:
      UserError: clips with neither.
    """

    def __init__(self, clips, size: int = 64, zoom: float = 1.2):
        self._clips, self.size = clips, size
        face = clips.recipes.get("face", {})
        self.kind = "recorded" if "pictures" in clips.features else face.get("kind", "")
        if self.kind not in ("recorded", "puppet", "eigenface"):
            raise UserError("nothing here can be seen", where=str(clips.dir),
                            expected="pictures, or faces of kind puppet or "
                            "eigenface", found=face.get("kind") or "neither",
                            hint="prepare the clips with faces")
        self.has_motion = all(c in clips.features for c in _CODES)
        if self.kind != "recorded" and not self.has_motion:
            raise UserError("clips lack head pose", where=str(clips.dir),
                            expected=", ".join(_CODES), found=", ".join(clips.features),
                            hint="prepare the clips with head pose")
        self._zoom = zoom if self.kind == "puppet" else None
        self._codec = clips.codec("face") if "face" in clips.codecs else None
        self.columns = (("pictures",) if self.kind == "recorded" else ("speaker", "identity")) + (
            _CODES if self.has_motion else ()) + (("portrait",) if "portrait" in clips.features
                                                  else ())
        self.columns = tuple(c for c in self.columns if c in clips.features)

    @property
    def is_cropped(self) -> bool:
        """Whether portraits are framed as the pictures are: made of them, or one of them. Recorded
        portraits of the pictures' size are that, unless they are large enough to be looked at."""
        if "portrait" not in self.columns:
            return True
        sides = [self._clips.features[c].shape[-3:-1] for c in ("portrait", "pictures")
                 if c in self._clips.features]
        return len(sides) == 2 and sides[0] == sides[1] and min(sides[0]) < SEARCHABLE

    @property
    def recipe(self) -> dict:
        """How pictures are made."""
        out = {"kind": self.kind, "size": self.size, "rate": FPS}
        out |= {"zoom": self._zoom} if self._zoom else {}
        if self._codec and self.kind != "recorded":
            out["face"] = arrays_hash(self._codec)
        return out

    @property
    def motion_recipe(self) -> dict:
        """How `motion` is made; the face code's own arrays travel with the dataset, so their hash
        is in it."""
        face = dict(self._clips.recipes.get("face", {}))
        if self._codec:
            face["arrays"] = arrays_hash(self._codec)
        return {"kind": "face-and-pose", "rate": FPS,
                "face_dim": self._clips.features["face"].shape[1],
                "pose_dim": self._clips.features["pose_z"].shape[1], "face": face,
                "pose": self._clips.recipes.get("pose_z", {}), "resample": "linear on timestamps"}

    @property
    def motion_width(self) -> int:
        """Numbers of `motion`: the face code's, then the pose's."""
        return self._clips.features["face"].shape[1] + self._clips.features["pose_z"].shape[1]

    def frames(self, clip, prefix: str = "") -> int:
        """How many pictures at FPS the speaker's track covers."""
        column = "pictures" if self.kind == "recorded" else "face"
        return int(len(clip[prefix + column]) * FPS / self._rate(column) + 1e-6)

    def pictures(self, clip, prefix: str, times_T: np.ndarray) -> np.ndarray:
        """(T, size, size, 3) uint8 RGB at the given seconds; held beyond the track's ends."""
        if self.kind == "recorded":
            track = clip[prefix + "pictures"]
            nearest_T = np.clip(np.floor(times_T * self._rate("pictures") + 0.5).astype(int), 0,
                                len(track) - 1)
            return np.array([self._sized(track[k]) for k in nearest_T],
                            np.uint8).reshape(-1, self.size, self.size, 3)
        face_TF, pose_TP = self._at(clip, prefix, "face",
                                    times_T), self._at(clip, prefix, "pose", times_T)
        if self.kind == "puppet":
            from data_pipelines.puppets import face_code, render

            return render.render(face_code.decode(face_TF, self._codec), pose_TP,
                                 clip[prefix + "identity"], self.size,
                                 self._zoom)
        codec = eigenface.unpack(self._codec, clip[prefix + "speaker"])
        return faces.compose(codec.decode(face_TF), pose_TP, self.size)

    def portrait(self, clip, prefix: str = "") -> np.ndarray:
        """(size, size, 3) uint8: the speaker looking at the viewer."""
        if "portrait" in self.columns:
            return self._sized(clip[prefix + "portrait"])
        if self.kind == "recorded":
            return self._sized(clip[prefix + "pictures"][0])
        if self.kind == "puppet":
            from data_pipelines.puppets import render

            return render.portrait(clip[prefix + "identity"], self.size, self._zoom)
        codec = eigenface.unpack(self._codec, clip[prefix + "speaker"])
        mean = codec.decode(np.zeros((1, clip[prefix + "face"].shape[1]), np.float32))
        return faces.compose(mean, np.array([[1.0, 0, 0, 0, 0, 0, 0]], np.float32), self.size)[0]

    def motion(self, clip, prefix: str, times_T: np.ndarray) -> np.ndarray:
        """(T, motion_width) float32 at the given seconds: face code, then z-scored pose."""
        return np.concatenate([self._at(clip, prefix, c, times_T) for c in ("face", "pose_z")],
                              1).astype(np.float32)

    def _rate(self, column: str) -> float:
        return self._clips.features[column].rate

    def _at(self, clip, prefix, column, times_T):
        return resample.interpolate(clip[prefix + column], times_T * self._rate(column))

    def _sized(self, image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == (self.size, self.size):
            return image
        shrinks = min(image.shape[:2]) > self.size
        return cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA if shrinks
                          else cv2.INTER_CUBIC)
