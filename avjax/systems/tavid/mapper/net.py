"""The Motion Mapper: units of all speakers -> motion tokens of one of them, 25 frames a second.

    units -> rows -> Linear -> convolution (50 to 25 Hz) -> blocks over all streams -> LN -> Linear,
    of the self stream

In mode "joint" a block is MMDiT's (Esser et al. 2024): every stream has its layer norms, its QKV
and MLP, and one softmax runs over the keys of all streams. Here nothing depends on a diffusion
time (tokens are made once, before the sampler), so the norms have learned scales instead of AdaLN;
positions are times, the same for all streams; a band hides what is further away than `band` frames
(dual has two attentions a block and so reaches twice as far). All partners have one role, so their
order does not matter (but in "concat").

Suffixes: B batch, U units (50 Hz), T frames (25 Hz), S streams, D model width, H heads, K head
width, W token width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from avjax.errors import UserError
from avjax.nn.attention import Band, attention
from avjax.nn.embeddings import rotary_tables, rotate
from avjax.nn.layers import Dense, RMSNorm, gelu
from avjax.sharding.activations import shard
from avjax.systems.tavid.mapper.config import Net, hidden_width

KERNEL = 4  # of the convolution of stride 2: frame t sees units 2t - 1 .. 2t + 2


def centroid_rows(path: str, num_units: int, unit_dim: int) -> np.ndarray:
    """(num_units, unit_dim) float32 of an .npy file, UserError for another shape."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError("centroids cannot be read", where=path, expected="an .npy file",
                        found=str(error)) from error
    if rows.shape != (num_units, unit_dim):
        raise UserError("centroids of another codebook", where=path,
                        expected=f"({num_units}, {unit_dim})", found=str(rows.shape),
                        hint="set num_units and unit_dim of the mapper to the file's")
    return rows.astype(np.float32)


class UnitStem(nn.Module):
    """Units (B, U, S) -> (B, T = U / 2, S, D). Row `num_units` stands for "not given" (guidance),
    as do units outside the codebook."""

    config: Net
    dtype: jnp.dtype

    def setup(self):
        c = self.config

        def rows(key, shape, dtype=jnp.float32):
            fresh = jax.random.normal(key, shape, dtype)
            if not c.centroids:
                return fresh
            given = centroid_rows(c.centroids, c.num_units, c.unit_dim)
            # one scale for all: their geometry stays
            return fresh.at[:-1].set((given - given.mean()) / given.std())

        self.rows = self.param("rows", rows, (c.num_units + 1, c.unit_dim))
        self.project = Dense(c.d_model, c.unit_dim, dtype=self.dtype, init_scale=c.init_scale)
        self.resample = Dense(c.d_model, KERNEL * c.d_model, dtype=self.dtype,
                              init_scale=c.init_scale)

    def __call__(self, units_BUS, valid_BU):
        """Units that are not valid count as the silence of the convolution's own padding."""
        known = (units_BUS >= 0) & (units_BUS < self.config.num_units)
        x = jnp.take(self.rows, jnp.where(known, units_BUS, self.config.num_units),
                     axis=0).astype(self.dtype)
        x_BUSD = self.project(x) * valid_BU[..., None, None].astype(self.dtype)
        first, second = rearrange(x_BUSD, "B (T two) S D -> two B T S D", two=2)
        before = jnp.pad(second, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
        after = jnp.pad(first, ((0, 0), (0, 1), (0, 0), (0, 0)))[:, 1:]
        # a convolution as one product, over all streams
        x_BTSD = self.resample(jnp.concatenate([before, first, second, after], axis=-1))
        return shard(x_BTSD, "batch", "time", None, "width")


def layer_norm():
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False)


class StreamLayers(nn.Module):
    """The layers of one stream in a block: layer norms, QKV with per-head RMS norm, output, MLP.
    `attends`: how many attentions it takes part in. `ends`: only its keys and values are needed (a
    partner in the last block)."""

    config: Net
    dtype: jnp.dtype
    attends: int = 1
    ends: bool = False

    def setup(self):
        c = self.config
        D, H = c.d_model, c.num_heads
        kw = dict(dtype=self.dtype, init_scale=c.init_scale)
        self.norms = [layer_norm() for _ in range(self.attends)]
        self.qkv = [Dense((3, H, D // H), D, **kw) for _ in range(self.attends)]
        self.q_norm = [RMSNorm(D // H) for _ in range(self.attends)]
        self.k_norm = [RMSNorm(D // H) for _ in range(self.attends)]
        if self.ends:
            return
        self.project = [Dense(D, D, **kw) for _ in range(self.attends)]
        self.mlp_norm = layer_norm()
        self.mlp_in = Dense(hidden_width(c), D, **kw)
        self.mlp_out = Dense(D, hidden_width(c), **kw)

    def heads(self, x_BTSD, i: int = 0):
        """(B, T, S, 3, H, K): queries and keys normed."""
        qkv = self.qkv[i](self.norms[i](x_BTSD))
        q, k, v = (qkv[..., j, :, :] for j in range(3))
        return jnp.stack([self.q_norm[i](q), self.k_norm[i](k), v], axis=3)

    def add(self, x_BTSD, attended_BTSD, i: int = 0):
        return shard(x_BTSD + self.project[i](attended_BTSD), "batch", "time")

    def mlp(self, x_BTSD):
        hidden_BTSF = shard(gelu(self.mlp_in(self.mlp_norm(x_BTSD))), "batch", "time", None,
                            "width")
        return shard(x_BTSD + self.mlp_out(hidden_BTSF), "batch", "time")


class MapperBlock(nn.Module):
    """One block over (B, T, S, D) -> (B, T, S, D), None; stream 0 is the speaker whose tokens are
    wanted. The `last` block changes stream 0 only."""

    config: Net
    dtype: jnp.dtype
    last: bool = False

    def setup(self):
        c = self.config
        kw = dict(attends=2 if c.mode == "dual" else 1)
        if c.share_weights:
            self.all = StreamLayers(c, self.dtype, **kw)
        else:
            self.own = StreamLayers(c, self.dtype, **kw)
            self.partner = StreamLayers(c, self.dtype, ends=self.last and c.mode == "joint", **kw)

    def each(self, method: str, *streams, i: int = 0):
        """A method of the layers, on every stream with the layers of its role."""
        run = getattr(StreamLayers, method)
        more = () if method == "mlp" else (i,)
        if self.config.share_weights:
            return run(self.all, *streams, *more)
        own = run(self.own, *(x[:, :, :1] for x in streams), *more)
        if self.partner.ends and method != "heads":
            return jnp.concatenate([own, streams[0][:, :, 1:]], axis=2)
        return jnp.concatenate([own, run(self.partner, *(x[:, :, 1:] for x in streams), *more)],
                               axis=2)

    def __call__(self, x_BTSD, rotary, valid_BT):
        if self.config.mode == "dual":
            x_BTSD = self.each("add", x_BTSD,
                               self.within(self.each("heads", x_BTSD), rotary, valid_BT))
            x_BTSD = self.each("add", x_BTSD,
                               self.across(self.each("heads", x_BTSD, i=1), rotary, valid_BT), i=1)
        else:
            x_BTSD = self.each("add", x_BTSD,
                               self.joint(self.each("heads", x_BTSD), rotary, valid_BT))
        return self.each("mlp", x_BTSD), None

    def joint(self, qkv, rotary, valid_BT):
        """One softmax over the keys of all streams."""
        S = qkv.shape[2]
        q, k, v = (rearrange(qkv[:, :, :, i], "B T S H K -> B H (T S) K") for i in range(3))
        out_BHNK = self.attend(q, k, v, tuple(jnp.repeat(table, S, axis=0) for table in rotary),
                               jnp.repeat(valid_BT, S, axis=1), S)
        return rearrange(out_BHNK, "B H (T S) K -> B T S (H K)", S=S)

    def within(self, qkv, rotary, valid_BT):
        """Every stream over its own keys."""
        return self.streamwise(qkv, 0, rotary, valid_BT)

    def across(self, qkv, rotary, valid_BT):
        """Every stream over each other one's keys; of several partners, the mean."""
        S = qkv.shape[2]
        return sum(self.streamwise(qkv, shift, rotary, valid_BT) for shift in range(1, S)) / (S - 1)

    def streamwise(self, qkv, shift: int, rotary, valid_BT):
        """Queries of stream s on the keys of stream s + shift."""
        S = qkv.shape[2]
        k, v = (jnp.roll(qkv[:, :, :, i], -shift, axis=2) for i in (1, 2))
        q, k, v = (rearrange(x, "B T S H K -> (B S) H T K") for x in (qkv[:, :, :, 0], k, v))
        out = self.attend(q, k, v, rotary, jnp.repeat(valid_BT, S, axis=0), 1)
        return rearrange(out, "(B S) H T K -> B T S (H K)", S=S)

    def attend(self, q, k, v, rotary, valid, streams: int):
        c = self.config
        return attention(rotate(q, *rotary), rotate(k, *rotary), v, mask=Band(c.band, c.band),
                         valid=valid,
                         streams=streams, kernel=c.attention_kernel)


class MotionMapper(nn.Module):
    """Units of all speakers -> motion tokens of stream 0; see the top of this file."""

    config: Net
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c = self.config
        kw = dict(dtype=self.dtype, init_scale=c.init_scale)
        self.stem = UnitStem(c, self.dtype)
        if c.mode == "concat":
            self.join = Dense(c.d_model, c.streams * c.d_model, **kw)
        else:
            # stream 0, a partner
            self.role = self.param("role", nn.initializers.normal(1.0), (2, c.d_model))
        # all but the last as one scan: their parameters carry a leading layer axis
        if c.num_blocks > 1:
            self.blocks = nn.scan(MapperBlock, variable_axes={"params": 0},
                                  split_rngs={"params": True}, length=c.num_blocks - 1,
                                  unroll=1 if c.scan_layers else c.num_blocks - 1,
                                  in_axes=nn.broadcast)(c, self.dtype)
        self.last = MapperBlock(c, self.dtype, last=True)
        self.norm = layer_norm()
        self.out = Dense((c.tokens, c.token_dim), c.d_model, **kw)

    def __call__(self, units_BUS, length_B=None):
        """Units (B, U even, S) int, `length_B` of them real -> tokens (B, U / 2, tokens, W) of
        stream 0. `each_speaker_first` puts every speaker there in turn."""
        c = self.config
        B, U, S = units_BUS.shape
        if S != c.streams or U % 2:
            raise UserError("units of the Motion Mapper", expected=f"(batch, even, {c.streams})",
                            found=str((B, U, S)))
        length_B = jnp.full((B,), U) if length_B is None else length_B
        valid_BU = jnp.arange(U) < length_B[:, None]
        x_BTSD = shard(self.stem(units_BUS, valid_BU), "batch", "time")
        valid_BT = 2 * jnp.arange(U // 2) < length_B[:, None]
        if c.mode == "concat":
            x_BTSD = self.join(x_BTSD.reshape(B, U // 2, 1, -1))
        else:
            x_BTSD = x_BTSD + self.role[np.minimum(np.arange(S), 1)].astype(x_BTSD.dtype)
        rotary = rotary_tables(jnp.arange(U // 2), c.d_model // c.num_heads)
        if c.num_blocks > 1:
            x_BTSD, _ = self.blocks(x_BTSD, rotary, valid_BT)
        x_BTSD, _ = self.last(x_BTSD, rotary, valid_BT)
        tokens_BTMW = shard(self.out(self.norm(x_BTSD[:, :, 0])), "batch", "time", None, "width")
        return shard(tokens_BTMW, "batch", "time")


class TokenWindows(nn.Module):
    """(B, T, M, W) -> (B, T, (2 margin + 1) M, W): each frame's tokens with its neighbours', the
    first and the last frame repeated beyond the ends (Hallo2's audio windows), and marked with
    their places: attention alone could not tell the frame before from the frame after."""

    config: Net
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens_BTMW, length_B=None):
        """`length_B`: frames that are real."""
        B, T, M, W = tokens_BTMW.shape
        margin = self.config.margin
        if not margin:  # one place says nothing
            return tokens_BTMW
        place = self.param("place", nn.initializers.normal(0.5),
                           (2 * margin + 1, W)).astype(self.dtype)
        if length_B is not None:
            last_B111 = jnp.maximum(length_B, 1)[:, None, None, None] - 1
            frame_T11 = jnp.arange(T)[:, None, None]
            last = jnp.sum(jnp.where(frame_T11 == last_B111, tokens_BTMW, 0), axis=1, keepdims=True)
            tokens_BTMW = jnp.where(frame_T11 > last_B111, last, tokens_BTMW)
        x = jnp.pad(tokens_BTMW, ((0, 0), (margin, margin), (0, 0), (0, 0)), mode="edge")
        return jnp.concatenate([x[:, i:i + T] + place[i] for i in range(2 * margin + 1)], axis=2)


def each_speaker_first(units_BUS):
    """(B, U, S) -> (B * S, U, S): every stream in turn as stream 0, the others after it in cyclic
    order."""
    turns = [jnp.roll(units_BUS, -s, axis=2) for s in range(units_BUS.shape[2])]
    return rearrange(jnp.stack(turns, axis=1), "B turn U S -> (B turn) U S")
