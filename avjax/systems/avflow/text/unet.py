"""The flow's network of the release: a 1-D U-Net of residual blocks and transformer blocks (Matcha-
TTS), with what it sees of padding stated.

Published, a row's padding is not hidden: attention adds 1 to the logits of real frames and 0 to
those of padding, and group norms count padding. `Frames` says for each frame whether it is real and
whether it is there at all.
Suffixes: B batch, T time of a level, C channels, D time embedding, H heads, K head width.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from avjax.nn.attention import NEGATIVE, attend
from avjax.nn.embeddings import sinusoids
from avjax.nn.layers import Dense, LayerNorm
from avjax.systems.avflow.text.config import Config
from avjax.systems.avflow.text.layers import (
    Conv,
    ConvTranspose,
    GroupNormMish,
    SnakeBeta,
    drop,
    mish,
    split,
)

# of fresh kernels: He et al. 2015, as published
INIT = dict(init_scale=2.0)
ZERO = dict(bias_init=nn.initializers.zeros, **INIT)


class Frames(NamedTuple):
    """(B, T) float32 each: 1 where a frame is real; 1 where it is seen, real or padding."""

    real: jax.Array
    seen: jax.Array

    @property
    def half(self) -> "Frames":
        """Of the next level."""
        return Frames(self.real[:, ::2], self.seen[:, ::2])

    def hide(self, x_BTC):
        """Zeros in the place of frames that are not real."""
        return x_BTC * self.real[..., None].astype(x_BTC.dtype)

    @property
    def bias(self):
        """Added to attention logits, (B, 1, 1, T)."""
        return jnp.where(self.seen > 0, self.real, NEGATIVE)[:, None, None]


class Block(nn.Module):
    """Convolution, group norm, Mish."""

    width: int
    in_width: int
    groups: int
    dtype: jnp.dtype

    def setup(self):
        self.conv = Conv(self.width, self.in_width, dtype=self.dtype, **INIT)
        self.norm = GroupNormMish(self.width, self.groups)

    def __call__(self, x_BTC, frames: Frames):
        return frames.hide(self.norm(self.conv(frames.hide(x_BTC)), frames.seen))


class Resnet(nn.Module):
    """skip(x) + block(block(x) + time)."""

    width: int
    in_width: int
    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config.unet
        self.block1 = Block(self.width, self.in_width, c.groups, self.dtype)
        self.block2 = Block(self.width, self.width, c.groups, self.dtype)
        self.time = Dense(self.width, 4 * c.channels[0], dtype=self.dtype, **ZERO)
        self.skip = Dense(self.width, self.in_width, dtype=self.dtype, **ZERO)

    def __call__(self, x_BTC, frames: Frames, time_BD):
        h_BTC = self.block1(x_BTC, frames) + self.time(time_BD)[:, None]
        return self.block2(h_BTC, frames) + self.skip(frames.hide(x_BTC))


class Transformer(nn.Module):
    """x += attention(LN(x)); x += feed-forward(LN(x)), with SnakeBeta."""

    width: int
    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config.unet
        inner = c.heads * c.head_width
        self.attention_norm, self.mlp_norm = (LayerNorm(self.width) for _ in range(2))
        self.qkv = Dense((3, c.heads, c.head_width), self.width, dtype=self.dtype, use_bias=False,
                         **INIT)
        self.project = Dense(self.width, inner, dtype=self.dtype, **ZERO)
        self.mlp_in = SnakeBeta(4 * self.width, self.width, self.dtype, **INIT)
        self.mlp_out = Dense(self.width, 4 * self.width, dtype=self.dtype, **ZERO)

    def __call__(self, x_BTC, frames: Frames, key):
        rate, keys = self.config.unet.dropout, split(key, 2)
        qkv = self.qkv(self.attention_norm(x_BTC))  # (B, T, 3, H, K)
        out = attend(*(qkv[:, :, i] for i in range(3)), bias=frames.bias, heads_inside=True)
        out_BTC = self.project(out.reshape(*x_BTC.shape[:2], -1))
        x_BTC = x_BTC + drop(out_BTC, rate, keys[0])
        hidden = drop(self.mlp_in(self.mlp_norm(x_BTC)), rate, keys[1])
        return x_BTC + self.mlp_out(hidden)


class Level(nn.Module):
    """A residual block, transformer blocks, and a convolution that may change the rate ("down",
    "up", "same") or is not there ("")."""

    width: int
    in_width: int
    rate: str
    config: Config
    dtype: jnp.dtype

    def setup(self):
        self.resnet = Resnet(self.width, self.in_width, self.config, self.dtype)
        self.blocks = [Transformer(self.width, self.config, self.dtype)
                       for _ in range(self.config.unet.blocks)]
        kw = dict(dtype=self.dtype, **INIT)
        if self.rate == "up":
            self.conv = ConvTranspose(self.width, **kw)
        elif self.rate:
            self.conv = Conv(self.width, self.width, stride=2 if self.rate == "down" else 1, **kw)

    def __call__(self, x_BTC, frames: Frames, time_BD, key):
        """-> (what the next level takes, what is skipped to the way up)."""
        x_BTC = self.resnet(x_BTC, frames, time_BD)
        for block, one in zip(self.blocks, split(key, len(self.blocks)), strict=True):
            x_BTC = block(x_BTC, frames, one)
        return (self.conv(frames.hide(x_BTC)) if self.rate else x_BTC), x_BTC


class UNet(nn.Module):
    """Velocity (B, T, C) float32 of noisy tokens at time t (B,), given the tokens' mean and which
    frames are real and seen; key of dropout or None."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config.unet
        inputs, widths = 2 * self.config.token_dim, tuple(c.channels)
        last = len(widths) - 1
        kw = dict(config=self.config, dtype=self.dtype)
        self.time_in = Dense(4 * widths[0], inputs, dtype=self.dtype, **ZERO)
        self.time_out = Dense(4 * widths[0], 4 * widths[0], dtype=self.dtype, **ZERO)
        self.down = [Level(width, before, "same" if i == last else "down", **kw)
                     for i, (before, width) in enumerate(zip((inputs, *widths), widths,
                                                             strict=False))]
        self.middle = [Level(widths[-1], widths[-1], "", **kw) for _ in range(c.middle)]
        # the lowest level keeps its width on the way up, as published
        path = (*widths[::-1], widths[0])
        self.up = [Level(after, 2 * before, "same" if i == last else "up", **kw)
                   for i, (before, after) in enumerate(zip(path[:-1], path[1:], strict=True))]
        self.final = Block(widths[0], widths[0], c.groups, self.dtype)
        self.outputs = Dense(self.config.token_dim, widths[0], dtype=self.dtype, **ZERO)

    def __call__(self, x_BTC, mean_BTC, t_B, frames: Frames, key=None):
        time_BD = sinusoids(t_B, self.config.token_dim, 1000.0).astype(self.dtype)
        time_BD = mish(self.time_out(jax.nn.silu(self.time_in(time_BD))))
        h_BTC = jnp.concatenate([x_BTC, mean_BTC], axis=-1).astype(self.dtype)
        keys = iter(split(key, len(self.down) + len(self.middle) + len(self.up)))
        skipped, levels = [], [frames]
        for level in self.down:
            h_BTC, skip_BTC = level(h_BTC, levels[-1], time_BD, next(keys))
            skipped.append(skip_BTC)
            levels.append(levels[-1].half)
        levels.pop()
        for level in self.middle:
            h_BTC, _ = level(h_BTC, levels[-1], time_BD, next(keys))
        for level in self.up:
            both_BTC = jnp.concatenate([h_BTC, skipped.pop()], axis=-1)
            h_BTC, _ = level(both_BTC, levels.pop(), time_BD, next(keys))
        out_BTC = self.outputs(self.final(h_BTC, frames))
        return frames.hide(out_BTC).astype(jnp.float32)
