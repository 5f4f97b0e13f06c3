"""Short-time spectra that discriminators and losses of a vocoder look at.

Suffixes: B batch, N samples, T frames, W window, K frequency bins, M mel bands.
"""

import jax.numpy as jnp
import numpy as np

from avjax.signal import mel


def frames(audio_BN, size: int, hop: int, first: int = 0):
    """(B, T, size): samples first, first + 1, ... of every hop."""
    count = (audio_BN.shape[-1] - size - first) // hop + 1
    at_TW = first + hop * np.arange(count)[:, None] + np.arange(size)
    return audio_BN[:, at_TW]


def magnitude(spectrum):
    """Absolute value whose gradient at 0 is 0, as the published norm's; that of jnp.abs is not a
    number."""
    power = spectrum.real**2 + spectrum.imag**2
    some = power > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, power, 1.0)), 0.0)


def centred(audio_BN, size: int, hop: int):
    """(B, T, K) complex: Hann windows centred on every hop, the ends reflected."""
    padded_BN = jnp.pad(audio_BN, ((0, 0), (size // 2, size // 2)), mode="reflect")
    return jnp.fft.rfft(frames(padded_BN, size, hop) * mel.window_of(size))


def rectangular(audio_BN, points: int, hop: int, window: int):
    """(B, T, K) magnitudes of `window` samples in the middle of every `points`, without a window
    function; the ends reflected by (points - hop) / 2."""
    pad = (points - hop) // 2
    padded_BN = jnp.pad(audio_BN, ((0, 0), (pad, pad)), mode="reflect")
    left = (points - window) // 2
    # what is left out to the right still belongs to the last frame
    inside_BN = padded_BN[:, :padded_BN.shape[1] - (points - window - left)]
    return magnitude(jnp.fft.rfft(frames(inside_BN, window, hop, left), n=points))


def mel_of(audio_BN, sample_rate: int, window: int, bands: int):
    """(B, T, M): mel bands up to half the rate, hop a quarter of the window; not logarithmic."""
    filters_MK = mel.filterbank(sample_rate, window, bands, 0.0, sample_rate / 2)
    return magnitude(centred(audio_BN, window, window // 4)) @ filters_MK.T
