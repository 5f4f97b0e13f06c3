"""The kernels of avjax.nn.attention, which must agree.

Of a sequence on itself (KERNELS): all scores at once, or blocks of queries against the keys near
them. `near(offset)` is true for the keys that a query sees, by the key's step minus the query's;
`left` and `right` bound it, in steps. Of queries on other keys (CROSS_KERNELS): all scores at once,
blocks of queries, heads one after the other, or NVIDIA's fused kernel. `attend` is the formula of
them all.

Suffixes: B batch, T time or queries, S keys, H heads, K head width, N query blocks, Q queries a
block, W keys that a query block sees, G key-value heads, R query heads of each.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from avjax.nn.fused_attention import SHORTEST, WIDEST, cross_cudnn, cross_splash
from avjax.nn.layers import PRODUCT, matrix_units
from avjax.sharding.activations import active_mesh, num_shards, platform

NEGATIVE = -1e30  # the logits of hidden keys; finite, so that no row can turn into NaN
BLOCKS = (512, 256, 128, 64, 32)  # queries of a block in the cross kernel "blocked"
SCORES = 2**27  # that a device makes at once there, unless that takes less than the smallest block
HEAD_BLOCK = 256  # queries of a block in `attend_by_head`
CACHED, FEW = 2**13, 64  # scores of one head and row, queries and keys from which `by_head` pays
LARGE = 2**22  # scores of one head and row beyond which they are not all kept


def dense(q_BHTK, k_BGTK, v_BGTK, left: int, right: int, near, segments_BT, streams: int = 1):
    """All scores at once; the reference that the other kernels are tested against. Takes keys and
    values of fewer heads as they are, each shared by consecutive query heads."""
    step_T = np.arange(q_BHTK.shape[2]) // streams
    offset = step_T[None, :] - step_T[:, None]  # key minus query
    seen = jnp.asarray(near(offset))[None, None]
    if segments_BT is not None:
        seen = seen & (segments_BT[:, None, :, None] == segments_BT[:, None, None, :])
    B, H, T, K = q_BHTK.shape
    G = k_BGTK.shape[1]
    if G == H:
        return attend(q_BHTK, k_BGTK, v_BGTK, seen)
    q_BGRTK = q_BHTK.reshape(B, G, H // G, T, K)
    return attend(q_BGRTK, k_BGTK[:, :, None], v_BGTK[:, :, None],
                  seen[:, :, None]).reshape(q_BHTK.shape)


def attend(q, k, v, seen=None, *, bias=None, heads_inside: bool = False):
    """softmax(q k^T / sqrt(K) + bias) v, softmax in float32.

    Args:
      q, k, v: (..., T, K) and (..., S, K); with `heads_inside`, (..., T, H, K) and (..., S, H, K).
      seen: bool, broadcast to the logits (..., T, S), or (..., H, T, S); False hides a key.
      bias: float, broadcast likewise and added to the logits.
    """
    scores, mixed = (("...thk,...shk->...hts", "...hts,...shk->...thk") if heads_inside
                     else ("...tk,...sk->...ts", "...ts,...sk->...tk"))
    logits = q.shape[-1] ** -0.5 * jnp.einsum(scores, q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    if seen is not None:
        logits = jnp.where(seen, logits, NEGATIVE)
    weights = softmax(logits) if matrix_units(v.dtype) else jax.nn.softmax(logits, axis=-1)
    return jnp.einsum(mixed, weights.astype(v.dtype), v)


@jax.custom_vjp
def softmax(logits):
    """Softmax over the last axis, in float32. Where a policy of recomputation keeps PRODUCT, the
    largest logit and the sum of each row are kept: the backward pass then makes scores again, but
    no reductions over them."""
    return _softmax_fwd(logits)[0]


def _softmax_fwd(logits):
    largest = checkpoint_name(jnp.max(logits, axis=-1, keepdims=True), PRODUCT)
    weights = jnp.exp(logits - largest)
    total = checkpoint_name(jnp.sum(weights, axis=-1, keepdims=True), PRODUCT)
    return weights / total, (logits, largest, total)


def _softmax_bwd(saved, dy):
    logits, largest, total = saved
    weights = jnp.exp(logits - largest) / total
    return (weights * (dy - jnp.sum(weights * dy, axis=-1, keepdims=True)),)


softmax.defvjp(_softmax_fwd, _softmax_bwd)


def attend_by_head(q_BHTK, k_BHTK, v_BHTK, valid_BT, *, relative_HR=None, gate_BHT=None):
    """Full attention over the valid frames for long inputs of frozen encoders: HEAD_BLOCK queries
    at a time, so that memory is linear in length, and on a CPU one head after the other, so that
    the scores stay in its cache. Without a gradient of its own.

    relative_HR, gate_BHT: bias of every offset key minus query, -(T - 1) .. T - 1, and what a query
    multiplies it by (WavLM); None = no bias.
    """
    B, H, T, K = q_BHTK.shape
    blocks = -(-T // HEAD_BLOCK)
    size = -(-T // blocks)
    behind = blocks * size - T
    q_BHTK = jnp.pad(q_BHTK / math.sqrt(K), ((0, 0), (0, 0), (0, behind), (0, 0)))
    bias_BHT = jnp.broadcast_to(jnp.where(valid_BT, 0.0, NEGATIVE)[:, None], (B, H, T))
    q_BHNQK = rearrange(q_BHTK, "B H (N Q) K -> B H N Q K", Q=size)
    heads = [rearrange(x, "B H ... -> (B H) ...") for x in (q_BHNQK, k_BHTK, v_BHTK, bias_BHT)]
    if relative_HR is not None:
        gate_BHT = jnp.pad(gate_BHT, ((0, 0), (0, 0), (0, behind)))
        heads += [rearrange(gate_BHT, "B H (N Q) -> (B H) N Q", Q=size),
                  jnp.pad(jnp.tile(relative_HR, (B, 1)), ((0, 0), (behind, 0)))]

    def head(q_NQK, k_TK, v_TK, bias_T, gate_NQ=None, relative_R=None):
        def block(arrays):
            q_QK, *gated = arrays
            scores_QT = (q_QK @ k_TK.T + bias_T).astype(jnp.float32)
            if gated:
                first, gate_Q = gated
                # offset t - q of the block's last query is the first of its window
                window_R = jax.lax.dynamic_slice(relative_R, (relative_R.shape[0] - T - first
                                                              - size + 1,), (T + size - 1,))
                offset_QT = np.arange(T)[None] - np.arange(size)[:, None] + size - 1
                scores_QT += gate_Q[:, None] * window_R[offset_QT]
            weights_QT = jnp.exp(scores_QT - scores_QT.max(1, keepdims=True))
            return (weights_QT.astype(v_TK.dtype) @ v_TK) / weights_QT.sum(1, keepdims=True)

        more = () if gate_NQ is None else (size * jnp.arange(blocks), gate_NQ)
        return jax.lax.map(block, (q_NQK, *more))

    if jax.default_backend() == "cpu":
        out = jax.lax.map(lambda arrays: head(*arrays), heads)
    else:
        out = jax.vmap(head)(*heads)
    out_BHTK = rearrange(out, "(B H) N Q K -> B H (N Q) K", B=B)
    return out_BHTK[:, :, :T].astype(v_BHTK.dtype)


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
    # positions outside the sequence: known now, so XLA folds the mask to a constant
    if segments_BT is None:
        position_NW = np.arange(N)[:, None] * Q + np.arange(W)[None, :] - left
        inside_NW = (position_NW >= 0) & (position_NW < T)
        # queries past the end see something as well: their rows are cut off, and must not be NaN
        seen = jnp.asarray(seen_QW[None] & inside_NW[:, None, :])[None, None]
    else:
        lowest_B1 = jnp.min(segments_BT, axis=1, keepdims=True)
        shifted = jnp.pad(segments_BT + 1 - lowest_B1, ((0, 0), (0, N * Q - T)))  # 0 = outside
        key_BNW = windows(shifted[:, None, :, None], left, W, N, Q)[:, 0, :, :, 0]
        query_BNQ = shifted.reshape(B, N, Q)
        same = query_BNQ[:, :, :, None] == key_BNW[:, :, None, :]
        seen = (jnp.asarray(seen_QW) & same)[:, None]
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


def cross_dense(q_BTHK, k_BSHK, v_BSHK, lengths_B):
    """All scores at once; the reference that the other cross kernels are tested against."""
    seen = None
    if lengths_B is not None:
        seen = (jnp.arange(k_BSHK.shape[1]) < lengths_B[:, None])[:, None, None]
    return attend(q_BTHK, k_BSHK, v_BSHK, seen, heads_inside=True)


def cross_blocked(q_BTHK, k_BSHK, v_BSHK, lengths_B):
    """`cross_dense` for a block of queries at a time, recomputed in the backward pass: memory
    linear in T."""
    T = q_BTHK.shape[1]
    of_query = scores_of_query(q_BTHK, k_BSHK.shape[1])
    fitting = [Q for Q in BLOCKS if T % Q == 0]
    size = next((Q for Q in fitting if Q * of_query <= SCORES), min(fitting, default=T))
    q_NBQHK = rearrange(q_BTHK, "B (N Q) H K -> N B Q H K", Q=size)
    one = jax.checkpoint(lambda q: cross_dense(q, k_BSHK, v_BSHK, lengths_B))
    return rearrange(jax.lax.map(one, q_NBQHK), "N B Q H K -> B (N Q) H K")


def cross_by_head(q_BTHK, k_BSHK, v_BSHK, lengths_B):
    """`cross_dense` one row, head and block of queries after the other (`by_head`)."""
    seen = None
    if lengths_B is not None:
        seen = jnp.arange(k_BSHK.shape[1]) < lengths_B[:, None]
    return by_head(q_BTHK, k_BSHK, v_BSHK, seen)


def by_head(q_BTHK, k_BSHK, v_BSHK, seen_BS=None, bias=None):
    """`attend` with heads inside, for a CPU: one row, head and block of at most HEAD_BLOCK queries
    after the other, so that the scores stay in its cache; weights are divided by their sum after
    the product with the values. The backward pass makes scores again.

    bias(h, at_Q, at_S) -> (Q, S), added to the logits of head h: of the queries and keys at those
    positions.
    """
    B, T, H, K = q_BTHK.shape
    S = k_BSHK.shape[1]
    blocks = -(-T // HEAD_BLOCK)
    size = -(-T // blocks)
    q_BTHK = jnp.pad(q_BTHK * K**-0.5, ((0, 0), (0, blocks * size - T), (0, 0), (0, 0)))
    q_RNQK = rearrange(q_BTHK, "B (N Q) H K -> (B H) N Q K", Q=size)
    k_RKS = rearrange(k_BSHK, "B S H K -> (B H) K S")
    v_RSK = rearrange(v_BSHK, "B S H K -> (B H) S K")
    hidden_BS = None if seen_BS is None else jnp.where(seen_BS, 0.0, NEGATIVE)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def row(number, q_NQK, k_KS, v_SK):
        def block(first, q_QK):
            logits_QS = (q_QK @ k_KS).astype(jnp.float32)
            if bias is not None:
                logits_QS += bias(number % H, first + jnp.arange(size), jnp.arange(S))
            if hidden_BS is not None:
                logits_QS += hidden_BS[number // H]
            largest_Q1 = jax.lax.stop_gradient(jnp.max(logits_QS, axis=1, keepdims=True))
            weights_QS = jnp.exp(logits_QS - largest_Q1)
            total_Q1 = jnp.sum(weights_QS, axis=1, keepdims=True)
            return (weights_QS.astype(v_SK.dtype) @ v_SK) / total_Q1.astype(v_SK.dtype)

        return jax.lax.map(lambda each: block(*each), (size * jnp.arange(blocks), q_NQK))

    out = jax.lax.map(lambda each: row(*each), (jnp.arange(B * H), q_RNQK, k_RKS, v_RSK))
    return rearrange(out, "(B H) N Q K -> B (N Q) H K", B=B)[:, :T]


def scores_of_query(q_BTHK, keys: int) -> int:
    """How many scores a device makes for one query of every head and row."""
    return -(-q_BTHK.shape[0] // num_shards("batch")) * q_BTHK.shape[2] * keys


def cross_kernel(q_BTHK, keys: int) -> str:
    """The cross kernel for a size on the devices that the program is compiled for."""
    queries, width = q_BTHK.shape[1], q_BTHK.shape[3]
    where, narrow = platform(), q_BTHK.dtype.itemsize == 2 and width % 8 == 0
    if where == "gpu" and narrow and width <= WIDEST and min(queries, keys) >= 64:
        return "cudnn"
    if where == "tpu" and narrow and min(queries, keys) >= SHORTEST:
        return "splash"
    if keeps_in_cache(q_BTHK, keys):
        return "by_head"
    large = queries * keys > LARGE or queries * scores_of_query(q_BTHK, keys) > SCORES
    return "blocked" if large and queries % min(BLOCKS) == 0 else "dense"


def keeps_in_cache(q_BTHK, keys: int) -> bool:
    """Whether `by_head` pays: on one CPU device, for heads of many scores (measured on two cores,
    heads 16 wide: a seventh of `dense`'s time at 1024 x 2048, .7 at 64 x 128)."""
    queries = q_BTHK.shape[1]
    return (platform() == "cpu" and q_BTHK.dtype == jnp.float32 and active_mesh() is None
            and queries >= FEW and keys >= FEW and queries * keys >= CACHED)


KERNELS = {"dense": dense, "banded": banded}
CROSS_KERNELS = {"dense": cross_dense, "blocked": cross_blocked, "by_head": cross_by_head,
                 "cudnn": cross_cudnn, "splash": cross_splash}
