"""Pitch and loudness of speech over time, as prosody is compared by. Suffixes: N samples, T frames
of 10 ms."""

import dataclasses

import numpy as np

from avjax.encoders import voice_statistics
from avjax.encoders.voice_statistics import SAMPLE_RATE
from avjax.signal import level
from avjax.signal.resample import resampled

ACTIVE_DB = 40.0  # below the loudest frame: less is a pause
LEAST = 20  # voiced frames; fewer say nothing of pitch
RECIPE = {"pitch": "Boersma 1993, autocorrelation of 50 ms, 60 to 400 Hz", "hop_s": 0.01,
          "voiced": voice_statistics.RECIPE["voiced"], "active_db": ACTIVE_DB, "least": LEAST,
          "level": level.RECIPE}


@dataclasses.dataclass(frozen=True)
class Contour:
    """pitch_T: semitones over 100 Hz, NaN where there is no voice. energy_T: dB, NaN in pauses."""

    pitch_T: np.ndarray
    energy_T: np.ndarray

    @property
    def register(self) -> float:
        """Median pitch, semitones over 100 Hz; NaN of too little voice."""
        voiced = self._voiced
        return float(np.median(voiced)) if len(voiced) >= LEAST else np.nan

    @property
    def spread(self) -> float:
        """Half the distance of the 16th and the 84th percentile of pitch, semitones: a standard
        deviation that octave errors do not move; NaN of too little voice."""
        voiced = self._voiced
        if len(voiced) < LEAST:
            return np.nan
        low, high = np.quantile(voiced, (0.16, 0.84))
        return float(high - low) / 2

    @property
    def _voiced(self) -> np.ndarray:
        return self.pitch_T[np.isfinite(self.pitch_T)]


def of(wave_N: np.ndarray, rate: int) -> Contour:
    """Of samples in [-1, 1]."""
    audio_N = resampled(np.asarray(wave_N, np.float32), rate, SAMPLE_RATE)
    if audio_N.any():
        audio_N = level.normalised(audio_N, SAMPLE_RATE, level.RECIPE)
    frames = len(audio_N) // (SAMPLE_RATE // 100)
    hertz_T, voicing_T, power_T = voice_statistics.pitch_of(audio_N, frames)
    energy_T = 10 * np.log10(power_T + 1e-9)
    active_T = (energy_T >= energy_T.max(initial=-90) - ACTIVE_DB) & (energy_T > -85)
    voiced_T = active_T & (voicing_T > RECIPE["voiced"])
    return Contour(np.where(voiced_T, 12 * np.log2(hertz_T / 100), np.nan),
                   np.where(active_T, energy_T, np.nan))


def correlation(a_T: np.ndarray, b_T: np.ndarray) -> float:
    """Pearson's, over the frames that both have; NaN where these are too few, or one is flat."""
    count = min(len(a_T), len(b_T))
    pair = np.stack([a_T[:count], b_T[:count]])
    pair = pair[:, np.isfinite(pair).all(0)]
    if pair.shape[1] < LEAST or (pair.std(1) < 1e-6).any():
        return np.nan
    return float(np.corrcoef(pair)[0, 1])
