"""The language model: a Qwen3 decoder (grouped-query attention, per-head RMS norm of queries and
keys, rotary, SwiGLU).

Layers are scanned, so parameters carry a leading layer axis. Two ways through: whole sequences with
segments, and one position at a time against a cache of keys (after norm and rotary) and values.

Suffixes: B batch, N positions, D model width, H query heads, G key-value heads, R = H / G, K head
width, L layers.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from avjax.nn.attention import Causal, attend, attention
from avjax.nn.embeddings import lookup, rotary_tables, rotate
from avjax.nn.layers import PRODUCT, Dense, RMSNorm, SwiGLU
from avjax.nn.stack import SHARED, stack
from avjax.sharding.activations import shard
from avjax.systems.talker.config import Config
from avjax.systems.talker.local import POLICIES, rotary_pairs


class Shared(NamedTuple):
    """Inputs that all layers share.

    rotary: (cos, sin) tables (B or 1, 1, N, K / 2). segment_BN: of whole sequences. index_B: the
    position of a single step, and its place in the cache.
    """

    rotary: tuple[jax.Array, jax.Array]
    segment_BN: jax.Array | None = None
    index_B: jax.Array | None = None


class DecoderLayer(nn.Module):
    """One pre-norm layer. `avjax.nn.stack` scans its methods: each returns x, and what this layer
    keeps."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        kw = dict(dtype=self.dtype, init_scale=c.init_scale, use_bias=False)
        self.attention_norm = RMSNorm(c.d_model, c.rms_eps)
        self.q = Dense((c.num_heads, c.head_dim), c.d_model, **kw)
        self.kv = Dense((2, c.num_kv_heads, c.head_dim), c.d_model, **kw)
        self.q_norm, self.k_norm = RMSNorm(c.head_dim, c.rms_eps), RMSNorm(c.head_dim, c.rms_eps)
        self.project = Dense(c.d_model, c.num_heads * c.head_dim, **kw)
        self.mlp_norm = RMSNorm(c.d_model, c.rms_eps)
        self.mlp = SwiGLU(c.d_model, c.d_ff, self.dtype, c.init_scale)

    def full(self, x_BND, shared: Shared):
        """Whole sequences, causal within segments -> x, None."""
        return self.prefill(x_BND, shared)[0], None

    def prefill(self, x_BND, shared: Shared):
        """Whole sequences, causal within segments -> x, {"k", "v"} (B, G, N, K)."""
        q_BHNK, k_BGNK, v_BGNK = self._heads(x_BND, shared.rotary)
        out_BHNK = attention(q_BHNK, k_BGNK, v_BGNK, mask=Causal(), segments=shared.segment_BN,
                             kernel=self.config.attention_kernel)
        return self._finish(x_BND, out_BHNK), {"k": k_BGNK, "v": v_BGNK}

    def step(self, x_B1D, cache, shared: Shared):
        """One position a row against cache {"k", "v"} (B, G, Nmax, K): writes at index_B and
        attends up to it."""
        q_BH1K, k_BG1K, v_BG1K = self._heads(x_B1D, shared.rotary)

        @jax.vmap
        def write(old_GNK, new_G1K, i):
            return jax.lax.dynamic_update_slice_in_dim(old_GNK, new_G1K.astype(old_GNK.dtype), i,
                                                       axis=1)

        k_BGNK = write(cache["k"], k_BG1K, shared.index_B)
        v_BGNK = write(cache["v"], v_BG1K, shared.index_B)
        B, G, N, K = k_BGNK.shape
        q_BGRK = q_BH1K.reshape(B, G, -1, K)
        seen_BN = jnp.arange(N) <= shared.index_B[:, None]
        out_BH1K = attend(q_BGRK, k_BGNK, v_BGNK, seen_BN[:, None, None]).reshape(q_BH1K.shape)
        return self._finish(x_B1D, out_BH1K), {"k": k_BGNK, "v": v_BGNK}

    def _heads(self, x_BND, rotary):
        """Queries (B, H, N, K), keys and values (B, G, N, K); queries and keys normed, then
        rotated."""
        normed = self.attention_norm(x_BND)
        kv = self.kv(normed)
        q_BHNK = self.q_norm(self.q(normed)).transpose(0, 2, 1, 3)
        k_BGNK = self.k_norm(kv[:, :, 0]).transpose(0, 2, 1, 3)
        q_BHNK, k_BGNK = (rotate(x, *rotary, rotary_pairs(self.dtype)) for x in (q_BHNK, k_BGNK))
        return q_BHNK, k_BGNK, kv[:, :, 1].transpose(0, 2, 1, 3)

    def _finish(self, x_BND, out_BHNK):
        mixed_BND = self.project(out_BHNK.transpose(0, 2, 1, 3), heads=self.config.num_heads,
                                 keep=False)
        x_BND = checkpoint_name(shard(x_BND, "batch", "time") + mixed_BND, PRODUCT)
        return shard(x_BND + self.mlp(self.mlp_norm(x_BND)), "batch", "time")


class Backbone(nn.Module):
    """Token embedding, scanned layers, final norm. There is no output head; `logits` ties it to the
    embedding."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        self.embedding = self.param("embedding", nn.initializers.normal(c.embedding_std),
                                    (c.vocab, c.d_model))
        layer = DecoderLayer
        if c.remat != "none":
            layer = nn.remat(layer, policy=POLICIES[c.remat], prevent_cse=False, methods=["full"])
        layers = stack(layer, c.num_layers, {"full": (SHARED,), "prefill": (SHARED,),
                                             "step": (0, SHARED)})
        self.layers = layers(c, self.dtype)
        self.norm = RMSNorm(c.d_model, c.rms_eps)

    def embed(self, tokens):
        """Token ids of any shape -> (..., D). Ids outside the vocabulary (padding) take the nearest
        row."""
        return lookup(self.embedding, tokens).astype(self.dtype)

    def logits(self, hidden):
        """Next-token logits (..., vocab), float32, through the tied embedding."""
        return jnp.einsum("...d,vd->...v", hidden.astype(jnp.float32), self.embedding)

    def __call__(self, x_BND, position_BN, segment_BN):
        """Causal within segments -> hidden states after the final norm, (batch, N, D)."""
        x_BND, _ = self.layers.full(x_BND.astype(self.dtype), self.shared(position_BN, segment_BN))
        return self.norm(x_BND)

    def prefill(self, x_BND, position_BN, segment_BN, cache_size: int):
        """As `__call__`, and the cache {"k", "v"} of (L, batch, G, cache_size, K), zeros after
        position N - 1."""
        x_BND, cache = self.layers.prefill(x_BND.astype(self.dtype),
                                           self.shared(position_BN, segment_BN))
        room = ((0, 0), (0, 0), (0, 0), (0, cache_size - x_BND.shape[1]), (0, 0))
        cache = jax.tree.map(lambda a: jnp.pad(a, room), cache)
        return self.norm(x_BND), shard_cache(cache)

    def step(self, x_BD, cache, index_B):
        """One position a row: position and place in the cache are both index_B -> hidden (batch,
        D), new cache."""
        x_B1D, cache = self.layers.step(x_BD[:, None].astype(self.dtype), cache,
                                        self.step_shared(index_B))
        return self.norm(x_B1D)[:, 0], cache

    def shared(self, position_BN, segment_BN=None) -> Shared:
        cos, sin = rotary_tables(position_BN, self.config.head_dim, self.config.rope_theta)
        return Shared((cos[:, None], sin[:, None]), segment_BN)

    def step_shared(self, index_B) -> Shared:
        return self.shared(index_B[:, None])._replace(index_B=index_B)


def shard_cache(cache):
    """Keys and values of a cache (L, batch, G, Nmax, K): heads over `tensor`, positions unsplit, as
    one is written at a time."""
    return jax.tree.map(lambda a: shard(a, None, "batch", "width"), cache)
