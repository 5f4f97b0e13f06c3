"""Losses of BigVGAN, versions 1 and 2 (Lee et al. 2023; least squares of Mao et al. 2017, features
and mel of Kong et al. 2020, scales of mel of Kumar et al. 2023).

Suffixes: B batch, N samples.
"""

import jax.numpy as jnp
import numpy as np

from avjax.signal import mel
from avjax.systems.vocoder import spectra

# version 2: (window, mel bands); the hop is a quarter of the window
SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))


def telling(real, made):
    """A discriminator's loss: its answers (list of arrays) to 1 for real sound, to 0 for made."""
    return sum(jnp.mean((1 - r) ** 2) + jnp.mean(m**2) for r, m in zip(real, made, strict=True))


def fooling(made):
    """The generator's: the answers to made sound to 1."""
    return sum(jnp.mean((1 - m) ** 2) for m in made)


def matching(real, made):
    """Mean absolute differences of the discriminators' features (lists of lists of arrays),
    summed."""
    return sum(jnp.mean(jnp.abs(r - m)) for rs, ms in zip(real, made, strict=True)
               for r, m in zip(rs, ms, strict=True))


def mel_distance(real_BN, made_BN, recipe: dict):
    """Version 1: mean absolute difference of log-mels of `recipe`."""
    return jnp.mean(jnp.abs(mel.log_mel(real_BN, recipe) - mel.log_mel(made_BN, recipe)))


def mel_distances(real_BN, made_BN, sample_rate: int, silence: float = 0.0):
    """Version 2: mean absolute differences of decimal log-mels, one a scale of `SCALES`.

    With `silence` (ours), what is below that of noise of this amplitude counts as nothing, at every
    scale: where a corpus has digital silence, its depth would else be most of the loss.
    """
    def log_mel(audio_BN, window, bands):
        filters_MK = mel.filterbank(sample_rate, window, bands, 0.0, sample_rate / 2)
        of_noise_M = silence * np.sqrt(3 / 8 * window) * filters_MK.sum(1)  # 3/8: of Hann's squares
        mel_BTM = spectra.mel_of(audio_BN, sample_rate, window, bands)
        return jnp.log(jnp.maximum(mel_BTM, np.maximum(of_noise_M, 1e-5))) / np.float32(np.log(10))

    return [jnp.mean(jnp.abs(log_mel(real_BN, *scale) - log_mel(made_BN, *scale)))
            for scale in SCALES]
