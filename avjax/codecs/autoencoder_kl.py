"""The autoencoder of latent diffusion (Rombach et al. 2022), sizes free: pictures in [-1, 1] <-> a
small latent map.

Published (sd-vae-ft-mse): channels (128, 256, 512, 512), 2 layers, 32 groups, factor 8, 4 latent
channels.
Suffixes: N pictures, H W size, h w latent size, C channels, Z latent channels.
"""

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from avjax.nn.attention import attend
from avjax.nn.convolutions import Conv, GroupNorm, ResnetBlock, double, fold, unfold
from avjax.nn.layers import Dense

EPS = 1e-6
LOG_VARIANCE = (-30.0, 20.0)


def factor(config) -> int:
    """Pixels a latent position, along each axis."""
    return config["patch"] * 2 ** (len(config["channels"]) - 1)


class AutoencoderKL(nn.Module):
    """`config`: channels of each level, finest first; layers a level; groups; latent_dim; patch (1
    = published; pixels are folded into channels by it first); mid: "attention" (published), "plain"
    or "none"; shortcut (published: False): a linear map of each latent position's pixels, and back,
    beside the networks."""

    config: FrozenConfigDict
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c = self.config
        Z = self.config.latent_dim
        self.encoder = Encoder(c, self.dtype)
        self.moments = Dense(2 * Z, 2 * Z, self.dtype)
        self.latent = Dense(Z, Z, self.dtype)
        self.decoder = Decoder(c, self.dtype)
        if c.shortcut:
            pixels = 3 * factor(c) ** 2
            self.shortcut_in, self.shortcut_out = Dense(2 * Z, pixels,
                                                        self.dtype), Dense(pixels, Z, self.dtype)

    def encode(self, x_NHWC):
        """-> mean and log variance, (N, h, w, Z) float32 each."""
        moments = self.moments(self.encoder(x_NHWC))
        if self.config.shortcut:
            moments = moments + self.shortcut_in(fold(x_NHWC, factor(self.config)))
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE)

    def decode(self, z_NhwZ):
        """Unscaled latent -> pictures (N, H, W, 3) float32."""
        x_NHWC = self.decoder(self.latent(z_NhwZ))
        if self.config.shortcut:
            x_NHWC = x_NHWC + unfold(self.shortcut_out(z_NhwZ), factor(self.config))
        return x_NHWC.astype(jnp.float32)

    def __call__(self, x_NHWC):
        return self.decode(self.encode(x_NHWC)[0])


class Attention(nn.Module):
    """Single-head self-attention over all positions of a picture, added to its input."""

    width: int
    groups: int
    dtype: jnp.dtype

    def setup(self):
        self.norm = GroupNorm(self.width, self.groups, EPS)
        self.q, self.k, self.v, self.out = (Dense(self.width, self.width, self.dtype)
                                            for _ in range(4))

    def __call__(self, x_NhwC):
        N, h, w, C = x_NhwC.shape
        x_NTC = self.norm(x_NhwC).reshape(N, h * w, C)
        y_NTC = self.out(attend(self.q(x_NTC), self.k(x_NTC), self.v(x_NTC)))
        return x_NhwC + y_NTC.reshape(N, h, w, C)


class Mid(nn.Module):
    """Two residual blocks around the attention."""

    config: FrozenConfigDict
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        C = self.config.channels[-1]
        self.resnets = [ResnetBlock(C, C, c.groups, EPS, dtype=self.dtype) for _ in range(2)]
        if c.mid == "attention":
            self.attention = Attention(C, c.groups, self.dtype)

    def __call__(self, x_NhwC):
        x_NhwC = self.resnets[0](x_NhwC)
        if self.config.mid == "attention":
            x_NhwC = self.attention(x_NhwC)
        return self.resnets[1](x_NhwC)


class Level(nn.Module):
    """The residual blocks of one resolution, and the change to the next: "halve", "double" or ""
    for none."""

    width: int
    in_width: int
    layers: int
    groups: int
    change: str
    dtype: jnp.dtype

    def setup(self):
        C = self.width
        self.resnets = [ResnetBlock(C, C if i else self.in_width, self.groups, EPS,
                                    dtype=self.dtype)
                        for i in range(self.layers)]
        if self.change == "halve":  # pads behind only
            self.resize = Conv(C, C, stride=2, padding=(0, 1), dtype=self.dtype)
        elif self.change == "double":
            self.resize = Conv(C, C, dtype=self.dtype)

    def __call__(self, x_NHWC):
        for block in self.resnets:
            x_NHWC = block(x_NHWC)
        if self.change:
            x_NHWC = self.resize(double(x_NHWC) if self.change == "double" else x_NHWC)
        return x_NHWC


class Encoder(nn.Module):
    config: FrozenConfigDict
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        widths = self.config.channels
        self.inputs = Conv(widths[0], 3 * c.patch**2, dtype=self.dtype)
        self.down = [Level(C, widths[max(i - 1, 0)], c.layers, c.groups,
                           "halve" if i + 1 < len(widths) else "", self.dtype)
                     for i, C in enumerate(widths)]
        self.mid = Mid(c, self.dtype) if c.mid != "none" else lambda x: x
        self.norm = GroupNorm(widths[-1], c.groups, EPS, silu=True)
        self.outputs = Conv(2 * c.latent_dim, widths[-1], dtype=self.dtype)

    def __call__(self, x_NHWC):
        x = self.inputs(fold(x_NHWC, self.config.patch))
        for level in self.down:
            x = level(x)
        return self.outputs(self.norm(self.mid(x)))


class Decoder(nn.Module):
    config: FrozenConfigDict
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        widths = self.config.channels[::-1]
        self.inputs = Conv(widths[0], c.latent_dim, dtype=self.dtype)
        self.mid = Mid(c, self.dtype) if c.mid != "none" else lambda x: x
        self.up = [Level(C, widths[max(i - 1, 0)], c.layers + 1, c.groups, "double" if i + 1
                         < len(widths) else "",
                         self.dtype) for i, C in enumerate(widths)]
        self.norm = GroupNorm(widths[-1], c.groups, EPS, silu=True)
        self.outputs = Conv(3 * c.patch**2, widths[-1], dtype=self.dtype)

    def __call__(self, z_NhwZ):
        x = self.mid(self.inputs(z_NhwZ))
        for level in self.up:
            x = level(x)
        return unfold(self.outputs(self.norm(x)), self.config.patch)
