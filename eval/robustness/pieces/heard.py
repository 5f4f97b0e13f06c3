"""The acoustic part at a seam, of the true units of all speakers.

Suffixes: U units, T mel frames, S speakers, M mel bands.
"""

from collections.abc import Sequence

import jax
import numpy as np

from avjax.inference.keys import example_keys
from avjax.systems.tavid.acoustic.expand import mel_frames
from avjax.systems.tavid.history import LONGEST, looked_back
from eval.robustness.pieces.seams import Seam

SECOND, MOMENT = 86, 17  # mel frames: one second, a fifth
ROOM = 512  # units
COLUMNS = {
    "begin": "mean distance of the mel from the recording's, fifth of a second after a seam",
    "speech": "the same of the first second of the first turn after it, that speaker's",
    "jump": "how far the mel moves across the seam in one frame (RMS)"}


class Heard:
    """One acoustic part."""

    fields = ("id", "turns", "units", "mel", "voices")

    def __init__(self, system, params, seed: int):
        self._params, self._seed, self._run = params, seed, jax.jit(
            lambda params, given, keys: system.go_on(params, given, keys)["mel"])

    def measured(self, example, found: Sequence[Seam], told: bool) -> list[dict[str, float]]:
        """Numbers of every seam, of pieces that are told what was heard, or are not."""
        out = []
        for seam in found:
            before, after = (self._made(example, *span, told)
                             for span in ((seam.begin, seam.seam), (seam.seam, seam.end)))
            out.append(_numbers(seam, before, after, example["mel"][mel_frames(seam.seam):]))
        return out

    def recorded(self, example, found: Sequence[Seam]) -> list[dict[str, float]]:
        """Of the recording."""
        mel = example["mel"]
        return [_numbers(s, mel[:mel_frames(s.seam)], mel[mel_frames(s.seam):],
                         mel[mel_frames(s.seam):]) for s in found]

    def _made(self, example, begin: int, end: int, told: bool) -> np.ndarray:
        heard, first = looked_back(begin) if told else 0, mel_frames(begin)
        before = slice(first - mel_frames(heard), first)
        room = -(-(end - begin) // ROOM) * ROOM
        units_US = example["units"]
        given = {"units": _padded(units_US[begin:end], room),
                 "units_length": np.array([end - begin], np.int32),
                 "heard": _padded(units_US[begin - heard:begin], LONGEST),
                 "heard_length": np.array([heard], np.int32),
                 "heard_mel": _padded(example["mel"][before], mel_frames(LONGEST)),
                 "voices": np.asarray(example["voices"], np.float32)[None]}
        keys = example_keys(self._seed, [f"{example['id']}|{begin}"])
        made = np.asarray(self._run(self._params, given, keys))[0]
        return made[:mel_frames(end) - first]


def _padded(x_TS: np.ndarray, size: int) -> np.ndarray:
    return np.pad(x_TS, [(0, size - len(x_TS))] + [(0, 0)] * (x_TS.ndim - 1))[None]


def _numbers(seam: Seam, before_TSM, after_TSM, true_TSM) -> dict[str, float]:
    off_TSM = np.abs(after_TSM[:len(true_TSM)] - true_TSM[:len(after_TSM)])
    start = int(np.flatnonzero(seam.speaking()[:, seam.speaker])[0])
    spoken = slice(mel_frames(start), mel_frames(start) + SECOND)
    return {"begin": float(off_TSM[:MOMENT].mean()),
            "speech": float(off_TSM[spoken, seam.speaker].mean()),
            "jump": float(np.sqrt(np.mean(np.square(after_TSM[0] - before_TSM[-1]))))}
