"""The reference net: a Stable Diffusion U-Net that is run once on the reference picture and the
motion frames, only for what its spatial transformers see; the denoiser attends to that.

Suffixes: see avjax.systems.tavid.visual.blocks.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from avjax.nn.convolutions import Conv
from avjax.sharding import by_device
from avjax.sharding.activations import shard
from avjax.systems.tavid.visual.blocks import SpatialTransformer
from avjax.systems.tavid.visual.config import UNet
from avjax.systems.tavid.visual.unet import EPS, Block, LayerPlan, Resnet, TimeEmbedding, plan


class ReferenceLayer(nn.Module):
    """Residual block and, where the level has one, spatial transformer."""

    plan: LayerPlan
    config: UNet
    dtype: jnp.dtype

    def setup(self):
        c, p = self.config, self.plan
        self.resnet = Resnet(p.width, p.in_width, c.groups, EPS, 4 * c.channels[0], self.dtype)
        if p.attention:
            self.spatial = SpatialTransformer(p.width, c.heads, c.groups, c.face_dim, self.dtype,
                                              c.attention_kernel)

    def __call__(self, x_NhwC, time_ND, face_NMK):
        """-> (output, what is written)."""
        x_NhwC = self.resnet(x_NhwC, time_ND)
        if self.plan.attention:
            return self.spatial(x_NhwC, face_NMK)
        return x_NhwC, x_NhwC.reshape(*x_NhwC.shape[:1], -1, x_NhwC.shape[-1])


class ReferenceMid(nn.Module):
    """Residual block, spatial transformer, residual block."""

    plan: LayerPlan
    config: UNet
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        C = self.plan.width
        self.resnet_0, self.resnet_1 = (Resnet(C, C, c.groups, EPS, 4 * c.channels[0], self.dtype)
                                        for _ in range(2))
        self.spatial = SpatialTransformer(C, c.heads, c.groups, c.face_dim, self.dtype,
                                          c.attention_kernel)

    def __call__(self, x_NhwC, time_ND, face_NMK):
        x_NhwC, written = self.spatial(self.resnet_0(x_NhwC, time_ND), face_NMK)
        return self.resnet_1(x_NhwC, time_ND), written


class ReferenceNet(nn.Module):
    """Latents of [reference, motion frames] and face tokens -> banks.

    Banks: a tuple with one (B, R, T, C) array a layer, in the order they run (down, middle, up): of
      a layer with a spatial
    transformer its tokens after the first norm (published), of a layer without one the output of
    its residual block, which only the denoiser's path "full" looks at (ours: its temporal
    transformers see motion frames as well).
    """

    config: UNet
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c = self.config
        down, mid, up = plan(c)

        def make(cls):
            cls = nn.remat(cls) if c.remat != "none" else cls
            return lambda p: cls(p, c, self.dtype)

        self.time = TimeEmbedding(c.channels[0], self.dtype)
        self.inputs = Conv(c.channels[0], c.latent_dim, dtype=self.dtype)
        self.down = [Block(b, make(ReferenceLayer), False, self.dtype) for b in down]
        self.mid = make(ReferenceMid)(mid)
        self.up = [Block(b, make(ReferenceLayer), True, self.dtype) for b in up]

    def __call__(self, latents_BRhwC, face_BMK, *, tile_faces: bool = False):
        """`tile_faces`: as published, row i of the folded pictures gets the face tokens of clip i
        modulo B, so that in a batch of several clips some pictures see another clip's face."""
        B, R = latents_BRhwC.shape[:2]
        face_NMK = jnp.tile(face_BMK, (R, 1, 1)) if tile_faces else jnp.repeat(face_BMK, R, axis=0)
        # the pictures of a device's clips are split over `seq`, where their number allows it, and
        # what is written is gathered
        x = by_device.own(latents_BRhwC.reshape(B * R, *latents_BRhwC.shape[2:]), 0)
        face_NMK = by_device.own(face_NMK, 0)
        time_ND = jax.nn.silu(self.time(jnp.zeros(len(x), jnp.int32)))
        x = self.inputs(shard(x, "rows"))
        banks = []
        skips = [x]
        for block in self.down:
            for layer in block.layer:
                x, written = layer(x, time_ND, face_NMK)
                banks.append(written)
                skips.append(x)
            if block.plan.resize:
                x = block.resized(x)
                skips.append(x)
        x, written = self.mid(x, time_ND, face_NMK)
        banks.append(written)
        for block in self.up:
            for layer in block.layer:
                x, written = layer(jnp.concatenate([x, skips.pop()], axis=-1), time_ND, face_NMK)
                banks.append(written)
            if block.plan.resize:
                x = block.resized(x)
        banks = [by_device.gathered(bank, 0, B * R) for bank in banks]
        return tuple(shard(bank.reshape(B, R, *bank.shape[1:]), "batch") for bank in banks)
