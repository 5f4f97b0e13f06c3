"""The one entry point of attention; no network writes a softmax over keys itself.

    attention        a sequence on itself: a declared mask, packing, bands, a mesh that splits time
    cross_attention  queries on other keys, of which each row sees the first few
    attend           the formula, with an explicit mask or bias: caches, a handful of tokens, ALiBi
    attend_by_head   the same in little memory, for frozen encoders of long sound
    by_head          the same on a CPU, with a bias made for each block of scores, where
                     `keeps_in_cache`

The kernels are in avjax.nn.attention_kernels and avjax.nn.fused_attention and must agree. Where the
mesh splits time, avjax.nn.sequence runs them on every device's share.

Suffixes: B batch, T time or queries, S keys, H heads, G key-value heads, K head width.
"""

import dataclasses
from collections.abc import Iterable

import jax.numpy as jnp

from avjax.errors import UserError
from avjax.nn.attention_kernels import (
    CROSS_KERNELS,
    KERNELS,
    NEGATIVE,
    attend,
    attend_by_head,
    block_length,
    by_head,
    cross_kernel,
    keeps_in_cache,
)
from avjax.nn.fused_attention import FUSED, choose, fused
from avjax.nn.layers import matrix_units
from avjax.nn.sequence import split_attention
from avjax.sharding.activations import num_shards, shard

__all__ = ["FULL", "NEGATIVE", "Band", "Causal", "Full", "Mask", "attend", "attend_by_head",
           "attention", "by_head", "cross_attention", "keeps_in_cache"]


@dataclasses.dataclass(frozen=True)
class Full:
    """Every position sees every position."""

    def band(self, length: int) -> tuple[int, int]:
        return length - 1, length - 1


@dataclasses.dataclass(frozen=True)
class Causal:
    """Position i sees 0 .. i."""

    def band(self, length: int) -> tuple[int, int]:
        return length - 1, 0


@dataclasses.dataclass(frozen=True)
class Band:
    """Position i sees i - left .. i + right."""

    left: int
    right: int

    def __post_init__(self):
        if self.left < 0 or self.right < 0:
            raise UserError("attention window", expected="left >= 0 and right >= 0",
                            found=f"({self.left}, {self.right})")

    def band(self, length: int) -> tuple[int, int]:
        return min(self.left, length - 1), min(self.right, length - 1)


# A fused kernel multiplies time x time but writes no scores: it is taken unless the sequence is
# this many times as long as the keys that the banded kernel scores for a query [ours].
NARROW = 4

Mask = Full | Causal | Band
FULL = Full()


def attention(q_BHTK, k_BGTK, v_BGTK, *, mask: Mask = FULL, segments=None, valid=None,
              streams: int = 1,
              window=None, kernel: str = "auto"):
    """Scaled dot-product attention, softmax in float32.

    Args:
      q_BHTK, k_BGTK, v_BGTK: (batch, heads, time, head width), one length. Keys and values may have
        fewer heads, each shared by consecutive query heads.
      mask: which offsets a position sees.
      segments: (batch, time) integers; a position sees only positions of its own segment (packing).
      valid: (batch, time), 1 = real frame; short for two segments: real frames never see padding.
      streams: interleaved sequences that share one clock, entry t * streams + s; the mask
        then counts steps of t, and every stream sees all of them.
      window: (left, right) of traced integers within the mask's band, for scanned layers that
        differ in theirs.
      kernel: "dense" (time x time scores), "banded" (blocked; cost and memory linear in time for a
        Band), "cudnn" or "splash" (fused, on GPUs and TPUs, 16 bits), or "auto": by the platform,
        shape and dtype (see NARROW). Where the mesh splits time, the fused ones are not used.

    Returns (batch, heads, time, head width) in q's dtype. Raises UserError for an unknown kernel,
    one that does not run here, or both of segments and valid.
    """
    length = q_BHTK.shape[2] // streams
    left, right = mask.band(length)
    if segments is not None and valid is not None:
        raise UserError("attention takes segments or valid, not both",
                        hint="fold the padding into segments")
    if valid is not None:
        segments = (valid > 0).astype(jnp.int32)
    check_kernel(kernel, (*KERNELS, *FUSED))

    def near(offset):
        """True if a query sees a key, by the key's step minus its own."""
        furthest = (left, right) if window is None else window
        return (offset >= -furthest[0]) & (offset <= furthest[1])

    if num_shards("time") > 1:
        kernel = "auto" if kernel in FUSED else kernel
        return split_attention(q_BHTK, k_BGTK, v_BGTK, left, right, near, segments, streams, kernel)
    q_BHTK, k_BGTK, v_BGTK = (shard(x, "batch", "width") for x in (q_BHTK, k_BGTK, v_BGTK))
    width = left + right + block_length(left, right)  # keys that the banded kernel scores a query
    if kernel == "auto":
        one = choose(q_BHTK, window is not None) if length < NARROW * width else None
        kernel = one or ("banded" if width < length else "dense")
    if kernel in FUSED:
        return fused(kernel, q_BHTK, k_BGTK, v_BGTK, left, right, near, segments, streams,
                     traced=window is not None)
    repeats = q_BHTK.shape[1] // k_BGTK.shape[1]
    shared = kernel == "dense" and matrix_units(q_BHTK.dtype) and num_shards("width") == 1
    k_BHTK, v_BHTK = (jnp.repeat(x, repeats, axis=1) if repeats > 1 and not shared else x
                      for x in (k_BGTK, v_BGTK))
    return KERNELS[kernel](q_BHTK, k_BHTK, v_BHTK, left, right, near, segments, streams)


def cross_attention(q_BTHK, k_BSHK, v_BSHK, *, lengths_B=None, kernel: str = "auto"):
    """Scaled dot-product attention of queries on other keys, softmax in float32.

    Args:
      q_BTHK, k_BSHK, v_BSHK: queries; keys and values.
      lengths_B: how many of its keys, from the first, a row sees; None = all.
      kernel: "dense" (all scores at once), "blocked" (blocks of queries: memory linear in T),
        "by_head" (for a CPU: a head's blocks of queries one after the other, so that scores stay in
        its cache), "cudnn" or "splash" (fused, on GPUs and TPUs, 16 bits), or "auto".

    Returns (batch, T, heads, head width) in q's dtype. Raises UserError for an unknown kernel.
    """
    check_kernel(kernel, CROSS_KERNELS)
    if kernel == "auto":
        kernel = cross_kernel(q_BTHK, k_BSHK.shape[1])
    return CROSS_KERNELS[kernel](q_BTHK, k_BSHK, v_BSHK, lengths_B)


def check_kernel(kernel: str, kernels: Iterable[str]) -> None:
    """Raises UserError for a kernel that is neither "auto" nor one of `kernels`."""
    if kernel not in ("auto", *kernels):
        raise UserError("unknown attention kernel", expected=" | ".join(("auto", *kernels)),
                        found=repr(kernel))
