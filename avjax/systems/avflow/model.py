"""The AV-Flow network: two diffusion transformers, one per modality, that exchange features after every block.

Suffixes: B batch, T time, D model width, V visual width (face + head), A audio width (mel), C condition width,
S blocks, M modulation (2, 3, D).
"""

import flax.linen as nn
import jax.numpy as jnp

from avjax.nn.attention import Band
from avjax.nn.embeddings import TimeEmbedding, rotary_tables
from avjax.nn.layers import Dense
from avjax.nn.transformer import DiffusionBlock
from avjax.sharding.activations import laid
from avjax.systems.avflow.config import condition_width, windows

Block = DiffusionBlock
RematBlock = nn.remat(DiffusionBlock, prevent_cse=True)


class Tower(nn.Module):
    """One stream's transformer: input projection, blocks, output projection (no final norm)."""

    in_dim: int
    condition_dim: int
    out_dim: int
    width: int
    heads: int
    hidden: int
    windows: tuple[tuple[int, int], ...]
    dtype: jnp.dtype
    init_scale: float
    kernel: str
    remat: bool

    def setup(self):
        kw = dict(dtype=self.dtype, init_scale=self.init_scale)
        self.inputs = Dense(self.width, self.in_dim + self.condition_dim, **kw)
        block = RematBlock if self.remat else Block
        self.blocks = [block(self.width, self.heads, self.hidden, Band(*window), kernel=self.kernel, **kw)
                       for window in self.windows]
        self.outputs = Dense(self.out_dim, self.width, **kw)

    def embed(self, x_BTA, condition_BTC):
        """[x; condition] @ inputs, without writing out the concatenation."""
        noisy = self.inputs(x_BTA, rows=slice(0, self.in_dim), bias=False)
        return noisy + self.inputs(condition_BTC, rows=slice(self.in_dim, None))

    def modulation(self, time_BD):
        """(batch, D) -> one (batch, 2, 3, D) per block."""
        return tuple(block.modulation(time_BD) for block in self.blocks)

    def block(self, i: int, x_BTD, modulation, rotary, segments):
        return self.blocks[i](x_BTD, modulation[i], rotary, segments)

    def readout(self, x_BTD):
        return self.outputs(x_BTD).astype(jnp.float32)


class AVFlowNet(nn.Module):
    """Velocity of the joint state [visual; mel] at time t, given conditions.

    Ablations (`fusion`): highway = exchange after every block; separate = no exchange; shared = one tower on the
    concatenated streams; cascaded = the visual tower is conditioned on mel instead of tokens.
    """

    config: object  # a frozen system config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        self.visual_dim, self.audio_dim = c.face_dim + c.head_dim, c.mel_dim
        kw = dict(width=c.d_model, heads=c.num_heads, hidden=c.d_ff, windows=windows(c), dtype=self.dtype,
                  init_scale=c.init_scale, kernel=c.attention_kernel, remat=c.remat)
        condition = condition_width(c)
        self.time_embed = TimeEmbedding(c.d_model, self.dtype, c.init_scale)
        if c.fusion == "shared":
            both = self.visual_dim + self.audio_dim
            self.joint = Tower(both, condition, both, **kw)
            return
        seen = condition + c.mel_dim - c.token_dim if c.fusion == "cascaded" else condition
        self.visual = Tower(self.visual_dim, seen, self.visual_dim, **kw)
        self.audio = Tower(self.audio_dim, condition, self.audio_dim, **kw)
        if c.fusion == "highway":
            self.fusion = [Dense(2 * c.d_model, 2 * c.d_model, dtype=self.dtype, init_scale=c.init_scale)
                           for _ in range(c.num_blocks)]

    @property
    def towers(self):
        """The towers in play, visual first as in the state's columns."""
        return (self.joint,) if self.config.fusion == "shared" else (self.visual, self.audio)

    def modulations(self, t_B):
        """Everything that depends on time alone: per tower, per block, (batch, 2, 3, D)."""
        time_BD = self.time_embed(t_B)
        return tuple(tower.modulation(time_BD) for tower in self.towers)

    def velocity(self, x_BTX, condition_BTC, modulations, segments=None, mel_BTA=None, streams: str = "both"):
        """Velocity of the state's columns. `mel` feeds the cascade's visual tower. `streams` = "visual" or "audio" runs
        one tower alone (separate and cascaded only) on, and returning, that stream's columns."""
        rotary = rotary_tables(jnp.arange(x_BTX.shape[1]), self.config.d_model // self.config.num_heads)
        if self.config.fusion == "shared":
            return self._alone(self.joint, x_BTX, condition_BTC, modulations[0], rotary, segments)
        seen_BTC = condition_BTC  # by the visual tower
        if self.config.fusion == "cascaded" and streams != "audio":
            seen_BTC = jnp.concatenate([mel_BTA, condition_BTC[..., self.config.token_dim:]], axis=-1)
        if streams == "audio":
            return self._alone(self.audio, x_BTX, condition_BTC, modulations[1], rotary, segments)
        if streams == "visual":
            return self._alone(self.visual, x_BTX, seen_BTC, modulations[0], rotary, segments)
        visual_BTD = self.visual.embed(x_BTX[..., :self.visual_dim], seen_BTC)
        audio_BTD = self.audio.embed(x_BTX[..., self.visual_dim:], condition_BTC)
        for i in range(self.config.num_blocks):
            visual_BTD = self.visual.block(i, visual_BTD, modulations[0], rotary, segments)
            audio_BTD = self.audio.block(i, audio_BTD, modulations[1], rotary, segments)
            if self.config.fusion == "highway":
                exchanged = self.fusion[i](jnp.concatenate([audio_BTD, visual_BTD], axis=-1))
                exchanged = laid(laid(exchanged, "batch", "time", "width"), "batch", "time")  # split, then gathered
                to_audio, to_visual = jnp.split(exchanged, 2, axis=-1)
                audio_BTD, visual_BTD = audio_BTD + to_audio, visual_BTD + to_visual
        return jnp.concatenate([self.visual.readout(visual_BTD), self.audio.readout(audio_BTD)], axis=-1)

    def _alone(self, tower, x, condition, modulation, rotary, segments):
        x = tower.embed(x, condition)
        for i in range(self.config.num_blocks):
            x = tower.block(i, x, modulation, rotary, segments)
        return tower.readout(x)

    def __call__(self, x_BTX, t_B, condition_BTC, segments=None, mel_BTA=None):
        """(batch, time, visual + mel) state, (batch,) times, (batch, time, C) conditions -> velocity like the state."""
        return self.velocity(x_BTX, condition_BTC, self.modulations(t_B), segments, mel_BTA)
