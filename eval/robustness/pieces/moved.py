"""The Motion Mapper at a seam, driven by the true units of all speakers: pieces before it are made
with silence behind them, as generation makes them.

Suffixes: U units, T frames, S speakers, M face code and pose.
"""

from collections.abc import Sequence

import jax
import numpy as np

from avjax.systems.tavid.history import FOLLOWING, LONGEST, followed, looked_back
from eval.data.conversations import COLUMNS as PARTS_OF_MOTION
from eval.robustness.pieces.seams import UNITS_A_FRAME, Seam

HALF = 12  # frames, about half a second
ROOM = 512  # units; lengths are rounded up to it, so that little is compiled
COLUMNS = {
    "face": "distance of the face codes from the recording's, first half second after a seam (RMS)",
    "head": "the same of the heads, z-scored",
    "listening head": "of those who do not speak in it",
    "jump": "how far heads move across the seam in one frame (RMS)"}


class Moved:
    """One Motion Mapper. silence: the unit of it; None: where that is not known."""

    fields = ("id", "turns", "units", "motion")

    def __init__(self, system, params, silence: int | None):
        self._silence = silence
        self._params, self._run = params, jax.jit(
            lambda params, given: system.generate(params, given, None)["motion"])

    def measured(self, example, found: Sequence[Seam], told: bool | None) -> list[dict[str, float]]:
        """Numbers of every seam, of pieces that are told what was said, or are not, or, None, are
        one with it."""
        units_US, true_TSM = example["units"], example["motion"]
        whole = self._made(units_US, 0, len(units_US), False) if told is None else None
        out = []
        for seam in found:
            at = seam.seam // UNITS_A_FRAME
            if told is None:
                before, after = whole[:at], whole[at:]
            else:
                before = self._made(units_US, seam.begin, seam.seam, told, more=True)
                after = self._made(units_US, seam.seam, seam.end, told)
            out.append(_numbers(seam, before, after, true_TSM[at:]))
        return out

    def recorded(self, example, found: Sequence[Seam]) -> list[dict[str, float]]:
        """Of the recording."""
        motion, half = example["motion"], UNITS_A_FRAME
        return [_numbers(s, motion[:s.seam // half], motion[s.seam // half:],
                         motion[s.seam // half:]) for s in found]

    def _made(self, units_US, begin: int, end: int, told: bool, more: bool = False) -> np.ndarray:
        length, piece_1US = end - begin, units_US[None, begin:end]
        room = -(-(length + FOLLOWING) // ROOM) * ROOM
        if more and self._silence is not None:
            given = followed(piece_1US, length, self._silence, room)
        else:
            given = {"units": _padded(piece_1US[0], room), "units_length": np.array([length])}
        heard = looked_back(begin) if told else 0
        given |= {"heard": _padded(units_US[begin - heard:begin], LONGEST),
                  "heard_length": np.array([heard])}
        made = self._run(self._params, given)
        return np.asarray(made)[0, :length // UNITS_A_FRAME]


def _padded(x_US: np.ndarray, size: int) -> np.ndarray:
    return np.pad(x_US, ((0, size - len(x_US)), (0, 0)))[None]


def _numbers(seam: Seam, before_TSM, after_TSM, true_TSM) -> dict[str, float]:
    count = min(HALF, len(after_TSM), len(true_TSM))
    off_TSM = after_TSM[:count] - true_TSM[:count]
    moved_SM = (after_TSM[0] - before_TSM[-1])[:, PARTS_OF_MOTION["h"]]
    listens_S = np.ones(off_TSM.shape[1], bool)
    speaks_S = seam.speaking()[:count * UNITS_A_FRAME].any(0)
    listens_S[:len(speaks_S)] = ~speaks_S
    return {"face": _rms(off_TSM[..., PARTS_OF_MOTION["e"]]),
            "head": _rms(off_TSM[..., PARTS_OF_MOTION["h"]]),
            "listening head": _rms(off_TSM[:, listens_S][..., PARTS_OF_MOTION["h"]]),
            "jump": _rms(moved_SM)}


def _rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(x)))) if np.size(x) else np.nan
