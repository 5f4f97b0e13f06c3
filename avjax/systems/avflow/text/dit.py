"""The flow's network of the paper: diffusion transformer blocks over the noisy tokens and their
mean.

Suffixes: B batch, T time, C token width, D width.
"""

import flax.linen as nn
import jax.numpy as jnp

from avjax.nn.attention import FULL
from avjax.nn.embeddings import TimeEmbedding, rotary_tables
from avjax.nn.layers import Dense
from avjax.nn.transformer import DiffusionBlock
from avjax.systems.avflow.text.config import Config


class DiT(nn.Module):
    """The call of avjax.systems.avflow.text.unet.UNet, without dropout; padding is never seen."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c, C = self.config.dit, self.config.token_dim
        self.time_embed = TimeEmbedding(c.d_model, self.dtype)
        self.inputs = Dense(c.d_model, 2 * C, dtype=self.dtype)
        self.blocks = [DiffusionBlock(c.d_model, c.num_heads, c.d_ff, FULL, dtype=self.dtype)
                       for _ in range(c.num_blocks)]
        self.outputs = Dense(C, c.d_model, dtype=self.dtype)

    def __call__(self, x_BTC, mean_BTC, t_B, frames, key=None):
        c = self.config.dit
        time_BD = self.time_embed(t_B)
        rotary = rotary_tables(jnp.arange(x_BTC.shape[1]), c.d_model // c.num_heads)
        segments_BT = frames.real.astype(jnp.int32)
        h_BTD = self.inputs(jnp.concatenate([x_BTC, mean_BTC], axis=-1))
        for block in self.blocks:
            h_BTD = block(h_BTD, block.modulation(time_BD), rotary, segments_BT)
        return self.outputs(h_BTD).astype(jnp.float32) * frames.real[..., None]
