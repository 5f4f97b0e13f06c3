"""Sound at another sample rate, and streams of frames at another frame rate: whose frame is when.

Frame k of a clip's stream at r frames per second is at k / r seconds. Frame j of AV-Flow's features
is at the centre of mel frame j, (256 j + 128) / 22050 s, whatever the stream. `to_features` and
`from_features` are the only two places that know this; a model's output goes back to 30 Hz by the
same clock by which its targets came. Talker's motion is at k / 25 seconds, on a clip's kind of
clock; `convert` goes from one such clock to another.
"""

import numpy as np
import soxr

from avjax.signal import mel

HOP_SECONDS = mel.RECIPE["hop"] / mel.RECIPE["sample_rate"]
MODES = ("timestamps", "released")
RELEASED_RATE = 86.13281230  # frames a second, as the published code writes 22050 / 256


def feature_times(frames: int) -> np.ndarray:
    """Seconds of the first `frames` feature frames."""
    return (np.arange(frames) + 0.5) * HOP_SECONDS


def to_features(x_TC: np.ndarray, rate: float, frames: int, *,
                mode: str = "timestamps") -> np.ndarray:
    """(T, C) at `rate`, whose first frame is at 0 s -> (frames, C) on the features' clock.

    Ends are held. mode "released" lays the frames' beginnings on each other instead of their times,
    as the published code does (`interpolate(scale_factor, align_corners=False)`): up to half a
    source frame off, needed to reproduce published features.
    """
    if mode == "released":
        position = (np.arange(frames) + 0.5) * (rate * HOP_SECONDS) - 0.5
    else:
        position = feature_times(frames) * rate
    return interpolate(x_TC, position)


def from_features(x_TC: np.ndarray, rate: float, frames: int | None = None, *,
                  mode: str = "timestamps") -> np.ndarray:
    """(T, C) on the features' clock -> (frames, C) at `rate`; by default as many frames as the
    duration holds."""
    if frames is None:
        frames = max(1, count(len(x_TC), rate, mode))
    return interpolate(x_TC, feature_positions(np.arange(frames), rate, mode))


def count(features: int, rate: float, mode: str) -> int:
    """Frames at `rate` that so many feature frames last: rounded, or floored as torch's interpolate
    does it in mode "released"."""
    if mode == "released":
        return int(features * (rate / RELEASED_RATE))
    return round(features * HOP_SECONDS * rate)


def feature_positions(numbers: np.ndarray, rate: float, mode: str) -> np.ndarray:
    """Where on the features' clock the frames of these numbers at `rate` are, in feature frames."""
    if mode == "released":
        return (numbers + 0.5) / (rate * HOP_SECONDS) - 0.5
    return numbers / rate / HOP_SECONDS - 0.5


def convert(x_TC: np.ndarray, rate: float, new_rate: float, frames: int) -> np.ndarray:
    """(T, C) whose frame k is at k / rate seconds -> (frames, C) whose frame k is at k / new_rate;
    the end is held."""
    return interpolate(x_TC, np.arange(frames) * (rate / new_rate))


def interpolate(x_TC: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Linear interpolation of (T, ...) at fractional frame indices, held beyond both ends. Keeps
    the dtype."""
    position = np.clip(position, 0, len(x_TC) - 1)
    below = np.minimum(position.astype(np.int64), max(len(x_TC) - 2, 0))
    above = np.minimum(below + 1, len(x_TC) - 1)
    weight = (position - below).astype(x_TC.dtype).reshape(-1, *[1] * (x_TC.ndim - 1))
    return x_TC[below] * (1 - weight) + x_TC[above] * weight


def resampled(audio_N: np.ndarray, rate: float, new_rate: float = 24000) -> np.ndarray:
    """Float samples at `rate` -> float32 samples at `new_rate`, Hz."""
    audio_N = np.asarray(audio_N, np.float32)
    return audio_N if rate == new_rate else soxr.resample(audio_N, rate, new_rate)
