"""Sound as networks of speech take it: 16 kHz, by the resampler that their published code uses.

Suffixes: N samples.
"""

import functools
import math

import numpy as np
from scipy import signal

RATE = 16000
CROSSINGS, ROLL_OFF = 6, 0.99  # zero crossings on a side; cut-off as a share of half the lower rate
RESAMPLER = {"sample_rate": RATE, "resampler": "windowed sinc, torchaudio's default",
             "crossings": CROSSINGS, "roll_off": ROLL_OFF}


def at_16khz(wave_N: np.ndarray, rate: float) -> np.ndarray:
    """Samples at a whole number of Hz -> float32 at RATE, as torchaudio.functional.resample does at
    its defaults: a sinc under a squared cosine, zeros beyond both ends."""
    wave_N = np.asarray(wave_N, np.float32)
    if rate == RATE or not len(wave_N):
        return wave_N
    common = math.gcd(round(rate), RATE)
    up, down = RATE // common, round(rate) // common
    return signal.resample_poly(wave_N, up, down, window=_kernel(up, down)).astype(np.float32)


@functools.cache
def _kernel(up: int, down: int) -> np.ndarray:
    """Taps at `up` times the rate of the samples, of unit gain."""
    cut_off = min(up, down) * ROLL_OFF / down / up  # zero crossings a tap
    reach = math.ceil(CROSSINGS / cut_off)
    time = np.clip(np.arange(-reach, reach + 1) * cut_off, -CROSSINGS, CROSSINGS)
    return np.sinc(time) * np.cos(np.pi * time / CROSSINGS / 2) ** 2 * cut_off


def is_silent(wave_N: np.ndarray) -> bool:
    """Nothing to judge: no samples, all of one value, or some that are not finite."""
    return not len(wave_N) or not np.isfinite(wave_N).all() or not np.ptp(wave_N)
