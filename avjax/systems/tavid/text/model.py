"""The network: a bidirectional encoder over the dialogue's text and a causal decoder over frames of
all speakers' units.

After CoVoMix (arXiv 2404.06690): one embedding table for all streams, a step's embeddings side by
side are the decoder's input, its output is split likewise and compared with the same table; RMS
norm, gated feed-forward, rotary positions, cross-attention with a learned null key and value, which
is all there is to see without text. Ours: a chain over the units of a step, several frames a step,
and cross-attention that is rotary in planned time (`plan`).

Where the mesh splits time, the encoder and the decoder's own attention are split over it; what the
encoder read is then gathered once, and every device's steps see all the text.

Suffixes: B batch, N text tokens, E encoder width, I decoder steps, J units of a step (frames of it
x streams), D decoder width, W width of a unit's embedding (D / J), C chain width, H heads, K head
width, V units with specials, R cached steps.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from avjax.nn.attention import FULL, Band, Causal, attend, attention
from avjax.nn.embeddings import lookup, rotary_tables, rotate
from avjax.nn.layers import Dense, RMSNorm, SwiGLU, gelu, halves
from avjax.nn.sequence import gather_time
from avjax.nn.stack import SHARED, stack
from avjax.sharding.activations import num_shards, shard
from avjax.systems.tavid.text import plan
from avjax.systems.tavid.text.config import SPECIALS, Config


class GEGLU(SwiGLU):
    """(gelu(x @ gate) * (x @ value)) @ out, without biases (Shazeer 2020)."""

    @staticmethod
    def gate(pair):
        gate, value = halves(pair)
        return gelu(gate) * value


MLP = {"swiglu": SwiGLU, "geglu": GEGLU}


class Residual(nn.Module):
    """x + dropout(y); the dropout mask (B, 1, D) is shared over time."""

    rate: float

    def __call__(self, x_BTD, y_BTD):
        if self.rate and self.has_rng("dropout"):
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate,
                                        (y_BTD.shape[0], 1, y_BTD.shape[-1]))
            y_BTD = y_BTD * (kept / (1 - self.rate)).astype(y_BTD.dtype)
        return x_BTD + y_BTD


def heads_first(x_BTHK):
    return rearrange(x_BTHK, "... T H K -> ... H T K")


def merge_heads(x_BHTK):
    return rearrange(x_BHTK, "... H T K -> ... T (H K)")


def tables(positions_BT, width: int, theta: float):
    """Rotary cos and sin for (B, H, T, K)."""
    cos, sin = rotary_tables(positions_BT, width, theta)
    return cos[..., None, :, :], sin[..., None, :, :]


class EncoderLayer(nn.Module):
    """One pre-norm layer that sees the text in both directions -> x, None."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        kw = dict(dtype=self.dtype, use_bias=False)
        self.attention_norm, self.mlp_norm = (RMSNorm(c.encoder_width, c.rms_eps) for _ in range(2))
        self.qkv = Dense((3, c.encoder_heads, c.encoder_width // c.encoder_heads), c.encoder_width,
                         **kw)
        self.project = Dense(c.encoder_width, c.encoder_width, **kw)
        self.mlp = MLP[c.activation](c.encoder_width, c.encoder_ff, self.dtype, by_width=True)
        self.add = Residual(c.dropout)

    def __call__(self, x_BNE, shared):
        c = self.config
        qkv = self.qkv(self.attention_norm(x_BNE))
        q, k, v = (heads_first(qkv[:, :, i]) for i in range(3))
        mask = Band(c.encoder_window, c.encoder_window) if c.encoder_window else FULL
        out = attention(rotate(q, *shared["rotary"]), rotate(k, *shared["rotary"]), v, mask=mask,
                        valid=shared["real"],
                        kernel=c.attention_kernel)
        x_BNE = shard(self.add(x_BNE, self.project(merge_heads(out))), "batch", "time")
        return shard(self.add(x_BNE, self.mlp(self.mlp_norm(x_BNE))), "batch", "time"), None


class DecoderLayer(nn.Module):
    """One pre-norm layer: past steps, the text, feed-forward. `avjax.nn.stack` scans its methods:
    each returns x, and what this layer keeps."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        inner = c.num_heads * c.head_dim
        kw = dict(dtype=self.dtype, use_bias=False)
        self.self_norm, self.cross_norm, self.mlp_norm = (RMSNorm(c.d_model, c.rms_eps)
                                                          for _ in range(3))
        self.qkv = Dense((3, c.num_heads, c.head_dim), c.d_model, **kw)
        self.project = Dense(c.d_model, inner, **kw)
        # biases of queries and keys: what is near in time starts out attractive
        planned = c.alignment == "plan"
        near = dict(dtype=self.dtype, use_bias=planned, bias_init=nearness if planned else None)
        self.cross_q = Dense((c.num_heads, c.head_dim), c.d_model, **near)
        self.cross_k = Dense((c.num_heads, c.head_dim), c.encoder_width, **near)
        self.cross_v = Dense((c.num_heads, c.head_dim), c.encoder_width, **kw)
        self.null = self.param("null", nn.initializers.normal(0.02), (2, c.num_heads, c.head_dim))
        self.cross_project = Dense(c.d_model, inner, **kw)
        self.mlp = MLP[c.activation](c.d_model, c.d_ff, self.dtype, by_width=True)
        self.add = Residual(c.dropout)

    def full(self, x_BID, shared):
        """All steps at once."""
        c = self.config
        q, k, v = self._heads(x_BID, shared)
        mask = Band(c.window, 0) if c.window else Causal()
        out = attention(q, k, v, mask=mask, kernel=c.attention_kernel)
        x_BID = self.add(x_BID, self.project(merge_heads(out)))
        return self._rest(x_BID, self._memory(shared), shared), None

    def remember(self, x, shared):
        """Keys and values of the text, (B, H, 1 + N, K) each."""
        return x, self._memory(shared)

    def step(self, x_B1D, cache, shared):
        """One step against cache {"k", "v": (B, H, R, K) of past steps, "text_k", "text_v"}; writes
        at shared["place"]."""
        q, k, v = self._heads(x_B1D, shared)
        k, v = (jax.lax.dynamic_update_slice_in_dim(cache[name], new.astype(cache[name].dtype),
                                                    shared["place"], axis=2)
                for name, new in (("k", k), ("v", v)))
        x_B1D = self.add(x_B1D, self.project(merge_heads(attend(q, k, v, shared["past"][:, None]))))
        return self._rest(x_B1D, {"k": cache["text_k"], "v": cache["text_v"]},
                          shared), {"k": k, "v": v}

    def _heads(self, x_BID, shared):
        qkv = self.qkv(self.self_norm(x_BID))
        q, k, v = (heads_first(qkv[:, :, i]) for i in range(3))
        return rotate(q, *shared["rotary"]), rotate(k, *shared["rotary"]), v

    def _memory(self, shared):
        k, v = heads_first(self.cross_k(shared["text"])), heads_first(self.cross_v(shared["text"]))
        if self.config.alignment == "plan":
            k = rotate(k, *shared["text_rotary"])
        null_2BH1K = jnp.broadcast_to(self.null[:, None, :, None].astype(k.dtype),
                                      (2, *k.shape[:2], 1, k.shape[3]))
        memory = {"k": jnp.concatenate([null_2BH1K[0], k], axis=2),
                  "v": jnp.concatenate([null_2BH1K[1], v], axis=2)}
        # made by every device of `seq`
        return {name: shard(x, "batch", "width") for name, x in memory.items()}

    def _rest(self, x_BID, memory, shared):
        q = heads_first(self.cross_q(self.cross_norm(x_BID)))
        if self.config.alignment == "plan":
            q = rotate(q, *shared["time_rotary"])
        out = attend(q, memory["k"], memory["v"], shared["seen"][:, None])
        x_BID = self.add(x_BID, self.cross_project(merge_heads(out)))
        return shard(self.add(shard(x_BID, "batch", "time"), self.mlp(self.mlp_norm(x_BID))),
                     "batch", "time")


def nearness(key, shape, dtype=jnp.float32):
    """Bias of queries and keys alike: the product of two such, rotated to their times, is largest
    where these agree."""
    half = jnp.arange(shape[-1]) < shape[-1] // 2
    return jnp.broadcast_to(jnp.where(half, 1.3, 0.0), shape).astype(dtype)


class Chain(nn.Module):
    """p(unit j of a step | decoder's output, units 0..j-1 of the step): a small causal transformer
    over the J units of one step, (..., D) and the units' embeddings (..., J, W) -> (..., J, W).
    Only the first J-1 embeddings are looked at, each by later units."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        slots = c.num_streams * c.frames_per_step
        kw = dict(dtype=self.dtype, use_bias=False)
        # its biases distinguish the units
        self.inputs = Dense((slots, c.depth_width), c.d_model, dtype=self.dtype)
        self.units = Dense(c.depth_width, c.d_model // slots, **kw)
        self.blocks = [ChainBlock(c, self.dtype) for _ in range(c.depth_layers)]
        self.norm = RMSNorm(c.depth_width, c.rms_eps)
        self.outputs = Dense(c.d_model // slots, c.depth_width, **kw)

    def __call__(self, hidden, units):
        earlier = jnp.pad(self.units(units[..., :-1, :]),
                          [(0, 0)] * (units.ndim - 2) + [(1, 0), (0, 0)])
        x_MJC = shard(self.inputs(hidden) + earlier, *("batch", "time")[:hidden.ndim - 1])
        for block in self.blocks:
            x_MJC = block(x_MJC)
        return self.outputs(self.norm(x_MJC))


class ChainBlock(nn.Module):
    """Pre-norm causal attention over a handful of units, then a gated feed-forward of twice the
    width."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        kw = dict(dtype=self.dtype, use_bias=False)
        self.attention_norm, self.mlp_norm = (RMSNorm(c.depth_width, c.rms_eps) for _ in range(2))
        self.qkv = Dense((3, c.depth_heads, c.depth_width // c.depth_heads), c.depth_width, **kw)
        self.project = Dense(c.depth_width, c.depth_width, **kw)
        self.mlp = MLP[c.activation](c.depth_width, 2 * c.depth_width, self.dtype, by_width=True)

    def __call__(self, x_MJC):
        places = ("batch", "time")[:x_MJC.ndim - 2]
        # heads over `tensor` where their number allows it; where it does not, the attention of a
        # handful is repeated
        qkv = shard(self.qkv(self.attention_norm(x_MJC)), *places, None, None, "width")
        q, k, v = (heads_first(qkv[..., i, :, :]) for i in range(3))
        seen_JJ = jnp.tril(jnp.ones((x_MJC.shape[-2],) * 2, bool))
        x_MJC = shard(x_MJC + self.project(merge_heads(attend(q, k, v, seen_JJ))), *places)
        return shard(x_MJC + self.mlp(self.mlp_norm(x_MJC)), *places)


def layers(layer, config, length: int, remat: str, methods: dict[str, tuple]):
    """`stack` with a dropout mask for each layer; the backward pass of `remat`'s method makes its
    values again where the config asks for it."""
    if config.remat:
        layer = nn.remat(layer, prevent_cse=False, methods=[remat])
    return stack(layer, length, methods, rngs=("params", "dropout"))


class TextNet(nn.Module):
    """Encoder, decoder, plan and chain; methods are called by `net.apply({"params": params}, ...,
    method="encode")`."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        self.slots = c.num_streams * c.frames_per_step
        self.text = self.param("text", nn.initializers.normal(1.0), (c.vocab, c.encoder_width))
        if c.speaker_embedding:  # the last row: no speaker
            self.speaker = self.param("speaker", nn.initializers.normal(1.0),
                                      (c.num_streams + 1, c.encoder_width))
        encoder = layers(EncoderLayer, c, c.encoder_layers, "__call__", {"__call__": (SHARED,)})
        self.encoder = encoder(c, self.dtype)
        self.encoder_norm = RMSNorm(c.encoder_width, c.rms_eps)
        width = c.d_model // self.slots
        self.table = self.param("table", nn.initializers.normal(width ** -0.5),
                                (c.num_units + SPECIALS, width))
        decoder = layers(DecoderLayer, c, c.num_layers, "full",
                         {"full": (SHARED,), "remember": (SHARED,), "step": (0, SHARED)})
        self.decoder = decoder(c, self.dtype)
        self.norm = RMSNorm(c.d_model, c.rms_eps)
        if c.coupling == "chain":
            self.chain = Chain(c, self.dtype)
        if c.alignment == "plan":
            self.plan = Dense(plan.BINS, c.encoder_width, dtype=self.dtype)

    def encode(self, tokens_BN, token_speaker_BN, length_B):
        """Text -> (B, N, E). Nothing past the length is seen."""
        c = self.config
        positions = jnp.arange(tokens_BN.shape[1])
        real_BN = (positions < length_B[:, None]).astype(jnp.int32)
        x_BNE = lookup(self.text, tokens_BN)
        if c.speaker_embedding:
            who_BN = jnp.where(token_speaker_BN < 0, c.num_streams, token_speaker_BN)
            x_BNE = x_BNE + jnp.take(self.speaker, who_BN, axis=0, mode="clip")
        shared = {"rotary": tables(positions[None], c.encoder_width // c.encoder_heads,
                                   c.rope_theta), "real": real_BN}
        x_BNE, _ = self.encoder(shard(x_BNE.astype(self.dtype), "batch", "time"), shared)
        return gather_time(self.encoder_norm(x_BNE))

    def plan_logits(self, text_BNE):
        """(B, N, bins) float32, of the time step from each token to the next."""
        # gathered here, as its gradient is of all the text
        return gather_time(self.plan(text_BNE)).astype(jnp.float32)

    def embed(self, units_BIJ):
        """Units and specials -> (..., J, W), unit variance at the start."""
        width = self.table.shape[1]
        return (width ** 0.5 * lookup(self.table, units_BIJ)).astype(self.dtype)

    def hidden(self, before_BIJ, text_BNE, times_BN, length_B):
        """Teacher-forced decoder: units of the step before each -> (B, I, D). length 0: without
        text."""
        shared = self._text(text_BNE, times_BN,
                            length_B) | self._steps(jnp.arange(before_BIJ.shape[1])[None])
        x_BID = shard(self.embed(before_BIJ).reshape(*before_BIJ.shape[:2], -1), "batch", "time")
        x_BID, _ = self.decoder.full(x_BID, shared)
        return self.norm(x_BID)

    def remember(self, text_BNE, times_BN, length_B, steps: int):
        """The decoder's cache for `step`, leading axis layers: room for `steps` past steps, or for
        the window."""
        c = self.config
        _, memory = self.decoder.remember(jnp.zeros(()), self._text(text_BNE, times_BN, length_B))
        room = min(c.window + 1, steps) if c.window else steps
        past = jnp.zeros((c.num_layers, len(length_B), c.num_heads, room, c.head_dim), self.dtype)
        cache = {"k": past, "v": past, "text_k": memory["k"], "text_v": memory["v"]}
        # one step at a time: no axis to split
        return {name: shard(x, None, "batch", "width") for name, x in cache.items()}

    def step(self, before_BJ, cache, index, text_length_B):
        """Decoder step number `index` (the same for all rows) -> hidden (B, D), cache."""
        # a ring: the step `age` steps ago is at (index - age) mod room
        room = cache["k"].shape[3]
        age_R = jnp.mod(index - jnp.arange(room), room)
        shared = self._steps(jnp.asarray(index)[None, None]) | {
            "seen": self._seen(cache["text_k"].shape[3] - 1, text_length_B),
            "place": jnp.mod(index, room),
            "past": (age_R <= index)[None, None]}
        x_B1D = self.embed(before_BJ).reshape(len(before_BJ), 1, -1)
        x_B1D, past = self.decoder.step(x_B1D, cache, shared)
        return self.norm(x_B1D)[:, 0], cache | past

    def logits(self, hidden, units):
        """Decoder output (..., D) and units of the same step (..., J), of which unit j's logits see
        those before it -> (..., J, V) float32."""
        if self.config.coupling == "chain":
            out = self.chain(hidden, self.embed(units))
        else:
            out = hidden.reshape(*hidden.shape[:-1], self.slots, -1)
        ids = len(self.table)
        places = ("batch", "time")[:hidden.ndim - 1]
        # the largest array of a step is split by id
        table = jnp.pad(self.table, ((0, -ids % num_shards("width")), (0, 0)))
        out = jnp.einsum("...w,vw->...v", shard(out.astype(jnp.float32), *places),
                         shard(table, "width"))
        return shard(out, *places, None, "width")[..., :ids]

    def __call__(self, tokens_BN, token_speaker_BN, length_B, times_BN, before_BIJ, units_BIJ):
        """Touches every parameter: logits (B, I, J, V), and those of the plan or None."""
        text_BNE = self.encode(tokens_BN, token_speaker_BN, length_B)
        planned = self.plan_logits(text_BNE) if self.config.alignment == "plan" else None
        return self.logits(self.hidden(before_BIJ, text_BNE, times_BN, length_B),
                           units_BIJ), planned

    def _seen(self, tokens: int, length_B):
        """(B, 1, 1 + N): the null key and the real tokens."""
        return (jnp.arange(tokens + 1) <= length_B[:, None])[:, None]

    def _text(self, text_BNE, times_BN, length_B):
        shared = {"text": text_BNE, "seen": self._seen(text_BNE.shape[1], length_B)}
        if self.config.alignment == "plan":
            shared["text_rotary"] = tables(gather_time(times_BN), self.config.head_dim,
                                           self.config.rope_theta)
        return shared

    def _steps(self, index_BI):
        """Rotary tables of decoder steps: by number among themselves, by their middle's frame
        towards the text."""
        c = self.config
        shared = {"rotary": tables(index_BI, c.head_dim, c.rope_theta)}
        if c.alignment == "plan":
            shared["time_rotary"] = tables((index_BI + 0.5) * c.frames_per_step, c.head_dim,
                                           c.rope_theta)
        return shared
