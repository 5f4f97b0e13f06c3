"""When sound begins, and how loud it is.

Audio onsets: spectral flux on a log-mel spectrogram with librosa 0.11's defaults, in numpy
(librosa brings numba).

The peak-picking windows are given in seconds and round down to frames of 512 samples, so the sample
rate changes the
result: at 16 kHz many clicks are reported twice, at 22.05 kHz they are not. State the rate beside
any beat score.
"""

import numpy as np

from avjax.signal.mel import filterbank

RECIPE = {"implementation": "avjax eval.metrics.onsets 1 (librosa 0.11 onset_detect, all defaults)",
          "n_fft": 2048,
          "hop": 512, "mels": 128, "delta": 0.07}
N_FFT, HOP, MELS = 2048, 512, 128
FLOOR = 50.0  # dB below the loudest frame
SILENCE = 1e-8  # mean power of the loudest frame: -80 dB of full scale


def strength(wave_N: np.ndarray, rate: int) -> np.ndarray:
    """Onset strength envelope, one value a hop. Waveform in [-1, 1]."""
    padded = np.pad(np.asarray(wave_N, np.float64), N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    power_TM = (np.abs(np.fft.rfft(frames * window,
                                   axis=1)) ** 2) @ filterbank(rate, N_FFT, MELS, 0.0, rate / 2).T
    db_TM = 10 * np.log10(np.maximum(power_TM, 1e-10))
    db_TM = np.maximum(db_TM, db_TM.max() - 80)
    flux = np.maximum(np.diff(db_TM, axis=0), 0).mean(1)
    return np.pad(flux, (1 + N_FFT // (2 * HOP), 0))[:len(db_TM)]


def pick_peaks(x, pre_max: int, post_max: int, pre_avg: int, post_avg: int, delta: float,
               wait: int) -> np.ndarray:
    """Indices that are the maximum of their window, exceed its mean by delta, and lie more than
    `wait` apart."""
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
    frames = pick_peaks(envelope / envelope.max(), int(0.03 * second), 1, int(0.1 * second),
                        int(0.1 * second) + 1,
                        RECIPE["delta"], int(0.03 * second))
    return frames * HOP / rate


def loudness(wave_N: np.ndarray, rate: int, fps: float) -> np.ndarray:
    """(frames,) dB of the sound's energy, 0 at the loudest frame and -FLOOR at the least; all 0 for
    silence. Frame n is the mean power from (n - 1) / fps to (n + 1) / fps seconds."""
    ends = np.concatenate([[0.0], np.cumsum(np.square(wave_N, dtype=np.float64))])
    at = np.round((np.arange(int(len(wave_N) / rate * fps)) + [[-1], [1]]) / fps * rate).astype(int)
    first, last = np.clip(at, 0, len(wave_N))
    power = (ends[last] - ends[first]) / np.maximum(last - first, 1)
    loudest = power.max(initial=0.0)
    if loudest <= SILENCE:
        return np.zeros(len(power))
    return 10 * np.log10(np.maximum(power / loudest, 10 ** (-FLOOR / 10)))
