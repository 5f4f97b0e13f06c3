"""Attention over a time axis that is split over devices (the mesh axis `seq`), under jax.shard_map.

A band needs the neighbours' nearest keys and values: `left` and `right` entries are exchanged by
ppermute, with further devices too where a band is wider than a device's share. Full and causal
attention, and bands wider than the rest of the sequence, gather the keys and values of all devices.
Bytes that a device receives a layer, forward (E = 2 * kv heads * head width * itemsize a step, T
steps on s devices; as many again in the backward pass):
    halo         (left + right) E
    all gathered (T - T / s) E
    ring         (T - T / s) E as well, in s - 1 messages; twice in its backward pass, which sends
                 keys and their gradients
So a ring saves no bytes, only the memory of (T - T / s) E gathered bytes, which at our lengths (at
most 3072 steps, a few MB a row) is little beside the scores; one gather is also one latency instead
of s - 1. Hence no ring.

Every device does the same work: of causal attention the hidden half is computed and masked, as in
the dense kernel. Lengths that do not divide (evaluation's buckets; training's are checked) are
padded, and the padding is never seen.

Suffixes: B batch, H heads, G key-value heads, T t steps in all and here, K head width, W keys seen
here, N query blocks, Q queries a block.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from avjax.nn import attention_kernels as kernels
from avjax.sharding.activations import active_mesh, axes_for, parts, shard
from avjax.sharding.mesh import SEQUENCE_AXIS


def split_attention(q_BHTK, k_BGTK, v_BGTK, left: int, right: int, near, segments_BT, streams: int,
                    kernel: str):
    """avjax.nn.attention.attention for a mesh with seq > 1. left, right: the band in steps; near:
    which offsets in it are seen."""
    B, H, T, _ = q_BHTK.shape
    G = k_BGTK.shape[1]
    s = parts("time")
    missing = -T % (s * streams)
    if missing:
        q_BHTK, k_BGTK, v_BGTK = (jnp.pad(x, ((0, 0), (0, 0), (0, missing), (0, 0)))
                                  for x in (q_BHTK, k_BGTK, v_BGTK))
        segments_BT = None if segments_BT is None else jnp.pad(segments_BT, ((0, 0), (0, missing)))
    if axes_for(G, "width") != axes_for(H, "width"):  # fewer key-value heads than devices
        k_BGTK, v_BGTK = (jnp.repeat(x, H // G, axis=1) for x in (k_BGTK, v_BGTK))
    batch, width = axes_for(B, "batch") or None, axes_for(H, "width") or None
    place = PartitionSpec(batch, width, SEQUENCE_AXIS, None)
    row = PartitionSpec(batch, SEQUENCE_AXIS)
    here = functools.partial(_here, left=left, right=right, near=near, total=T, streams=streams,
                             kernel=kernel, devices=s)
    given = (q_BHTK, k_BGTK, v_BGTK) + (() if segments_BT is None else (segments_BT,))
    out = jax.shard_map(here, in_specs=(place,) * 3 + (row,) * (len(given) - 3),
                        out_specs=place)(*given)
    return out[:, :, :T] if missing else out


def _here(q_BHtK, k_BGtK, v_BGtK, segments_Bt=None, *, left, right, near, total, streams, kernel,
          devices):
    """One device's queries against all keys that they see."""
    t = q_BHtK.shape[2]
    first = lax.axis_index(SEQUENCE_AXIS) * t
    gathered = (left + right) * streams >= (devices - 1) * t

    def seen_by(x, axis):
        if gathered:
            return lax.all_gather(x, SEQUENCE_AXIS, axis=axis, tiled=True)
        return with_halo(x, left * streams, right * streams, axis, devices)

    kv_BGWK = seen_by(jnp.concatenate([k_BGtK, v_BGtK], axis=-1), 2)
    repeats = q_BHtK.shape[1] // k_BGtK.shape[1]
    k_BHWK, v_BHWK = (jnp.repeat(x, repeats, axis=1) if repeats > 1 else x
                      for x in jnp.split(kv_BGWK, 2, axis=-1))
    keys = None if segments_Bt is None else seen_by(segments_Bt, 1)
    start = 0 if gathered else first - left * streams
    seen = functools.partial(_seen, near=near, total=total, streams=streams)
    if kernel == "auto":
        narrow = left + right + kernels.block_length(left, right) < t // streams
        kernel = "banded" if narrow and not gathered else "dense"
    if kernel == "banded" and not gathered:
        return _banded(q_BHtK, k_BHWK, v_BHWK, left, right, streams, first, segments_Bt, keys, seen)
    mask = seen(first + jnp.arange(t)[:, None], start + jnp.arange(k_BHWK.shape[2])[None])
    if keys is not None:
        mask = mask & (segments_Bt[:, None, :, None] == keys[:, None, None, :])
    return kernels.attend(q_BHtK, k_BHWK, v_BHWK, mask)


def _seen(query, key, *, near, total, streams):
    """True if a query at one entry sees a key at another, by the band and the sequence's ends."""
    return near(key // streams - query // streams) & (key >= 0) & (key < total)


def _banded(q_BHtK, k_BHWK, v_BHWK, left, right, streams, first, segments_Bt, keys_BW, seen):
    """`avjax.nn.attention_kernels.banded` where keys come with their halo and positions begin at
    `first`."""
    B, H, t, K = q_BHtK.shape
    Q = kernels.block_length(left, right) * streams
    before, after = left * streams, right * streams
    N = -(-t // Q)
    W = before + Q + after
    room = N * Q - t
    q_BHNQK = jnp.pad(q_BHtK, ((0, 0), (0, 0), (0, room), (0, 0))).reshape(B, H, N, Q, K)
    k_BHNWK, v_BHNWK = (kernels.windows(x, 0, W, N, Q) for x in (k_BHWK, v_BHWK))
    query_NQ = first + jnp.arange(N)[:, None] * Q + jnp.arange(Q)
    key_NW = first - before + jnp.arange(N)[:, None] * Q + jnp.arange(W)
    mask = seen(query_NQ[:, :, None], key_NW[:, None])
    if keys_BW is not None:
        own_BNQ = jnp.pad(segments_Bt, ((0, 0), (0, room))).reshape(B, N, Q)
        keys_BNW = kernels.windows(keys_BW[:, None, :, None], 0, W, N, Q)[:, 0, :, :, 0]
        mask = (mask & (own_BNQ[..., None] == keys_BNW[:, :, None]))[:, None]
    return kernels.attend(q_BHNQK, k_BHNWK, v_BHNWK, mask).reshape(B, H, N * Q, K)[:, :, :t]


def with_halo(x, left: int, right: int, axis: int, devices: int):
    """Under shard_map: this device's part of a time axis with the `left` entries before it and the
    `right` after it; zeros beyond the ends."""
    t = x.shape[axis]

    def side(count, sign):
        pieces = []
        for distance in range(1, -(-count // t) + 1):
            n = min(t, count - (distance - 1) * t)
            start = t - n if sign > 0 else 0
            piece = lax.slice_in_dim(x, start, start + n, axis=axis)
            pairs = [(i, i + sign * distance) for i in range(devices)
                     if 0 <= i + sign * distance < devices]
            # a device that no other sends to receives zeros
            pieces.append(lax.ppermute(piece, SEQUENCE_AXIS, pairs) if pairs
                          else jnp.zeros_like(piece))
        return pieces

    return jnp.concatenate([*side(left, 1)[::-1], x, *side(right, -1)], axis=axis)


def time_convolution(x_BTC, kernel_KIO, groups: int):
    """Grouped convolution over time with zeros beyond the ends, (batch, time, C) -> (batch, time,
    O); K odd.

    Under shard_map, each device on its examples, frames (with K // 2 of its neighbours') and
    groups: XLA's partitioner gathers the batch for a grouped convolution, even where only the batch
    is split.
    """
    reach = kernel_KIO.shape[0] // 2

    def convolve(x, kernel, groups):
        return lax.conv_general_dilated(x, kernel, (1,), [(0, 0)],
                                        dimension_numbers=("NWC", "WIO", "NWC"),
                                        feature_group_count=groups)

    if active_mesh() is None:
        return convolve(jnp.pad(x_BTC, ((0, 0), (reach, reach), (0, 0))), kernel_KIO, groups)
    width = axes_for(groups, "width") or None
    time = axes_for(x_BTC.shape[1], "time") or None
    place = PartitionSpec(axes_for(x_BTC.shape[0], "batch") or None, time, width)
    devices = parts("time") if time else 1

    def here(x_BtC, kernel_KIO):
        x = with_halo(x_BtC, reach, reach, 1, devices)
        return convolve(x, kernel_KIO, x_BtC.shape[2] // kernel_KIO.shape[1])

    return jax.shard_map(here, in_specs=(place, PartitionSpec(None, None, width)),
                         out_specs=place)(x_BTC, kernel_KIO)


def take_at(x_BT, index_BJ):
    """x[b, index[b, j]] for (B, T, ...) and (B, J). Where the time axis is split, each device sends
    the entries that it holds and receives those it asked for (a sum of one number and zeros, so
    exact): J entries, where gathering x would send T."""
    wide = index_BJ.reshape(*index_BJ.shape, *(1,) * (x_BT.ndim - 2))
    if not _both_split(x_BT.shape[1], index_BJ.shape[1]):
        return jnp.take_along_axis(x_BT, wide, axis=1)

    def here(x_Bt, index_Bj):
        local, there = _local(lax.all_gather(index_Bj, SEQUENCE_AXIS, axis=1, tiled=True),
                              x_Bt.shape[1])
        shape = (*local.shape, *(1,) * (x_Bt.ndim - 2))
        found = jnp.take_along_axis(x_Bt, jnp.where(there, local, 0).reshape(shape), axis=1)
        return lax.psum_scatter(jnp.where(there.reshape(shape), found, 0), SEQUENCE_AXIS,
                                scatter_dimension=1, tiled=True)

    place = _rows(x_BT)
    return jax.shard_map(here, in_specs=(place, _rows(index_BJ)), out_specs=place)(x_BT, index_BJ)


def put_at(x_BT, index_BJ, value_BJ):
    """x with x[b, index[b, j]] = value[b, j] for (B, T, ...), (B, J) and (B, J, ...); an index of T
    or more drops its value. Where the time axis is split, the values are gathered: J entries, where
    x would be T."""
    put = jax.vmap(lambda x_T, index_J, value_J: x_T.at[index_J].set(value_J, mode="drop"))
    if not _both_split(x_BT.shape[1], index_BJ.shape[1]):
        return put(x_BT, index_BJ, value_BJ)

    def here(x_Bt, index_Bj, value_Bj):
        index, value = (lax.all_gather(a, SEQUENCE_AXIS, axis=1, tiled=True)
                        for a in (index_Bj, value_Bj))
        local, there = _local(index, x_Bt.shape[1])
        return put(x_Bt, jnp.where(there, local, x_Bt.shape[1]), value)

    place = _rows(x_BT)
    return jax.shard_map(here, in_specs=(place, _rows(index_BJ), place),
                         out_specs=place)(x_BT, index_BJ, value_BJ)


def _both_split(*sizes: int) -> bool:
    s = parts("time")
    return s > 1 and all(size % s == 0 for size in sizes)


def _rows(x):
    return PartitionSpec(axes_for(x.shape[0], "batch") or None, SEQUENCE_AXIS)


def _local(index, t: int):
    """Positions in the sequence -> (positions on this device, whether they are on it)."""
    local = index - lax.axis_index(SEQUENCE_AXIS) * t
    return local, (local >= 0) & (local < t)


def gather_time(x_BT):
    """x with its time axis on every device: keys that all queries see, such as the text of a
    dialogue."""
    return shard(x_BT, "batch")
