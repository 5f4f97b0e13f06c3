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
# recordings of 2 to 30 s reach 2.0; leaks of -30 dB in 14 s of speech and of -20 dB in 6 s pass.
CLEAR = 2.5
_OVERLAP = 0.5  # of the shorter recording, that both cover at least
_NEAR = 0.02  # seconds around a peak that belong to it: two people are some metres apart
_DRIFT_EVERY = 20.0  # seconds of sound, at least, in each of the two pieces that tell a drift


@dataclasses.dataclass(frozen=True)
class Offset:
    """seconds: what `b` has at t, `a` has at t + seconds. confidence: the peak, of the highest one
    elsewhere; `known` from CLEAR on. drift: parts by which `b` is slow, NaN where it is unknown."""

    seconds: float
    confidence: float
    drift: float = float("nan")

    @property
    def known(self) -> bool:
        return self.confidence >= CLEAR


def measure(a_N: np.ndarray, b_N: np.ndarray, rate: int) -> Offset:
    """The offset of two sounds (float, one channel) of the same rate."""
    a_N, b_N = (_prepared(x, rate) for x in (a_N, b_N))
    seconds, confidence = _peak(a_N, b_N)
    found = Offset(seconds, confidence)
    return dataclasses.replace(found, drift=_drift(a_N, b_N, seconds)) if found.known else found


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


def _drift(a_N, b_N, seconds: float) -> float:
    """By how much the distance grows from the first half to the second, of the time between."""
    shift = round(seconds * RATE)
    a_N, b_N = (a_N[shift:], b_N) if shift >= 0 else (a_N, b_N[-shift:])
    count = min(len(a_N), len(b_N))
    half = count // 2
    if half < _DRIFT_EVERY * RATE:
        return float("nan")
    found = [_peak(a_N[k * half:(k + 1) * half], b_N[k * half:(k + 1) * half]) for k in (0, 1)]
    if min(confidence for _, confidence in found) < CLEAR:
        return float("nan")
    return (found[1][0] - found[0][0]) / (half / RATE)
