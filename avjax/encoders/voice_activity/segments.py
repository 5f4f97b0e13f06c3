"""Probabilities of speech, one a chunk of 512 samples at 16 kHz -> stretches of speech.

Silero VAD's rule (package silero-vad 6.2.3, MIT), reproduced to the sample: speech starts at a
chunk of at least `threshold`; it ends where chunks fall below `neg_threshold` for
`min_silence_ms` without one at `threshold` between; what is not longer than `min_speech_ms` is
dropped; the rest is padded, and a gap shorter than two pads is split in the middle.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

RATE, CHUNK = 16000, 512


@dataclasses.dataclass(frozen=True)
class Options:
    """Those of the published code, with its defaults.

    Attributes:
      threshold: probability from which on a chunk is speech.
      neg_threshold: probability below which speech may end; None is 0.15 below `threshold`, at
        least 0.01.
      min_speech_ms, min_silence_ms, pad_ms: milliseconds, see above.
      max_speech_s: longer stretches are cut: at the longest silence inside of more than
        `silence_at_max_ms`, or where there is none, at the limit.
      longest_silence: False cuts at the last such silence instead.
    """

    threshold: float = 0.5
    neg_threshold: float | None = None
    min_speech_ms: float = 250
    max_speech_s: float = math.inf
    min_silence_ms: float = 100
    pad_ms: float = 30
    silence_at_max_ms: float = 98
    longest_silence: bool = True


def inside(spans_K2: np.ndarray, at_T: np.ndarray) -> np.ndarray:
    """(T,) bool: which of the times lie in half-open intervals of any order."""
    begun, ended = (np.searchsorted(np.sort(edges), at_T, side="right") for edges in spans_K2.T)
    return begun > ended


def timestamps(probabilities: Sequence[float], samples: int,
               options: Options = Options()) -> np.ndarray:
    """(K, 2) int64 samples at RATE of the speech in `samples` samples."""
    pad = RATE * options.pad_ms / 1000
    found = _Cutter(options).found(probabilities, samples)
    for i, speech in enumerate(found):
        if i == 0:
            speech[0] = int(max(0, speech[0] - pad))
        if i == len(found) - 1:
            speech[1] = int(min(samples, speech[1] + pad))
            continue
        after = found[i + 1]
        silence = after[0] - speech[1]
        if silence < 2 * pad:
            speech[1] += int(silence // 2)
            after[0] = int(max(0, after[0] - silence // 2))
        else:
            speech[1] = int(min(samples, speech[1] + pad))
            after[0] = int(max(0, after[0] - pad))
    return np.array(found, np.int64).reshape(-1, 2)


class _Cutter:
    """Follows the probabilities; all times are samples."""

    def __init__(self, options: Options):
        self.o = options
        self.low = options.neg_threshold
        if self.low is None:
            self.low = max(options.threshold - 0.15, 0.01)
        self.longest = (RATE * options.max_speech_s - CHUNK
                        - 2 * RATE * options.pad_ms / 1000)
        self.speech: list[list[int]] = []
        self.start: int | None = None  # of the stretch that goes on
        self._forget()

    def _forget(self) -> None:
        """What is known of the silences within the stretch."""
        self.quiet = 0  # where the silence began that goes on; 0: none does
        self.silences: list[tuple[int, int]] = []  # (length, begin) of those where one may cut
        self.last = self.resumed = 0  # begin of the last such silence, where speech went on after

    def found(self, probabilities: Sequence[float], samples: int) -> list[list[int]]:
        shortest = RATE * self.o.min_speech_ms / 1000
        for k, p in enumerate(probabilities):
            self._chunk(k * CHUNK, p, shortest)
        if self.start is not None and samples - self.start > shortest:
            self.speech.append([self.start, samples])
        return self.speech

    def _chunk(self, now: int, p: float, shortest: float) -> None:
        o = self.o
        if p >= o.threshold and self.quiet:
            if now - self.quiet > RATE * o.silence_at_max_ms / 1000:
                self.silences.append((now - self.quiet, self.quiet))
            self.quiet = 0
            if self.resumed < self.last:
                self.resumed = now
        if p >= o.threshold and self.start is None:
            self.start = now
            return
        if self.start is not None and now - self.start > self.longest and not self._cut(now):
            return
        if p >= self.low or self.start is None:
            return
        self.quiet = self.quiet or now
        silence = now - self.quiet
        if not o.longest_silence and silence > RATE * o.silence_at_max_ms / 1000:
            self.last = self.quiet
        if silence >= RATE * o.min_silence_ms / 1000:
            if self.quiet - self.start > shortest:
                self.speech.append([self.start, self.quiet])
            self.start = None
            self._forget()

    def _cut(self, now: int) -> bool:
        """Ends a stretch that is too long; whether this chunk is to be looked at further."""
        if self.o.longest_silence and self.silences:
            length, begin = max(self.silences, key=lambda silence: silence[0])
            self.speech.append([self.start, begin])
            self.start = begin + length
        elif self.last:
            self.speech.append([self.start, self.last])
            self.start = self.resumed if self.resumed >= self.last else None
        else:
            self.speech.append([self.start, now])
            self.start = None
            self._forget()
            return False
        self._forget()
        return True
