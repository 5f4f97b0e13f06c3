"""The AV-Flow network: two diffusion transformers, one per modality, that exchange features after
every block.

Suffixes: B batch, T time, D model width, V visual width (face + head), A audio width (mel), C
condition width, S blocks, M modulation (2, 3, D).
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from avjax.nn.attention import Band
from avjax.nn.embeddings import TimeEmbedding, rotary_tables
from avjax.nn.layers import Dense
from avjax.nn.transformer import DiffusionBlock
from avjax.sharding.activations import shard
from avjax.systems.avflow.config import condition_width, windows


class Ends(nn.Module):
    """What a stream's transformer has before and after its blocks: input and output projection (no
    final norm)."""

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

    def embed(self, x_BTA, condition_BTC):
        """[x; condition] @ inputs, without writing out the concatenation."""
        noisy = self.inputs(x_BTA, rows=slice(0, self.in_dim), bias=False)
        return noisy + self.inputs(condition_BTC, rows=slice(self.in_dim, None))

    def readout(self, x_BTD):
        return self.outputs(x_BTD).astype(jnp.float32)


class Layer(nn.Module):
    """One block of every tower, then the highway between them. Its methods share a signature, as
    the scan over layers wants
    it: (carry, this layer's, what all layers share) -> (carry, result)."""

    config: object
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

    def modulation(self, time_BD, own, shared):
        return time_BD, {name: block.modulation(time_BD) for name, block in self.blocks.items()}

    def __call__(self, streams, own, shared):
        """streams: {tower: (B, T, D)}, of all towers or of one; own: {"modulations": {tower: (B, 2,
        3, D)}, "window"}."""
        streams = {name: self.blocks[name](x_BTD, own["modulations"][name], shared["rotary"],
                                           shared["segments"], own["window"]) for name,
                   x_BTD in streams.items()}
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

    config: object  # a frozen system config
    dtype: jnp.dtype
    # a scan reads copies of weights: dear in a sampler, which does little else, and on CPU
    unroll: bool = False

    def setup(self):
        c = self.config
        self.visual_dim, self.audio_dim = c.face_dim + c.head_dim, c.mel_dim
        kw = dict(width=c.d_model, dtype=self.dtype, init_scale=c.init_scale)
        condition = condition_width(c)
        self.time_embed = TimeEmbedding(c.d_model, self.dtype, c.init_scale)
        if c.fusion == "shared":
            both = self.visual_dim + self.audio_dim
            self.joint = Ends(both, condition, both, **kw)
        else:
            seen = condition + c.mel_dim - c.token_dim if c.fusion == "cascaded" else condition
            self.visual = Ends(self.visual_dim, seen, self.visual_dim, **kw)
            self.audio = Ends(self.audio_dim, condition, self.audio_dim, **kw)
        layer = nn.remat(Layer, prevent_cse=self.unroll, methods=["__call__"]) if c.remat else Layer
        layers = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True},
                         length=c.num_blocks, in_axes=(0, nn.broadcast), unroll=c.num_blocks
                         if self.unroll else 1,
                         methods=["modulation", "__call__"])
        self.layers = layers(c, ("joint",) if c.fusion == "shared" else ("visual", "audio"),
                             self.dtype)

    def modulations(self, t_B):
        """Everything that depends on time alone: {tower: (blocks, batch, 2, 3, D)}."""
        return self.layers.modulation(self.time_embed(t_B), None, None)[1]

    def velocity(self, x_BTX, condition_BTC, modulations, segments=None, mel_BTA=None,
                 streams: str = "both"):
        """Velocity of the state's columns. `mel` feeds the cascade's visual tower. `streams` =
        "visual" or "audio" runs one tower alone (separate and cascaded only) on, and returning,
        that stream's columns."""
        c = self.config
        seen_BTC = condition_BTC  # by the visual tower
        if c.fusion == "cascaded" and streams != "audio":
            seen_BTC = jnp.concatenate([mel_BTA, condition_BTC[..., c.token_dim:]], axis=-1)
        if c.fusion == "shared":
            given = {"joint": (self.joint, x_BTX, condition_BTC)}
        elif streams == "both":
            visual_BTX, audio_BTX = jnp.split(x_BTX, [self.visual_dim], axis=-1)
            given = {"visual": (self.visual, visual_BTX, seen_BTC),
                     "audio": (self.audio, audio_BTX, condition_BTC)}
        else:
            given = {streams: (self.visual, x_BTX, seen_BTC) if streams == "visual"
                     else (self.audio, x_BTX, condition_BTC)}
        shared = {"rotary": rotary_tables(jnp.arange(x_BTX.shape[1]), c.d_model // c.num_heads),
                  "segments": segments}
        own = {"modulations": modulations, "window": own_windows(c)}
        out, _ = self.layers({name: ends.embed(x, seen) for name, (ends, x, seen) in given.items()},
                             own, shared)
        return jnp.concatenate([ends.readout(out[name]) for name, (ends, _, _) in given.items()],
                               axis=-1)

    def __call__(self, x_BTX, t_B, condition_BTC, segments=None, mel_BTA=None):
        """(batch, time, visual + mel) state, (batch,) times, (batch, time, C) conditions ->
        velocity like the state."""
        return self.velocity(x_BTX, condition_BTC, self.modulations(t_B), segments, mel_BTA)


def own_windows(config):
    """(blocks, 2) for layers whose windows differ; None where the band says it all."""
    pairs = windows(config)
    return jnp.asarray(pairs) if len(set(pairs)) > 1 else None
