"""Rows of a table, rotary positions and the sinusoidal time embedding.

Suffixes: B batch, T time, H heads, K head width, D model width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from avjax.nn.layers import Dense, gelu
from avjax.sharding.activations import active_mesh, axes_for


def lookup(table_VD, ids):
    """Rows of a table for ids (batch, time, ...) -> (batch, time, ..., D); ids outside take the
    nearest row.

    Where the mesh splits D over fsdp, like the batch, every device looks up its part of D for all
    examples of its fsdp group, and one exchange gives each device all of D for its own examples:
    the table (a vocabulary) is never gathered.
    """
    mesh = active_mesh()
    if mesh is None or mesh.shape["fsdp"] == 1 or "fsdp" not in axes_for(ids.shape[0], "batch") or \
            table_VD.shape[1] % mesh.shape["fsdp"]:
        return jnp.take(table_VD, ids, axis=0, mode="clip")

    def here(table_Vd, ids_bt):
        ids_Bt = lax.all_gather(ids_bt, "fsdp", axis=0, tiled=True)
        x_Btd = jnp.take(table_Vd, ids_Bt, axis=0, mode="clip")
        return lax.all_to_all(x_Btd, "fsdp", split_axis=0, concat_axis=x_Btd.ndim - 1, tiled=True)

    time = axes_for(ids.shape[1], "time") or None if ids.ndim > 1 else None
    place = PartitionSpec(axes_for(ids.shape[0], "batch"), *(time,) * (ids.ndim > 1))
    return jax.shard_map(here, in_specs=(PartitionSpec(None, "fsdp"), place),
                         out_specs=place)(table_VD, ids)


def rotary_tables(positions, width: int, base: float = 1e4):
    """cos and sin of position * base^(-2i/width): two (time, width // 2) float32 arrays (RoPE, eq.
    15)."""
    frequencies = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = jnp.asarray(positions, jnp.float32)[..., None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BHTK, cos_TK, sin_TK, pairs: str = "halves"):
    """Rotates pairs of head channels.

    pairs="adjacent": (x[2i], x[2i+1]). pairs="halves": (x[i], x[i + K/2]), the same rotation after
    the channels are reordered (avjax.weights.layouts.halves_from_adjacent); contiguous, hence much
    cheaper, and scores
    do not change when queries and keys are reordered alike. pairs="product": the rotation of
    "halves" through a product with a permutation, exact in 16 bits too: accelerators take channels
    in tiles of 128 and would copy halves of them.
    """
    cos, sin = cos_TK.astype(x_BHTK.dtype), sin_TK.astype(x_BHTK.dtype)
    if pairs == "adjacent":
        even, odd = x_BHTK[..., 0::2], x_BHTK[..., 1::2]
        return jnp.stack([even * cos - odd * sin, even * sin + odd * cos],
                         axis=-1).reshape(x_BHTK.shape)
    if pairs == "product":
        width = x_BHTK.shape[-1]
        other = x_BHTK @ jnp.roll(jnp.eye(width, dtype=x_BHTK.dtype), width // 2, axis=0)
        return (x_BHTK * jnp.concatenate([cos, cos], axis=-1)
                + other * jnp.concatenate([-sin, sin], axis=-1))
    # a flip of a two-long axis stays inside one fused loop, where a roll or a concatenation costs
    # passes of its own
    x = x_BHTK.reshape(*x_BHTK.shape[:-1], 2, -1)
    x_cos = x * jnp.stack([cos, cos], axis=-2)
    return (x_cos + jnp.flip(x, axis=-2) * jnp.stack([-sin, sin], axis=-2)).reshape(x_BHTK.shape)


def sinusoids(t, count: int, scale: float = 1.0):
    """[sin, cos] of scale * t at `count` geometric frequencies from 1 to 1e-4: (...) -> (..., 2
    count), float32."""
    frequencies = jnp.exp(-np.log(1e4) / max(count - 1, 1) * jnp.arange(count, dtype=jnp.float32))
    t = t.astype(jnp.float32)[..., None]
    angles = (t if scale == 1.0 else scale * t) * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """t in [0, 1] (batch,) -> (batch, D): `sinusoids` at D/8 frequencies, then an MLP."""

    width: int
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0

    def setup(self):
        kw = dict(dtype=self.dtype, init_scale=self.init_scale)
        self.hidden = Dense(self.width, self.width // 4, **kw)
        self.out = Dense(self.width, self.width, **kw)

    def __call__(self, t_B):
        return self.out(gelu(self.hidden(sinusoids(t_B, self.width // 8))))
