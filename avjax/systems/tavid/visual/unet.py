"""The parts that the reference net and the denoiser share: the plan of a Stable Diffusion U-Net,
its time embedding, its resizing.

`config` of both nets (the visual System's, or any object with these fields):
    channels (320, 640, 1280, 1280)       of each level, finest first; all but the last halve
    attention_levels (True, True, True, False)   levels with spatial transformers and motion tokens
    layers 2                              a level going down, one more going up
    heads 8, groups 32                    at every level
    latent_dim 4, face_dim 768, motion_dim 768   channels of latents, face tokens, motion tokens
    regions ("full", "face", "lip")       one motion cross-attention each
    temporal_groups 32, temporal_length 32, motion_frames 2
    remat "none" | "layers" | "parts"     what the backward pass makes again
    attention_kernel "auto"               see avjax.nn.attention
"""

import dataclasses
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from avjax.nn.convolutions import Conv, ResnetBlock, double
from avjax.nn.layers import Dense

EPS = 1e-5  # of the residual blocks and the output norm
Resnet = nn.jit(ResnetBlock)  # those of equal sizes are traced once


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """One residual block and its transformers. `index`: its place in the order in which layers run.
    `motion_width`: inside the motion transformer."""

    index: int
    width: int
    in_width: int
    level: int
    attention: bool
    motion_width: int


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """The layers of one resolution, and whether the next resolution follows."""

    width: int
    layers: tuple[LayerPlan, ...]
    resize: bool


def plan(config) -> tuple[tuple[BlockPlan, ...], LayerPlan, tuple[BlockPlan, ...]]:
    """(down blocks, the middle, up blocks)."""
    widths = tuple(config.channels)
    last = len(config.channels) - 1
    index = itertools.count()

    # published: whole heads of the block's own input, which narrows some motion transformers
    def inner(width):
        return width // config.heads * config.heads

    down = []
    for i, width in enumerate(widths):
        ins = [widths[max(i - 1, 0)]] + [width] * (config.layers - 1)
        layers = (LayerPlan(next(index), width, n, i, config.attention_levels[i], inner(n))
                  for n in ins)
        down.append(BlockPlan(width, tuple(layers), i < last))
    mid = LayerPlan(next(index), widths[-1], widths[-1], last, True, inner(widths[-1]))
    up = []
    for i in range(last, -1, -1):
        width = widths[i]
        before = widths[min(i + 1, last)]
        finer = widths[max(i - 1, 0)]
        skips = [width] * config.layers + [finer]
        ins = [before] + [width] * config.layers
        layers = (LayerPlan(next(index), width, n + s, i, config.attention_levels[i], inner(finer))
                  for n, s in zip(ins, skips, strict=True))
        up.append(BlockPlan(width, tuple(layers), i > 0))
    return tuple(down), mid, tuple(up)


class TimeEmbedding(nn.Module):
    """Integer times -> (batch, 4 * width): cosines, then sines, and an MLP. `motion` makes a shift
    of that width of motion tokens side by side, `motion_dim` numbers; a fresh one says nothing."""

    width: int
    dtype: jnp.dtype
    motion_dim: int = 0  # 0: there is none

    def setup(self):
        self.hidden = Dense(4 * self.width, self.width, self.dtype)
        self.out = Dense(4 * self.width, 4 * self.width, self.dtype)
        if self.motion_dim:
            zeros = nn.initializers.zeros
            self.motion = Dense(4 * self.width, self.motion_dim, self.dtype, kernel_init=zeros,
                                bias_init=zeros)

    def __call__(self, t_B):
        half = self.width // 2
        frequency = 1e4 ** (-jnp.arange(half, dtype=jnp.float32) / half)
        angle = t_B.astype(jnp.float32)[:, None] * frequency
        waves = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        return self.out(jax.nn.silu(self.hidden(waves)))


class Block(nn.Module):
    """The layers of a `BlockPlan`, made by `make`, and its resizing; called by the nets one by
    one."""

    plan: BlockPlan
    make: Callable[[LayerPlan], nn.Module]
    up: bool
    dtype: jnp.dtype

    def setup(self):
        self.layer = [self.make(layer) for layer in self.plan.layers]
        if self.plan.resize:
            C = self.plan.width
            self.resize = Conv(C, C, stride=1 if self.up else 2, dtype=self.dtype)

    def resized(self, x_NhwC):
        return self.resize(double(x_NhwC) if self.up else x_NhwC)
