"""Several channels -> one, by what each channel is for, so that no voice is buried, cancelled or
halved.

Channels count as in ITU-R BS.775: the centre whole, left and right by 1 / sqrt 2, surrounds by a
half, the bass channel not at all. The sum is divided by the weights of the channels in which there
is sound, so that a voice in one channel only keeps its level. A channel of opposite sign is turned
round, and where channels cancel nevertheless, the loudest is taken alone.
"""

from collections.abc import Sequence

import numpy as np

RECIPE = "ITU-R BS.775 over the channels that sound, inverted ones turned"
_FRONT, _SIDE = 2**-0.5, 0.5
# of an ambisonic sound, its omnidirectional part
_WEIGHTS = {"FC": 1.0, "AMBI0": 1.0, "LFE": 0.0, "LFE2": 0.0,
            **dict.fromkeys(("FL", "FR", "FLC", "FRC", "WL", "WR", "DL", "DR"), _FRONT)}
# What the channels are where the file does not say (a plain WAV): the order that every program
# writes.
_USUAL = {5: "FL FR FC BL BR", 6: "FL FR FC LFE BL BR", 7: "FL FR FC LFE BC SL SR",
          8: "FL FR FC LFE BL BR SL SR"}
_DEAD = 10 ** (-25 / 20)  # of the loudest channel's deviation
_INVERTED = -0.5  # correlation with the loudest channel
_CANCELLED = 10 ** (-12 / 20)  # of the loudest channel's deviation, left of the sum


class Statistics:
    """Means and covariances of the channels of a stream."""

    def __init__(self, channels: int):
        self._count = 0
        self._sum_C = np.zeros(channels)
        self._product_CC = np.zeros((channels, channels))

    def add(self, x_CN: np.ndarray) -> None:
        x_CN = x_CN.astype(np.float64)
        self._count += x_CN.shape[1]
        self._sum_C += x_CN.sum(1)
        self._product_CC += x_CN @ x_CN.T

    def covariance(self) -> np.ndarray:
        mean_C = self._sum_C / max(self._count, 1)
        return self._product_CC / max(self._count, 1) - np.outer(mean_C, mean_C)


def weights(names: Sequence[str], covariance_CC: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(C,) weights whose products with the channels add up to one sound, and remarks about what was
    mended.

    Args:
      names: FFmpeg's names of the channels, "NONE" where the file does not say.
      covariance_CC: of the channels, over the whole sound.
    """
    count, told = len(names), "NONE" not in names
    usual_C = _nominal(names if told else _USUAL.get(count, " ".join(["FL"] * count)).split())
    deviation_C = np.sqrt(np.maximum(np.diag(covariance_CC), 0))
    eligible_C = usual_C > 0 if told else np.ones(count, bool)
    loudest = int(np.argmax(deviation_C * eligible_C))
    level = deviation_C[loudest]
    if count == 1 or level < 1e-6:
        return usual_C / usual_C.sum(), []
    living_C = (deviation_C >= _DEAD * level) & (usual_C > 0)
    reference = int(np.argmax(deviation_C * living_C))
    scale_C = np.maximum(deviation_C[reference] * deviation_C, 1e-12)
    correlation_C = covariance_CC[reference] / scale_C
    inverted_C = living_C & (correlation_C < _INVERTED)
    # most are right, of two the first one
    if 2 * inverted_C.sum() + inverted_C[np.argmax(living_C)] > living_C.sum():
        inverted_C = living_C & ~inverted_C
    mix_C = usual_C * living_C * np.where(inverted_C, -1.0, 1.0)
    total = np.abs(mix_C).sum()
    mix_C = mix_C / total if total else mix_C
    if mix_C @ covariance_CC @ mix_C < (_CANCELLED * level) ** 2:
        return np.eye(count)[loudest], ["the sum of its channels is nearly silent: only "
                                        f"{_named(names, loudest)} is used"]
    return mix_C, [f"{_named(names, k)} is inverted: turned round"
                   for k in np.flatnonzero(inverted_C)]


def mono(x_CN: np.ndarray, names: Sequence[str] | None = None) -> tuple[np.ndarray, list[str]]:
    """(C, N) -> ((N,), remarks); see `weights`."""
    statistics = Statistics(len(x_CN))
    statistics.add(x_CN)
    mix_C, remarks = weights(names or ["NONE"] * len(x_CN), statistics.covariance())
    return mix_C.astype(x_CN.dtype) @ x_CN, remarks


def _nominal(names) -> np.ndarray:
    if "AMBI0" in names:
        return np.array([float(n == "AMBI0") for n in names])
    if not set(names) - {"LFE", "LFE2"}:
        return np.ones(len(names))
    return np.array([_WEIGHTS.get(n, _SIDE) for n in names])


def _named(names, k: int) -> str:
    return f"channel {k + 1} of {len(names)}" + ("" if names[k] == "NONE" else f" ({names[k]})")
