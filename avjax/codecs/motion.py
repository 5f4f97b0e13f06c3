"""Face and head of a frame <-> 40 z-scored numbers at 25 Hz: the slot of Talker's motion codec.

Two kinds. "face+pose", the stand-in: face code, then head pose (7), then zeros up to 40. "lia-x"
(or any other name in the clips' recipe): 40 numbers of an encoder of the clips' owner.
Either is z-scored, the first with the training split's statistics, the second with those that came
with the clips.
Suffixes: T frames, F face code, P pose, M motion channels.
"""

import dataclasses

import numpy as np

from avjax.errors import UserError
from avjax.signal import rates

RATE = float(rates.FRAMES)
DIM = 40
MAX_APART = 2  # frames between the lengths of a clip's sound and motion; the longer one is cut
POSE_DIM = 7
FACE_DIM = DIM - POSE_DIM  # the widest face code that fits
KIND = "face+pose"
_SMALLEST_STD = 1e-6  # as published


@dataclasses.dataclass(frozen=True)
class MotionCodec:
    """`recipe` defines the channels; `mean_M` and `std_M` scale them."""

    recipe: dict
    mean_M: np.ndarray
    std_M: np.ndarray

    def encode(self, raw_TM: np.ndarray) -> np.ndarray:
        """(T, 40) channels -> (T, 40) float32, z-scored."""
        self.check(raw_TM)
        return ((np.asarray(raw_TM, np.float32) - self.mean_M) / self.std_M).astype(np.float32)

    def decode(self, motion_TM: np.ndarray) -> np.ndarray:
        """Inverse of `encode`."""
        self.check(motion_TM)
        return np.asarray(motion_TM, np.float32) * self.std_M + self.mean_M

    def face_and_pose(self, motion_TM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T, 40) z-scored -> face code (T, F) and z-scored pose (T, 7). Raises UserError for
        another kind."""
        if self.recipe["kind"] != KIND:
            raise UserError("this motion has no face code", where="recipes.json, motion",
                            expected=f"kind {KIND}", found=self.recipe["kind"],
                            hint="render it with the codec that made it")
        raw_TM = self.decode(motion_TM)
        face_dim = self.recipe["face_dim"]
        return raw_TM[:, :face_dim], raw_TM[:, face_dim:face_dim + POSE_DIM]

    def arrays(self) -> dict[str, np.ndarray]:
        """Mean and deviation, as a dataset stores them for `from_recipe`."""
        return {"mean": self.mean_M, "std": self.std_M}

    def check(self, motion_TM: np.ndarray) -> None:
        """UserError unless (T, 40)."""
        if np.ndim(motion_TM) != 2 or np.shape(motion_TM)[1] != len(self.mean_M):
            raise UserError("wrong latent width", where="motion",
                            expected=f"(frames, {len(self.mean_M)})",
                            found=str(np.shape(motion_TM)),
                            hint="use the codec that the model was trained with")


def check_apart(audio_frames: float, motion_frames: float, where: str = "",
                hint: str = "cut them to the same duration") -> None:
    """UserError when sound and motion of one clip are more than MAX_APART frames apart."""
    if abs(audio_frames - motion_frames) > MAX_APART:
        raise UserError("audio and motion differ in length", where=where,
                        found=f"{audio_frames:g} and {motion_frames:g}",
                        expected=f"at most {MAX_APART} frames of {1000 / RATE:.0f} ms apart",
                        hint=hint)


def pack(face_TF: np.ndarray, pose_TP: np.ndarray) -> np.ndarray:
    """Face code and z-scored pose -> (T, 40) float32, zeros behind them. Raises UserError when they
    do not fit."""
    width = face_TF.shape[1] + pose_TP.shape[1]
    if pose_TP.shape[1] != POSE_DIM or width > DIM:
        raise UserError("face and pose do not fit into the motion latent", where="motion",
                        expected=f"a face code of at most {FACE_DIM} and a pose of {POSE_DIM}",
                        found=f"{face_TF.shape[1]} and {pose_TP.shape[1]}",
                        hint="prepare the clips with fewer eigenfaces (--components)")
    return np.concatenate([face_TF, pose_TP, np.zeros((len(face_TF), DIM - width))],
                          -1).astype(np.float32)


def from_recipe(recipe: dict, arrays: dict[str, np.ndarray] | None,
                where: str = "codecs/motion.npz") -> MotionCodec:
    """The codec of a dataset or workdir. Raises UserError when its statistics are missing or of
    another width."""
    missing = {"mean", "std"} - set(arrays or {})
    if missing:
        raise UserError("statistics missing", where=where,
                        expected="arrays mean and std of the motion",
                        found=f"without {', '.join(sorted(missing))}",
                        hint="prepare the data with the statistics that its owner releases beside "
                        "it")
    mean_M, std_M = (np.asarray(arrays[k], np.float32).reshape(-1) for k in ("mean", "std"))
    if len(mean_M) != len(std_M) or len(mean_M) != DIM:
        raise UserError("wrong latent width", where=where, expected=f"{DIM} means and deviations",
                        found=f"{len(mean_M)} and {len(std_M)}",
                        hint="use the statistics of this motion codec")
    return MotionCodec(dict(recipe), mean_M, np.maximum(std_M, _SMALLEST_STD))
