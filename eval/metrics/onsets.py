"""Audio onsets: spectral flux on a log-mel spectrogram with librosa 0.11's defaults, in numpy (librosa brings numba).

The peak-picking windows are given in seconds and round down to frames of 512 samples, so the sample rate changes the
result: at 16 kHz many clicks are reported twice, at 22.05 kHz they are not. State the rate beside any beat score.
"""

import functools

import numpy as np

RECIPE = {"implementation": "avjax eval.metrics.onsets 1 (librosa 0.11 onset_detect, all defaults)", "n_fft": 2048,
          "hop": 512, "mels": 128, "delta": 0.07}
N_FFT, HOP, MELS = 2048, 512, 128


def _hz_to_mel(hz):
    """Slaney's scale: linear below 1 kHz, logarithmic above."""
    hz = np.asarray(hz, np.float64)
    return np.where(hz < 1000, hz * 3 / 200, 15 + np.log(np.maximum(hz, 1e-9) / 1000) * 27 / np.log(6.4))


def _mel_to_hz(mel):
    mel = np.asarray(mel, np.float64)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@functools.lru_cache(maxsize=4)
def _filters(rate: int) -> np.ndarray:
    """(MELS, N_FFT // 2 + 1) triangles of unit area (Slaney's normalisation)."""
    bins = np.fft.rfftfreq(N_FFT, 1 / rate)
    edges = _mel_to_hz(np.linspace(0, _hz_to_mel(rate / 2), MELS + 2))
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def strength(wave_N: np.ndarray, rate: int) -> np.ndarray:
    """Onset strength envelope, one value a hop. Waveform in [-1, 1]."""
    padded = np.pad(np.asarray(wave_N, np.float64), N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    power_TM = (np.abs(np.fft.rfft(frames * window, axis=1)) ** 2) @ _filters(rate).T
    db_TM = 10 * np.log10(np.maximum(power_TM, 1e-10))
    db_TM = np.maximum(db_TM, db_TM.max() - 80)
    flux = np.maximum(np.diff(db_TM, axis=0), 0).mean(1)
    return np.pad(flux, (1 + N_FFT // (2 * HOP), 0))[:len(db_TM)]


def pick_peaks(x, pre_max: int, post_max: int, pre_avg: int, post_avg: int, delta: float, wait: int) -> np.ndarray:
    """Indices that are the maximum of their window, exceed its mean by delta, and lie more than `wait` apart."""
    peaks, n = [], 0
    while n < len(x):
        is_max = x[n] == x[max(0, n - pre_max):n + post_max].max()
        if is_max and x[n] >= x[max(0, n - pre_avg):n + post_avg].mean() + delta:
            peaks.append(n)
            n += wait
        n += 1
    return np.array(peaks, np.int64)


def onset_times(wave_N: np.ndarray, rate: int) -> np.ndarray:
    """Onset times in seconds; empty for silence."""
    envelope = strength(wave_N, rate)
    envelope = envelope - envelope.min()
    if envelope.max() <= 0:
        return np.zeros(0)
    second = rate / HOP
    frames = pick_peaks(envelope / envelope.max(), int(0.03 * second), 1, int(0.1 * second), int(0.1 * second) + 1,
                        RECIPE["delta"], int(0.03 * second))
    return frames * HOP / rate
