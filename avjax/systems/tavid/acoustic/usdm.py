"""USDM's unit Voicebox (naver-ai/xlsr-token-Voicebox): the post-norm block with ALiBi and U-skips,
exactly as published.

The time is one more frame before the first, without an MLP; the network drops it again. Voice and
partners, which the published weights do not have, are added and start at zero.
Suffixes: B rows, T mel frames, N = T + 1 with the time first, M mel bands, D width, H heads, K head
width, L layers.
"""

import flax.linen as nn
import jax.numpy as jnp

from avjax.errors import UserError
from avjax.nn.attention import NEGATIVE, attend, by_head, keeps_in_cache
from avjax.nn.embeddings import sinusoids
from avjax.nn.layers import Dense, gelu
from avjax.sharding.activations import num_shards
from avjax.systems.tavid.acoustic.config import Config
from avjax.systems.tavid.acoustic.model import Inputs, Positions, Voice


def slopes(heads: int):
    """(H,) of ALiBi (Press et al. 2022): 2^(-8 h / H) for h = 1 .. H."""
    return 2.0 ** (-8.0 * jnp.arange(1, heads + 1) / heads)


def distance(at_Q, at_S):
    """(Q, S) |i - j| of positions, and nothing where the key is the time frame, position 0."""
    return jnp.where(at_S[None, :] == 0, 0, jnp.abs(at_Q[:, None] - at_S[None, :]))


def alibi(heads: int, length: int):
    """(H, N, N) added to the logits: -slope |i - j|, and nothing on the time frame as a key."""
    at = jnp.arange(length)
    return -slopes(heads)[:, None, None] * distance(at, at)


class VoiceboxLayer(nn.Module):
    """h = LN(x + attention(x)); LN(h + MLP(h)); padding zeroed after each. Upper layers first join
    the input of the layer of the lower half that they mirror."""

    config: Config
    dtype: jnp.dtype
    upper: bool

    def setup(self):
        c = self.config
        kw = dict(dtype=self.dtype, init_scale=c.init_scale)
        head = (c.num_heads, c.d_model // c.num_heads)
        self.query, self.key, self.value = (Dense(head, c.d_model, **kw) for _ in range(3))
        self.project = Dense(c.d_model, c.d_model, **kw)
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(1e-5, use_fast_variance=False)
                                              for _ in range(2))
        self.mlp_in = Dense(c.d_ff, c.d_model, **kw)
        self.mlp_out = Dense(c.d_model, c.d_ff, **kw)
        if self.upper:
            self.skip = Dense(c.d_model, 2 * c.d_model, **kw)

    def __call__(self, x_BND, below_BND, bias_BHNN, valid_BN1):
        """bias_BHNN: `alibi` with padding hidden; None: made head by head, on a CPU."""
        if self.upper:
            x_BND = self.skip(jnp.concatenate([x_BND, below_BND], axis=-1))
        q_BNHK, k_BNHK, v_BNHK = self.query(x_BND), self.key(x_BND), self.value(x_BND)
        if bias_BHNN is None:
            slope_H = slopes(self.config.num_heads)
            out_BNHK = by_head(q_BNHK, k_BNHK, v_BNHK, valid_BN1[..., 0] > 0,
                               lambda h, at_Q, at_S: -slope_H[h] * distance(at_Q, at_S))
        else:
            out_BNHK = attend(q_BNHK, k_BNHK, v_BNHK, bias=bias_BHNN, heads_inside=True)
        x_BND = self.attention_norm(x_BND + self.project(out_BNHK.reshape(x_BND.shape))) * valid_BN1
        return self.mlp_norm(x_BND + self.mlp_out(gelu(self.mlp_in(x_BND)))) * valid_BN1


class VoiceboxNet(nn.Module):
    """The call of avjax.systems.tavid.acoustic.model.AcousticNet."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        self.inputs = Inputs(c, self.dtype)
        self.positions = Positions(c.d_model, c.position_kernel, c.position_groups,
                                   c.position_depth, self.dtype)
        self.norm = nn.LayerNorm(1e-5, use_fast_variance=False)
        self.down, self.up = VoiceboxLayer(c, self.dtype, False), VoiceboxLayer(c, self.dtype, True)
        self.outputs = Dense(c.mel_dim, c.d_model, dtype=self.dtype, init_scale=c.init_scale)
        if c.voice_dim:
            self.voice = Voice(c.d_model, c.voice_dim, self.dtype)

    def __call__(self, x_BTM, t_B, given):
        """Noisy mel (B, T, M) at times (B,) -> its velocity, float32."""
        c = self.config
        if num_shards("time") > 1:
            raise UserError("the published Voicebox does not split time", where="config.mesh.seq",
                            expected="1", found=str(num_shards("time")),
                            hint="its time is one more frame before the first, and ALiBi is full: "
                            "use the data, fsdp or tensor axis, or config.system.block = dit")
        valid_BN = jnp.pad(given["valid"], ((0, 0), (1, 0)), constant_values=1.0)
        valid_BN1 = valid_BN[..., None].astype(self.dtype)
        h_BTD = self.inputs(x_BTM, given)
        if c.voice_dim:
            h_BTD = h_BTD + self.voice(given["voice"], given["known"])[:, None]
        time_B1D = sinusoids(t_B, c.d_model // 2, 1000.0)[:, None].astype(self.dtype)
        h_BND = jnp.concatenate([time_B1D, h_BTD], axis=1)
        h_BND = self.norm((h_BND + self.positions(h_BND, valid_BN)) * valid_BN1)
        bias_BHNN = None
        if not keeps_in_cache(h_BND, h_BND.shape[1]):
            hidden_BN = jnp.where(valid_BN > 0, 0.0, NEGATIVE)
            bias_BHNN = alibi(c.num_heads, h_BND.shape[1]) + hidden_BN[:, None, None]

        def body(layer, x_BND, below_BND):
            return layer(x_BND, below_BND, bias_BHNN, valid_BN1), x_BND

        layers = nn.scan(nn.remat(body, prevent_cse=False) if c.remat else body,
                         variable_axes={"params": 0}, split_rngs={"params": True},
                         length=c.num_layers // 2)
        h_BND, below_LBND = layers(self.down, h_BND, None)
        h_BND, _ = layers(self.up, h_BND, below_LBND[::-1])
        return self.outputs(h_BND[:, 1:]).astype(jnp.float32) * given["valid"][..., None]
