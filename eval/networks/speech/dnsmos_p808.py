"""DNSMOS P.808: the one opinion of speech as a whole, from 1 to 5, after the recommendation ITU-T
P.808 (Reddy et al. 2021, arXiv:2010.15258), by a network of log-mel pictures.

Windows as for P.835 (dnsmos.py). The mel is librosa's: frames of 321 samples, 10 ms apart, centred,
zeros beyond both ends; Slaney's filters on power; dB below the loudest of the window, 80 at most.
Suffixes: P windows, N samples, T frames, W samples of a frame, K bins, M mel bands.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from avjax.signal import mel
from eval.networks.speech import dnsmos
from eval.networks.speech.sound import RATE

FFT, HOP, BANDS = 321, 160, 120
FRAMES = (dnsmos.SAMPLES - HOP) // HOP
FLOOR, RANGE, MIDDLE = 1e-10, 80, 40  # of power; dB; dB below the loudest that become 0
RECIPE = dnsmos.RECIPE | {"mel": {"n_fft": FFT, "hop": HOP, "bands": BANDS, "scale": "Slaney",
                                  "of": "power", "dB": "below the loudest of the window",
                                  "floor": -RANGE}}


def log_mel(window_N: np.ndarray) -> np.ndarray:
    """(SAMPLES,) -> (FRAMES, BANDS) float32 from -1 (80 dB below the loudest) to 1; the last hop is
    not looked at, as published."""
    padded_N = np.pad(np.float32(window_N[:-HOP]), FFT // 2)
    frames_TW = sliding_window_view(padded_N, FFT)[::HOP] * mel.window_of(FFT)
    power_TK = np.abs(np.fft.rfft(frames_TW, axis=-1)) ** 2
    power_TM = np.maximum(power_TK @ mel.filterbank(RATE, FFT, BANDS, 0, RATE / 2).T, FLOOR)
    db_TM = 10 * np.log10(power_TM / power_TM.max())
    return ((np.maximum(db_TM, -RANGE) + MIDDLE) / MIDDLE).astype(np.float32)


def load(path) -> dnsmos.Windowed:
    """Sound -> what listeners would say, a number. UserError as dnsmos.Onnx."""
    network = dnsmos.Onnx(path, dnsmos.Ports("DNSMOS (P.808)", (FRAMES, BANDS), 1))
    return dnsmos.Windowed(network, lambda scores_P1: float(scores_P1.mean()), log_mel)
