"""By how much two recordings of one conversation are apart, from what both of them hear.

A microphone hears the others too, softly: the generalised cross-correlation of two recordings with
phase transform (GCC-PHAT; Knapp & Carter 1976) has a peak at their distance in time. Where nothing
leaks there is no peak that stands out, and nothing is known.
"""

import dataclasses

import numpy as np
import soxr
from scipy import fft

RATE = 8000  # Hz: what leaks is speech
BAND = (200.0, 3600.0)  # Hz: without hum, whose peaks repeat
LONGEST = 900.0  # seconds that are looked at; an hour would take gigabytes
# Times the highest peak elsewhere, from which a peak is believed. Measured: 171 pairs of unrelated
# recordings of 2 to 30 s reach 2.4; leaks of -15 dB in 6 s of speech pass; of -25 dB one in 14 s
# did, and one in a talk of 16 s came to 2.7.
CLEAR = 2.8
_OVERLAP = 0.5  # of the shorter recording, that both cover at least
_NEAR = 0.02  # seconds around a peak that belong to it: two people are some metres apart
PIECE, PIECES = 10.0, 4  # seconds of a piece that is looked for by itself, and how many (ours)


@dataclasses.dataclass(frozen=True)
class Offset:
    """seconds: what `b` has at t, `a` has at t + seconds. confidence: the peak, of the highest one
    elsewhere; `known` from CLEAR on. drift: by how many seconds that grows in a second, NaN where
    it is unknown."""

    seconds: float
    confidence: float
    drift: float = float("nan")

    @property
    def known(self) -> bool:
        return self.confidence >= CLEAR


def measure(a_N: np.ndarray, b_N: np.ndarray, rate: int) -> Offset:
    """The offset of two sounds (float, one channel) of the same rate: of all of them or, since
    clocks that drift blur that, of the piece of `b` that is clearest."""
    a_N, b_N = (_prepared(x, rate) for x in (a_N, b_N))
    whole, pieces, size = _peak(a_N, b_N), [], round(PIECE * RATE)
    if len(b_N) >= 2 * size:
        for first in np.linspace(0, len(b_N) - size, PIECES).astype(int):
            seconds, confidence = _peak(a_N, b_N[first:first + size])
            pieces.append((seconds - first / RATE, confidence, first / RATE))
    seconds, confidence = max([whole, *(p[:2] for p in pieces)], key=lambda x: x[1])
    known = [(at, found) for found, sure, at in pieces
             if sure >= CLEAR and abs(found - seconds) < 1]
    drift = float("nan")
    if len(known) > 1:
        drift = float(np.polyfit(*zip(*known, strict=True), 1)[0])
    return Offset(seconds, confidence, drift)


def _prepared(x_N: np.ndarray, rate: int) -> np.ndarray:
    x_N = np.asarray(x_N[:round(LONGEST * rate)], np.float32)
    return soxr.resample(x_N, rate, RATE, quality="MQ") if rate != RATE else x_N


def _peak(a_N, b_N) -> tuple[float, float]:
    """(seconds, confidence)"""
    if min(len(a_N), len(b_N)) < RATE / 4 or not (np.any(a_N) and np.any(b_N)):
        return 0.0, 0.0
    size = fft.next_fast_len(len(a_N) + len(b_N), real=True)
    cross = fft.rfft(a_N, size) * np.conj(fft.rfft(b_N, size))
    frequency = fft.rfftfreq(size, 1 / RATE)
    cross[(frequency < BAND[0]) | (frequency > BAND[1])] = 0
    power = np.abs(cross)
    # bins without sound say nothing, and their phases are noise
    cross /= np.maximum(power, 1e-3 * power.max() + 1e-20)
    likeness = np.abs(fft.irfft(cross, size))
    least = int(_OVERLAP * min(len(a_N), len(b_N)))
    likeness[len(a_N) - least:size - len(b_N) + least] = 0
    at = int(likeness.argmax())
    near = (np.arange(-round(_NEAR * RATE), round(_NEAR * RATE) + 1) + at) % size
    peak, elsewhere = likeness[at], np.delete(likeness, near).max()
    return (at if at < len(a_N) else at - size) / RATE, float(peak / max(elsewhere, 1e-20))
