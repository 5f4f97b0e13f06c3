"""Attention behind one entry point: a declared mask, optional segments, and kernels that must agree.

Where the mesh splits time, avjax.nn.sequence runs the same kernels on every device's share.

Suffixes: B batch, T time, H heads, G key-value heads, K head width, N query blocks, Q frames a query block, W keys a query
block sees.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from avjax.errors import UserError
from avjax.sharding.activations import laid, parts

NEGATIVE = -1e30  # added to the logits of hidden keys; finite, so that no row can turn into NaN


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


def attention(q_BHTK, k_BGTK, v_BGTK, *, mask: Mask = FULL, segments=None, valid=None, streams: int = 1,
              window=None, kernel: str = "auto"):
    """Scaled dot-product attention, softmax in float32.

    Args:
      q_BHTK, k_BGTK, v_BGTK: (batch, heads, time, head width), one length. Keys and values may have fewer heads, each for
        as many query heads in turn.
      mask: which offsets a position sees.
      segments: (batch, time) integers; a position sees only positions of its own segment (packing).
      valid: (batch, time), 1 = real frame; short for two segments: real frames never see padding.
      streams: sequences that share one clock and lie interleaved, entry t * streams + s; the mask then counts steps of t,
        and every stream sees all of them.
      window: (left, right) of traced integers within the mask's band, for scanned layers that differ in theirs.
      kernel: "dense" (time x time scores), "banded" (blocked; cost and memory linear in time for a Band), or "auto".

    Returns (batch, heads, time, head width) in q's dtype. Raises UserError for an unknown kernel or both of segments
    and valid.
    """
    length = q_BHTK.shape[2] // streams
    left, right = mask.band(length)
    if segments is not None and valid is not None:
        raise UserError("attention takes segments or valid, not both", way_out="fold the padding into segments")
    if valid is not None:
        segments = (valid > 0).astype(jnp.int32)
    if kernel not in ("auto", *KERNELS):
        raise UserError("unknown attention kernel", expected=" | ".join(("auto", *KERNELS)), found=repr(kernel))

    def near(offset):
        """Whether a query sees a key, by the key's step minus its own."""
        furthest = (left, right) if window is None else window
        return (offset >= -furthest[0]) & (offset <= furthest[1])

    if parts("time") > 1:
        from avjax.nn.sequence import split_attention

        return split_attention(q_BHTK, k_BGTK, v_BGTK, left, right, near, segments, streams, kernel)
    q_BHTK, k_BGTK, v_BGTK = (laid(x, "batch", "width") for x in (q_BHTK, k_BGTK, v_BGTK))
    repeats = q_BHTK.shape[1] // k_BGTK.shape[1]
    k_BHTK, v_BHTK = (jnp.repeat(x, repeats, axis=1) if repeats > 1 else x for x in (k_BGTK, v_BGTK))
    if kernel == "auto":
        kernel = "banded" if left + right + block_length(left, right) < length else "dense"
    return KERNELS[kernel](q_BHTK, k_BHTK, v_BHTK, left, right, near, segments, streams)


def dense(q_BHTK, k_BHTK, v_BHTK, left: int, right: int, near, segments_BT, streams: int = 1):
    """All scores at once; the reference that the other kernels are tested against. near: which offsets in the band are seen."""
    step_T = np.arange(q_BHTK.shape[2]) // streams
    offset = step_T[None, :] - step_T[:, None]  # key minus query
    seen = jnp.asarray(near(offset))[None, None]
    if segments_BT is not None:
        seen = seen & (segments_BT[:, None, :, None] == segments_BT[:, None, None, :])
    return attend(q_BHTK, k_BHTK, v_BHTK, seen)


def attend(q_QK, k_SK, v_SK, seen_QS):
    """Queries (..., Q, K) on keys and values (..., S, K) where `seen` (..., Q, S) says so; softmax in float32."""
    logits = q_QK.shape[-1] ** -0.5 * jnp.einsum("...qk,...sk->...qs", q_QK, k_SK, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(seen_QS, logits, NEGATIVE), axis=-1).astype(v_SK.dtype)
    return jnp.einsum("...qs,...sk->...qk", weights, v_SK)


def block_length(left: int, right: int) -> int:
    """Frames a query block of the banded kernel: about the band's width, within what small products do well."""
    return int(np.clip(8 * -(-(left + right) // 8), 32, 128))


def banded(q_BHTK, k_BHTK, v_BHTK, left: int, right: int, near, segments_BT, streams: int = 1):
    """Blocks of Q queries against the W = left + Q + right keys that any of them can see."""
    B, H, T, K = q_BHTK.shape
    Q = block_length(left, right)
    offset = np.arange(left + Q + right)[None, :] - left - np.arange(Q)[:, None]  # key minus query
    offset = offset.repeat(streams, axis=0).repeat(streams, axis=1)
    seen_QW = near(offset)
    left, right = left * streams, right * streams  # from here on in entries
    Q, W = seen_QW.shape
    N = -(-T // Q)
    q_BHNQK = jnp.pad(q_BHTK, ((0, 0), (0, 0), (0, N * Q - T), (0, 0))).reshape(B, H, N, Q, K)
    k_BHNWK, v_BHNWK = (windows(x, left, W, N, Q) for x in (k_BHTK, v_BHTK))
    if segments_BT is None:  # positions outside the sequence: known now, so XLA folds the whole mask to a constant
        position_NW = np.arange(N)[:, None] * Q + np.arange(W)[None, :] - left
        inside_NW = (position_NW >= 0) & (position_NW < T)
        # queries past the end see something as well: their rows are cut off, and must not be NaN
        seen = jnp.asarray(seen_QW[None] & inside_NW[:, None, :])[None, None]
    else:
        lowest_B1 = jnp.min(segments_BT, axis=1, keepdims=True)
        shifted = jnp.pad(segments_BT + 1 - lowest_B1, ((0, 0), (0, N * Q - T)))  # 0 = outside
        key_BNW = windows(shifted[:, None, :, None], left, W, N, Q)[:, 0, :, :, 0]
        seen = jnp.asarray(seen_QW) & (shifted.reshape(B, N, Q)[:, :, :, None] == key_BNW[:, :, None, :])
        seen = seen[:, None]
    return attend(q_BHNQK, k_BHNWK, v_BHNWK, seen).reshape(B, H, N * Q, K)[:, :, :T]


def windows(x_BHTK, before: int, W: int, N: int, Q: int):
    """(B, H, T, K) -> (B, H, N, W, K): window n begins at entry n Q - before. Slices, so that its gradient is pads and sums
    rather than a scatter."""
    B, H, T, K = x_BHTK.shape
    pieces = -(-W // Q)
    x = jnp.pad(x_BHTK, ((0, 0), (0, 0), (before, max((N + pieces - 1) * Q - before - T, 0)), (0, 0)))
    parts = [x[:, :, i * Q:(i + N) * Q].reshape(B, H, N, Q, K)[:, :, :, :W - i * Q] for i in range(pieces)]
    return jnp.concatenate(parts, axis=3)


KERNELS = {"dense": dense, "banded": banded}
