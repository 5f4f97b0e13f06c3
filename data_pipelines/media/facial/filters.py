"""Which frames of a recording show a face that a model can learn from.

The rules are TAVID's, which are those of Hallo2's preparation: no rotation beyond 30 degrees, no
hidden face, no jump of its box by more than 5 % of it a frame (of 25 a second), no second face.
Those on light and size, and what counts as cut off, are ours.
"""

import dataclasses

import numpy as np

from avjax.signal.runs import intervals
from data_pipelines.media import faces, head_rotation, landmarks

JUMPS_PER_SECOND = 25  # the frame rate that `jump` is meant for
OUTSIDE = 0.05  # of the points; more outside the picture: the face is cut off
# of a frame that is left out
REASONS = {"head turned": "rotated beyond {rotation:g} degrees",
           "face hidden": "less than {seen:g} certain to be a face",
           "face cut off": f"more than {OUTSIDE:.0%} of its points outside the picture",
           "face jumps": "by more than {jump:g} crops in 1/25 s",
           "second face": f"wider than {faces.SECOND:g} of the first",
           "face small": "its crop enlarged more than {enlarged:g} times",
           "too dark": "a mean grey below {light:g} of 255"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Thresholds of the rules."""

    rotation: float = 30.0  # degrees of yaw, pitch or roll
    seen: float = 0.5  # certainty of the landmarks' network
    jump: float = 0.05  # crop sides in 1/25 s
    enlarged: float = 2.0  # times
    light: float = 40.0  # mean grey of the face

    def said(self) -> dict[str, str]:
        """{reason: its rule}."""
        values = dataclasses.asdict(self)
        return {reason: rule.format(**values) for reason, rule in REASONS.items()}


def broken(limits: Limits, points: landmarks.Points, q_N4: np.ndarray, cropper: faces.Cropper,
           width: int, rate: float) -> dict[str, np.ndarray]:
    """{reason: (N,) bool} of the frames that break a rule.

    Args:
      q_N4: the head's rotation.
      width: of the whole picture, pixels.
      rate: frames a second.
    """
    inside = ((points.xy >= 0) & (points.xy <= (1, points.height))).all(-1)
    step = np.linalg.norm(np.diff(points.xy.mean(1), axis=0), axis=-1) / cropper.side[1:]
    jump = np.concatenate([[0.0], step * rate / JUMPS_PER_SECOND])
    return {"head turned": (np.abs(head_rotation.angles(q_N4)) > limits.rotation).any(-1),
            "face hidden": points.seen < limits.seen,
            "face cut off": (~inside).mean(-1) > OUTSIDE,
            "face jumps": jump > limits.jump,
            "second face": cropper.track.second,
            "face small": cropper.side * width < cropper.size / limits.enlarged,
            "too dark": points.light < limits.light}


def stretches(good_N: np.ndarray, least: int) -> np.ndarray:
    """(S, 2) first frame and last + 1 of every run of at least `least` good frames."""
    found_S2 = intervals(good_N)
    return found_S2[np.diff(found_S2)[:, 0] >= least]
