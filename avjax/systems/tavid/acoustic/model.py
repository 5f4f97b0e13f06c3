"""The input layers of both acoustic networks, and the DiT: velocity of noisy mel frames given units
and a voice.

Suffixes: B batch (a row is one speaker of one dialogue), T mel frames, M mel bands, V voice, P
partners (the other speakers), D model width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from avjax.nn.attention import Band, Full
from avjax.nn.embeddings import TimeEmbedding, lookup, rotary_tables
from avjax.nn.layers import Dense, adaptive_norm, gelu
from avjax.nn.sequence import time_convolution
from avjax.nn.transformer import DiffusionBlock
from avjax.sharding.activations import shard
from avjax.systems.tavid.acoustic.config import Config

ZEROS = nn.initializers.zeros


class Inputs(nn.Module):
    """[embedding of the unit * sqrt(its width); noisy mel; given mel] @ project + the partners'
    units @ partner."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        self.embedding = self.param("embedding", nn.initializers.normal(c.unit_dim**-0.5),
                                    (c.num_units + 1, c.unit_dim))
        kw = dict(dtype=self.dtype, init_scale=c.init_scale)
        self.project = Dense(c.d_model, c.unit_dim + c.mel_dim * (2 if c.prompt else 1), **kw)
        if c.partner:
            self.partner = Dense(c.d_model, c.unit_dim, kernel_init=ZEROS, use_bias=False, **kw)

    def embed(self, ids):
        """Ids outside the codebook (padding) take "no units", the last row."""
        ids = jnp.where((ids < 0) | (ids > self.config.num_units), self.config.num_units, ids)
        return lookup(self.embedding, ids).astype(self.dtype) * self.config.unit_dim**0.5

    def __call__(self, x_BTM, given):
        """(batch, time, D); `given` as AcousticNet's."""
        U, M = self.config.unit_dim, self.config.mel_dim
        h_BTD = self.project(self.embed(given["units"]), rows=slice(0, U))
        h_BTD = h_BTD + self.project(x_BTM, rows=slice(U, U + M), bias=False)
        if self.config.prompt:
            h_BTD = h_BTD + self.project(given["prompt"], rows=slice(U + M, None), bias=False)
        if self.config.partner:
            h_BTD = h_BTD + self.partner(self.embed(given["partner"]).sum(-2))
        return shard(h_BTD, "batch", "time")


class TimeConvolution(nn.Module):
    """Grouped convolution over time, (batch, time, width) -> the same shape."""

    width: int
    size: int
    groups: int
    dtype: jnp.dtype

    def setup(self):
        self.kernel = self.param("kernel", nn.initializers.lecun_normal(),
                                 (self.size, self.width // self.groups, self.width))
        self.bias = self.param("bias", ZEROS, (self.width,))

    def __call__(self, x_BTD):
        y_BTD = time_convolution(x_BTD.astype(self.dtype), self.kernel.astype(self.dtype),
                                 self.groups)
        return y_BTD + self.bias.astype(self.dtype)


class Positions(nn.Module):
    """Chained grouped convolutions, each followed by GELU and masking; the caller adds the result
    (wav2vec 2.0)."""

    width: int
    kernel: int
    groups: int
    depth: int
    dtype: jnp.dtype

    def setup(self):
        self.convs = [TimeConvolution(self.width, self.kernel, self.groups, self.dtype)
                      for _ in range(self.depth)]

    def __call__(self, h_BTD, valid_BT):
        valid_BT1 = valid_BT[..., None].astype(h_BTD.dtype)
        h_BTD = h_BTD * valid_BT1
        for conv in self.convs:
            h_BTD = gelu(conv(h_BTD)) * valid_BT1
        return h_BTD


class Voice(nn.Module):
    """(B, V) -> (B, D); rows without a voice take a learned vector. `start`: initialiser of the
    kernel, zeros by default so that it has no effect at first; None = Dense's."""

    width: int
    voice_dim: int
    dtype: jnp.dtype
    start: nn.initializers.Initializer | None = ZEROS

    def setup(self):
        self.project = Dense(self.width, self.voice_dim, dtype=self.dtype, kernel_init=self.start,
                             bias_init=ZEROS)
        self.nobody = self.param("nobody", ZEROS, (self.width,))

    def __call__(self, voice_BV, known_B):
        return jnp.where(known_B[:, None] > 0, self.project(voice_BV),
                         self.nobody.astype(self.dtype))


def dit_block(block: DiffusionBlock, h_BTD, condition_BD, rotary, segments_BT):
    """One DiT block as a scan's body."""
    return block(h_BTD, block.modulation(condition_BD), rotary, segments_BT), None


class AcousticNet(nn.Module):
    """DiT (Peebles and Xie 2023): blocks modulated by AdaLN-Zero of silu(time + voice), rotary
    positions.

    `given`, what a row is conditioned on (ids = config.num_units and zeros where dropped):
      units (B, T) int32, partner (B, T, P) int32: at the mel rate
      voice (B, V), known (B,): e_spk, and 1 where there is one
      prompt (B, T, M): mel frames that are given, zeros elsewhere
      valid (B, T): 1 = real frame
    """

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        kw = dict(dtype=self.dtype, init_scale=c.init_scale)
        self.inputs = Inputs(c, self.dtype)
        if c.position_kernel:
            self.positions = Positions(c.d_model, c.position_kernel, c.position_groups,
                                       c.position_depth, self.dtype)
        self.time_embed = TimeEmbedding(c.d_model, **kw)
        if c.voice_dim:
            self.voice = Voice(c.d_model, c.voice_dim, self.dtype, start=None)
        mask = Band(c.window, c.window) if c.window else Full()
        self.blocks = DiffusionBlock(c.d_model, c.num_heads, c.d_ff, mask,
                                     kernel=c.attention_kernel, **kw)
        self.modulation = Dense((2, c.d_model), c.d_model, kernel_init=ZEROS, bias_init=ZEROS,
                                dtype=self.dtype)
        self.outputs = Dense(c.mel_dim, c.d_model, kernel_init=ZEROS, bias_init=ZEROS,
                             dtype=self.dtype)

    def __call__(self, x_BTM, t_B, given):
        """Noisy mel (B, T, M) at times (B,) -> its velocity, float32."""
        c = self.config
        valid_BT = given["valid"]
        h_BTD = self.inputs(x_BTM, given)
        if c.position_kernel:
            h_BTD = shard(h_BTD + self.positions(h_BTD, valid_BT), "batch", "time")
        condition_BD = self.time_embed(t_B)
        if c.voice_dim:
            condition_BD = condition_BD + self.voice(given["voice"], given["known"])
        condition_BD = jax.nn.silu(condition_BD)
        rotary = rotary_tables(jnp.arange(h_BTD.shape[1]), c.d_model // c.num_heads)
        body = nn.remat(dit_block, prevent_cse=False) if c.remat else dit_block
        scan = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True},
                       length=c.num_layers,
                       in_axes=nn.broadcast)
        h_BTD, _ = scan(self.blocks, h_BTD, condition_BD, rotary, (valid_BT > 0).astype(jnp.int32))
        shift_scale = shard(self.modulation(condition_BD), "batch")[:, :, None]  # (B, 2, 1, D)
        h_BTD = adaptive_norm(shard(h_BTD, "batch", "time"), shift_scale[:, 0], shift_scale[:, 1])
        return self.outputs(h_BTD).astype(jnp.float32) * valid_BT[..., None]
