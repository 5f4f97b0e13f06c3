"""The discriminators of BigVGAN (Lee et al. 2023), versions 1 and 2. Each is several networks that
look at a waveform in different ways, and gives of each its answers and its features.

    mpd   samples a period apart, 2 to 11 (Kong et al. 2020)
    mrd   magnitudes at three resolutions (Jang et al. 2021)
    mbd   complex spectra in five bands (Kumar et al. 2023)
    cqtd  constant-Q transforms, octave by octave (Gu et al. 2024)

Weights are norm times direction, as published. Suffixes: B batch, N samples, T frames, P period,
K bins, C channels.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import FrozenConfigDict

from avjax.systems.vocoder import spectra
from avjax.systems.vocoder.cqt import Transform

SLOPE = 0.1  # of the leaky ReLUs
PERIOD_WIDTHS = (1, 4, 16, 32, 32)  # times config.width
BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))


def fan_in(key, shape, dtype=jnp.float32):
    """Uniform within 1 / sqrt(inputs), as PyTorch's convolutions begin."""
    bound = 1 / jnp.sqrt(jnp.prod(jnp.array(shape[:-1])))
    return nn.initializers.uniform(2 * bound)(key, shape, dtype) - bound


def normed(scale_C, direction):
    """Kernel (..., in, out) of norm `scale` for each output."""
    axes = tuple(range(direction.ndim - 1))
    return direction * (scale_C / jnp.sqrt(jnp.sum(direction**2, axis=axes)))


class Convolution(nn.Module):
    """"Same" convolution over two axes, (B, ., ., in) -> (B, ., ., out)."""

    features: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: int = 1  # of the first axis
    weight_norm: bool = True

    @nn.compact
    def __call__(self, x):
        shape = (*self.kernel, x.shape[-1], self.features)
        inputs = self.kernel[0] * self.kernel[1] * x.shape[-1]
        bias_C = self.param("bias", lambda key: fan_in(key, (inputs, self.features))[0])
        if self.weight_norm:
            direction = self.param("direction", fan_in, shape)
            scale_C = self.param("scale", lambda key: jnp.sqrt(jnp.sum(direction**2, (0, 1, 2))))
            kernel = normed(scale_C, direction)
        else:
            kernel = self.param("kernel", fan_in, shape)
        pads = [((self.kernel[0] - 1) * self.dilation // 2,) * 2, (self.kernel[1] // 2,) * 2]
        return lax.conv_general_dilated(x, kernel, self.stride, pads,
                                        rhs_dilation=(self.dilation, 1),
                                        dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias_C


def tower(x, layers: Sequence[Convolution], post: Convolution | None):
    """(answers, features): each layer's output after its activation, then `post`'s."""
    features = []
    for layer in layers:
        x = nn.leaky_relu(layer(x), SLOPE)
        features.append(x)
    if post is None:
        return x, features
    x = post(x)
    return x, [*features, x]


class Period(nn.Module):
    """Of samples `period` apart."""

    period: int
    width: int

    @nn.compact
    def __call__(self, audio_BN):
        short = -audio_BN.shape[1] % self.period
        audio_BN = jnp.pad(audio_BN, ((0, 0), (0, short)), mode="reflect")
        x_BTPC = audio_BN.reshape(len(audio_BN), -1, self.period, 1)
        layers = [Convolution(self.width * n, (5, 1), (3, 1) if i < 4 else (1, 1),
                              name=f"convs_{i}") for i, n in enumerate(PERIOD_WIDTHS)]
        return tower(x_BTPC, layers, Convolution(1, (3, 1), name="conv_post"))


def spectral_layers(width: int, name: str) -> list[Convolution]:
    """Five layers over (T, K) or (K, T); the three in the middle halve the second axis."""
    return [Convolution(width, (3, 9) if i < 4 else (3, 3), (1, 2) if 0 < i < 4 else (1, 1),
                        name=f"{name}_{i}") for i in range(5)]


class Resolution(nn.Module):
    """Of magnitudes (K, T): `resolution` is (points, hop, window)."""

    resolution: tuple[int, int, int]
    width: int

    @nn.compact
    def __call__(self, audio_BN):
        spectrum_BTK = spectra.rectangular(audio_BN, *self.resolution)
        x_BKTC = spectrum_BTK.transpose(0, 2, 1)[..., None]
        return tower(x_BKTC, spectral_layers(self.width, "convs"),
                     Convolution(1, (3, 3), name="conv_post"))


class Bands(nn.Module):
    """Of a complex spectrum (T, K), each of five bands by layers of its own; of sound without its
    mean, at one peak."""

    window: int
    width: int

    @nn.compact
    def __call__(self, audio_BN):
        audio_BN = audio_BN - audio_BN.mean(axis=1, keepdims=True)
        audio_BN = 0.8 * audio_BN / (jnp.abs(audio_BN).max(axis=1, keepdims=True) + 1e-9)
        spectrum_BTK = spectra.centred(audio_BN, self.window, self.window // 4)
        x_BTKC = jnp.stack([spectrum_BTK.real, spectrum_BTK.imag], axis=-1)
        bins, ends, features = x_BTKC.shape[2], [], []
        for i, (low, high) in enumerate(BANDS):
            end, found = tower(x_BTKC[:, :, int(low * bins):int(high * bins)],
                               spectral_layers(self.width, f"band_convs_{i}"), None)
            ends.append(end)
            features += found[1:]  # the first layer's are not compared
        answers = Convolution(1, (3, 3), name="conv_post")(jnp.concatenate(ends, axis=2))
        return answers, [*features, answers]


class Octaves(nn.Module):
    """Of a constant-Q transform (T, K), each octave first by a layer of its own."""

    transform: Transform
    width: int
    widest: int
    dilations: tuple[int, ...]

    @nn.compact
    def __call__(self, audio_BN):
        x_BTKC, bins = self.transform(audio_BN), self.transform.bins
        x_BTKC = jnp.concatenate([
            Convolution(2, (3, 9), weight_norm=False, name=f"conv_pres_{i}")(
                x_BTKC[:, :, i * bins:(i + 1) * bins]) for i in range(self.transform.octaves)],
            axis=2)
        width, last = min(self.width, self.widest), len(self.dilations) + 1
        layers = [Convolution(self.width, (3, 9), weight_norm=False, name="convs_0"),
                  *(Convolution(width, (3, 9), (1, 2), dilation, name=f"convs_{i}")
                    for i, dilation in enumerate(self.dilations, 1)),
                  Convolution(width, (3, 3), name=f"convs_{last}")]
        answers, features = tower(x_BTKC, layers, Convolution(1, (3, 3), name="conv_post"))
        return answers, features[:-1]  # the answers are not compared


def networks(name: str, config: FrozenConfigDict) -> list[nn.Module]:
    """The networks of a discriminator: "mpd", "mrd", "mbd" or "cqtd"."""
    c = config
    return {
        "mpd": lambda: [Period(period, c.width) for period in c.periods],
        "mrd": lambda: [Resolution(tuple(r), c.width) for r in c.resolutions],
        "mbd": lambda: [Bands(window, c.band_width) for window in c.band_windows],
        "cqtd": lambda: [Octaves(transform, c.octave_width, 1024, tuple(c.octave_dilations))
                         for transform in transforms(c)],
    }[name]()


def transforms(config: FrozenConfigDict) -> list[Transform]:
    """What the networks of "cqtd" look at."""
    return [Transform(config.sample_rate, hop, octaves, bins)
            for hop, octaves, bins in config.octave_transforms]


def init(name: str, config: FrozenConfigDict, key, samples: int) -> dict:
    """Fresh parameters of a discriminator, {"discriminators_<i>": ...}."""
    audio_BN = jnp.zeros((1, samples))
    return {f"discriminators_{i}": net.init(jax.random.fold_in(key, i), audio_BN)["params"]
            for i, net in enumerate(networks(name, config))}


def judge(name: str, config: FrozenConfigDict, params: dict, audio_BN):
    """(answers, features) of every network of a discriminator: lists of arrays, of lists of
    arrays."""
    found = [net.apply({"params": params[f"discriminators_{i}"]}, audio_BN)
             for i, net in enumerate(networks(name, config))]
    return [answers for answers, _ in found], [features for _, features in found]
