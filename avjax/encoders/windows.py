"""Utterances of any length in a few shapes: long ones cut into overlapping windows, all batched by
length.

Up to 80 s (4000 frames; XLS-R saw no more than 4096) an utterance is one piece. Longer ones are
windows of 60 s that overlap by at least 5 s; of an overlap, either window gives its half
(specification 1.2: "keep centres").
Suffixes: B batch, N samples, T frames.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from avjax.sharding import rows

SAMPLE_RATE = 16000
HOP = 320  # samples a frame
WHOLE_SECONDS, WINDOW_SECONDS, OVERLAP_SECONDS = 80, 60, 5
# Lengths an octave that pieces are padded to, a compilation each: a tenth of the work is padding,
# or a fortieth where there is so much sound that compiling counts for nothing.
FEW, MANY = 4, 16
_BATCH_SECONDS = 320  # in a batch, on an accelerator
RECIPE = {"whole": WHOLE_SECONDS, "window": WINDOW_SECONDS, "overlap": OVERLAP_SECONDS}  # seconds

Piece = tuple[int, int]  # first sample, a multiple of HOP, and the one behind the last


def pieces(samples: int) -> list[Piece]:
    """The windows of an utterance: the last one ends where it ends and is as long as the others."""
    window, step = WINDOW_SECONDS * SAMPLE_RATE, (WINDOW_SECONDS - OVERLAP_SECONDS) * SAMPLE_RATE
    if samples <= WHOLE_SECONDS * SAMPLE_RATE:
        return [(0, samples)]
    last = -(-(samples - window) // HOP) * HOP
    return [(start, start + window) for start in range(0, last, step)] + [(last, samples)]


def joined(parts: Sequence[np.ndarray], cut: Sequence[Piece],
           num_frames: Callable[[int], int]) -> np.ndarray:
    """The frames of an utterance from those of its pieces (padded at the end): neighbours meet in
    the middle of what they
    share. num_frames: of so many samples."""
    firsts = [start // HOP for start, _ in cut]
    ends = [first + num_frames(end - start) for first,
            (start, end) in zip(firsts, cut, strict=True)]
    meet = [0, *((end + first) // 2 for end, first in zip(ends, firsts[1:], strict=False)),
            ends[-1]]
    return np.concatenate([part[a - first:b - first] for part, first, a, b in
                           zip(parts, firsts, meet, meet[1:], strict=False)])


def bucket(samples: int, steps: int = FEW) -> int:
    """The length that a piece is padded to: of `steps` an octave from a second on the next one,
    a whole number of frames."""
    seconds = max(samples / SAMPLE_RATE, 1.0)
    step = 2.0 ** math.floor(math.log2(seconds)) / steps
    padded = math.ceil(math.ceil(seconds / step) * step * SAMPLE_RATE / HOP) * HOP
    return max(samples, min(padded, WHOLE_SECONDS * SAMPLE_RATE))


def most(samples: int) -> int:
    """Pieces, padded to so many samples, that a device takes together."""
    return rows.at_once(_BATCH_SECONDS * SAMPLE_RATE // samples)


def batches(utterances: Sequence[np.ndarray], cuts: Sequence[Sequence[Piece]], shards: int = 1,
            steps: int = FEW) -> Iterator[tuple[list[tuple[int, int]], np.ndarray, np.ndarray]]:
    """Pieces of like length together, longest first: which they are (utterance, piece), x_BN
    float32, lengths_B int32.

    N is a `bucket`, B as in avjax.sharding.rows.groups.
    """
    found = [(i, j) for i, cut in enumerate(cuts) for j in range(len(cut))]
    ends = [cuts[i][j] for i, j in found]
    for which, size, samples in rows.groups([end - start for start, end in ends],
                                            lambda n: bucket(n, steps), most, shards):
        parts = [np.float32(utterances[found[k][0]][slice(*ends[k])]) for k in which]
        lengths_B = [len(parts[row if row < len(parts) else 0]) for row in range(size)]
        yield ([found[k] for k in which], rows.stacked(parts, size, samples),
               np.array(lengths_B, np.int32))
