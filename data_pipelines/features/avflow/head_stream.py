"""The head stream of AV-Flow to z-scored pose, on latents that have not ended yet.

The head VAE's decoder attends to all frames of a clip. Here it sees a window: `BEFORE` frames
before those that are decoded and `AHEAD` after them. On puppets that changes the pose by 1.5 % of
its deviation (2.8 % with four frames ahead). A head stream that is the pose itself waits for
nothing.
"""

from collections.abc import Mapping

import numpy as np

from data_pipelines.features.avflow import head_pose

BEFORE, BLOCK, AHEAD = 120, 5, 15  # frames of a pose at 30 Hz


class StreamedHead:
    """`feed` takes frames of the head stream, `finish` ends it; either returns z-scored pose.

    Args:
      recipe, arrays: a dataset's "head" recipe and codec.
      rate: of the frames, Hz.
    """

    def __init__(self, recipe: Mapping, arrays: Mapping[str, np.ndarray], rate: float = 30.0):
        self._sizes = tuple(round(frames * rate / 30) for frames in (BEFORE, BLOCK, AHEAD))
        self._recipe, self._arrays = recipe, arrays
        self._windows = recipe["kind"] != "linear"
        self._kept: np.ndarray | None = None  # frames of which the first `_before` are decoded
        self._before = 0

    @property
    def look_ahead(self) -> int:
        """Frames after a frame that its pose depends on, at most."""
        _, block, ahead = self._sizes
        return block - 1 + ahead if self._windows else 0

    def feed(self, latent_TZ: np.ndarray) -> np.ndarray:
        """(T, Z) -> (n, 7)"""
        if not self._windows:
            return self._decoded(latent_TZ)
        self._keep(latent_TZ)
        _, block, ahead = self._sizes
        parts = [self._part(0)]
        while len(self._kept) - self._before >= block + ahead:
            parts.append(self._part(block))
        return np.concatenate(parts)

    def finish(self) -> np.ndarray:
        """The last frames."""
        if not self._windows or self._kept is None:
            return np.zeros((0, 7), np.float32)
        parts = [self._part(0)]
        while len(self._kept) > self._before:
            parts.append(self._part(min(self._sizes[1], len(self._kept) - self._before)))
        return np.concatenate(parts)

    def _keep(self, latent_TZ) -> None:
        self._kept = (np.asarray(latent_TZ) if self._kept is None
                      else np.concatenate([self._kept, latent_TZ]))

    def _part(self, frames: int) -> np.ndarray:
        """The next frames' pose."""
        if not frames:
            return np.zeros((0, 7), np.float32)
        before, _, ahead = self._sizes
        window_TZ = self._kept[:self._before + frames + ahead]
        pose_NP = self._decoded(window_TZ)[self._before:self._before + frames]
        self._before += frames
        drop = max(self._before - before, 0)
        self._kept, self._before = self._kept[drop:], self._before - drop
        return pose_NP

    def _decoded(self, latent_TZ) -> np.ndarray:
        return head_pose.decode(self._recipe, self._arrays, latent_TZ)
