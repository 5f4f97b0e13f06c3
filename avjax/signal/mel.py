"""Log-mel spectrogram of the 22 kHz, 80-band, 256-hop family (BigVGAN base, HiFi-GAN, Matcha),
frame-major.

Frame k is centred on sample 256 k + 128, because the signal is reflected by (n_fft - hop) / 2 on
both sides and the transform itself does not centre. A signal of N samples has N // 256 frames.
RECIPE is AV-Flow's; RECIPE_24K is a second one for codecs of 24 kHz speech (hop 240). Functions
take either.

Works on numpy arrays (returns numpy, nothing is compiled: right for clips of many lengths) and on
JAX arrays (pure, jittable). Suffixes: N samples, T frames, W window, K frequency bins, M mel bands.

Source: AV-Flow's release (audio / 1.1, mean -5.5366, std 2.1161) on BigVGAN's `mel_spectrogram`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from avjax.errors import UserError
from avjax.signal import level

AT_ONCE = 8192  # frames of numpy audio transformed at a time, about 12 kB each

RECIPE = {
    "kind": "log-mel",
    "sample_rate": 22050,
    "n_fft": 1024,
    "hop": 256,
    "window": "hann-periodic",
    "bands": 80,
    "fmin": 0.0,
    "fmax": 8000.0,
    "scale": "slaney",
    "pad": "reflect (n_fft - hop) / 2",
    "magnitude": "sqrt(power + 1e-9)",
    "log": "ln(max(x, 1e-5))",
    "gain": 1.1,  # the audio is divided by this first; a vocoder's output is multiplied by it
    "mean": -5.5366,
    "std": 2.1161,
}
FLOOR = np.float32(np.log(1e-5))  # what these recipes make of silence
SPEECH = RECIPE | {"level": level.RECIPE}  # of recordings: they are brought to one level first
FRAME_RATE = RECIPE["sample_rate"] / RECIPE["hop"]  # 86.1328125 Hz

# 100 frames a second at 24 kHz, four to a latent frame of 25 Hz. Mean and std stay, so that
# distances between normalised mels of either recipe are on one scale.
RECIPE_24K = RECIPE | {"sample_rate": 24000, "n_fft": 960, "hop": 240, "gain": 1.0}


def unscaled(recipe: dict) -> dict:
    """The same mel, of sound as it is and without scaling: what a vocoder reads."""
    return recipe | {"gain": 1.0, "mean": 0.0, "std": 1.0}


def hz_to_mel(hz):
    """Slaney's scale: linear (66.67 Hz a mel) below 1 kHz, logarithmic (factor 6.4 in 27 mels)
    above."""
    hz = np.asarray(hz, np.float64)
    return np.where(hz < 1000.0, hz * 3 / 200, 15.0 + np.log(np.maximum(hz, 1000.0) / 1000.0) * 27
                    / np.log(6.4))


def mel_to_hz(mel):
    """Inverse of `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    return np.where(mel < 15.0, mel * 200 / 3,
                    1000.0 * np.exp((np.maximum(mel, 15.0) - 15.0) * np.log(6.4) / 27))


@functools.lru_cache
def filterbank(sample_rate: int, n_fft: int, bands: int, fmin: float, fmax: float) -> np.ndarray:
    """(M, K) triangles of unit area in hertz (Slaney normalisation), float32. Read only."""
    edges = mel_to_hz(np.linspace(hz_to_mel(fmin), hz_to_mel(fmax), bands + 2))
    bins = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    low = edges[:-2, None]
    centre = edges[1:-1, None]
    high = edges[2:, None]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    weights_MK = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (high - low)
    weights_MK = weights_MK.astype(np.float32)
    weights_MK.setflags(write=False)
    return weights_MK


def filters_of(recipe: dict = RECIPE) -> np.ndarray:
    """The recipe's filterbank, (M, K)."""
    return filterbank(recipe["sample_rate"], recipe["n_fft"], recipe["bands"], recipe["fmin"],
                      recipe["fmax"])


@functools.lru_cache
def window_of(n_fft: int) -> np.ndarray:
    """Periodic Hann window, (W,) float32. Read only."""
    window_W = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
    window_W.setflags(write=False)
    return window_W


def frames(audio, n_fft: int, hop: int):
    """(..., N) -> (..., T, W) overlapping frames of a signal that is already padded; N // hop -
    (n_fft / hop - 1) of
    them. The hop must divide n_fft: frames are then concatenations of neighbouring blocks, which
    needs no gather."""
    xp = jnp if isinstance(audio, jax.Array) else np
    parts = n_fft // hop
    blocks = audio.shape[-1] // hop
    block = audio[..., : blocks * hop].reshape(*audio.shape[:-1], blocks, hop)
    count = blocks - parts + 1
    return xp.concatenate([block[..., i : i + count, :] for i in range(parts)], axis=-1)


def log_mel(audio, recipe: dict = RECIPE):
    """(..., N) float audio in [-1, 1] at the recipe's rate -> (..., N // hop, M) log-mel, float32.

    numpy in, numpy out; JAX in, JAX out (pure). Raises UserError when the audio is shorter than the
    reflection needs (n_fft / 2 samples) or is not floating point.
    """
    xp = jnp if isinstance(audio, jax.Array) else np
    audio = xp.asarray(audio)
    pad = (recipe["n_fft"] - recipe["hop"]) // 2
    if audio.shape[-1] < recipe["n_fft"] // 2:
        raise UserError("audio too short for a mel frame", where="log_mel",
                        expected=f">= {recipe['n_fft'] // 2} "
                        "samples", found=f"{audio.shape[-1]}",
                        hint="drop the clip or pad it with silence")
    if not xp.issubdtype(audio.dtype, xp.floating):
        raise UserError("audio is not floating point", where="log_mel",
                        expected="float samples in [-1, 1]", found=str(audio.dtype),
                        hint="divide int16 by 32768")
    time = (audio.shape[-1] + 2 * pad - recipe["n_fft"]) // recipe["hop"] + 1
    if xp is jnp or time <= AT_ONCE:
        return _log_mel(audio, recipe, 0, time)
    parts = [_log_mel(audio, recipe, first, min(first + AT_ONCE, time))
             for first in range(0, time, AT_ONCE)]
    return np.concatenate(parts, axis=-2)


def _log_mel(audio, recipe: dict, first: int, last: int):
    """Frames [first, last) of `log_mel`."""
    xp = jnp if isinstance(audio, jax.Array) else np
    pad = (recipe["n_fft"] - recipe["hop"]) // 2
    begin, end = first * recipe["hop"] - pad, (last - 1) * recipe["hop"] + recipe["n_fft"] - pad
    outside = (max(0, -begin), max(0, end - audio.shape[-1]))
    audio = audio[..., max(0, begin):end].astype(xp.float32) / recipe["gain"]
    audio = xp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [outside], mode="reflect")
    frames_TW = frames(audio, recipe["n_fft"], recipe["hop"]) * window_of(recipe["n_fft"])
    spectrum_TK = xp.fft.rfft(frames_TW, axis=-1)
    magnitude_TK = xp.sqrt(spectrum_TK.real**2 + spectrum_TK.imag**2 + 1e-9)
    mel_TM = magnitude_TK @ filters_of(recipe).T
    return xp.log(xp.maximum(mel_TM, 1e-5)).astype(xp.float32)


def of_speech(audio_N: np.ndarray, level_recipe: dict | None = level.RECIPE) -> np.ndarray:
    """(N,) recorded speech of one voice at 22050 Hz -> (N // 256, 80) float32, normalised: the
    features of recipe SPEECH.
    level_recipe: None for those of RECIPE."""
    return normalise(log_mel(level.normalised(audio_N, RECIPE["sample_rate"], level_recipe)))


def normalise(log_mel_TM, recipe: dict = RECIPE):
    """Log-mel to zero mean, unit standard deviation (of the release's corpus): what models see."""
    return (log_mel_TM - recipe["mean"]) / recipe["std"]


def denormalise(mel_TM, recipe: dict = RECIPE):
    """Inverse of `normalise`."""
    return mel_TM * recipe["std"] + recipe["mean"]


def checked(log_mel_TM, bands: int, where: str) -> np.ndarray:
    """(frames >= 1, bands) float32. Raises UserError for another shape or numbers that are not
    finite, which no vocoder can make a waveform of."""
    log_mel_TM = np.asarray(log_mel_TM, np.float32)
    if log_mel_TM.ndim != 2 or log_mel_TM.shape[1] != bands or not len(log_mel_TM):
        raise UserError("not a mel spectrogram", where=where, expected=f"(frames >= 1, {bands})",
                        found=str(log_mel_TM.shape))
    if not np.isfinite(log_mel_TM).all():
        raise UserError("mel spectrogram is not finite", where=where, expected="finite numbers",
                        found=f"{np.count_nonzero(~np.isfinite(log_mel_TM))} values of NaN or "
                        "infinity",
                        hint="the model has diverged: use an earlier checkpoint")
    return log_mel_TM
