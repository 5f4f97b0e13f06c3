"""Layers of sequences: convolution, group norm with Mish, SnakeBeta, dropout.

Suffixes: B batch, T time, C channels, G groups, D width.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from avjax.codecs.bigvgan_network import snake, squared_sine
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
    """Convolution over time. In float32 on a CPU, where XLA's backward pass takes several times as
    long as its products: three taps by `winograd`, others as one product of unfolded frames."""
    if x_BTC.dtype != jnp.float32 or jax.default_backend() != "cpu":
        return lax.conv_general_dilated(x_BTC, kernel, (stride,), (padding,),
                                        dimension_numbers=("NWC", "WIO", "NWC"))
    size, _, features = kernel.shape
    if (size, stride, padding) == (3, 1, (1, 1)):
        return winograd(x_BTC, kernel)
    x_BTC = jnp.pad(x_BTC, ((0, 0), padding, (0, 0)))
    last = x_BTC.shape[1] - size
    taps = [x_BTC[:, i:last + i + 1:stride] for i in range(size)]
    return matmul(jnp.concatenate(taps, axis=-1), kernel.reshape(-1, features))


def winograd(x_BTC, kernel):
    """Three taps, zeros around: four frames of output by six products instead of twelve, F(4, 3) of
    Winograd's minimal filtering (Lavin and Gray 2016, section 4.1). Its gradients are six products
    each, too. Rounding grows to about 2e-6."""
    B, T, C = x_BTC.shape
    x_BTC = jnp.pad(x_BTC, ((0, 0), (1, 3 + -T % 4), (0, 0)))
    tiles_BN4C = x_BTC.reshape(B, -1, 4, C)
    a, b, c, d, e, f = (*(tiles_BN4C[:, :-1, i] for i in range(4)),
                        *(tiles_BN4C[:, 1:, i] for i in range(2)))
    # x^T B, one product each with the kernel's G w
    before = (4 * a - 5 * c + e, (e - 4 * c) + (d - 4 * b), (e - 4 * c) - (d - 4 * b),
              (e - c) + 2 * (d - b), (e - c) - 2 * (d - b), 4 * b - 5 * d + f)
    u, v, w = kernel
    ends, half = (u + w) / 6, u / 24 + w / 6
    taps = (u / 4, -ends - v / 6, -ends + v / 6, half + v / 12, half - v / 12, w)
    p, q, r, s, t, o = (matmul(x, tap) for x, tap in zip(before, taps, strict=True))
    # A^T of the products
    y_BN4C = jnp.stack([p + (q + r) + (s + t), (q - r) + 2 * (s - t), (q + r) + 4 * (s + t),
                        (q - r) + 8 * (s - t) + o], axis=2)
    return y_BN4C.reshape(B, -1, kernel.shape[2])[:, :T]


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
        share_BT1 = (present_BT / jnp.sum(present_BT, axis=1, keepdims=True))[..., None]
        return norm_mish(x_BTC, self.scale, self.bias, share_BT1, self.groups, self.eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def norm_mish(x_BTC, scale_C, bias_C, share_BT1, groups: int, eps: float):
    """See GroupNormMish; `share` is a frame's share of an average over time. The backward pass
    keeps x alone: what follows is cheap to compute again."""
    return _norm_mish_fwd(x_BTC, scale_C, bias_C, share_BT1, groups, eps)[0]


def _over_groups(x_BC, groups: int):
    """Means over the channels of a group, for each of them: (B, C) -> (B, 1, C)."""
    mean_BG = jnp.mean(x_BC.reshape(x_BC.shape[0], groups, -1), axis=-1)
    return jnp.repeat(mean_BG, x_BC.shape[1] // groups, axis=-1)[:, None]


def _norm_mish_fwd(x, scale, bias, share, groups, eps):
    wide = x.astype(jnp.float32)
    mean = _over_groups(jnp.sum(wide * share, axis=1), groups)
    variance = _over_groups(jnp.sum(jnp.square(wide - mean) * share, axis=1), groups)
    inverse = lax.rsqrt(variance + eps)
    y = mish((wide - mean) * (inverse * scale) + bias)
    return y.astype(x.dtype), (x, mean, inverse, scale, bias, share)


def _norm_mish_bwd(groups, eps, saved, dy):
    x, mean, inverse, scale, bias, share = saved
    normal = (x.astype(jnp.float32) - mean) * inverse
    dz = lax.optimization_barrier(dy * mish_slope(normal * scale + bias))
    sum_BC, along_BC = jnp.sum(dz, axis=1), jnp.sum(dz * normal, axis=1)
    inner = dz * scale - share * (_over_groups(sum_BC * scale, groups)
                                  + normal * _over_groups(along_BC * scale, groups))
    return ((inverse * inner).astype(x.dtype), jnp.sum(along_BC, axis=0), jnp.sum(sum_BC, axis=0),
            None)


norm_mish.defvjp(_norm_mish_fwd, _norm_mish_bwd)


@jax.custom_vjp
def mish(x):
    """x tanh(log(1 + e^x)), by one exponential."""
    e = jnp.exp(jnp.minimum(x, 20.0))  # beyond it Mish is x
    n = e * (e + 2)
    return x * (n / (n + 2))


def mish_slope(x):
    """Mish's derivative."""
    e = jnp.exp(jnp.minimum(x, 20.0))
    n = e * (e + 2)
    return n / (n + 2) + jnp.where(x > 20.0, 0.0, x * 4 * e * (e + 1) / jnp.square(n + 2))


mish.defvjp(lambda x: (mish(x), x), lambda x, dy: (dy * mish_slope(x),))


class SnakeBeta(nn.Module):
    """Dense, then x + sin^2(a x) / b with learned log a and log b for each channel (BigVGAN's, as
    Matcha-TTS uses it), then dropout."""

    features: int
    in_features: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0

    def setup(self):
        self.project = Dense(self.features, self.in_features, dtype=self.dtype,
                             init_scale=self.init_scale, bias_init=nn.initializers.zeros)
        self.alpha = parameter(self, "alpha", nn.initializers.zeros, (self.features,))
        self.beta = parameter(self, "beta", nn.initializers.zeros, (self.features,))

    def __call__(self, x_BTD, key=None):
        product_BTF = self.project(x_BTD, bias=False)
        rate = self.dropout if key is not None else 0.0
        return snake_drop(product_BTF, self.project.bias, self.alpha, self.beta, seed_of(key), rate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def snake_drop(product, bias, log_a, log_b, seed, rate: float):
    """Dropout of SnakeBeta of product + bias: one pass over the widest arrays of the network, and
    one sine a pass back."""
    x = product + bias.astype(product.dtype)
    y = snake(x, jnp.exp(log_a).astype(x.dtype), (1 / (jnp.exp(log_b) + 1e-9)).astype(x.dtype))
    return dropped(y, seed, rate)


def _snake_drop_bwd(rate, saved, dy):
    (product, bias, log_a, log_b, seed), y = saved
    a, b = jnp.exp(log_a), jnp.exp(log_b)
    x, g = product + bias.astype(product.dtype), dropped(dy, seed, rate)
    # sin(2 a x) from the squared sine half a turn further back: cos(2 u) = 1 - 2 sin^2(u)
    double_sine = 1 - 2 * squared_sine(a * x - np.float32(np.pi / 4))
    dx = lax.optimization_barrier((g * (1 + a / (b + 1e-9) * double_sine)).astype(x.dtype))
    axes = tuple(range(x.ndim - 1))
    da = jnp.sum(x * (dx - g), axis=axes)  # x a / b sin(2 a x)
    db = -b / (b + 1e-9) * jnp.sum(dy * y - g * x, axis=axes)  # y - x is sin^2(a x) / b
    return dx, jnp.sum(dx, axis=axes).astype(bias.dtype), da, db, None


def _snake_drop_fwd(product, bias, log_a, log_b, seed, rate):
    y = snake_drop(product, bias, log_a, log_b, seed, rate)
    return y, ((product, bias, log_a, log_b, seed), y)


snake_drop.defvjp(_snake_drop_fwd, _snake_drop_bwd)


def drop(x, rate: float, key):
    """Inverted dropout; the identity where key is None."""
    return x if key is None or rate == 0.0 else _drop(x, seed_of(key), rate)


def seed_of(key):
    """(2,) uint32 of a key, zeros of None."""
    return jnp.zeros(2, jnp.uint32) if key is None else jax.random.bits(key, (2,), jnp.uint32)


def dropped(x, seed, rate: float):
    """Zero where a hash of the element's number and the seed (Wellons' lowbias32) says so, the rest
    larger. It is computed where it is used, forward and backward, at a hundredth of the cost of
    jax.random's bits."""
    if rate == 0.0:
        return x
    number = sum(lax.broadcasted_iota(jnp.uint32, x.shape, axis)
                 * np.uint32(math.prod(x.shape[axis + 1:]) % 2**32) for axis in range(x.ndim))
    bits = number ^ seed[0]
    bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D) + seed[1]
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    kept = (bits ^ (bits >> 16)) >= np.uint32(rate * 2**32)
    return jnp.where(kept, x * (1 / (1 - rate)), 0.0).astype(x.dtype)


_drop = jax.custom_vjp(dropped, nondiff_argnums=(2,))
_drop.defvjp(lambda x, seed, rate: (dropped(x, seed, rate), seed),
             lambda rate, seed, dy: (dropped(dy, seed, rate), None))


def split(key, count: int):
    """`count` keys; as many None where there is none."""
    return [None] * count if key is None else jax.random.split(key, count)
