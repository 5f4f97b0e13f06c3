"""Distance between two waveforms that are to be the same sound, sample for sample: short-time
spectra at several resolutions (Yamamoto et al. 2020), as BigVGAN's training validates.

Phase does not count, level does. Suffixes: N samples, T frames, W window, K frequency bins.
"""

import numpy as np
from scipy import signal

from eval.registry import declare

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # points, hop, window
FLOOR = 1e-8  # of the power
RECIPE = {"implementation": "avjax eval.metrics.spectra 1",
          "resolutions": [list(r) for r in RESOLUTIONS], "window": "hann-periodic",
          "terms": "Frobenius norm of the difference of magnitudes over the truth's, plus mean "
                   "absolute difference of natural logarithms; mean over resolutions",
          "floor": FLOOR}


def magnitudes(wave_N: np.ndarray, points: int, hop: int, window: int) -> np.ndarray:
    """(T, K), windows centred on every hop, the ends reflected."""
    left = (points - window) // 2
    window_W = np.pad(signal.get_window("hann", window), (left, points - window - left))
    padded_N = np.pad(np.asarray(wave_N, np.float64), points // 2, mode="reflect")
    frames_TW = np.lib.stride_tricks.sliding_window_view(padded_N, points)[::hop]
    power_TK = np.abs(np.fft.rfft(frames_TW * window_W)) ** 2
    return np.sqrt(np.maximum(power_TK, FLOOR))


def mrstft(made_N: np.ndarray, true_N: np.ndarray) -> float:
    """The distance of `made` from `true`, over the samples that both have; NaN where these are too
    few."""
    count = min(len(made_N), len(true_N))
    if count <= max(points for points, _, _ in RESOLUTIONS) // 2:
        return float("nan")
    distances = []
    for resolution in RESOLUTIONS:
        made_TK, true_TK = (magnitudes(x[:count], *resolution) for x in (made_N, true_N))
        converged = np.linalg.norm(true_TK - made_TK) / np.linalg.norm(true_TK)
        distances.append(converged + np.abs(np.log(true_TK) - np.log(made_TK)).mean())
    return float(np.mean(distances))


def _score(case):
    return {"MRSTFT": mrstft(case.signals.waveform, case.truth.waveform)}


declare("MRSTFT", "down", "distance of spectra at three resolutions from the recording",
        family="sound", score=_score, recipe=lambda benchmark: RECIPE,
        needs=("audio", "waveform", "resynthesis"))
