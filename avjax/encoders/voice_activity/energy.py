"""Where a clean channel is loud: the voice activity that needs no weights.

Suffixes: T frames, M mel bands, N samples, K chunks.
"""

import numpy as np

from avjax.encoders.voice_activity.segments import CHUNK, RATE
from avjax.signal import mel
from avjax.signal.resample import resampled

BELOW_DB, FLOOR_DB, SMOOTH = 35.0, -60.0, 5
RECIPE = {"below_db": BELOW_DB, "percentile": 95, "floor_db": FLOOR_DB, "smooth_frames": SMOOTH}


def smooth(power_T: np.ndarray) -> np.ndarray:
    """(T,) means over SMOOTH frames; beyond the ends is silence."""
    half = SMOOTH // 2
    return np.convolve(np.pad(power_T, half), np.full(SMOOTH, 1 / SMOOTH), "valid")


def loud(log_mel_TM: np.ndarray, *, below_db: float = BELOW_DB,
         floor_db: float = FLOOR_DB) -> np.ndarray:
    """(T,) bool: frames within `below_db` of the 95th percentile of those above the floor.

    Args:
      log_mel_TM: natural logarithm of magnitudes.
      floor_db: of the mean squared magnitude; a channel that never rises above it is silent.
    """
    power_T = np.square(np.exp(np.asarray(log_mel_TM, np.float64))).mean(-1)
    level_T = 10 * np.log10(smooth(power_T) + 1e-12)
    if not len(level_T) or level_T.max() < floor_db:
        return np.zeros(len(level_T), bool)
    return level_T > max(np.percentile(level_T[level_T > floor_db], 95) - below_db, floor_db)


def probabilities(audio_N: np.ndarray, rate: float) -> np.ndarray:
    """(K,) share of each chunk of 512 samples at 16 kHz that is loud; K as silero.probabilities of
    the channel at 16 kHz has. audio_N: float in [-1, 1]."""
    count = -(-round(len(audio_N) * RATE / rate) // CHUNK)
    at_mel = resampled(audio_N, rate, mel.RECIPE["sample_rate"])
    if len(at_mel) < mel.RECIPE["n_fft"] // 2:
        return np.zeros(count, np.float32)
    loud_T = loud(mel.log_mel(at_mel))
    edges = np.arange(count + 1) * (CHUNK / RATE * mel.FRAME_RATE)
    summed = np.interp(edges, np.arange(len(loud_T) + 1), np.r_[0.0, np.cumsum(loud_T)])
    return (np.diff(summed) / np.maximum(np.diff(edges), 1e-9)).astype(np.float32)
