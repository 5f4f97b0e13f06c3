"""The three transformers of a U-Net layer: spatial (own picture, reference, face), motion tokens,
and time.

Hallo2 (arXiv 2410.07718) calls the second its audio module and the third, AnimateDiff's, its motion
module; here "motion" means the motion tokens, and the third is "temporal".
Frames are folded into the batch in an order of `fold_frames`, by which the mesh axis `seq` splits
them; the third exchanges frames for positions and back.
A U-Net has dozens of each: `nn.jit` traces those of equal sizes once. The program is the same.

Suffixes: B clips, F frames, R reference frames (the picture, then motion frames), N = B F folded, h
w size, T = h w positions, C channels, D inner width, H heads, K head width, M tokens.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from avjax.errors import UserError
from avjax.nn.attention import cross_attention
from avjax.nn.convolutions import GroupNorm
from avjax.nn.layers import Dense, LayerNorm, gelu
from avjax.sharding.activations import (
    active_mesh,
    each_frame,
    fold_frames,
    num_shards,
    platform,
    shard,
    unfold_frames,
)
from avjax.sharding.by_device import exchanged, own, parts

EPS = 1e-6  # of the group norms at the entry of each transformer
CACHED_ROWS = 512  # that a feed-forward layer takes together on a CPU: .6 of the time of 8192
LARGE, CACHED = 2**20, 2**17  # numbers from which arrays are cut on a CPU, and of a piece


def in_turn(module, function, *arrays):
    """function(module, *arrays), whose results for an entry of the first axis depend on that entry
    alone. On one CPU device in float32 large arrays are taken a few entries after the other, so
    that what is made of them stays in the cache. Arrays may be None, and those behind the first
    may be of the clips that its frames are of."""
    x = arrays[0]
    entries, each = len(x), x.size // len(x)
    if (platform() != "cpu" or module.dtype != jnp.float32 or active_mesh() is not None
            or x.size < LARGE):
        return function(module, *arrays)
    arrays = jax.tree.map(lambda y: each_frame(y, entries // len(y)), arrays)
    together = max(n for n in range(1, entries + 1)
                   if entries % n == 0 and (n == 1 or n * each <= CACHED))
    scan = nn.scan(lambda module, _, arrays: (None, function(module, *arrays)),
                   variable_broadcast="params", split_rngs={"params": False})
    _, y = scan(module, None, jax.tree.map(
        lambda x: x.reshape(entries // together, together, *x.shape[1:]), arrays))
    return jax.tree.map(lambda y: y.reshape(entries, *y.shape[2:]), y)


class Attention(nn.Module):
    """Multi-head attention without biases before and with one after; keys and values can be
    computed separately from queries."""

    width: int
    context_width: int
    heads: int
    dtype: jnp.dtype
    kernel: str = "auto"

    def setup(self):
        self.q = Dense(self.width, self.width, self.dtype, use_bias=False)
        self.kv = Dense((2, self.width), self.context_width, self.dtype, use_bias=False)
        self.out = Dense(self.width, self.width, self.dtype)

    def keys_values(self, context_BSD):
        """(B, S, 2, H, K)."""
        return rearrange(self.kv(context_BSD), "B S two (H K) -> B S two H K", H=self.heads)

    def attend(self, x_BTD, kv_BS2HK, lengths_B=None):
        q_BTHK = rearrange(self.q(x_BTD), "B T (H K) -> B T H K", H=self.heads)
        y_BTHK = cross_attention(q_BTHK, kv_BS2HK[:, :, 0], kv_BS2HK[:, :, 1], lengths_B=lengths_B,
                                 kernel=self.kernel)
        return self.out(rearrange(y_BTHK, "B T H K -> B T (H K)"))

    def __call__(self, x_BTD, context_BSD=None):
        """`context_BSD` may have fewer rows, of clips: all frames of a clip then see its row."""
        context_BSD = x_BTD if context_BSD is None else context_BSD
        if len(context_BSD) == len(x_BTD):
            return self.attend(x_BTD, self.keys_values(context_BSD))
        x_BFTD = unfold_frames(x_BTD, len(context_BSD))
        y = self.attend(rearrange(x_BFTD, "B F T D -> B (F T) D"), self.keys_values(context_BSD))
        return fold_frames(rearrange(y, "B (F T) D -> B F T D", F=x_BFTD.shape[1]))


class FeedForward(nn.Module):
    """value * gelu(gate), four times as wide inside (GEGLU, Shazeer 2020)."""

    width: int
    dtype: jnp.dtype

    def setup(self):
        self.inputs = Dense((2, 4 * self.width), self.width, self.dtype)
        self.outputs = Dense(self.width, 4 * self.width, self.dtype)

    def __call__(self, x_BTD):
        """On one CPU a few rows after the other, whose wide layer then stays in the cache."""
        rows = x_BTD.size // x_BTD.shape[-1]
        if (platform() != "cpu" or self.dtype != jnp.float32 or active_mesh() is not None
                or rows < 4 * CACHED_ROWS or rows % CACHED_ROWS):
            return self.product(x_BTD)
        scan = nn.scan(lambda module, _, x: (None, module.product(x)), variable_broadcast="params",
                       split_rngs={"params": False})
        _, y = scan(self, None, x_BTD.reshape(-1, CACHED_ROWS, x_BTD.shape[-1]))
        return y.reshape(x_BTD.shape)

    def product(self, x_BTD):
        pair = self.inputs(x_BTD)
        return self.outputs(pair[..., 0, :] * gelu(pair[..., 1, :]))


@functools.partial(nn.jit, static_argnums=(5, 6))  # tile, blind
class SpatialTransformer(nn.Module):
    """Self-attention that also sees the reference's tokens, face cross-attention, feed-forward, for
    each frame."""

    width: int
    heads: int
    groups: int
    face_width: int
    dtype: jnp.dtype
    kernel: str = "auto"

    def setup(self):
        C = self.width
        kw = dict(heads=self.heads, dtype=self.dtype, kernel=self.kernel)
        self.norm = GroupNorm(C, self.groups, EPS)
        self.inputs, self.outputs = Dense(C, C, self.dtype), Dense(C, C, self.dtype)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(C) for _ in range(3))
        self.self_attention = Attention(C, C, **kw)
        self.face_attention = Attention(C, self.face_width, **kw)
        self.feed_forward = FeedForward(C, self.dtype)

    def __call__(self, x_NhwC, face_BMK, reference_BTC=None, sees_reference_B=None,
                 tile: bool = False, blind: int = 0):
        """-> (same shape, what the reference net writes: the tokens after the first norm, (N, T,
        C)).

        Args:
          face_BMK: face tokens of the clips, or of each picture.
          reference_BTC: what the reference net wrote of each clip's picture.
          sees_reference_B: 0 where a clip attends to itself alone.
          tile: folded frame i sees the reference of clip i modulo B, as published; with several
            clips that is often another clip's.
          blind: the last clips, known in advance, which attend to themselves alone: `sees` is then
            not looked at, and no scores are made that would be hidden.
        """
        N = len(x_NhwC)
        face = face_BMK.astype(self.dtype)
        if reference_BTC is None or blind == len(reference_BTC):
            return in_turn(self, SpatialTransformer.pictures, x_NhwC, face)
        B, T = reference_BTC.shape[:2]
        F = N // B
        reference = self.self_attention.keys_values(reference_BTC.astype(self.dtype))
        if tile:
            tiled = jnp.tile(reference, (F, 1, 1, 1, 1))
            reference = fold_frames(tiled.reshape(B, F, *tiled.shape[1:]))
        else:
            reference = each_frame(reference, F)
        lengths = None
        if blind:
            seeing, faces = N - blind * F, len(face) * (B - blind) // B
            parts = [in_turn(self, SpatialTransformer.pictures, x_NhwC[:seeing], face[:faces],
                             reference[:seeing]),
                     in_turn(self, SpatialTransformer.pictures, x_NhwC[seeing:], face[faces:])]
            return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        if sees_reference_B is not None:
            lengths = each_frame(jnp.where(sees_reference_B > 0, 2, 1) * T, F)
        return in_turn(self, SpatialTransformer.pictures, x_NhwC, face, reference, lengths)

    def pictures(self, x_NhwC, face_BMK, reference_NT2HK=None, lengths_N=None):
        """`__call__` with keys and values of each picture's reference, and how many keys it
        sees."""
        h = x_NhwC.shape[1]
        x_NTC = rearrange(self.inputs(self.norm(x_NhwC)), "N h w C -> N (h w) C")
        normed_NTC = self.norm1(x_NTC)
        keys_values = self.self_attention.keys_values(normed_NTC)
        if reference_NT2HK is not None:
            keys_values = jnp.concatenate([keys_values, reference_NT2HK], axis=1)
        x_NTC = x_NTC + self.self_attention.attend(normed_NTC, keys_values, lengths_N)
        x_NTC = x_NTC + self.face_attention(self.norm2(x_NTC), face_BMK)
        x_NTC = x_NTC + self.feed_forward(self.norm3(x_NTC))
        return x_NhwC + rearrange(self.outputs(x_NTC), "N (h w) C -> N h w C", h=h), normed_NTC


@functools.partial(nn.jit, static_argnums=(5,))  # mute
class MotionTransformer(nn.Module):
    """Self-attention, then one cross-attention to the frame's motion tokens for each region of the
    face, weighted by that region's soft mask, then feed-forward. Fresh ones add nothing of the
    tokens."""

    width: int
    inner: int  # width inside
    heads: int
    groups: int
    token_width: int
    regions: tuple[str, ...]
    dtype: jnp.dtype
    kernel: str = "auto"

    def setup(self):
        C, D = self.width, self.inner
        kw = dict(heads=self.heads, dtype=self.dtype, kernel=self.kernel)
        self.norm = GroupNorm(C, self.groups, EPS)
        self.inputs, self.outputs = Dense(D, C, self.dtype), Dense(C, D, self.dtype)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(D) for _ in range(3))
        self.self_attention = Attention(D, D, **kw)
        self.attention = {name: Attention(D, self.token_width, **kw) for name in self.regions}
        self.zero = {name: Dense(D, D, self.dtype, kernel_init=nn.initializers.zeros,
                                 bias_init=nn.initializers.zeros)
                     for name in self.regions}
        self.feed_forward = FeedForward(D, self.dtype)

    def __call__(self, x_NhwC, tokens_NMK, masks_NTR=None, scale_NR=None, mute: int = 0):
        """masks_NTR: weight of each region at each position (None = 1); scale_NR: weight of each
        region everywhere; mute: how many of the last pictures have tokens of zeros, known in
        advance: what they attend to is then zero, whatever they ask."""
        told = len(x_NhwC) - mute
        arrays = (x_NhwC, tokens_NMK.astype(self.dtype), masks_NTR, scale_NR)
        if not mute:
            return in_turn(self, MotionTransformer.pictures, *arrays)
        x, _, *others = jax.tree.map(lambda x: x[told:], arrays)
        deaf = in_turn(self, MotionTransformer.pictures, x, None, *others)
        if not told:
            return deaf
        first = jax.tree.map(lambda x: x[:told], arrays)
        return jnp.concatenate([in_turn(self, MotionTransformer.pictures, *first), deaf])

    def pictures(self, x_NhwC, tokens_NMK, masks_NTR, scale_NR):
        """`__call__`; no tokens: they are zeros."""
        h = x_NhwC.shape[1]
        x_NTD = rearrange(self.inputs(self.norm(x_NhwC)), "N h w D -> N (h w) D")
        x_NTD = x_NTD + self.self_attention(self.norm1(x_NTD))
        normed_NTD = self.norm2(x_NTD)
        for r, name in enumerate(self.regions):
            weight = 1 if masks_NTR is None else masks_NTR[..., r, None].astype(self.dtype)
            if tokens_NMK is None:  # attention to zeros gives its bias, whatever is asked
                bias = self.attention[name].out.bias[None, None].astype(self.dtype)
                share = (weight * self.zero[name](bias, bias=False)
                         + self.zero[name].bias.astype(self.dtype))
            else:
                share = self.zero[name](weight * self.attention[name](normed_NTD, tokens_NMK))
            if scale_NR is not None:
                share = share * scale_NR[:, r, None, None].astype(self.dtype)
            x_NTD = x_NTD + share
        x_NTD = x_NTD + self.feed_forward(self.norm3(x_NTD))
        return x_NhwC + rearrange(self.outputs(x_NTD), "N (h w) C -> N h w C", h=h)


@functools.partial(nn.jit, static_argnums=(2,))  # frames
class TemporalTransformer(nn.Module):
    """Self-attention over the frames of each pixel, twice, and a feed-forward. Fresh ones change
    nothing."""

    width: int
    heads: int
    groups: int
    length: int  # longest clip, frames before it included
    dtype: jnp.dtype

    def setup(self):
        C = self.width
        zeros = nn.initializers.zeros
        self.norm = GroupNorm(C, self.groups, EPS)
        self.inputs = Dense(C, C, self.dtype)
        self.outputs = Dense(C, C, self.dtype, kernel_init=zeros, bias_init=zeros)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(C) for _ in range(3))
        self.attention1, self.attention2 = (Attention(C, C, self.heads, self.dtype, "dense")
                                            for _ in range(2))
        self.feed_forward = FeedForward(C, self.dtype)

    def __call__(self, x_NhwC, frames: int, before_BRhwC=None):
        """before_BRhwC: frames in front of the clip, which are seen and then dropped."""
        N, h, w, C = x_NhwC.shape
        B = N // frames
        skip = 0 if before_BRhwC is None else before_BRhwC.shape[1]
        split = max(num_shards("time"), parts())
        if frames * parts() + skip > self.length:
            raise UserError("clip too long for the temporal positions", where="visual denoiser",
                            expected=f"at most {self.length} frames",
                            found=f"{frames * parts()} and {skip} before them",
                            hint="make shorter clips, or raise config.system's temporal_length")
        if h * w % split:
            raise UserError("positions do not divide over the mesh",
                            where="visual denoiser, temporal transformer",
                            expected=f"a level of {h} x {w} that config.mesh.seq divides",
                            found=f"seq {split}",
                            hint="a smaller config.mesh.seq, larger latents or fewer levels")

        def by_position(x_NhwC, placed):
            """(B, T, F, C), split by positions over the mesh, of rows split by frames."""
            y_BFTC = placed(rearrange(unfold_frames(self.inputs(self.norm(x_NhwC)), B),
                                      "B F h w C -> B F (h w) C"))
            y_BTFC = rearrange(shard(y_BFTC, "batch", "time"), "B F T C -> B T F C")
            return shard(y_BTFC, "batch", "time")

        y = by_position(x_NhwC, lambda y: exchanged(y, 2, 1))
        if skip:
            before = fold_frames(before_BRhwC.astype(x_NhwC.dtype))
            y = jnp.concatenate([by_position(before, lambda y: own(y, 2)), y], axis=2)
        y = fold_frames(y)  # (B T, frames, C)
        y = in_turn(self, functools.partial(TemporalTransformer.positions, skip=skip), y)
        y_BTFC = shard(unfold_frames(y, B), "batch", "time")
        y_BFTC = shard(rearrange(y_BTFC, "B T F C -> B F T C"), "batch", "time")
        y_BFTC = exchanged(y_BFTC, 1, 2)
        y_BFhwC = rearrange(y_BFTC, "B F (h w) C -> B F h w C", h=h)
        return x_NhwC + self.outputs(fold_frames(y_BFhwC))

    def positions(self, y_NFC, skip: int):
        """(N, skip + frames, C) -> (N, frames, C)."""
        position = sinusoids(jnp.arange(y_NFC.shape[1]), self.width).astype(self.dtype)
        y = y_NFC + self.attention1(self.norm1(y_NFC) + position)
        # of the frames before, only what the clip's see is needed from here on
        seen = self.norm2(y) + position
        kv = self.attention2.keys_values(seen)
        y = y[:, skip:] + self.attention2.attend(seen[:, skip:], kv)
        return y + self.feed_forward(self.norm3(y))


def sinusoids(position_T, width: int):
    """(T, width): alternating sine and cosine of position / 10000^(2 i / width)."""
    frequency = 1e4 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = position_T.astype(jnp.float32)[:, None] * frequency
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(len(position_T), width)
