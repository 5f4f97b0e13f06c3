"""What is seen of a speaker in a video: crops of the face, the head's pose, landmarks; and which
stretches of it filters leave."""

import dataclasses
import errno
import json
import os
import pathlib

import numpy as np

from avjax.codecs import eigenface
from avjax.signal import mel, rates
from avjax.storage import failures
from data_pipelines import media
from data_pipelines.media import faces, head_rotation
from data_pipelines.media import landmarks as media_landmarks
from data_pipelines.media.facial import filters
from data_pipelines.store import columns
from data_pipelines.store.schema import Feature, arrays_hash

FPS = rates.VIDEO
# a frame: 735 samples exactly, so cuts between frames are cuts between samples
SAMPLES = mel.RECIPE["sample_rate"] // FPS
MIN_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Recording:
    """One checked recording: N frames at 30 Hz, N * 735 samples at 22050 Hz."""

    audio: np.ndarray  # (N * 735,) int16
    crops: np.ndarray | None  # (N, size, size, 3) uint8; None without pictures
    pose: np.ndarray | None  # (N, 7) float32, see data_pipelines/media/faces.py
    landmarks: np.ndarray | None = None  # (N, K, 2) float32, in sides of the crop
    kept: np.ndarray | None = None  # (S, 2) stretches that filters left; None: all
    cut: dict[str, int] = dataclasses.field(default_factory=dict)  # {filter: frames it took out}

    def arrays(self) -> dict[str, np.ndarray]:
        """What npz can hold of it beside the sound and the crops."""
        found = {name: getattr(self, name) for name in ("pose", "landmarks", "kept")}
        found = {name: x for name, x in found.items() if x is not None}
        return found | ({"cut": np.array(json.dumps(self.cut))} if self.cut else {})


def with_pictures(samples: np.ndarray, video: pathlib.Path, begin: float, *, size: int = 96,
                  detect=None, crops_file=None, landmarks: str | None = None,
                  limits: filters.Limits | None = None) -> Recording:
    """The recording of `samples` and what a video shows meanwhile, from `begin` on its clock.

    Args:
      size: side of the crops, pixels.
      detect: replaces the face detector.
      crops_file: the crops, 3 GB an hour, are written to this .npy as they come and mapped; without
        it they are in memory.
      landmarks: a kind of media/landmarks.py; brings landmarks and a full rotation of the head.
      limits: of what is cut out; needs landmarks.

    Raises:
      media.MediaError, faces.FaceError, whose `reason` says why not.
    """
    count = len(samples) // SAMPLES
    end = begin + count / FPS

    def frames(**shown):
        return (image for _, image in media.frames_at(video, FPS, begin, end, **shown))

    find = media_landmarks.finder(landmarks) if landmarks else None
    track, turn = faces.follow(frames(max_side=faces.SHRINK), FPS, detect), None
    if find:
        points = media_landmarks.along(track, frames(max_side=faces.SHRINK), find)
        turn = media_landmarks.turn_of(points, FPS)
        track = track.turned(turn)
    cropper = faces.Cropper(track, size, FPS)
    good, cut, kept = np.ones(count, bool), {}, None
    if limits:
        cropper.enlarged, width = limits.enlarged, next(frames()).shape[1]
        broken = filters.broken(limits, points, turn, cropper, width, FPS)
        cut = {reason: int(frames_N.sum()) for reason, frames_N in broken.items()}
        kept = filters.stretches(~np.any(list(broken.values()), 0), round(MIN_SECONDS * FPS))
        good = np.isin(np.arange(count), [k for a, b in kept for k in range(a, b)])
        if not len(kept):
            reason = max(cut, key=cut.get)
            raise faces.FaceError(reason, where=str(video), expected=f"{MIN_SECONDS} s without",
                                  found=f"{cut[reason]} of {count} frames "
                                        f"{limits.said()[reason]}")
    shape = (count, size, size, 3)
    crops = np.lib.format.open_memmap(crops_file, "w+", np.uint8,
                                      shape) if crops_file else np.zeros(shape, np.uint8)
    if crops_file:
        _reserve(crops_file)
    for k, image in zip(range(count), frames(), strict=True):
        if good[k]:  # the others are black: too small ones cannot be cropped
            crops[k] = cropper(k, image)
    return Recording(samples, crops, track.pose(turn),
                     cropper.place(points.xy) if find else None, kept, cut)


def _reserve(path: pathlib.Path) -> None:
    """Raises OSError when the disk is too full for a file of holes: written through a map, that
    would kill the process."""
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with failures.working_on(path), open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems without it
                    raise


def head_recipes(landmarks: str | None) -> tuple[dict, dict]:
    """Definitions of the pose and, with a kind of landmarks, {their column: theirs}."""
    if not landmarks:
        return faces.RECIPE, {}
    points = media_landmarks.recipe(landmarks)
    return {**faces.RECIPE, **head_rotation.RECIPE, "of": points}, {
        "landmarks": {**points, "unit": "sides of the crop", "crop": faces.MARGIN}}


def pose_codec(pose_N7: np.ndarray) -> dict[str, np.ndarray]:
    """{"mean", "std"} of poses, by which `pose_z` is standardised."""
    pose_N7 = pose_N7.astype(np.float64)
    spread = pose_N7.std(0)
    # without landmarks, x and y of the quaternion never vary: leave them be
    return {"mean": pose_N7.mean(0).astype(np.float32),
            "std": np.where(spread < 1e-6, 1.0, spread).astype(np.float32)}


def codec_recipes(size: int, components: int, landmarks: str | None,
                  codecs: dict[str, dict]) -> dict[str, dict]:
    """Definitions of the columns `face`, `pose`, `pose_z` and `landmarks`, with the `codecs` "face"
    and "pose" that were fitted on the clips."""
    pose, points = head_recipes(landmarks)
    return {"face": {**eigenface.recipe(size, components), "codec": arrays_hash(codecs["face"]),
                     "margin": faces.MARGIN},
            "pose": pose, "pose_z": {**pose, "codec": arrays_hash(codecs["pose"])}, **points}


def landmark_features(landmarks: str | None, prefix: str = "") -> dict[str, Feature]:
    """The column of a kind of landmarks; none without."""
    count = media_landmarks.recipe(landmarks)["points"] if landmarks else None
    found = columns.of_speaker(prefix, audio=None, landmarks=count, rate=FPS)
    return {name: feature for name, feature in found.items() if name == f"{prefix}landmarks"}
