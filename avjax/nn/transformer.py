"""Two transformer blocks: the AdaLN-Zero diffusion block, and the post-norm encoder layer of small
VAEs.

Suffixes: B batch, T time, D model width, H heads, K head width, F feed-forward width, M the six
modulation vectors (2, 3, D).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from avjax.nn.attention import Full, Mask, attention
from avjax.nn.embeddings import rotate
from avjax.nn.layers import Dense, adaptive_norm, gelu, uniform_fan_in
from avjax.sharding.activations import shard


class AdaLNZero(nn.Module):
    """Time embedding (batch, D) -> (batch, 3, D): gate alpha, shift beta, scale gamma; alpha starts
    at zero (DiT)."""

    width: int
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0

    def setup(self):
        def kernel_init(key, shape, dtype=jnp.float32):
            return uniform_fan_in(self.init_scale)(key, shape, dtype).at[:, 0].set(0.0)

        self.linear = Dense((3, self.width), self.width, dtype=self.dtype, kernel_init=kernel_init,
                            bias_init=nn.initializers.zeros)

    def __call__(self, time_BD):
        return self.linear(time_BD)


class DiffusionBlock(nn.Module):
    """x += alpha * attention(LN(x)(1 + gamma) + beta), then the same with an MLP.

    `modulation` returns the six vectors of a block; `__call__` applies the block with them. They
    are separate because a sampler knows all its times in advance and computes every modulation with
    one product.
    """

    width: int
    heads: int
    hidden: int
    mask: Mask
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0
    kernel: str = "auto"

    def setup(self):
        kw = dict(dtype=self.dtype, init_scale=self.init_scale)
        self.attention_adaln = AdaLNZero(self.width, **kw)
        self.qkv = Dense((3, self.heads, self.width // self.heads), self.width, **kw)
        self.project = Dense(self.width, self.width, **kw)
        self.mlp_adaln = AdaLNZero(self.width, **kw)
        self.mlp_in = Dense(self.hidden, self.width, **kw)
        self.mlp_out = Dense(self.width, self.hidden, **kw)

    def modulation(self, time_BD):
        """(batch, D) -> (batch, 2, 3, D)."""
        return jnp.stack([self.attention_adaln(time_BD), self.mlp_adaln(time_BD)], axis=1)

    def __call__(self, x_BTD, modulation_BM, rotary, segments=None, window=None):
        """x (batch, time, D); modulation (batch or 1, 2, 3, D); rotary = (cos, sin) tables;
        segments (batch, time); window: (left, right) within the mask's band, for scanned blocks
        whose windows differ."""
        x_BTD, modulation_BM = shard(x_BTD, "batch", "time"), shard(modulation_BM, "batch")
        alpha, beta, gamma = (modulation_BM[:, 0, i, None] for i in range(3))
        x_BTD = x_BTD + alpha * self.attend(adaptive_norm(x_BTD, beta, gamma, self.eps), rotary,
                                            segments, window)
        alpha, beta, gamma = (modulation_BM[:, 1, i, None] for i in range(3))
        hidden_BTF = shard(gelu(self.mlp_in(adaptive_norm(x_BTD, beta, gamma, self.eps))), "batch",
                           "time", "width")
        return shard(x_BTD + alpha * self.mlp_out(hidden_BTF), "batch", "time")

    def attend(self, x_BTD, rotary, segments, window):
        qkv = self.qkv(x_BTD)  # (B, T, 3, H, K)
        q_BHTK, k_BHTK, v_BHTK = (rearrange(qkv[:, :, i], "B T H K -> B H T K") for i in range(3))
        q_BHTK, k_BHTK = rotate(q_BHTK, *rotary), rotate(k_BHTK, *rotary)
        out_BHTK = attention(q_BHTK, k_BHTK, v_BHTK, mask=self.mask, segments=segments,
                             window=window, kernel=self.kernel)
        return self.project(rearrange(out_BHTK, "B H T K -> B T (H K)"))


class PostNormEncoderLayer(nn.Module):
    """The 2017 encoder layer: x = LN(x + attention(x)), x = LN(x + MLP(x)), ReLU, affine LN (eps
    1e-5)."""

    width: int
    heads: int
    hidden: int
    dropout: float = 0.1

    def setup(self):
        self.qkv = Dense((3, self.heads, self.width // self.heads), self.width)
        self.project = Dense(self.width, self.width)
        self.mlp_in = Dense(self.hidden, self.width)
        self.mlp_out = Dense(self.width, self.hidden)
        self.norm1 = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
        self.norm2 = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)

    def __call__(self, x_BTD, valid_BT=None, key=None):
        """key = None: no dropout. As published, dropout applies to the attention's output and the
        MLP's hidden units; unlike there, not to the attention weights."""
        keys = [None] * 3 if key is None else jax.random.split(key, 3)
        qkv = self.qkv(x_BTD)  # (B, T, 3, H, K)
        q_BHTK, k_BHTK, v_BHTK = (rearrange(qkv[:, :, i], "B T H K -> B H T K") for i in range(3))
        out_BHTK = attention(q_BHTK, k_BHTK, v_BHTK, mask=Full(), valid=valid_BT)
        out_BTD = self.project(rearrange(out_BHTK, "B H T K -> B T (H K)"))
        x_BTD = self.norm1(x_BTD + drop(out_BTD, self.dropout, keys[0]))
        hidden = drop(jax.nn.relu(self.mlp_in(x_BTD)), self.dropout, keys[1])
        return self.norm2(x_BTD + drop(self.mlp_out(hidden), self.dropout, keys[2]))


def drop(x, rate: float, key):
    """Inverted dropout; the identity when key is None."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)
