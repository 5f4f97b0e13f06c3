"""Distance between two utterances: L1 of normalised log-mel frames, and mel-cepstral distance with time warping.

MCD here is the `mel-cepstral-distance` package at its defaults on 22.05 kHz waveforms: Euclidean distance of 15 mel
cepstral coefficients of a log10 energy mel spectrogram along a DTW path, without the 10 sqrt(2) / ln 10 of the
"dB" tools (pymcd, python-MCD). The three scales are not comparable; compare only within one.
"""

import io
import logging
from importlib.metadata import version

import numpy as np

RECIPE = {
    "mel_L1": {"implementation": "avjax eval.metrics.speech 1",
               "on": "normalised log-mel, frame by frame, same length"},
    "MCD": {"implementation": "mel-cepstral-distance", "version": version("mel-cepstral-distance"),
            "sample_rate": 22050,
            "parameters": "package defaults (32 ms window, 8 ms hop, 20 bands, coefficients 1..15, "
            "DTW on mel, radius 10)", "scale": "the package's own: log10 energies, no 10*sqrt(2)/ln(10)"},
}


def mel_l1(a_TM: np.ndarray, b_TM: np.ndarray) -> float:
    """Mean |difference| over frames and bands; lengths must agree."""
    if a_TM.shape != b_TM.shape:
        raise ValueError(f"mel L1 is frame by frame: shapes {a_TM.shape} and {b_TM.shape} differ")
    return float(np.abs(np.asarray(a_TM, np.float64) - b_TM).mean())


def _wav_in_memory(wave_N: np.ndarray, rate: int) -> io.BytesIO:
    from scipy.io import wavfile
    wave_N = np.asarray(wave_N)
    if wave_N.dtype != np.int16:
        wave_N = np.round(np.clip(wave_N, -1, 1) * 32767).astype(np.int16)
    file = io.BytesIO()
    wavfile.write(file, rate, wave_N)
    file.seek(0)
    return file


def mcd_dtw(a_N: np.ndarray, b_N: np.ndarray, rate: int = 22050) -> float:
    """Mel-cepstral distance of two waveforms (float in [-1, 1] or int16) after DTW; NaN when one is silent or short."""
    if min(len(a_N), len(b_N)) < 0.05 * rate or not np.any(a_N) or not np.any(b_N):
        return float("nan")
    from mel_cepstral_distance import compare_audio_files
    logging.getLogger("mel_cepstral_distance").setLevel(logging.ERROR)  # it warns that 32 ms is no power of two
    return float(compare_audio_files(_wav_in_memory(a_N, rate), _wav_in_memory(b_N, rate))[0])
