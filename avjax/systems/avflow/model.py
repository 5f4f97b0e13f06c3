"""The AV-Flow network: two diffusion transformers, one per modality, that exchange features after
every block.

Suffixes: B batch, T time, D model width, X state width (face, head, mel), A mel bands, C
condition width.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from avjax.nn.attention import Band
from avjax.nn.embeddings import TimeEmbedding, rotary_tables
from avjax.nn.layers import Dense
from avjax.nn.stack import SHARED, stack
from avjax.nn.transformer import DiffusionBlock
from avjax.sharding.activations import shard
from avjax.systems.avflow.config import Config, condition_width, windows


class Tower(NamedTuple):
    """Inputs of one tower: its columns of the noisy state, and its conditions."""

    state_BTX: jax.Array
    condition_BTC: jax.Array


class Shared(NamedTuple):
    """Inputs that all blocks share. rotary: (cos, sin) tables; segments_BT: None = one segment."""

    rotary: tuple[jax.Array, jax.Array]
    segments_BT: jax.Array | None


class StreamProjections(nn.Module):
    """Input and output projection of one tower; there is no final norm."""

    in_dim: int
    condition_dim: int
    out_dim: int
    width: int
    dtype: jnp.dtype
    init_scale: float

    def setup(self):
        kw = dict(dtype=self.dtype, init_scale=self.init_scale)
        self.inputs = Dense(self.width, self.in_dim + self.condition_dim, **kw)
        self.outputs = Dense(self.out_dim, self.width, **kw)

    def embed(self, tower: Tower):
        """[state; condition] @ inputs, without writing out the concatenation: (batch, time, D)."""
        noisy = self.inputs(tower.state_BTX, rows=slice(0, self.in_dim), bias=False)
        return noisy + self.inputs(tower.condition_BTC, rows=slice(self.in_dim, None))

    def readout(self, x_BTD):
        """(batch, time, D) -> velocity (batch, time, X), float32."""
        return self.outputs(x_BTD).astype(jnp.float32)


class Layer(nn.Module):
    """One block of every tower, then the highway between them. `avjax.nn.stack` scans its
    methods."""

    config: Config
    towers: tuple[str, ...]
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        kw = dict(dtype=self.dtype, init_scale=c.init_scale)
        band = Band(*np.max(windows(c), axis=0).tolist())
        self.blocks = {name: DiffusionBlock(c.d_model, c.num_heads, c.d_ff, band,
                                            kernel=c.attention_kernel, **kw)
                       for name in self.towers}
        if c.fusion == "highway":
            self.fusion = Dense(2 * c.d_model, 2 * c.d_model, **kw)

    def modulation(self, time_BD):
        """-> time_BD as it was, {tower: (B, 2, 3, D)}."""
        return time_BD, {name: block.modulation(time_BD) for name, block in self.blocks.items()}

    def __call__(self, streams, modulations, window, shared: Shared):
        """streams: {tower: (B, T, D)}, of all towers or of one; modulations: {tower: (B, 2, 3, D)};
        window: (2,) where layers' windows differ, else None. -> streams, None."""
        streams = {name: self.blocks[name](x_BTD, modulations[name], shared.rotary,
                                           shared.segments_BT, window)
                   for name, x_BTD in streams.items()}
        if self.config.fusion == "highway":
            exchanged = self.fusion(jnp.concatenate([streams["audio"], streams["visual"]], axis=-1))
            # split, then gathered
            exchanged = shard(shard(exchanged, "batch", "time", "width"), "batch", "time")
            to_audio, to_visual = jnp.split(exchanged, 2, axis=-1)
            streams = {"audio": streams["audio"] + to_audio,
                       "visual": streams["visual"] + to_visual}
        return streams, None


class AVFlowNet(nn.Module):
    """Velocity of the joint state [visual; mel] at time t, given conditions.

    Ablations (`fusion`): highway = exchange after every block; separate = no exchange; shared = one
    tower on the concatenated streams; cascaded = the visual tower is conditioned on mel instead of
    tokens.
    """

    config: Config
    dtype: jnp.dtype
    # a scan copies each layer's weights: costly when sampling, and on a CPU
    unroll: bool = False

    def setup(self):
        c = self.config
        self.visual_dim = c.face_dim + c.head_dim
        self.audio_dim = c.mel_dim
        kw = dict(width=c.d_model, dtype=self.dtype, init_scale=c.init_scale)
        condition = condition_width(c)
        self.time_embed = TimeEmbedding(c.d_model, self.dtype, c.init_scale)
        if c.fusion == "shared":
            both = self.visual_dim + self.audio_dim
            self.joint = StreamProjections(both, condition, both, **kw)
        else:
            seen = condition + c.mel_dim - c.token_dim if c.fusion == "cascaded" else condition
            self.visual = StreamProjections(self.visual_dim, seen, self.visual_dim, **kw)
            self.audio = StreamProjections(self.audio_dim, condition, self.audio_dim, **kw)
        layer = nn.remat(Layer, prevent_cse=self.unroll, methods=["__call__"]) if c.remat else Layer
        towers = ("joint",) if c.fusion == "shared" else ("visual", "audio")
        layers = stack(layer, c.num_blocks, {"modulation": (), "__call__": (0, 0, SHARED)},
                       unroll=c.num_blocks if self.unroll else 1)
        self.layers = layers(c, towers, self.dtype)

    def modulations(self, t_B):
        """Everything that depends on time alone: {tower: (blocks, batch, 2, 3, D)}."""
        return self.layers.modulation(self.time_embed(t_B))[1]

    def velocity(self, x_BTX, condition_BTC, modulations, segments_BT=None, mel_BTA=None,
                 streams: str = "both"):
        """Velocity of the state's columns. `mel` feeds the cascade's visual tower. `streams` =
        "visual" or "audio" runs one tower alone (separate and cascaded only) on, and returning,
        that stream's columns."""
        c = self.config
        towers = self.towers(x_BTX, condition_BTC, mel_BTA, streams)
        rotary = rotary_tables(jnp.arange(x_BTX.shape[1]), c.d_model // c.num_heads)
        embedded = {name: getattr(self, name).embed(tower) for name, tower in towers.items()}
        out, _ = self.layers(embedded, modulations, layer_windows(c), Shared(rotary, segments_BT))
        return jnp.concatenate([getattr(self, name).readout(out[name]) for name in towers], axis=-1)

    def towers(self, x_BTX, condition_BTC, mel_BTA, streams: str) -> dict[str, Tower]:
        """The towers that run, in the order of the state's columns."""
        c = self.config
        visual_BTC = condition_BTC
        if c.fusion == "cascaded" and streams != "audio":
            visual_BTC = jnp.concatenate([mel_BTA, condition_BTC[..., c.token_dim:]], axis=-1)
        if c.fusion == "shared":
            return {"joint": Tower(x_BTX, condition_BTC)}
        if streams == "visual":
            return {"visual": Tower(x_BTX, visual_BTC)}
        if streams == "audio":
            return {"audio": Tower(x_BTX, condition_BTC)}
        visual_BTX, audio_BTX = jnp.split(x_BTX, [self.visual_dim], axis=-1)
        return {"visual": Tower(visual_BTX, visual_BTC), "audio": Tower(audio_BTX, condition_BTC)}

    def __call__(self, x_BTX, t_B, condition_BTC, segments_BT=None, mel_BTA=None):
        """(batch, time, visual + mel) state, (batch,) times, (batch, time, C) conditions ->
        velocity like the state."""
        return self.velocity(x_BTX, condition_BTC, self.modulations(t_B), segments_BT, mel_BTA)


def layer_windows(config):
    """(blocks, 2) for layers whose windows differ; None where they are equal."""
    pairs = windows(config)
    return jnp.asarray(pairs) if len(set(pairs)) > 1 else None
