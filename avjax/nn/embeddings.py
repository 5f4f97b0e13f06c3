"""Rotary positions and the sinusoidal time embedding.

Suffixes: B batch, T time, H heads, K head width, D model width.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from avjax.nn.layers import Dense, gelu


def rotary_tables(positions, width: int, base: float = 1e4):
    """cos and sin of position * base^(-2i/width): two (time, width // 2) float32 arrays (RoPE, eq. 15)."""
    frequencies = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = jnp.asarray(positions, jnp.float32)[..., None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BHTK, cos_TK, sin_TK, pairs: str = "halves"):
    """Rotates pairs of head channels.

    pairs="adjacent": (x[2i], x[2i+1]). pairs="halves": (x[i], x[i + K/2]), the same rotation after the channels are
    reordered by `halves_from_adjacent`; contiguous, hence much cheaper, and scores do not change when queries and keys
    are reordered alike.
    """
    cos, sin = cos_TK.astype(x_BHTK.dtype), sin_TK.astype(x_BHTK.dtype)
    if pairs == "adjacent":
        even, odd = x_BHTK[..., 0::2], x_BHTK[..., 1::2]
        return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x_BHTK.shape)
    # a flip of a two-long axis stays inside one fused loop, where a roll or a concatenation costs passes of its own
    x = x_BHTK.reshape(*x_BHTK.shape[:-1], 2, -1)
    out = x * jnp.stack([cos, cos], axis=-2) + jnp.flip(x, axis=-2) * jnp.stack([-sin, sin], axis=-2)
    return out.reshape(x_BHTK.shape)


def halves_from_adjacent(width: int) -> np.ndarray:
    """Channel order that turns adjacent pairs into halves: x_halves = x_adjacent[..., order]."""
    return np.concatenate([np.arange(0, width, 2), np.arange(1, width, 2)])


class TimeEmbedding(nn.Module):
    """t in [0, 1] -> (batch, D): sin and cos at D/8 geometric frequencies from 1 to 1e-4, then an MLP."""

    width: int
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0

    def setup(self):
        kw = dict(dtype=self.dtype, init_scale=self.init_scale)
        self.hidden = Dense(self.width, self.width // 4, **kw)
        self.out = Dense(self.width, self.width, **kw)

    def __call__(self, t_B):
        n = self.width // 8
        frequencies = jnp.exp(-np.log(1e4) / max(n - 1, 1) * jnp.arange(n, dtype=jnp.float32))
        angles = t_B.astype(jnp.float32)[:, None] * frequencies
        return self.out(gelu(self.hidden(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1))))
