"""The denoiser: Hallo2's 3-D U-Net, with motion tokens in the place of its audio tokens, predicting
velocities.

Frames are folded into the batch (`fold_frames`); only temporal transformers see them as an axis.
Suffixes: see avjax.systems.tavid.visual.blocks.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from avjax.errors import UserError
from avjax.nn.convolutions import Conv, GroupNorm
from avjax.sharding.activations import each_frame, fold_frames, unfold_frames
from avjax.systems.tavid.visual.blocks import (
    MotionTransformer,
    SpatialTransformer,
    TemporalTransformer,
)
from avjax.systems.tavid.visual.config import UNet
from avjax.systems.tavid.visual.unet import EPS, Block, LayerPlan, Resnet, TimeEmbedding, plan

PATHS = ("full", "published", "eval")
PUBLISHED_ZERO_FRAMES = 4  # where there is no bank


@dataclasses.dataclass(frozen=True)
class Mode:
    """How a layer runs.

    Attributes:
      frames: of a clip.
      temporal: whether the temporal transformer runs.
      bank: whether it sees the bank's motion frames in front of the clip.
      zeros: the number of zero frames in front of the clip where it does not.
      scaled: whether `motion_scale` acts.
      tile: folded frame i sees the reference of clip i modulo B, as published.
      blind, mute: how many of the last clips see no reference, and have motion tokens of zeros.
    """

    frames: int
    temporal: bool
    bank: bool
    zeros: int
    scaled: bool
    tile: bool
    blind: int = 0
    mute: int = 0


class Conditions(NamedTuple):
    """Inputs that all layers share; all but the time may be None. N = B F rows, folded."""

    time_ND: jax.Array  # after its activation
    face_BMK: jax.Array
    motion_NMK: jax.Array | None
    sees_reference_B: jax.Array | None
    scale_NR: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Modes:
    """`Mode` of layers with spatial transformers, of the middle, and of plain layers."""

    attention: Mode
    mid: Mode
    plain: Mode


def modes(path: str, frames: int, temporal: bool, tile: bool, has_bank: bool,
          motion_frames: int, blind: int = 0,
          mute: int = 0) -> Modes:
    """full: every temporal transformer runs and sees the motion frames; without a bank it sees zero
    frames instead.

    published: what Hallo2's training and inference run: temporal transformers of plain layers are
      skipped; without a
    bank there are four zero frames. eval: its other code path: all run, but motion frames and
    motion_scale reach the middle alone."""
    if path not in PATHS:
        raise UserError("unknown path of the denoiser", where="path", expected=" | ".join(PATHS),
                        found=repr(path))
    zeros = motion_frames if path == "full" else PUBLISHED_ZERO_FRAMES
    seeing = Mode(frames, temporal, has_bank, 0 if has_bank else zeros, scaled=True, tile=tile,
                  blind=blind, mute=mute)
    if path == "full":
        return Modes(seeing, seeing, seeing)
    if path == "published":
        return Modes(seeing, seeing, dataclasses.replace(seeing, temporal=False))
    blind = dataclasses.replace(seeing, bank=False, zeros=0, scaled=False)
    return Modes(blind, seeing, blind)


class Layer(nn.Module):
    """Residual block, spatial, motion and temporal transformer. As the middle, one more residual
    block."""

    plan: LayerPlan
    config: UNet
    dtype: jnp.dtype
    middle: bool = False

    def setup(self):
        c, p = self.config, self.plan
        time = 4 * c.channels[0]
        kw = dict(heads=c.heads, dtype=self.dtype, kernel=c.attention_kernel)

        def part(cls, *static):
            return nn.remat(cls, static_argnums=static) if c.remat == "parts" else cls

        resnet = part(Resnet)
        first = resnet(p.width, p.in_width, c.groups, EPS, time, self.dtype)
        if self.middle:
            self.resnet_0 = first
            self.resnet_1 = resnet(p.width, p.width, c.groups, EPS, time, self.dtype)
        else:
            self.resnet = first
        if p.attention:
            self.spatial = part(SpatialTransformer, 5, 6)(p.width, groups=c.groups,
                                                       face_width=c.face_dim, **kw)
            self.motion = part(MotionTransformer, 5)(p.width, p.motion_width, groups=c.groups,
                                                  token_width=c.motion_dim,
                                                  regions=tuple(c.regions), **kw)
        self.temporal = part(TemporalTransformer, 2)(p.width, c.heads, c.temporal_groups,
                                                     c.temporal_length, self.dtype)

    def __call__(self, x_NhwC, bank_BRTC, mask_NTR, given: Conditions, mode: Mode):
        """`bank_BRTC`: what the reference net wrote in this layer; `mask_NTR`: each region's weight
        at each position. Both may be None."""
        x = (self.resnet_0 if self.middle else self.resnet)(x_NhwC, given.time_ND)
        if self.plan.attention:
            reference = None if bank_BRTC is None else bank_BRTC[:, 0]
            x = self.spatial(x, given.face_BMK, reference, given.sees_reference_B, mode.tile,
                             mode.blind)[0]
            if given.motion_NMK is not None or self.is_initializing():
                x = self.motion(x, self._tokens(given, x), mask_NTR,
                                given.scale_NR if mode.scaled else None,
                                mode.mute * mode.frames)
        if mode.temporal or self.is_initializing():
            x = self.temporal(x, mode.frames, self._before(x, bank_BRTC, mode))
        return self.resnet_1(x, given.time_ND) if self.middle else x

    def _tokens(self, given: Conditions, x):
        """The motion tokens; zeros where `init` makes the parameters of a layer that has none."""
        if given.motion_NMK is None:
            return jnp.zeros((len(x), 1, self.config.motion_dim))
        return given.motion_NMK

    def _before(self, x_NhwC, bank_BRTC, mode: Mode):
        """Frames in front of the clip (B, R, h, w, C), or None."""
        N, h, w, C = x_NhwC.shape
        if mode.bank:
            return rearrange(bank_BRTC[:, 1:], "B R (h w) C -> B R h w C", h=h)
        return jnp.zeros((N // mode.frames, mode.zeros, h, w, C),
                         x_NhwC.dtype) if mode.zeros else None


class Denoiser(nn.Module):
    """Noisy latents, time, banks, face and motion tokens -> velocity. `config`: see
    avjax.systems.tavid.visual.unet."""

    config: UNet
    dtype: jnp.dtype = jnp.float32
    given_dim: int = 0  # channels of its input after the noisy ones (published: none)
    shift_dim: int = 0  # numbers of a frame's motion tokens where they shift its time embedding

    def setup(self):
        c = self.config
        down, mid, up = plan(c)
        layer = nn.remat(Layer, static_argnums=(5,)) if c.remat == "layers" else Layer

        def make(p):
            return layer(p, c, self.dtype)

        self.time = TimeEmbedding(c.channels[0], self.dtype, self.shift_dim)
        self.inputs = Conv(c.channels[0], c.latent_dim + self.given_dim, dtype=self.dtype)
        self.down = [Block(b, make, False, self.dtype) for b in down]
        self.mid = layer(mid, c, self.dtype, middle=True)
        self.up = [Block(b, make, True, self.dtype) for b in up]
        self.norm = GroupNorm(c.channels[0], c.groups, EPS, silu=True)
        self.outputs = Conv(c.latent_dim, c.channels[0], dtype=self.dtype)

    def __call__(self, latents_BFhwC, t_B, banks, face_BMK, motion_BFMK=None, *, mask_feature=None,
                 masks=None, motion_scale=None, reference_mask=None, temporal: bool = True,
                 path: str = "full", tile_references: bool = False, blind: int = 0,
                 mute: int = 0):
        """-> velocity (B, F, h, w, C) float32.

        Args:
          latents_BFhwC: noisy latents; h and w multiples of 2^(levels - 1).
          t_B: (B,) integer times, 0 .. 999.
          banks: of `ReferenceNet`, for B clips; None: no clip has a reference.
          face_BMK: face tokens (`ImageProjection`).
          motion_BFMK: motion tokens of every frame; None: the motion transformers are skipped.
          mask_feature: (B, F, h, w, channels[0]) of `FaceLocator`, or None.
          masks: for each level a (B, F or 1, h w, regions) array of weights in the order of
            config.regions; None, of all levels or of one: 1.
          motion_scale: (regions,) or (B, regions) weights of the regions' shares, or None.
          reference_mask: (B,), 0 = that clip attends to itself alone; its motion frames still come
            from its bank.
          temporal: False skips the temporal transformers (single pictures).
          path: see `modes`.
          tile_references: as published, frame i of the folded B F sees the reference of clip i
            modulo B.
          blind: how many of the last clips have reference_mask 0, where that is known in advance
            and no row is split over devices: no hidden scores are made of them.
          mute: how many of the last clips have motion tokens of zeros, likewise.
        """
        c = self.config
        B, F = latents_BFhwC.shape[:2]
        run = modes(path, F, temporal, tile_references, banks is not None, c.motion_frames,
                    blind, mute)

        def every(x_B):
            return None if x_B is None else each_frame(x_B, F)

        motion_NMK = None if motion_BFMK is None else fold_frames(motion_BFMK)
        time_ND = every(self.time(t_B))
        if self.shift_dim and motion_NMK is not None:
            time_ND = time_ND + self.time.motion(motion_NMK.reshape(B * F, -1))
        scale = motion_scale
        if scale is not None:
            scale = jnp.broadcast_to(scale, (B, len(c.regions)))
        given = Conditions(time_ND=jax.nn.silu(time_ND), face_BMK=face_BMK, motion_NMK=motion_NMK,
                           sees_reference_B=reference_mask, scale_NR=every(scale))
        masks = [None if m is None else fold_frames(jnp.broadcast_to(m, (B, F, *m.shape[2:])))
                 for m in masks or [None] * len(c.channels)]

        def apply_layer(layer, x, mode):
            bank = None if banks is None else banks[layer.plan.index]
            return layer(x, bank, masks[layer.plan.level], given, mode)

        x = self.inputs(fold_frames(latents_BFhwC))
        if mask_feature is not None:
            x = x + fold_frames(mask_feature).astype(x.dtype)
        skips = [x]
        for block in self.down:
            for layer in block.layer:
                x = apply_layer(layer, x, run.attention if layer.plan.attention else run.plain)
                skips.append(x)
            if block.plan.resize:
                x = block.resized(x)
                skips.append(x)
        x = apply_layer(self.mid, x, run.mid)
        for block in self.up:
            for layer in block.layer:
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = apply_layer(layer, x, run.attention if layer.plan.attention else run.plain)
            if block.plan.resize:
                x = block.resized(x)
        return unfold_frames(self.outputs(self.norm(x)), B).astype(jnp.float32)
