"""One channel in which everybody speaks -> a channel a speaker, cut by the transcript's times.

Nobody is taken apart where two speak at once: both channels have both then, and how many seconds
that are is told.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

CUT = "one channel for all speakers: cut by the transcript's times"
MARGIN = 0.05  # seconds of sound kept around what is said
_FADE = 0.01  # seconds


def cut(audio_N: np.ndarray, spans: Sequence[Sequence[tuple[float, float]]],
        rate: int) -> tuple[list[np.ndarray], float]:
    """([(N,) of every speaker], seconds that several have at once); spans: (start, end) in seconds
    of each one's speech."""
    gates = np.zeros((len(spans), len(audio_N)), np.float32)
    for gate, own in zip(gates, spans, strict=True):
        for start, end in own:
            first, last = round((start - MARGIN) * rate), round((end + MARGIN) * rate)
            gate[max(first, 0):max(last, 0)] = 1.0
    at_once = float((gates.sum(0) > 1).sum() / rate)
    width = round(_FADE * rate)
    return [audio_N * ndimage.uniform_filter1d(gate, width) for gate in gates], at_once
