"""The kernels of attention, which must agree: all scores at once, or blocks of queries against the
keys near them.

`near(offset)` says which keys are seen, by the key's step minus the query's; `left` and `right`
bound it, in steps.

Suffixes: B batch, T time, H heads, K head width, N query blocks, Q queries a block, W keys a query
block sees, S keys seen.
"""

import jax
import jax.numpy as jnp
import numpy as np

NEGATIVE = -1e30  # added to the logits of hidden keys; finite, so that no row can turn into NaN


def dense(q_BHTK, k_BHTK, v_BHTK, left: int, right: int, near, segments_BT, streams: int = 1):
    """All scores at once; the reference that the other kernels are tested against."""
    step_T = np.arange(q_BHTK.shape[2]) // streams
    offset = step_T[None, :] - step_T[:, None]  # key minus query
    seen = jnp.asarray(near(offset))[None, None]
    if segments_BT is not None:
        seen = seen & (segments_BT[:, None, :, None] == segments_BT[:, None, None, :])
    return attend(q_BHTK, k_BHTK, v_BHTK, seen)


def attend(q_QK, k_SK, v_SK, seen_QS):
    """Queries (..., Q, K) on keys and values (..., S, K) where `seen` (..., Q, S) says so; softmax
    in float32."""
    logits = q_QK.shape[-1] ** -0.5 * jnp.einsum("...qk,...sk->...qs", q_QK, k_SK,
                                                 preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(seen_QS, logits, NEGATIVE), axis=-1).astype(v_SK.dtype)
    return jnp.einsum("...qs,...sk->...qk", weights, v_SK)


def block_length(left: int, right: int) -> int:
    """Frames a query block of the banded kernel: about the band's width, within what small products
    do well."""
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
    # positions outside the sequence: known now, so XLA folds the whole mask to a constant
    if segments_BT is None:
        position_NW = np.arange(N)[:, None] * Q + np.arange(W)[None, :] - left
        inside_NW = (position_NW >= 0) & (position_NW < T)
        # queries past the end see something as well: their rows are cut off, and must not be NaN
        seen = jnp.asarray(seen_QW[None] & inside_NW[:, None, :])[None, None]
    else:
        lowest_B1 = jnp.min(segments_BT, axis=1, keepdims=True)
        shifted = jnp.pad(segments_BT + 1 - lowest_B1, ((0, 0), (0, N * Q - T)))  # 0 = outside
        key_BNW = windows(shifted[:, None, :, None], left, W, N, Q)[:, 0, :, :, 0]
        seen = jnp.asarray(seen_QW) & (shifted.reshape(B, N, Q)[:, :, :,
                                                                None] == key_BNW[:, :, None, :])
        seen = seen[:, None]
    return attend(q_BHNQK, k_BHNWK, v_BHNWK, seen).reshape(B, H, N * Q, K)[:, :, :T]


def windows(x_BHTK, before: int, W: int, N: int, Q: int):
    """(B, H, T, K) -> (B, H, N, W, K): window n begins at entry n Q - before. Slices, so that its
    gradient is pads and sums rather than a scatter."""
    B, H, T, K = x_BHTK.shape
    pieces = -(-W // Q)
    x = jnp.pad(x_BHTK, ((0, 0), (0, 0), (before, max((N + pieces - 1) * Q - before - T, 0)),
                         (0, 0)))
    parts = [x[:, :, i * Q:(i + N) * Q].reshape(B, H, N, Q, K)[:, :, :, :W - i * Q]
             for i in range(pieces)]
    return jnp.concatenate(parts, axis=3)


KERNELS = {"dense": dense, "banded": banded}
