"""Log-mel -> waveform without weights: non-negative mel inversion, then fast Griffin-Lim.

1. Magnitudes S >= 0 with filters @ S = mel by multiplicative updates for the Kullback-Leibler
   divergence (Lee & Seung 2001): they keep S positive and fit every band relative to its own level,
   as the logarithm does.
2. First phases from the frequency of the nearest spectral peak, summed over time (SPSI, Beauregard
et al. 2015).
3. Fast Griffin-Lim (Perraudin, Balazs & Sondergaard 2013): alternate between "has these magnitudes"
   and "is the transform of a signal", with momentum.

Suffixes: T frames, W window, K frequency bins, M mel bands, N samples.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from avjax.signal import mel as mel_lib

# frames: lengths are padded up to a multiple of it, so that few lengths are ever compiled
BUCKET = 128
# frames (24 s at 22050 / 256 Hz) inverted at once, about 50 kB each; longer speech goes part by
# part
LONGEST = 2048
_FADE = 16  # frames that two parts have in common


def magnitudes(log_mel_TM, *, iterations: int = 60, recipe: dict = mel_lib.RECIPE):
    """(..., T, M) log-mel -> (..., T, K) non-negative linear magnitudes whose mel is that."""
    filters_MK = jnp.asarray(mel_lib.filters_of(recipe))
    mel_TM = jnp.exp(log_mel_TM)
    total_K = filters_MK.sum(0)
    heard_K = total_K > 0  # bins under at least one filter
    total_K = jnp.where(heard_K, total_K, 1.0)
    start_TK = jnp.where(heard_K, (mel_TM / filters_MK.sum(1)) @ filters_MK / total_K, 0.0)

    def update(spectrum_TK, _):
        ratio_TM = mel_TM / jnp.maximum(spectrum_TK @ filters_MK.T, 1e-8)
        return spectrum_TK * (ratio_TM @ filters_MK) / total_K, None

    return jax.lax.scan(update, start_TK, length=iterations)[0]


def stft(audio_N, recipe: dict = mel_lib.RECIPE):
    """(..., N) padded audio -> (..., T, K) complex spectrum."""
    return jnp.fft.rfft(mel_lib.frames(audio_N, recipe["n_fft"],
                                       recipe["hop"]) * mel_lib.window_of(recipe["n_fft"]))


def istft(spectrum_TK, recipe: dict = mel_lib.RECIPE):
    """(..., T, K) -> (..., (T + n_fft / hop - 1) * hop) samples: the least-squares signal of those
    frames."""
    n_fft, hop = recipe["n_fft"], recipe["hop"]
    parts = n_fft // hop
    time = spectrum_TK.shape[-2]
    window_W = jnp.asarray(mel_lib.window_of(n_fft))
    frames_TW = jnp.fft.irfft(spectrum_TK, n_fft) * window_W
    batch = frames_TW.shape[:-2]

    def overlap_add(value_TW):  # frame t's part p belongs to block t + p
        value = value_TW.reshape(*value_TW.shape[:-1], parts, hop)
        lead = [(0, 0)] * (value.ndim - 3)
        blocks = sum(jnp.pad(value[..., p, :], [*lead, (p, parts - 1 - p), (0, 0)])
                     for p in range(parts))
        return blocks.reshape(*blocks.shape[:-2], -1)

    weight_N = overlap_add(jnp.broadcast_to(window_W**2, (time, n_fft)))
    return overlap_add(frames_TW).reshape(*batch, -1) / jnp.maximum(weight_N, 1e-2)


def peak_phases(magnitude_TK, recipe: dict = mel_lib.RECIPE):
    """(..., T, K) magnitudes -> phases in radians: each bin advances at the frequency of its
    nearest peak."""
    n_fft, hop = recipe["n_fft"], recipe["hop"]
    size = magnitude_TK.shape[-1]
    lead = [(0, 0)] * (magnitude_TK.ndim - 1)
    padded = jnp.pad(magnitude_TK, [*lead, (1, 1)])
    left = padded[..., :-2]
    right = padded[..., 2:]
    is_peak = (magnitude_TK > left) & (magnitude_TK >= right)
    curvature = left - 2 * magnitude_TK + right
    offset = jnp.clip(0.5 * (left - right) / jnp.where(is_peak, jnp.minimum(curvature, -1e-12),
                                                       -1.0), -0.5, 0.5)
    bins_K = jnp.arange(size, dtype=jnp.float32)
    below = jax.lax.cummax(jnp.where(is_peak, bins_K, -1e9), axis=magnitude_TK.ndim - 1)
    above = jax.lax.cummin(jnp.where(is_peak, bins_K, 1e9), axis=magnitude_TK.ndim - 1,
                           reverse=True)
    nearest = jnp.where(bins_K - below <= above - bins_K, below, above)
    nearest = jnp.clip(nearest, 0, size - 1).astype(jnp.int32)
    frequency_TK = nearest + jnp.take_along_axis(offset, nearest, axis=-1)
    turns_TK = jnp.cumsum(jnp.mod(frequency_TK * (hop / n_fft), 1.0), axis=-2)
    # Half a turn a bin centres each frame's energy in its window.
    return 2 * jnp.pi * jnp.mod(turns_TK, 1.0) + jnp.pi * (bins_K % 2)


def mel_to_audio(log_mel_TM, *, iterations: int = 32, momentum: float = 0.99,
                 recipe: dict = mel_lib.RECIPE):
    """(..., T, M) log-mel (not normalised) -> (..., T * hop) float32 audio in [-1, 1]. Pure,
    jittable."""
    hop = recipe["hop"]
    pad = (recipe["n_fft"] - recipe["hop"]) // 2
    magnitude_TK = magnitudes(log_mel_TM.astype(jnp.float32), recipe=recipe)

    def with_magnitude(spectrum_TK):
        return magnitude_TK * spectrum_TK / jnp.maximum(jnp.abs(spectrum_TK), 1e-8)

    def step(carry, _):
        spectrum_TK, previous_TK = carry
        consistent_TK = stft(istft(with_magnitude(spectrum_TK), recipe), recipe)
        return (consistent_TK + momentum * (consistent_TK - previous_TK), consistent_TK), None

    start_TK = magnitude_TK * jnp.exp(1j * peak_phases(magnitude_TK, recipe))
    (spectrum_TK, _), _ = jax.lax.scan(step, (start_TK, start_TK), length=iterations)
    audio_N = istft(with_magnitude(spectrum_TK),
                    recipe)[..., pad : pad + log_mel_TM.shape[-2] * hop]
    return jnp.clip(audio_N * recipe["gain"], -1.0, 1.0)


@functools.partial(jax.jit, static_argnames=("iterations", "recipe_items"))
def _compiled(log_mel_TM, iterations, recipe_items):
    return mel_to_audio(log_mel_TM, iterations=iterations, recipe=dict(recipe_items))


def waveform(log_mel_TM: np.ndarray, *, iterations: int = 32, bucket: int = BUCKET,
             recipe: dict = mel_lib.RECIPE) -> np.ndarray:
    """(T, M) log-mel of the recipe -> (T * hop,) float32 at its rate, compiled once per length
    bucket.

    More than `LONGEST` frames are inverted in parts, which meet where it is quietest and fade into
    each other there.

    Raises UserError on another shape or on values that are not finite.
    """
    log_mel_TM = mel_lib.checked(log_mel_TM, recipe["bands"], "griffin_lim.waveform")

    def inverted(part_TM):
        padded = np.pad(np.clip(part_TM, mel_lib.FLOOR, 5.0), [(0, -len(part_TM) % bucket), (0, 0)],
                        constant_values=mel_lib.FLOOR)
        return np.asarray(_compiled(padded, iterations,
                                    tuple(recipe.items())))[: len(part_TM) * recipe["hop"]]

    if len(log_mel_TM) <= LONGEST:
        return inverted(log_mel_TM)
    return _faded(((inverted(log_mel_TM[first:last]), first, last) for first,
                   last in parts(log_mel_TM.mean(1))),
                  len(log_mel_TM), recipe["hop"])


def parts(level_T: np.ndarray) -> list[tuple[int, int]]:
    """[first, last) frames of parts of at most `LONGEST`, each beginning `_FADE` frames before the
    one before it ends, where it is quietest in the last quarter that it may have."""
    cuts = []
    first = 0
    while first + LONGEST < len(level_T):
        near_T = level_T[first + LONGEST * 3 // 4:first + LONGEST]
        loud_T = np.convolve(near_T, np.full(_FADE, 1 / _FADE), "valid")
        start = first + LONGEST * 3 // 4 + int(np.argmin(loud_T))
        cuts.append((first, start + _FADE))
        first = start
    return [*cuts, (first, len(level_T))]


def _faded(made, time: int, hop: int) -> np.ndarray:
    """Parts of sound, each begun while the last one ends. Their phases are unrelated, so powers add
    up to one."""
    out_N = np.zeros(time * hop, np.float32)
    end = 0
    rising_N = np.sin(np.linspace(0, np.pi / 2, _FADE * hop, dtype=np.float32))
    for audio_N, first, last in made:
        if end:
            out_N[first * hop:end * hop] *= rising_N[::-1]
            audio_N = np.concatenate([audio_N[:_FADE * hop] * rising_N, audio_N[_FADE * hop:]])
        out_N[first * hop:last * hop] += audio_N
        end = last
    return np.clip(out_N, -1.0, 1.0, out=out_N)
