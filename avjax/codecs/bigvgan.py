"""BigVGAN (Lee et al. 2023), versions 1 and 2: log-mel -> waveform, inference, anti-aliased
exactly.

A periodic activation makes frequencies that the sample rate cannot hold. So it runs at twice the
rate: up by 2 (a 12-tap Kaiser-windowed sinc), activation, down by 2 (the same filter). Half of the
samples that the published code filters are zeros it has just put in, and half of those it makes are
thrown away. Polyphase form computes only the others: the even and the odd samples of the double
rate are two signals of the single rate, each a six-tap filter of the input.

`waveform` works in windows with enough frames around each to change nothing, so that memory does
not grow with length.
A vocoder inverts one definition of mel: its hash is compared, another raises UserError.
Suffixes: B batch, T time (of the layer), M mel bands, C channels, N samples, D taps.
"""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from avjax.codecs.published import bigvgan as weights
from avjax.errors import UserError
from avjax.signal import mel as mel_lib
from avjax.storage import made as records
from avjax.weights.reader import read_checkpoint, read_state_dict

SIGNAL = ("kind", "sample_rate", "n_fft", "hop", "window", "bands", "fmin", "fmax", "scale", "pad",
          "magnitude", "log")
# of the anti-aliasing filter, in cycles a sample of the double rate
TAPS, CUTOFF, HALF_WIDTH = 12, 0.25, 0.3
WINDOW = 256  # mel frames made at once
# shorter signals are padded up to a multiple of it, so that few lengths are ever compiled
QUANTUM = 96
REACH = 5  # samples on either side that one anti-aliased activation looks at


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

    def halo(self) -> int:
        """Mel frames on either side that a sample depends on."""
        blocks = [sum(2 * REACH + (k - 1) // 2 * (d + 1) for d in dilations)
                  for k, dilations in zip(self.block_kernels, self.dilations, strict=True)]
        reach = 3 + REACH
        for rate, kernel in zip(reversed(self.rates), reversed(self.kernels), strict=True):
            cut, last = (kernel - rate) // 2, rate * (-(-kernel // rate) - 1)
            reach = -(-(reach + max(blocks) + max(last - cut, cut)) // rate)
        return reach + 3


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


def activation(x_BTC, frequency_C, amplitude_C):
    """The activation at twice the rate and back, edges repeated. Barriers keep XLA from computing
    the inner signals anew for every tap that reads them."""
    taps = [float(tap) for tap in kaiser_sinc()]
    T = x_BTC.shape[1]

    def window(x, start):
        return x[:, start:start + T]

    x_BTC = lax.optimization_barrier(jnp.pad(x_BTC, ((0, 0), (3, 3), (0, 0)), mode="edge"))
    # sample 2 t, from t - 3 .. t + 2
    even_BTC = sum(2 * taps[11 - 2 * i] * window(x_BTC, i) for i in range(6))
    # sample 2 t + 1, from t - 2 .. t + 3
    odd_BTC = sum(2 * taps[10 - 2 * i] * window(x_BTC, i + 1) for i in range(6))
    even_BTC, odd_BTC = lax.optimization_barrier(tuple(snake(x, frequency_C, amplitude_C)
                                                       for x in (even_BTC, odd_BTC)))
    # the first and last samples of the double rate
    before = even_BTC[:, :1]
    after = odd_BTC[:, -1:]
    even_BTC = jnp.concatenate([before] * 2 + [even_BTC] + [after] * 3, axis=1)
    odd_BTC = jnp.concatenate([before] * 3 + [odd_BTC] + [after] * 2, axis=1)
    even_BTC, odd_BTC = lax.optimization_barrier((even_BTC, odd_BTC))
    return sum(taps[2 * i] * window(odd_BTC, i) + taps[2 * i + 1] * window(even_BTC, i)
               for i in range(6))


# ---- the network

def convolve(x_BTC, layer, dilation: int = 1, pad: int | None = None):
    """"Same" convolution with kernel (D, in, out)."""
    pad = dilation * (layer["kernel"].shape[0] - 1) // 2 if pad is None else pad
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
    y = convolve(x_BTC, {"kernel": layer["kernel"]},
                 pad=taps - 1).reshape(B, (T + taps - 1) * rate, -1)
    cut = (kernel - rate) // 2
    return y[:, cut:cut + T * rate + (kernel - rate) % 2] + layer["bias"]


def generator(config: BigVGANConfig, params, mel_BTM):
    """(B, T, M) log-mel, not normalised -> (B, T * hop) samples in [-1, 1]. Pure, jittable,
    float32."""
    def act(x, layer):
        # plain snake: beta is alpha
        frequency = layer["alpha"]
        amplitude = layer.get("beta", layer["alpha"])
        if config.log_scale:
            frequency, amplitude = jnp.exp(frequency), jnp.exp(amplitude)
        return activation(x, frequency, 1.0 / (amplitude + 1e-9))

    def block(x, layer, dilations):
        for i, dilation in enumerate(dilations):
            y = convolve(act(x, layer[f"activations_{2 * i}"]), layer[f"convs1_{i}"], dilation)
            x = x + convolve(act(y, layer[f"activations_{2 * i + 1}"]), layer[f"convs2_{i}"])
        return x

    x_BTC = convolve(mel_BTM, params["conv_pre"])
    parallel = len(config.block_kernels)
    for i, (rate, kernel) in enumerate(zip(config.rates, config.kernels, strict=True)):
        x_BTC = upsample(x_BTC, params[f"ups_{i}"], rate, kernel)
        x_BTC = sum(block(x_BTC, params[f"resblocks_{i * parallel + j}"], dilations)
                    for j, dilations in enumerate(config.dilations)) / parallel
    x_BTC = convolve(act(x_BTC, params["activation_post"]), params["conv_post"])
    return (jnp.tanh(x_BTC) if config.tanh else jnp.clip(x_BTC, -1.0, 1.0))[..., 0]


@functools.partial(jax.jit, static_argnums=0)
def _generate(config: BigVGANConfig, params, mel_BTM):
    with jax.default_matmul_precision("float32"):
        return generator(config, params, mel_BTM)


# ---- which mel

def signal_of(recipe: dict) -> dict:
    """The part of a mel recipe that a vocoder depends on: not how it is scaled afterwards."""
    return {k: float(recipe[k]) if isinstance(recipe.get(k), int | float) else recipe.get(k)
            for k in SIGNAL}


def mel_hash(recipe: dict) -> str:
    """16 hex digits over `signal_of`."""
    return records.digest(signal_of(recipe))


def mel_of_published(sizes: dict) -> dict:
    """The mel that a published config.json names, in the words of avjax.signal.mel; unscaled."""
    window = ("hann-periodic" if sizes["win_size"] == sizes["n_fft"]
              else f"hann-periodic of {sizes['win_size']}")
    top = sizes["fmax"] if sizes["fmax"] is not None else sizes["sampling_rate"] / 2
    return {k: mel_lib.RECIPE[k] for k in SIGNAL} | {
        "sample_rate": sizes["sampling_rate"], "n_fft": sizes["n_fft"], "hop": sizes["hop_size"],
        "window": window, "bands": sizes["num_mels"], "fmin": float(sizes["fmin"]),
        "fmax": float(top)}


# ---- the codec

class BigVGAN:
    """A vocoder with its weights. `recipe` and `arrays()` are all that is needed to have it
    back."""

    def __init__(self, config: BigVGANConfig, params: dict, mel: dict, weights_hash: str = "",
                 window: int = WINDOW):
        self.config = config
        self.mel = {k: mel[k] for k in SIGNAL}
        self.window = window
        if math.prod(config.rates) != mel["hop"] or config.bands != mel["bands"]:
            raise UserError("the vocoder and its mel do not belong together",
                            where="config.json of the vocoder",
                            expected=f"{config.bands} bands, hop {math.prod(config.rates)}",
                            found=f"{mel['bands']} bands, hop {mel['hop']}",
                            hint="use the config.json of these weights")
        self.recipe = {"kind": "bigvgan",
                       "network": json.loads(json.dumps(dataclasses.asdict(config))),
                       "mel": self.mel,
                       "mel_hash": mel_hash(mel), "weights": weights_hash}
        self._params = jax.device_put(params)

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike, sizes: dict | None = None) -> "BigVGAN":
        """From a published file ({"generator": weights} or the weights alone; weight norm is
        folded).

        `sizes`: its config.json as a dict; by default the file config.json beside it, else what the
        weights show, with the dilations of every published model, the rates half of the kernels and
        the 22 kHz mel. UserError: not a BigVGAN.
        """
        path = os.fspath(path)
        tree = read_checkpoint(path)
        nested = isinstance(tree, dict) and (isinstance(tree.get("generator"), dict) or any(
            name.startswith("generator.") for name in tree))
        state = read_state_dict(path, "generator" if nested else None)
        beside = os.path.join(path if os.path.isdir(path) else os.path.dirname(path), "config.json")
        if sizes is None and os.path.isfile(beside):
            with open(beside) as file:
                sizes = json.load(file)
        bands = weights.bigvgan_sizes(state, path)["num_mels"]
        if sizes is None and bands != mel_lib.RECIPE["bands"]:  # published at 24 and 44.1 kHz
            raise UserError("the weights do not show the vocoder's sample rate", where=path,
                            found=f"{bands} bands", expected="its config.json beside them, or "
                                                             f"{mel_lib.RECIPE['bands']} bands",
                            hint="fetch the config.json of these weights too")
        return cls.from_state_dict(state, sizes, where=path)

    @classmethod
    def from_state_dict(cls, state: dict[str, np.ndarray], sizes: dict | None = None,
                        where: str = "") -> "BigVGAN":
        """As `from_checkpoint`, of arrays under published names."""
        sizes = weights.bigvgan_sizes(state, where) | (sizes or {})
        if str(sizes["resblock"]) != "1" or sizes["activation"] not in ("snake", "snakebeta"):
            raise UserError("a BigVGAN of another make", where=where,
                            expected="resblock 1 with snake or snakebeta",
                            found=f"resblock {sizes['resblock']}, {sizes['activation']}")
        config = BigVGANConfig(
            sizes["num_mels"], sizes["upsample_initial_channel"], tuple(sizes["upsample_rates"]),
            tuple(sizes["upsample_kernel_sizes"]), tuple(sizes["resblock_kernel_sizes"]),
            tuple(tuple(d) for d in sizes["resblock_dilation_sizes"]),
            bool(sizes["snake_logscale"]),
            bool(sizes["use_tanh_at_final"]))
        params = weights.import_bigvgan(state, config, where)
        return cls(config, params, mel_of_published(sizes), weights.arrays_hash(params))

    @classmethod
    def from_recipe(cls, recipe: dict, arrays: dict[str, np.ndarray],
                    where: str = "codecs/vocoder.npz") -> "BigVGAN":
        """Back from `recipe` and `arrays()`. UserError: another kind, other arrays."""
        if recipe.get("kind") != "bigvgan":
            raise UserError("unknown vocoder", where=where, expected="kind bigvgan",
                            found=repr(recipe.get("kind")))
        network = {k: tuple(tuple(x) if isinstance(x, list) else x for x in v)
                   if isinstance(v, list) else v
                   for k, v in recipe["network"].items()}
        params = weights.nested(arrays)
        if weights.arrays_hash(params) != recipe["weights"]:
            raise UserError("the vocoder's arrays are not those of its recipe", where=where,
                            expected=recipe["weights"], found=weights.arrays_hash(params),
                            hint="copy the folder again")
        return cls(BigVGANConfig(**network), params, recipe["mel"], recipe["weights"])

    def arrays(self) -> dict[str, np.ndarray]:
        """The folded weights under our names."""
        return {name: np.asarray(value) for name, value in weights.flat(self._params).items()}

    @property
    def sample_rate(self) -> int:
        """Hz of the waveform."""
        return int(self.mel["sample_rate"])

    @property
    def hop(self) -> int:
        """Samples a mel frame."""
        return int(self.mel["hop"])

    def check(self, recipe: dict, where: str = "mel recipe") -> None:
        """UserError unless mel of this recipe is what the vocoder was trained on."""
        if mel_hash(recipe) != mel_hash(self.mel):
            ours, theirs = signal_of(self.mel), signal_of(recipe)
            differing = [k for k in SIGNAL if ours[k] != theirs[k]]
            raise UserError("the vocoder was trained on another mel", where=where,
                            expected=f"{mel_hash(self.mel)} "
                            + ", ".join(f"{k}={ours[k]}" for k in differing),
                            found=f"{mel_hash(recipe)} "
                            + ", ".join(f"{k}={theirs[k]}" for k in differing),
                            hint="use a vocoder of that mel, or Griffin-Lim")

    def waveform(self, log_mel_TM: np.ndarray, recipe: dict = mel_lib.RECIPE) -> np.ndarray:
        """(T, M) log-mel of the recipe (not normalised) -> (T * hop,) float32 at its rate.

        The recipe's gain is undone. UserError: a recipe that the vocoder does not know, another
        shape, numbers that are not finite.
        """
        return np.concatenate(list(self.chunks(log_mel_TM, recipe)))

    def part(self, log_mel_TM: np.ndarray, gain: float) -> np.ndarray:
        """(T, M) log-mel -> (T * hop,) samples times `gain`, in [-1, 1]; compiled for every T."""
        audio_N = np.asarray(_generate(self.config, self._params, log_mel_TM[None])[0])
        return np.clip(audio_N * gain, -1.0, 1.0)

    def chunks(self, log_mel_TM: np.ndarray, recipe: dict = mel_lib.RECIPE) -> Iterator[np.ndarray]:
        """`waveform` in parts of `window` frames, each made on demand. Mel of at most a
        window and its halo is one part, followed by silence up to a compiled length."""
        self.check(recipe)
        log_mel_TM = mel_lib.checked(log_mel_TM, self.config.bands, "the vocoder")
        frames = len(log_mel_TM)
        halo = self.config.halo()
        length = self.window + 2 * halo
        gain = recipe.get("gain", 1.0)

        def made(part_TM):
            return self.part(part_TM, gain)

        if frames <= length:
            padded_TM = np.pad(log_mel_TM, ((0, -frames % QUANTUM), (0, 0)),
                               constant_values=mel_lib.FLOOR)
            yield made(padded_TM)[:frames * self.hop]
            return
        for first in range(0, frames, self.window):
            # a window ends where the signal ends, never past it
            start = min(max(first - halo, 0), frames - length)
            audio_N = made(log_mel_TM[start:start + length])
            last = min(first + self.window, frames)
            yield audio_N[(first - start) * self.hop:(last - start) * self.hop]
