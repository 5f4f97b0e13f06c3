"""Attention behind one entry point: a declared mask, optional segments, and kernels that must agree
(avjax.nn.attention_kernels).

Where the mesh splits time, avjax.nn.sequence runs the same kernels on every device's share.

Suffixes: B batch, T time, H heads, G key-value heads, K head width.
"""

import dataclasses

import jax.numpy as jnp

from avjax.errors import UserError
from avjax.nn.attention_kernels import KERNELS, block_length
from avjax.nn.sequence import split_attention
from avjax.sharding.activations import parts, shard


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


Mask = Full | Causal | Band
FULL = Full()


def attention(q_BHTK, k_BGTK, v_BGTK, *, mask: Mask = FULL, segments=None, valid=None,
              streams: int = 1,
              window=None, kernel: str = "auto"):
    """Scaled dot-product attention, softmax in float32.

    Args:
      q_BHTK, k_BGTK, v_BGTK: (batch, heads, time, head width), one length. Keys and values may have
        fewer heads, each for as many query heads in turn.
      mask: which offsets a position sees.
      segments: (batch, time) integers; a position sees only positions of its own segment (packing).
      valid: (batch, time), 1 = real frame; short for two segments: real frames never see padding.
      streams: sequences that share one clock and lie interleaved, entry t * streams + s; the mask
        then counts steps of t, and every stream sees all of them.
      window: (left, right) of traced integers within the mask's band, for scanned layers that
        differ in theirs.
      kernel: "dense" (time x time scores), "banded" (blocked; cost and memory linear in time for a
        Band), or "auto".

    Returns (batch, heads, time, head width) in q's dtype. Raises UserError for an unknown kernel or
    both of segments and valid.
    """
    length = q_BHTK.shape[2] // streams
    left, right = mask.band(length)
    if segments is not None and valid is not None:
        raise UserError("attention takes segments or valid, not both",
                        hint="fold the padding into segments")
    if valid is not None:
        segments = (valid > 0).astype(jnp.int32)
    if kernel not in ("auto", *KERNELS):
        raise UserError("unknown attention kernel", expected=" | ".join(("auto", *KERNELS)),
                        found=repr(kernel))

    def near(offset):
        """Whether a query sees a key, by the key's step minus its own."""
        furthest = (left, right) if window is None else window
        return (offset >= -furthest[0]) & (offset <= furthest[1])

    if parts("time") > 1:
        return split_attention(q_BHTK, k_BGTK, v_BGTK, left, right, near, segments, streams, kernel)
    q_BHTK, k_BGTK, v_BGTK = (shard(x, "batch", "width") for x in (q_BHTK, k_BGTK, v_BGTK))
    repeats = q_BHTK.shape[1] // k_BGTK.shape[1]
    k_BHTK, v_BHTK = (jnp.repeat(x, repeats, axis=1) if repeats > 1 else x
                      for x in (k_BGTK, v_BGTK))
    if kernel == "auto":
        kernel = "banded" if left + right + block_length(left, right) < length else "dense"
    return KERNELS[kernel](q_BHTK, k_BHTK, v_BHTK, left, right, near, segments, streams)
