"""Picture layers, channels last: convolution, group norm with its activation, the residual block,
halving and doubling.

Suffixes: N pictures, H W size, C channels, G groups.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax

from avjax.nn import winograd
from avjax.nn.layers import Dense, parameter
from avjax.sharding.activations import active_mesh, platform

LAYOUT = ("NHWC", "HWIO", "NHWC")


class Conv(nn.Module):
    """2-D convolution: kernel (k, k, in, out), bias; "same" padding unless `padding` gives (before,
    after) for both axes. Parameters float32, product in `dtype`; wide 3 x 3 kernels in float32 on a
    CPU by avjax.nn.winograd. Fresh kernels have variance
    init_scale / fan_in."""

    features: int
    in_features: int
    size: int = 3
    stride: int = 1
    padding: tuple[int, int] | None = None
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0

    def setup(self):
        shape = (self.size, self.size, self.in_features, self.features)
        bound = (3.0 * self.init_scale / np.prod(shape[:3])) ** 0.5

        def uniform(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        self.kernel = parameter(self, "kernel", uniform, shape)
        self.bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))

    def __call__(self, x_NHWC):
        pad = self.padding or (self.size // 2, self.size // 2)
        x_NHWC, kernel = x_NHWC.astype(self.dtype), self.kernel.astype(self.dtype)
        if (self.stride == 1 and pad == (1, 1) and kernel.dtype == jnp.float32
                and platform() == "cpu" and active_mesh() is None
                and winograd.takes(x_NHWC.shape[:3], kernel.shape)):
            y = winograd.convolve(x_NHWC, kernel)
        else:
            y = lax.conv_general_dilated(x_NHWC, kernel, (self.stride, self.stride), (pad, pad),
                                         dimension_numbers=LAYOUT)
        return y + self.bias.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def group_norm(x_NHWC, scale_C, bias_C, groups: int, eps: float, silu: bool):
    """Group norm over (height, width, channels of the group), affine, then SiLU if asked;
    statistics in float32 (Wu and He 2018). The backward pass keeps only x: norm and activation are
    cheap to recompute."""
    return _group_norm_fwd(x_NHWC, scale_C, bias_C, groups, eps, silu)[0]


def _moments(x_NHWC, groups: int, eps: float):
    """Mean and 1 / standard deviation of each channel's group, (N, 1, 1, C) each."""
    mean = _over_groups(jnp.mean(x_NHWC, axis=(1, 2)), groups)
    centred = x_NHWC - mean
    return mean, lax.rsqrt(_over_groups(jnp.mean(centred * centred, axis=(1, 2)), groups) + eps)


def _over_groups(x_NC, groups: int):
    """Means over the channels of a group, repeated for each of them: (N, C) -> (N, 1, 1, C)."""
    N, C = x_NC.shape
    mean_NG = jnp.mean(x_NC.reshape(N, groups, C // groups), axis=-1)
    return jnp.repeat(mean_NG, C // groups, axis=-1)[:, None, None]


def _group_norm_fwd(x, scale, bias, groups, eps, silu):
    wide = x.astype(jnp.float32)
    mean, inverse = _moments(wide, groups, eps)
    y = (wide - mean) * (inverse * scale) + bias
    return (jax.nn.silu(y) if silu else y).astype(x.dtype), (x, mean, inverse, scale, bias)


def _group_norm_bwd(groups, eps, silu, saved, dy):
    x, mean, inverse, scale, bias = saved
    centred = x.astype(jnp.float32) - mean
    dy = dy.astype(jnp.float32)
    if silu:
        y = centred * (inverse * scale) + bias
        sigmoid = jax.nn.sigmoid(y)
        dy = dy * sigmoid * (1 + y * (1 - sigmoid))
    area = x.shape[1] * x.shape[2]
    sum_dy = jnp.sum(dy, axis=(1, 2))  # (N, C)
    sum_dyx = jnp.sum(dy * centred, axis=(1, 2)) * inverse[:, 0, 0]
    dbias, dscale = jnp.sum(sum_dy, axis=0), jnp.sum(sum_dyx, axis=0)
    along = _over_groups(sum_dyx * scale / area, groups) * inverse
    dx = inverse * (dy * scale - _over_groups(sum_dy * scale / area, groups) - centred * along)
    return dx.astype(x.dtype), dscale, dbias


group_norm.defvjp(_group_norm_fwd, _group_norm_bwd)


class GroupNorm(nn.Module):
    """Group norm with affine parameters, then SiLU if asked. Pictures (N, H, W, C)."""

    width: int
    groups: int
    eps: float = 1e-5
    silu: bool = False

    def setup(self):
        self.scale = parameter(self, "scale", nn.initializers.ones, (self.width,))
        self.bias = parameter(self, "bias", nn.initializers.zeros, (self.width,))

    def __call__(self, x_NHWC):
        return group_norm(x_NHWC, self.scale, self.bias, self.groups, self.eps, self.silu)


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + time))), the skip through a 1x1 product where the
    width changes."""

    width: int
    in_width: int
    groups: int
    eps: float
    time_width: int = 0  # 0: no time embedding
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        kw = dict(groups=self.groups, eps=self.eps, silu=True)
        self.norm1 = GroupNorm(self.in_width, **kw)
        self.conv1 = Conv(self.width, self.in_width, dtype=self.dtype)
        if self.time_width:
            self.time = Dense(self.width, self.time_width, self.dtype)
        self.norm2 = GroupNorm(self.width, **kw)
        self.conv2 = Conv(self.width, self.width, dtype=self.dtype)
        if self.width != self.in_width:
            self.skip = Dense(self.width, self.in_width, self.dtype)

    def __call__(self, x_NHWC, time_ND=None):
        """time_ND: the time embedding after its activation."""
        h = self.conv1(self.norm1(x_NHWC))
        if self.time_width:
            h = h + self.time(time_ND)[:, None, None]
        h = self.conv2(self.norm2(h))
        return (x_NHWC if self.width == self.in_width else self.skip(x_NHWC)) + h


def double(x_NHWC):
    """Twice the height and width, each pixel four times."""
    N, H, W, C = x_NHWC.shape
    x = jnp.broadcast_to(x_NHWC[:, :, None, :, None], (N, H, 2, W, 2, C))
    return rearrange(x, "N H p W q C -> N (H p) (W q) C")


def fold(x_NHWC, patch: int):
    """Patches of pixels into channels: (N, H, W, C) -> (N, H / patch, W / patch, patch^2 C)."""
    return rearrange(x_NHWC, "N (h p) (w q) C -> N h w (p q C)", p=patch, q=patch)


def unfold(x_NhwD, patch: int):
    """Inverse of `fold`."""
    return rearrange(x_NhwD, "N h w (p q C) -> N (h p) (w q) C", p=patch, q=patch)
