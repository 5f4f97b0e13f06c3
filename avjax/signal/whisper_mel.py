"""The 128-band log-mel of Whisper large-v3 (80 bands: its predecessors): 16 kHz, 100 frames a
second, over a whole window at once, since the loudest point of the window sets the floor.

Suffixes: N samples, T frames, W samples of a frame, M mel bands.
Source: Radford et al. 2022 (arXiv:2212.04356) and its release.
"""

import jax.numpy as jnp
import numpy as np

from avjax.signal import mel

SAMPLE_RATE = 16000
N_FFT, HOP = 400, 160
RANGE = 8.0  # decades below the loudest point that are told apart
_BLOCK = 80  # divides frames and hop


def log_mel(audio_N, bands: int = 128):
    """(..., N) float samples, a multiple of HOP, padded to the window already -> (..., N / 160, M)
    float32. Pure; jittable."""
    padded = jnp.pad(jnp.asarray(audio_N, jnp.float32),
                     [(0, 0)] * (audio_N.ndim - 1) + [(N_FFT // 2, N_FFT // 2)], mode="reflect")
    time, every = audio_N.shape[-1] // HOP, HOP // _BLOCK  # the last frame is left out
    blocks = padded[..., :padded.shape[-1] // _BLOCK * _BLOCK].reshape(*padded.shape[:-1], -1,
                                                                       _BLOCK)
    frames_TW = jnp.concatenate([blocks[..., i:i + every * time:every, :]
                                 for i in range(N_FFT // _BLOCK)], axis=-1)
    spectrum = jnp.fft.rfft(frames_TW * mel.window_of(N_FFT), axis=-1)
    filters = mel.filterbank(SAMPLE_RATE, N_FFT, bands, 0.0, SAMPLE_RATE / 2)
    power_TM = (spectrum.real**2 + spectrum.imag**2) @ np.asarray(filters.T)
    log_TM = jnp.log10(jnp.maximum(power_TM, 1e-10))
    log_TM = jnp.maximum(log_TM, log_TM.max((-2, -1), keepdims=True) - RANGE)
    return (log_TM + 4) / 4
