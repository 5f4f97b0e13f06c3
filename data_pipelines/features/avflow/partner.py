"""The partner's expression and head rotation, of whatever the clips know of them.

Expression is their column `partner_face`. The rotation is of `partner_pose`, or where a corpus says
no more than that, `partner_rotation` itself. Both are min-max scaled to [-1, 1]: by the clips'
codec "partner" where their owners give the ranges (then as their code does it, without clipping),
else by ranges fitted on one split.
"""

from collections.abc import Callable, Mapping

import numpy as np

CODEC = "partner"
# stream -> (start of the names of its ranges, columns it is made of: the first that clips have)
STREAMS = {"partner_expression": ("expression", ("partner_face",)),
           "partner_head": ("head", ("partner_pose", "partner_rotation"))}


class Partner:
    """Scaling of the streams that some clips allow for.

    Attributes:
      columns: {stream: the clips' column}, those of STREAMS that the clips have.
      arrays: the codec: {name}_min and {name}_max of each.
    """

    def __init__(self, clips, split: str, once: Callable[[str, Callable], dict]):
        """Args:
          split: what ranges are fitted on.
          once: (name, make) -> make(), of a job that may be interrupted.
        """
        self.columns = columns_of(clips)
        self.given = CODEC in clips.codecs
        self.arrays: Mapping[str, np.ndarray] = {}
        if self.columns:
            self.arrays = clips.codec(CODEC) if self.given else once(
                CODEC, lambda: self._fit(clips, split))

    def __call__(self, clip: dict) -> dict[str, np.ndarray]:
        """{stream: (frames, width)} at the columns' own rates."""
        return {stream: scaled(x, stream, self.arrays, clip=not self.given)
                for stream, x in self._raw(clip).items()}

    def width(self, stream: str, clips) -> int:
        """Of a stream."""
        return 3 if stream == "partner_head" else clips.features[self.columns[stream]].shape[1]

    def _raw(self, clip: dict) -> dict[str, np.ndarray]:
        return {stream: rotation_vector(clip[column][:, :4]) if column == "partner_pose"
                else clip[column] for stream, column in self.columns.items()}

    def _fit(self, clips, split: str) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for clip in clips.source(split, self.columns.values()):
            for stream, x in self._raw(clip).items():
                for end, extreme in (("min", np.minimum), ("max", np.maximum)):
                    key = f"{STREAMS[stream][0]}_{end}"
                    now = getattr(x, end)(0)
                    found[key] = extreme(found.get(key, now), now)
        return found


def scaled(x_TC: np.ndarray, stream: str, arrays: Mapping[str, np.ndarray], *,
           clip: bool) -> np.ndarray:
    """A column of clips -> the stream, by the codec's ranges; NaN stays."""
    low, high = (arrays[f"{STREAMS[stream][0]}_{end}"] for end in ("min", "max"))
    out = 2 * (x_TC - low) / np.maximum(high - low, 1e-6) - 1
    return np.asarray(np.clip(out, -1, 1) if clip else out, np.float32)


def columns_of(clips) -> dict[str, str]:
    """{stream: the clips' column that it is made of}."""
    found = {stream: next((c for c in names if c in clips.features), None)
             for stream, (_, names) in STREAMS.items()}
    return {stream: column for stream, column in found.items() if column}


def rotation_vector(quaternion_T4: np.ndarray) -> np.ndarray:
    """Quaternions wxyz (T, 4) -> axis times angle in radians (T, 3), angle in [0, pi]."""
    q = quaternion_T4 / np.maximum(np.linalg.norm(quaternion_T4, axis=-1, keepdims=True), 1e-12)
    q = np.where(q[:, :1] < 0, -q, q)
    sine = np.linalg.norm(q[:, 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[:, :1])
    return (q[:, 1:] * np.where(sine > 1e-8, angle / np.maximum(sine, 1e-8),
                                2.0)).astype(np.float32)
