"""Symbols -> the mean of their tokens and the logarithm of their durations.

Convolutions over the embedding, post-norm transformer layers whose heads rotate by half, two
projections (Mehta et al. 2024; Glow-TTS). Unlike the published code, dropout leaves attention's
weights alone. Suffixes: B batch, X symbols, D width, H heads, K head width, F hidden width, C token
width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from avjax.nn.attention import attend
from avjax.nn.embeddings import lookup, rotary_tables, rotate
from avjax.nn.layers import Dense, LayerNorm, parameter
from avjax.systems.avflow.text.config import Config
from avjax.systems.avflow.text.layers import Conv, drop, split

EPS = 1e-4  # of the layer norms


class Prenet(nn.Module):
    """x + project(convolutions of x), each followed by norm, ReLU and dropout."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config.encoder
        self.convs = [Conv(c.width, c.width, c.convolution_kernel, dtype=self.dtype)
                      for _ in range(c.convolutions)]
        self.norms = [LayerNorm(c.width, EPS) for _ in range(c.convolutions)]
        self.project = Dense(c.width, c.width, dtype=self.dtype,
                             kernel_init=nn.initializers.zeros, bias_init=nn.initializers.zeros)

    def __call__(self, x_BXD, real_BX1, key):
        h_BXD = x_BXD
        keys = split(key, len(self.convs))
        for conv, norm, one in zip(self.convs, self.norms, keys, strict=True):
            h_BXD = drop(jax.nn.relu(norm(conv(h_BXD * real_BX1))),
                         self.config.encoder.convolution_dropout, one)
        return (x_BXD + self.project(h_BXD)) * real_BX1


class EncoderLayer(nn.Module):
    """x = LN(x + attention(x)), x = LN(x + convolutions(x))."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config.encoder
        head = (c.heads, c.width // c.heads)
        self.query, self.key, self.value = (Dense(head, c.width, dtype=self.dtype)
                                            for _ in range(3))
        self.project = Dense(c.width, c.width, dtype=self.dtype)
        self.conv_in = Conv(c.d_ff, c.width, c.kernel, dtype=self.dtype)
        self.conv_out = Conv(c.width, c.d_ff, c.kernel, dtype=self.dtype)
        self.attention_norm, self.conv_norm = (LayerNorm(c.width, EPS) for _ in range(2))

    def __call__(self, x_BXD, real_BX1, rotary, key):
        rate = self.config.encoder.dropout
        keys = split(key, 3)
        q, k = (rotate_half(project(x_BXD), *rotary) for project in (self.query, self.key))
        out = attend(q, k, self.value(x_BXD), real_BX1[:, None, None, :, 0] > 0, heads_inside=True)
        out_BXD = self.project(out.reshape(x_BXD.shape))
        x_BXD = self.attention_norm(x_BXD + drop(out_BXD, rate, keys[0]))
        h_BXF = drop(jax.nn.relu(self.conv_in(x_BXD * real_BX1)), rate, keys[1])
        h_BXD = self.conv_out(h_BXF * real_BX1) * real_BX1
        return self.conv_norm(x_BXD + drop(h_BXD, rate, keys[2])) * real_BX1


def rotate_half(x_BXHK, cos_XK, sin_XK):
    """Rotary positions on the first half of each head's channels."""
    turned, rest = jnp.split(x_BXHK, 2, axis=-1)
    return jnp.concatenate([rotate(turned, cos_XK[:, None], sin_XK[:, None]), rest], axis=-1)


class Durations(nn.Module):
    """Log durations of the encoded symbols."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config.encoder
        widths = (c.width, c.duration_width)
        self.convs = [Conv(c.duration_width, width, c.kernel, dtype=self.dtype) for width in widths]
        self.norms = [LayerNorm(c.duration_width, EPS) for _ in widths]
        self.project = Dense(1, c.duration_width, dtype=self.dtype)

    def __call__(self, x_BXD, real_BX1, key):
        for conv, norm, one in zip(self.convs, self.norms, split(key, 2), strict=True):
            x_BXD = drop(norm(jax.nn.relu(conv(x_BXD * real_BX1))), self.config.encoder.dropout,
                         one)
        return (self.project(x_BXD * real_BX1) * real_BX1)[..., 0].astype(jnp.float32)


class TextEncoder(nn.Module):
    """(symbols (B, X), which are real (B, X), key of dropout or None) -> mean (B, X, C), log
    durations (B, X), float32, zeros where nothing is real. Durations give the encoder no
    gradient."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        width = c.encoder.width
        self.embedding = parameter(self, "embedding", nn.initializers.normal(width**-0.5),
                                   (c.symbols, width))
        if c.encoder.convolutions:
            self.prenet = Prenet(c, self.dtype)
        self.layers = [EncoderLayer(c, self.dtype) for _ in range(c.encoder.layers)]
        self.mean = Dense(c.token_dim, width, dtype=self.dtype)
        self.durations = Durations(c, self.dtype)

    def __call__(self, symbols_BX, real_BX, key=None):
        c = self.config.encoder
        keys = split(key, 2 + len(self.layers))
        real_BX1 = real_BX[..., None].astype(self.dtype)
        x_BXD = (lookup(self.embedding, symbols_BX) * c.width**0.5).astype(self.dtype)
        if c.convolutions:
            x_BXD = self.prenet(x_BXD, real_BX1, keys[0])
        x_BXD = x_BXD * real_BX1
        rotary = rotary_tables(jnp.arange(symbols_BX.shape[1]), c.width // c.heads // 2)
        for layer, one in zip(self.layers, keys[2:], strict=True):
            x_BXD = layer(x_BXD, real_BX1, rotary, one)
        mean_BXC = (self.mean(x_BXD) * real_BX1).astype(jnp.float32)
        return mean_BXC, self.durations(lax.stop_gradient(x_BXD), real_BX1, keys[1])
