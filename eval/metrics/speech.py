"""Distance between two utterances: L1 of normalised log-mel frames, mel-cepstral distance with time
warping, and of two waveforms that are to be the same sound, sample for sample, that of short-time
spectra at several resolutions (Yamamoto et al. 2020), as BigVGAN's training validates: phase does
not count, level does.

MCD is that of the `mel-cepstral-distance` package at its defaults on 22.05 kHz waveforms: Euclidean
distance of 15 mel cepstral coefficients of a log10 energy mel spectrogram along a time-warping
path, without the 10 sqrt(2) / ln 10 of the "dB" tools (pymcd, python-MCD). The three scales are not
comparable; compare only within one. The path is the exact optimum, where the package itself
searches near it with slower code.
Suffixes: N samples, T frames, M mel bands, W window, K frequency bins.
"""

import io
import logging
from importlib.metadata import version

import numpy as np

from eval.metrics import alignment
from eval.metrics.alignment import dtw
from eval.registry import declare

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # points, hop, window
FLOOR = 1e-8  # of the power
RECIPE = {
    "mel_L1": {"implementation": "avjax eval.metrics.speech 1",
               "on": "normalised log-mel, frame by frame, same length"},
    "MCD": {"implementation": "mel-cepstral-distance", "version": version("mel-cepstral-distance"),
            "sample_rate": 22050,
            "parameters": "package defaults (32 ms window, 8 ms hop, 20 bands, coefficients 1..15)",
            "alignment": "exact DTW on the mel spectrograms, Euclidean",
            "scale": "the package's own: log10 energies, no 10*sqrt(2)/ln(10)"},
    "MRSTFT": {"implementation": "avjax eval.metrics.speech 1",
               "resolutions": [list(r) for r in RESOLUTIONS], "window": "hann-periodic",
               "terms": "Frobenius norm of the difference of magnitudes over the truth's, plus "
                        "mean absolute difference of natural logarithms; mean over resolutions",
               "floor": FLOOR},
}
WINDOW_MS = 32


def audible(wave_N: np.ndarray, rate: int) -> bool:
    """Whether it is neither silent nor shorter than 50 ms."""
    return len(wave_N) >= 0.05 * rate and bool(np.any(wave_N))


def mel_l1(a_TM: np.ndarray, b_TM: np.ndarray) -> float:
    """Mean |difference| over frames and bands; lengths must agree."""
    if a_TM.shape != b_TM.shape:
        raise ValueError(f"mel L1 is frame by frame: shapes {a_TM.shape} and {b_TM.shape} differ")
    return float(np.abs(np.asarray(a_TM, np.float64) - b_TM).mean())


def mel_spectrogram(wave_N: np.ndarray, rate: int) -> np.ndarray:
    """(T, 20) log10 energies by the package. Waveform float in [-1, 1] or int16."""
    from mel_cepstral_distance import get_amplitude_spectrogram, get_mel_spectrogram
    from scipy.io import wavfile

    # it warns that 32 ms is no power of two
    logging.getLogger("mel_cepstral_distance").setLevel(logging.ERROR)
    wave_N = np.asarray(wave_N)
    if wave_N.dtype != np.int16:
        wave_N = np.round(np.clip(wave_N, -1, 1) * 32767).astype(np.int16)
    file = io.BytesIO()  # the package reads files only
    wavfile.write(file, rate, wave_N)
    file.seek(0)
    return get_mel_spectrogram(get_amplitude_spectrogram(file, n_fft=WINDOW_MS), rate, WINDOW_MS)


def mcd_dtw(a_N: np.ndarray, b_N: np.ndarray, rate: int = 22050) -> float:
    """Mel-cepstral distance of two waveforms (float in [-1, 1] or int16) after DTW; NaN when one is
    silent or short."""
    if not (audible(a_N, rate) and audible(b_N, rate)):
        return float("nan")
    from mel_cepstral_distance import compare_mfccs, get_mfccs
    from scipy.spatial.distance import cdist

    a_TM, b_TM = mel_spectrogram(a_N, rate), mel_spectrogram(b_N, rate)
    path = dtw(cdist(a_TM, b_TM))
    return float(compare_mfccs(get_mfccs(a_TM[path[:, 0]]), get_mfccs(b_TM[path[:, 1]]),
                               aligning="pad")[0])


def magnitudes(wave_N: np.ndarray, points: int, hop: int, window: int) -> np.ndarray:
    """(T, K), windows centred on every hop, the ends reflected."""
    from scipy.signal import get_window

    left = (points - window) // 2
    window_W = np.pad(get_window("hann", window), (left, points - window - left))
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


def _mel(case):
    if not case.aligned:
        return {}
    own_TM, true_TM = case.signals.mel_TM, case.truth.mel_TM
    n = min(len(own_TM), len(true_TM))
    return {"mel_L1": mel_l1(own_TM[:n], true_TM[:n])}


def _mel_warped(case):
    return {"mel_L1_dtw": alignment.aligned_l1(case.signals.mel_TM, case.truth.mel_TM, case.path)}


def _mcd(case):
    rate = case.benchmark.sample_rate
    return {"MCD": mcd_dtw(case.signals.waveform, case.truth.waveform, rate)}


def _mcd_audio(case):
    audio = case.benchmark.clip_audio(case.split, case.index)
    if audio is None:
        return {}
    return {"MCD_audio": mcd_dtw(case.signals.waveform, audio, case.benchmark.sample_rate)}


def _mrstft(case):
    return {"MRSTFT": mrstft(case.signals.waveform, case.truth.waveform)}


def _mcd_recipe(benchmark, reference):
    return RECIPE["MCD"] | {"sample_rate": benchmark.sample_rate, "reference": reference}


declare("mel_L1", "down", "mean error of the mel spectrogram", family="sound", score=_mel,
        recipe=lambda benchmark: RECIPE["mel_L1"] | benchmark.common_frames,
        needs=("audio",), in_loop=True, of_shuffled=True)
declare("mel_L1_dtw", "down", "mean error of the mel spectrogram after time warping",
        family="sound", score=_mel_warped,
        recipe=lambda benchmark: RECIPE["mel_L1"] | alignment.RECIPE,
        needs=("audio", "clip", "free"), in_loop=True, of_shuffled=True)
declare("MCD", "down", "mel-cepstral distance after time warping", family="sound",
        score=_mcd, needs=("audio", "waveform", "warped"),
        recipe=lambda benchmark: _mcd_recipe(benchmark,
                                                    "ground truth through the same codec"))
declare("MCD_audio", "down", "mel-cepstral distance from the clip's own audio", family="sound",
        score=_mcd_audio, needs=("audio", "waveform", "warped"),
        recipe=lambda benchmark: _mcd_recipe(benchmark, "the clip's own audio"))
declare("MRSTFT", "down", "distance of spectra at three resolutions from the recording",
        family="sound", score=_mrstft, recipe=lambda benchmark: RECIPE["MRSTFT"],
        needs=("audio", "waveform", "resynthesis"))
