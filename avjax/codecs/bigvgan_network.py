"""The network of BigVGAN (Lee et al. 2023), versions 1 and 2: log-mel -> waveform, anti-aliased
exactly.

A periodic activation makes frequencies that the sample rate cannot hold. So it runs at twice the
rate: up by 2 (a 12-tap Kaiser-windowed sinc), activation, down by 2 (the same filter). Half of the
samples that the published code filters are zeros it has just put in, and half of those it makes are
thrown away. Polyphase form computes only the others: the even and the odd samples of the double
rate are two signals of the single rate, each a six-tap filter of the input.

Convolutions take zeros beyond the ends of the signal, activations repeat its ends. So layers pass
signals on with room on either side, where the ends are written: nothing is copied to pad it, and
the end may lie anywhere, so that one compiled length serves all shorter signals.
Suffixes: B batch, T time (of the layer), M time and MARGIN on either side, C channels, D taps.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from avjax.nn import toom_cook

# of the anti-aliasing filter, in cycles a sample of the double rate
TAPS, CUTOFF, HALF_WIDTH = 12, 0.25, 0.3
REACH = 5  # samples on either side that one anti-aliased activation looks at
EDGE = 3  # samples beyond an end that its filters read, at either rate
MARGIN = 2 * EDGE
# taps times channels from which a kernel at points is faster on a CPU (docs/vocoder.md)
QUICK = 500


@dataclasses.dataclass(frozen=True)
class BigVGANConfig:
    """The sizes of the network, as in the published config.json."""

    bands: int = 80
    channels: int = 512
    rates: tuple[int, ...] = (8, 8, 2, 2)
    kernels: tuple[int, ...] = (16, 16, 4, 4)
    block_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    log_scale: bool = True  # alpha and beta of the activation are logarithms
    tanh: bool = True  # at the end; version 2 clips

    def reaches(self) -> list[int]:
        """What a sample depends on, on either side: mel frames, then samples of each stage's sum,
        first stage to last."""
        blocks = [sum(2 * REACH + (k - 1) // 2 * (d + 1) for d in dilations)
                  for k, dilations in zip(self.block_kernels, self.dilations, strict=True)]
        found = [3 + REACH]
        for rate, kernel in zip(reversed(self.rates), reversed(self.kernels), strict=True):
            cut, last = (kernel - rate) // 2, rate * (-(-kernel // rate) - 1)
            found.append(-(-(found[-1] + max(blocks) + max(last - cut, cut)) // rate))
        found[-1] += 3
        return found[::-1]

    def halo(self) -> int:
        """Mel frames on either side that a sample depends on."""
        return self.reaches()[0]

    def surplus(self) -> float:
        """Frames that a window costs beyond those it makes: each stage computes what the later ones
        look at, weighed by its arithmetic."""
        weights, frames, rate, channels = [], [], 1, self.channels
        for reach, step in zip(self.reaches(), self.rates, strict=False):
            frames.append(2 * reach / rate)
            rate, channels = rate * step, channels // 2
            weights.append(rate * channels**2)
        return float(np.average(frames, weights=weights))


# ---- the anti-aliased activation

@functools.cache
def kaiser_sinc() -> np.ndarray:
    """(12,) low-pass filter of unit sum: sinc times Kaiser window, its beta by Kaiser's rule from
    the transition's width."""
    attenuation = 2.285 * (TAPS // 2 - 1) * np.pi * 4 * HALF_WIDTH + 7.95
    beta = 0.1102 * (attenuation - 8.7) if attenuation > 50 else (
        0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21) if attenuation > 21
        else 0.0)
    at = np.arange(TAPS) - (TAPS - 1) / 2
    taps = np.sinc(2 * CUTOFF * at) * np.kaiser(TAPS, beta)
    return (taps / taps.sum()).astype(np.float32)


@functools.cache
def _sine_polynomial() -> tuple[float, ...]:
    """Coefficients in x^2 of sin(x) / x for |x| <= pi / 2, within 1e-10."""
    square = (np.pi / 2) ** 2 * (0.5 + 0.5 * np.cos(np.pi * (np.arange(200) + 0.5) / 200))
    fit = np.polynomial.Chebyshev.fit(square, np.sinc(np.sqrt(square) / np.pi), 5,
                                      domain=[0, (np.pi / 2) ** 2])
    return tuple(float(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef)


def squared_sine(x):
    """sin(x)^2 within 4e-7 for |x| < 300. XLA's sine on CPU takes fifty times as long, which was
    most of the network."""
    turns = jnp.round(x * np.float32(1 / np.pi))
    # pi in two parts: the first is exact
    r = (x - turns * np.float32(3.140625)) - turns * np.float32(np.pi - 3.140625)
    square = r * r
    sine = np.float32(0.0)
    for c in reversed(_sine_polynomial()):
        sine = sine * square + np.float32(c)
    return jnp.square(sine * r)


def snake(x_BTC, frequency_C, amplitude_C):
    """SnakeBeta: x + amplitude sin^2(frequency x)."""
    return x_BTC + amplitude_C * squared_sine(frequency_C * x_BTC)


def repeat_ends(x_BMC, first_B1C, last_B1C, start: int, end):
    """Writes `first` into the EDGE samples before `start`, `last` into those from `end` on."""
    shape = (len(x_BMC), EDGE, x_BMC.shape[2])
    for at, row_B1C in ((start - EDGE, first_B1C), (end, last_B1C)):
        x_BMC = lax.dynamic_update_slice_in_dim(x_BMC, jnp.broadcast_to(row_B1C, shape), at, axis=1)
    return x_BMC


def edged(x_BMC, end):
    """A signal of `end` samples with its ends repeated; what its margins held does not matter."""
    last_B1C = lax.dynamic_slice_in_dim(x_BMC, MARGIN + end - 1, 1, axis=1)
    first_B1C, last_B1C = lax.optimization_barrier((x_BMC[:, MARGIN:MARGIN + 1], last_B1C))
    return repeat_ends(x_BMC, first_B1C, last_B1C, MARGIN, MARGIN + end)


def roomy(x_BTC, end):
    """`edged` of a signal without margins."""
    return edged(jnp.pad(x_BTC, ((0, 0), (MARGIN, MARGIN), (0, 0))), end)


def ended(x_BTC, end):
    """Zeros from `end` on; None: the signal ends where the array does."""
    return x_BTC if end is None else x_BTC * (jnp.arange(x_BTC.shape[1]) < end)[:, None]


@jax.jit
def activation(x_BMC, frequency_C, amplitude_C, end=None):
    """The activation at twice the rate and back, of a signal that is `edged` -> (B, T, C), zeros
    from `end` on. Barriers keep XLA from computing the inner signals anew for every tap that reads
    them. The jit is for tracing: the network has a hundred of them in a dozen shapes."""
    taps = [float(tap) for tap in kaiser_sinc()]
    T = x_BMC.shape[1] - 2 * MARGIN

    def window(x, start, length):
        return x[:, start:start + length]

    # samples 2 t, from t - 3 .. t + 2, and 2 t + 1, from t - 2 .. t + 3, for t = -EDGE .. T + EDGE
    even, odd = (snake(sum(2 * taps[11 - phase - 2 * i] * window(x_BMC, i + phase, T + 2 * EDGE)
                           for i in range(6)), frequency_C, amplitude_C) for phase in (0, 1))
    even, odd = lax.optimization_barrier((even, odd))
    # the first and last samples of the double rate
    stop = EDGE + (T if end is None else end)
    first_B1C, last_B1C = lax.optimization_barrier(
        (even[:, EDGE:EDGE + 1], lax.dynamic_slice_in_dim(odd, stop - 1, 1, axis=1)))
    even, odd = lax.optimization_barrier(tuple(repeat_ends(x, first_B1C, last_B1C, EDGE, stop)
                                               for x in (even, odd)))
    return ended(sum(taps[2 * i] * window(odd, i, T) + taps[2 * i + 1] * window(even, i + 1, T)
                     for i in range(6)), end)


# ---- the network

def quick(params):
    """The parameters for a CPU: kernels at points where that is faster (avjax.nn.toom_cook)."""
    def layer(name, held):
        kernel = held.get("kernel") if "convs" in name else None
        if kernel is None or not toom_cook.takes(len(kernel)) or math.prod(
                kernel.shape[:2]) < QUICK:
            return held
        return {"points": toom_cook.evaluate(np.asarray(kernel)), "bias": held["bias"]}

    return {name: {inner: layer(inner, value) for inner, value in held.items()}
            if name.startswith("resblocks") else held for name, held in params.items()}


def convolve(x_BTC, layer, dilation: int = 1, margin: int = 0):
    """"Same" convolution with kernel (D, in, out), or with one at points; `margin` more samples on
    either side, of zeros beyond the ends."""
    if "points" in layer:
        return toom_cook.convolve(x_BTC, layer["points"], dilation, margin) + layer["bias"]
    pad = dilation * (layer["kernel"].shape[0] - 1) // 2 + margin
    y = lax.conv_general_dilated(x_BTC, layer["kernel"], (1,), [(pad, pad)], rhs_dilation=(dilation,
                                 ),
                                 dimension_numbers=("NWC", "WIO", "NWC"))
    return y + layer["bias"] if "bias" in layer else y


def upsample(x_BTC, layer, rate: int, kernel: int):
    """Transposed convolution, (kernel - rate) / 2 cut from either end: one convolution that makes
    the `rate` samples of each step side by side (`layer` as weights.polyphase gives it), then a
    reshape. No zeros are put in."""
    B, T, _ = x_BTC.shape
    taps = layer["kernel"].shape[0]
    y = lax.conv_general_dilated(x_BTC, layer["kernel"], (1,), [(taps - 1, taps - 1)],
                                 dimension_numbers=("NWC", "WIO", "NWC"))
    y = y.reshape(B, (T + taps - 1) * rate, -1)
    cut = (kernel - rate) // 2
    return y[:, cut:cut + T * rate + (kernel - rate) % 2] + layer["bias"]


def generator(config: BigVGANConfig, params, mel_BTM, frames=None, at=None,
              count: int | None = None):
    """(B, T, M) log-mel, not normalised -> (B, T * hop) samples in [-1, 1]. Pure, jittable,
    float32.

    Args:
      frames: how many there are, traced; what follows changes nothing. None: T.
      at, count: only the samples of `count` frames are wanted, from frame `at` (traced) on -> (B,
        count * hop). Each stage then computes what those depend on and little more. Mel has to
        begin with the signal or `halo` frames before `at`, and reach as far beyond them.
    """
    def act(x, layer, end):
        # plain snake: beta is alpha
        frequency = layer["alpha"]
        amplitude = layer.get("beta", layer["alpha"])
        if config.log_scale:
            frequency, amplitude = jnp.exp(frequency), jnp.exp(amplitude)
        return activation(x, frequency, 1.0 / (amplitude + 1e-9), end)

    def block(x, layer, dilations, end):
        length = x.shape[1] - 2 * MARGIN if end is None else end
        for i, dilation in enumerate(dilations):
            y = convolve(act(x, layer[f"activations_{2 * i}"], end), layer[f"convs1_{i}"], dilation,
                         MARGIN)
            y = act(edged(y, length), layer[f"activations_{2 * i + 1}"], end)
            x = x + convolve(y, layer[f"convs2_{i}"], margin=MARGIN)
            x = edged(x, length) if i + 1 < len(dilations) else x
        return x

    def around(x, reach, unit):
        """What `reach` samples beyond the wanted ones leave of a stage, and where they and the end
        of the signal lie in it."""
        size = count * unit + 2 * reach
        if size >= x.shape[1]:
            return x, at, frames
        first = jnp.clip(at - reach, 0, x.shape[1] - size)
        return (lax.dynamic_slice_in_dim(x, first, size, axis=1), at - first,
                frames if frames is None else jnp.minimum(frames - first, size))

    x_BTC = convolve(ended(mel_BTM, frames), params["conv_pre"])
    parallel, unit = len(config.block_kernels), 1
    for i, (rate, kernel) in enumerate(zip(config.rates, config.kernels, strict=True)):
        x_BTC = upsample(ended(x_BTC, frames), params[f"ups_{i}"], rate, kernel)
        unit *= rate
        frames = frames if frames is None else frames * rate
        x_BMC = roomy(x_BTC, x_BTC.shape[1] if frames is None else frames)
        x_BMC = sum(block(x_BMC, params[f"resblocks_{i * parallel + j}"], dilations, frames)
                    for j, dilations in enumerate(config.dilations)) / parallel
        x_BTC = x_BMC[:, MARGIN:-MARGIN]
        if count is not None:
            at = at * rate
            x_BTC, at, frames = around(x_BTC, config.reaches()[i + 1], unit)
    x_BMC = roomy(x_BTC, x_BTC.shape[1] if frames is None else frames)
    x_BTC = convolve(act(x_BMC, params["activation_post"], frames), params["conv_post"])
    audio_BN = (jnp.tanh(x_BTC) if config.tanh else jnp.clip(x_BTC, -1.0, 1.0))[..., 0]
    if count is None:
        return audio_BN
    return lax.dynamic_slice_in_dim(audio_BN, at, count * unit, axis=1)
