"""Layers of sequences: convolution, group norm with Mish, SnakeBeta, dropout of few random bits.

Suffixes: B batch, T time, C channels, G groups, D width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from avjax.codecs.bigvgan_network import snake
from avjax.nn.layers import Dense, matmul, parameter


class Conv(nn.Module):
    """Convolution over time with zeros around: kernel (size, in, out), bias. Parameters float32,
    product in `dtype`; fresh kernels have variance init_scale / fan_in."""

    features: int
    in_features: int
    size: int = 3
    stride: int = 1
    # zeros before and after
    padding: tuple[int, int] | None = None
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0

    def setup(self):
        shape = (self.size, self.in_features, self.features)
        bound = (3.0 * self.init_scale / (self.size * self.in_features)) ** 0.5

        def uniform(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        self.kernel = parameter(self, "kernel", uniform, shape)
        self.bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))

    def __call__(self, x_BTC):
        padding = self.padding or (self.size // 2, self.size // 2)
        kernel = self.kernel.astype(self.dtype)
        return convolve(x_BTC.astype(self.dtype), kernel, padding,
                        self.stride) + self.bias.astype(self.dtype)


def convolve(x_BTC, kernel, padding: tuple[int, int], stride: int = 1):
    """Convolution over time; on a CPU one product of unfolded frames, whose gradients are products
    too."""
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(x_BTC, kernel, (stride,), (padding,),
                                        dimension_numbers=("NWC", "WIO", "NWC"))
    size, _, features = kernel.shape
    x_BTC = jnp.pad(x_BTC, ((0, 0), padding, (0, 0)))
    last = x_BTC.shape[1] - size
    taps = [x_BTC[:, i:last + i + 1:stride] for i in range(size)]
    return matmul(jnp.concatenate(taps, axis=-1), kernel.reshape(-1, features))


class ConvTranspose(nn.Module):
    """Twice the frames: transposed convolution of kernel 4, stride 2, padding 1, as its even and
    its odd frames, each a convolution of two taps. Kernel (4, in, out) as published."""

    width: int
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0

    def setup(self):
        self.conv = Conv(self.width, self.width, 4, dtype=self.dtype, init_scale=self.init_scale)

    def __call__(self, x_BTC):
        kernel, x_BTC = self.conv.kernel.astype(self.dtype), x_BTC.astype(self.dtype)
        even_BTC = convolve(x_BTC, kernel[jnp.array([3, 1])], (1, 0))
        odd_BTC = convolve(x_BTC, kernel[jnp.array([2, 0])], (0, 1))
        pairs = jnp.stack([even_BTC, odd_BTC], axis=2) + self.conv.bias.astype(self.dtype)
        return pairs.reshape(x_BTC.shape[0], -1, self.width)


class GroupNormMish(nn.Module):
    """Mish of a group norm over the frames that are present (Wu and He 2018, Misra 2019); frames
    that are not come out as anything. Statistics in float32."""

    width: int
    groups: int
    eps: float = 1e-5

    def setup(self):
        self.scale = parameter(self, "scale", nn.initializers.ones, (self.width,))
        self.bias = parameter(self, "bias", nn.initializers.zeros, (self.width,))

    def __call__(self, x_BTC, present_BT):
        C, G = self.width, self.groups
        share_BT = present_BT / (jnp.sum(present_BT, axis=1, keepdims=True) * (C // G))
        wide_BTC = x_BTC.astype(jnp.float32)

        def mean(x_BTC):
            """Over the frames and channels of each group, repeated for its channels."""
            sums_BC = jnp.einsum("btc,bt->bc", x_BTC, share_BT)
            return jnp.repeat(sums_BC.reshape(-1, G, C // G).sum(-1), C // G, axis=-1)[:, None]

        centred_BTC = wide_BTC - mean(wide_BTC)
        scale_B1C = self.scale * lax.rsqrt(mean(jnp.square(centred_BTC)) + self.eps)
        return mish(centred_BTC * scale_B1C + self.bias).astype(x_BTC.dtype)


@jax.custom_vjp
def mish(x):
    """x tanh(log(1 + e^x)), by one exponential."""
    return _mish(x)[0]


def _mish(x):
    e = jnp.exp(jnp.minimum(x, 20.0))  # beyond it Mish is x
    n = e * (e + 2)
    return x * (n / (n + 2)), e


def _mish_fwd(x):
    return mish(x), x


def _mish_bwd(x, dy):
    e = jnp.exp(jnp.minimum(x, 20.0))
    n = e * (e + 2)
    return (dy * (n / (n + 2) + jnp.where(x > 20.0, 0.0, x * 4 * e * (e + 1) / jnp.square(n + 2))),)


mish.defvjp(_mish_fwd, _mish_bwd)


class SnakeBeta(nn.Module):
    """Dense, then x + sin^2(a x) / b with learned log a and log b for each channel (BigVGAN's, as
    Matcha-TTS uses it)."""

    features: int
    in_features: int
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0

    def setup(self):
        self.project = Dense(self.features, self.in_features, dtype=self.dtype,
                             init_scale=self.init_scale, bias_init=nn.initializers.zeros)
        self.alpha = parameter(self, "alpha", nn.initializers.zeros, (self.features,))
        self.beta = parameter(self, "beta", nn.initializers.zeros, (self.features,))

    def __call__(self, x_BTD):
        return snake(self.project(x_BTD), jnp.exp(self.alpha).astype(self.dtype),
                     (1 / (jnp.exp(self.beta) + 1e-9)).astype(self.dtype))


def drop(x, rate: float, key):
    """Inverted dropout by a byte an element, so that the rate is the nearest multiple of 1 / 256;
    the identity where key is None."""
    lost = round(256 * rate)
    if key is None or lost == 0:
        return x
    kept = jax.random.bits(key, x.shape, jnp.uint8) >= lost
    return jnp.where(kept, x * (256 / (256 - lost)), 0.0)


def split(key, count: int):
    """`count` keys; as many None where there is none."""
    return [None] * count if key is None else jax.random.split(key, count)
